# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: arguments, exit codes, and the only place that reads the environment."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Optional

from . import PROTOCOL, __version__
from .model.errors import CODES, EXIT_DONE, EXIT_FATAL, EXIT_SKIPPED, PairsyncError, UsageError
from .model.policy import MODES, PREFERENCES, ROUTES
from .model.spec import PairSpec, ReplicaSpec, parse_location, parse_policy, parse_spec


class _Parser(argparse.ArgumentParser):
    """Usage errors end with our exit code and one sentence."""

    def error(self, message: str) -> Any:
        raise UsageError(message, f"see `{self.prog} --help`")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command; return its exit code."""
    try:
        parser = _parser()
        options = parser.parse_args(arguments)
        if options.version:
            return _version(options)
        if options.command is None:
            parser.print_help(sys.stderr)
            return EXIT_FATAL
        return int(_COMMANDS[options.command](options))
    except PairsyncError as error:
        if "--json" in (sys.argv[1:] if arguments is None else arguments):
            _report_refusal(error)
        return _fail(error)
    except BrokenPipeError:
        return EXIT_FATAL
    except KeyboardInterrupt:
        return _fail(PairsyncError("interrupted", "interrupted", "run the same command again"))


def _fail(error: PairsyncError) -> int:
    where = f"{error.host}: " if error.host and error.host not in error.message else ""
    sys.stderr.write(f"pairsync: {where}{error}\n")
    return error.exit_code


def _report_refusal(error: PairsyncError) -> None:
    """A report for a command line that did not lead to a session."""
    from .model.report import Run, report_json

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    run = Run(run="", started=now, a="", b="", version=__version__, error=error)
    sys.stdout.write(json.dumps(report_json(run)) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pairsync", description="Keep pairs of directories the same, in both directions."
    )
    parser.add_argument("--version", action="store_true", help="print version, protocol and build")
    parser.add_argument("--json", action="store_true", help="with --version: as one JSON object")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    sync = commands.add_parser("sync", help="run one session over a pair")
    _session_options(sync)
    plan = commands.add_parser("plan", help="show what sync would do, and write nothing")
    _session_options(plan)
    status = commands.add_parser(
        "status", help="age, conflicts and last run of every pair known here"
    )
    status.add_argument("pair", nargs="?", default="", help="a pair's id or a replica's root")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.add_argument(
        "--max-age", type=int, metavar="SECONDS", help="exit 1 when a pair is older"
    )
    forget = commands.add_parser(
        "forget", help="drop what a pair agreed on: its next run deletes nothing"
    )
    forget.add_argument("a", nargs="?", default="", metavar="A")
    forget.add_argument("b", nargs="?", default="", metavar="B")
    forget.add_argument(
        "--spec", metavar="FILE", help="the pair as JSON (pairsync.spec/1); - is stdin"
    )
    forget.add_argument(
        "--new-id", metavar="ROOT", help="give a copied replica on this host its own id"
    )
    forget.add_argument("--batch", action="store_true", help="never ask")
    commands.add_parser("agent", help="serve one replica on standard input and output")
    explain = commands.add_parser("help", help="explain: `help errors` lists the error codes")
    explain.add_argument("topic", nargs="?", default="", choices=("", "errors"))
    return parser


def _session_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "a", nargs="?", default="", metavar="A", help="PATH, HOST:PATH or ssh://HOST//PATH"
    )
    parser.add_argument("b", nargs="?", default="", metavar="B")
    parser.add_argument(
        "--spec", metavar="FILE", help="the pair as JSON (pairsync.spec/1); - is stdin"
    )
    parser.add_argument("--batch", action="store_true", help="never ask; leave conflicts")
    parser.add_argument(
        "--json", action="store_true", help="one report on stdout, all else on stderr"
    )
    parser.add_argument(
        "--events", action="store_true", help="events as JSON lines on stdout, answers on stdin"
    )
    parser.add_argument("--mode", choices=MODES, help="two-way (default), mirror or push")
    parser.add_argument("--prefer", choices=PREFERENCES, help="who wins a conflict")
    parser.add_argument(
        "--ignore",
        action="append",
        metavar="SPEC",
        help="Name, Path, BelowPath or Regex; repeatable",
    )
    parser.add_argument(
        "--path", action="append", metavar="P", help="only this subtree; repeatable"
    )
    parser.add_argument(
        "--confirm", default="", metavar="DIGEST", help="the plan that was approved"
    )
    parser.add_argument(
        "--no-backup", action="store_true", help="keep what is displaced only until the next run"
    )
    parser.add_argument(
        "--max-delete", type=int, metavar="PERCENT", help="brake on deletions (default 50)"
    )
    parser.add_argument(
        "--lock-wait",
        type=int,
        metavar="SECONDS",
        help="for a holder without progress (default 60)",
    )
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="give up after this long")
    parser.add_argument(
        "--route", choices=ROUTES, help="where the session of two remote hosts runs"
    )


def _version(options: argparse.Namespace) -> int:
    path, build = _binary()
    if options.json:
        facts = {
            "name": "pairsync",
            "version": __version__,
            "protocol": PROTOCOL,
            "build": build,
            "python": platform.python_version(),
            "path": path,
        }
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        sys.stdout.write(f"pairsync {__version__} (protocol {PROTOCOL}, build {build[:12]})\n")
    return EXIT_DONE


def _binary() -> tuple[str, str]:
    """Path and SHA-256 of the running binary; the build is `source` when it is none."""
    path = os.path.realpath(sys.argv[0])
    try:
        with open(path, "rb") as stream:
            if os.path.basename(path) == "__main__.py":
                return path, "source"
            return path, hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return path, "source"


def _state_home() -> str:
    named = os.environ.get("PAIRSYNC_STATE")
    if named:
        return named
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(
        os.path.expanduser("~"), ".local", "state"
    )
    return os.path.join(state, "pairsync")


def _prepare_process() -> None:
    # One descriptor per level of directories, and modes that are given exactly.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else soft, hard))


def _read_spec(options: argparse.Namespace) -> PairSpec:
    """The pair: from --spec, or from two locations, with the policy options on top."""
    if options.spec:
        if options.a or options.b:
            raise UsageError("a pair is named by --spec and by locations", "use one of the two")
        spec = parse_spec(_load_json(options.spec))
    else:
        if not options.a or not options.b:
            raise UsageError(
                "two replicas are expected", "write `pairsync sync A B`, or use --spec"
            )
        spec = PairSpec(a=parse_location(options.a), b=parse_location(options.b))
    if not hasattr(options, "mode"):
        return spec
    given: dict[str, Any] = {
        "mode": options.mode,
        "prefer": options.prefer,
        "paths": options.path,
        "max_delete": options.max_delete,
        "lock_wait": options.lock_wait,
        "timeout": options.timeout,
        "backup": {"enabled": False} if options.no_backup else None,
    }
    if options.ignore:
        given["ignore"] = [*spec.policy.ignore, *options.ignore]
    set_here = {key: value for key, value in given.items() if value is not None}
    checked = parse_policy(set_here)
    policy = replace(spec.policy, **{key: getattr(checked, key) for key in set_here})
    unattended = options.spec or options.batch or not sys.stdin.isatty()
    return replace(
        spec, policy=policy, route=options.route or (spec.route if unattended else "auto")
    )


def _load_json(name: str) -> Any:
    try:
        if name == "-":
            text = sys.stdin.readline()
        else:
            with open(name, encoding="utf-8") as stream:
                text = stream.read()
        return json.loads(text)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{name} is not JSON: {error}") from error


def _sync(options: argparse.Namespace) -> int:
    from .frontends.jsonlines import JsonLines
    from .frontends.terminal import Terminal
    from .model.report import exit_code, report_json
    from .session.connect import Local, connect
    from .session.events import Ask, Emit, Event, Question
    from .session.run import Options, run_session

    _prepare_process()
    spec = _read_spec(options)
    local = Local(_binary()[1], _state_home())
    ask: Optional[Ask] = None
    emit: Emit
    if options.events:
        lines = JsonLines(sys.stdout, sys.stdin)
        emit = lines.emit
        if not options.batch:
            ask = lines.ask
    elif options.json:

        def emit(_: Event) -> None:
            """The report alone is wanted."""

    else:
        terminal = Terminal(sys.stdout, None if options.batch else sys.stdin)
        emit = terminal.emit
        if not options.batch:

            def ask(question: Question) -> str:
                return terminal.ask(question.text)

    dry_run = options.command == "plan"
    batch = options.batch or options.json or not sys.stdin.isatty()
    if spec.route != "relay" and not spec.a.local and not spec.b.local:
        code = _sync_elsewhere(spec, options, batch=batch)
        if code is not None:
            return code

    def connected() -> Any:
        return connect(spec.a, local, batch=batch), connect(spec.b, local, batch=batch)

    _end_on_signals(spec.policy.timeout)
    run = run_session(
        spec,
        connected,
        Options(dry_run, options.confirm, _route(spec)),
        emit,
        None if dry_run else ask,
    )
    if options.json:
        sys.stdout.write(json.dumps(report_json(run)) + "\n")
    if run.error is not None and not options.events:
        _fail(run.error)
    code = exit_code(run)
    if run.error is not None and run.error.code == "interrupted":
        # A thread may still wait for a host that does not answer; nothing depends on it now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _route(spec: PairSpec) -> str:
    return "direct" if spec.a.local or spec.b.local else "relay"


def _sync_elsewhere(spec: PairSpec, options: argparse.Namespace, *, batch: bool) -> Optional[int]:
    """Two other hosts: the session runs on the first one, and this process is its front end.

    None when the route is `auto` and the first host cannot reach the second: then this one relays.
    """
    from .frontends.terminal import Terminal
    from .session.elsewhere import run_elsewhere

    arguments = [options.command]
    if options.confirm:
        arguments += ["--confirm", options.confirm]
    asks = not (options.batch or options.json or options.command == "plan")
    if not asks:
        arguments.append("--batch")
    terminal = Terminal(sys.stderr if options.json else sys.stdout, sys.stdin if asks else None)

    def handle(event: Mapping[str, Any]) -> None:
        if options.events:
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()
        elif not options.json:
            terminal.handle(event)

    def answer(event: Mapping[str, Any]) -> str:
        if not options.events:
            return terminal.ask(str(event["text"]))
        return str(json.loads(sys.stdin.readline() or "{}").get("answer", "q"))

    report = run_elsewhere(spec, arguments, handle, answer if asks else None, batch=batch)
    error = report.get("error")
    no_way = error and error["code"] in ("unreachable", "auth") and error["host"] == spec.b.label
    if spec.route == "auto" and no_way:
        sys.stderr.write(
            f"pairsync: {spec.a.label} cannot reach {spec.b.label} ({error['message']});"
            " all data goes through this host instead\n"
        )
        return None
    handle({"event": "report", "report": report})
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")
    if error and not options.events:
        _fail(
            PairsyncError(error["code"], error["message"], error["next"] or "", error["host"] or "")
        )
    return int(report["exit"])


def _end_on_signals(timeout: int) -> None:
    def stop(number: int, _: object) -> None:
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


def _agent(_: argparse.Namespace) -> int:
    from .replica.local import LocalReplica
    from .wire.serve import serve

    _prepare_process()
    build = _binary()[1]
    serve(0, 1, LocalReplica(build, _state_home()), build)
    return EXIT_DONE


def _status(options: argparse.Namespace) -> int:
    from .replica.journal import STATUS_SCHEMA, known_roots, read_status

    named = options.pair
    roots = (
        [os.path.abspath(named)] if named and os.path.isdir(named) else known_roots(_state_home())
    )
    pairs = []
    for root in roots:
        for status in read_status(root):
            pair = status.get("pair", {})
            if named and not os.path.isdir(named) and not str(pair.get("id", "")).startswith(named):
                continue
            scanned = status.get("scanned_unix")
            age = int(time.time()) - scanned if isinstance(scanned, int) else None
            pairs.append({**status, "root": root, "age_seconds": age})
    if named and not pairs:
        raise PairsyncError(
            "unknown_pair",
            f"no pair {named!r} is known on this host",
            "run `pairsync status` to see all",
        )
    if options.json:
        sys.stdout.write(json.dumps({"schema": STATUS_SCHEMA, "pairs": pairs}) + "\n")
    else:
        for one in pairs:
            sys.stdout.write(_status_line(one) + "\n")
        if not pairs:
            sys.stdout.write("no pair has been synced on this host yet\n")
    limit = options.max_age
    late = limit is not None and any(
        one["age_seconds"] is None or one["age_seconds"] > limit for one in pairs
    )
    return EXIT_SKIPPED if late else EXIT_DONE


def _status_line(one: dict[str, Any]) -> str:
    pair = one.get("pair", {})
    age = one["age_seconds"]
    shown = "never complete" if age is None else f"{age} s ago"
    error = one.get("error")
    state = (
        f"error {error['code']}"
        if error
        else f"exit {one.get('exit')}, {one.get('conflicts')} conflicts"
    )
    return f"{str(pair.get('id'))[:12]}  {pair.get('a')}  {pair.get('b')}  {shown}  {state}"


def _forget(options: argparse.Namespace) -> int:
    from .replica import fsops, guard, state
    from .session.connect import Local, connect
    from .session.forget import forget_pair

    if options.new_id:
        try:
            root_fd = fsops.open_root(os.fsencode(os.path.expanduser(options.new_id)))
        except OSError as error:
            raise PairsyncError(
                "root_missing",
                f"{options.new_id} cannot be opened: {error.strerror}",
                "check the path",
            ) from error
        state.renew(root_fd, guard.file_system(root_fd))
        sys.stdout.write(
            f"{options.new_id} has a new id; the next sync of each of its pairs deletes nothing\n"
        )
        return EXIT_DONE
    spec = _read_spec(options)
    local = Local(_binary()[1], _state_home())

    def reached(one: ReplicaSpec) -> Any:
        return connect(one, local, batch=options.batch or not sys.stdin.isatty())

    found = forget_pair(spec, reached(spec.a), reached(spec.b))
    what = (
        "forgotten; the next sync deletes nothing"
        if found
        else "not known: there is nothing to forget"
    )
    sys.stdout.write(f"the pair {spec.a.display} and {spec.b.display} is {what}\n")
    return EXIT_DONE


def _help(options: argparse.Namespace) -> int:
    if options.topic == "errors":
        width = max(map(len, CODES))
        sys.stdout.writelines(f"{code:<{width}}  {meaning}\n" for code, meaning in CODES.items())
    else:
        _parser().print_help(sys.stdout)
    return EXIT_DONE


_COMMANDS = {
    "sync": _sync,
    "plan": _sync,
    "status": _status,
    "forget": _forget,
    "agent": _agent,
    "help": _help,
}
