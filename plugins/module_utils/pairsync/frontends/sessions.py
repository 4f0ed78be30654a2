# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that run sessions: which front end they get, and where the session runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ..model.errors import PairsyncError
from ..model.report import display, exit_code, report_json
from ..model.spec import PairSpec
from ..replica import fsops, guard, state
from ..replica.interface import Replica
from ..session.connect import Local, connect
from ..session.elsewhere import run_elsewhere
from ..session.events import Ask, Emit, Event, Question
from ..session.forget import forget_pair
from ..session.run import Options, run_session
from .jsonlines import JsonLines, read_answer
from .terminal import Terminal


@dataclass(frozen=True)
class How:
    """How a session is run and shown. confirm: digest of a plan that was approved."""

    dry_run: bool = False
    batch: bool = False
    json: bool = False
    events: bool = False
    confirm: str = ""

    @property
    def asks(self) -> bool:
        """Tell whether somebody is to be asked before anything is done."""
        return not (self.batch or self.json or self.dry_run)

    @property
    def unattended(self) -> bool:
        """Tell whether ssh must not ask anything."""
        return self.batch or self.json or not sys.stdin.isatty()


def run_pair(spec: PairSpec, how: How, local: Local) -> int:
    """Run one session and show it; return the exit code. Raises PairsyncError."""
    if spec.route != "relay" and not spec.a.local and not spec.b.local:
        code = _run_there(spec, how)
        if code is not None:
            return code
    return _run_here(spec, how, local)


def _run_here(spec: PairSpec, how: How, local: Local) -> int:
    emit, ask = _front_end(how)

    def connected() -> tuple[Replica, Replica]:
        return _connected(spec, local, batch=how.unattended)

    _end_on_signals(spec.policy.timeout)
    route = "direct" if spec.a.local or spec.b.local else "relay"
    options = Options(how.dry_run, how.confirm, route)
    run = run_session(spec, connected, options, emit, ask)
    if how.json:
        _write(report_json(run))
    if run.error is not None and not how.events:
        sys.stderr.write(f"pairsync: {run.error.sentence()}\n")
    return exit_code(run)


def _connected(spec: PairSpec, local: Local, *, batch: bool) -> tuple[Replica, Replica]:
    a = connect(spec.a, local, batch=batch)
    try:
        return a, connect(spec.b, local, batch=batch)
    except BaseException:
        with contextlib.suppress(PairsyncError, OSError):
            a.close()
        raise


def _front_end(how: How) -> tuple[Emit, Optional[Ask]]:
    if how.events:
        lines = JsonLines(sys.stdout, sys.stdin)
        return lines.emit, lines.ask if how.asks else None
    if how.json:
        return _silent, None
    terminal = Terminal(sys.stdout, sys.stdin if how.asks else None)

    def ask(question: Question) -> str:
        return terminal.ask(question.text)

    return terminal.emit, ask if how.asks else None


def _silent(__: Event) -> None:
    """The report alone is wanted."""


def _run_there(spec: PairSpec, how: How) -> Optional[int]:
    """Run the session of two other hosts on the first; this process is its front end.

    None when the route is `auto` and the first host cannot reach the second: then this one relays.
    """
    arguments = ["plan" if how.dry_run else "sync"]
    if how.confirm:
        arguments += ["--confirm", how.confirm]
    if not how.asks:
        arguments.append("--batch")
    terminal = Terminal(sys.stdout, sys.stdin if how.asks else None)

    def handle(event: Mapping[str, Any]) -> None:
        if how.events:
            _write(event)
        elif not how.json:
            terminal.handle(event)

    def answer(event: Mapping[str, Any]) -> str:
        if how.events:
            return read_answer(sys.stdin, event["answers"], event["id"])
        return terminal.ask(str(event["text"]))

    report = run_elsewhere(
        spec, arguments, handle, answer if how.asks else None, batch=how.unattended
    )
    error = report.get("error")
    if spec.route == "auto" and error and _no_way(error, spec.b.label):
        sys.stderr.write(
            f"pairsync: {spec.a.label} cannot reach {spec.b.label} ({error['message']});"
            " all data goes through this host instead\n"
        )
        return None
    handle({"event": "report", "report": report})
    if how.json:
        _write(report)
    if error and not how.events:
        told = PairsyncError(
            error["code"], error["message"], error["next"] or "", error["host"] or ""
        )
        sys.stderr.write(f"pairsync: {told.sentence()}\n")
    return int(report["exit"])


def _no_way(error: Mapping[str, Any], host: str) -> bool:
    return error["code"] in ("unreachable", "auth") and error["host"] == host


def _write(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _end_on_signals(timeout: int) -> None:
    """Let SIGTERM, SIGHUP and the time limit end the session in order."""

    def stop(number: int, __: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        if number == signal.SIGALRM:
            raise PairsyncError(
                "interrupted",
                f"the session took more than {timeout} seconds",
                "run it again: it goes on where it stopped",
            )
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    if timeout:
        signal.signal(signal.SIGALRM, stop)
        signal.alarm(timeout)


def forget(spec: PairSpec, local: Local, *, batch: bool) -> None:
    """Drop what a pair agreed on, on both hosts, and say so. Raises PairsyncError."""
    batch = batch or not sys.stdin.isatty()
    found = forget_pair(spec, *_connected(spec, local, batch=batch))
    what = "forgotten; the next sync deletes nothing" if found else "not known"
    sys.stdout.write(f"the pair {spec.a.display} and {spec.b.display} is {what}\n")


def renew(root: str) -> None:
    """Give a replica on this host a new id, and say so. Raises PairsyncError."""
    try:
        root_fd = fsops.open_root(os.fsencode(os.path.expanduser(root)))
    except OSError as error:
        raise PairsyncError(
            "root_missing", f"{root} cannot be opened: {error.strerror}", "check the path"
        ) from error
    try:
        state.renew(root_fd, guard.file_system(root_fd))
    except OSError as error:
        raise PairsyncError(
            "root_identity",
            f"{root}/.pairsync cannot be written: {error.strerror}",
            "make it writable, or run as the user who syncs it",
        ) from error
    finally:
        fsops.close(root_fd)
    shown = display(os.fsencode(root))
    sys.stdout.write(f"{shown} has a new id; the next sync of each of its pairs deletes nothing\n")
