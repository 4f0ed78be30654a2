# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The `direct` route between two other hosts: the session runs on host a, its events come here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from typing import IO, Any, Callable, Optional, cast

from ..model.errors import PairsyncError, ProtocolError
from ..model.spec import PairSpec, spec_json
from ..wire.limits import MOST_FRAME
from .connect import StderrTail, explain, remote_commands, ssh_argv

Handle = Callable[[Mapping[str, Any]], None]
Answer = Callable[[Mapping[str, Any]], str]


def run_elsewhere(
    spec: PairSpec, arguments: list[str], handle: Handle, answer: Optional[Answer], *, batch: bool
) -> dict[str, Any]:
    """Run a session on host a and return its report.

    arguments: the command and the options that are no part of a specification. handle gets every
    event but the report. answer answers questions; None in batch. Raises PairsyncError when the
    session could not be started or broke off.
    """
    there = replace(spec, a=replace(spec.a, local=True), route="direct")
    line = json.dumps(spec_json(there)) + "\n"
    *likely, last = remote_commands(spec.a.binary)
    for binary in likely:
        try:
            return _run(spec, binary, arguments, line, handle, answer, batch=batch)
        except PairsyncError as error:
            if error.code != "binary_missing":
                raise
    return _run(spec, last, arguments, line, handle, answer, batch=batch)


def _run(
    spec: PairSpec,
    binary: str,
    arguments: list[str],
    line: str,
    handle: Handle,
    answer: Optional[Answer],
    *,
    batch: bool,
) -> dict[str, Any]:
    command = [binary, arguments[0], "--spec", "-", "--events", *arguments[1:]]
    process = subprocess.Popen(
        [*ssh_argv(spec.a, batch=batch), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    to_host, from_host = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    said = StderrTail(cast("IO[bytes]", process.stderr))
    try:
        report = _follow(spec.a.label, line, to_host, from_host, handle, answer)
    finally:
        to_host.close()
        code = process.wait()
    if report is None:
        raise explain(spec.a, binary, code, said.text(), b"")
    return report


def _follow(
    host: str,
    line: str,
    to_host: IO[bytes],
    from_host: IO[bytes],
    handle: Handle,
    answer: Optional[Answer],
) -> Optional[dict[str, Any]]:
    """Pass events on until the report; None when the stream ends before it."""
    try:
        to_host.write(line.encode())
        to_host.flush()
    except BrokenPipeError:
        return None
    while True:
        data = from_host.readline(64 * MOST_FRAME)
        if not data:
            return None
        event = _event(data, host)
        if event["event"] == "report":
            return dict(event["report"])
        handle(event)
        if event["event"] == "question" and answer is not None:
            reply = {"id": event.get("id"), "answer": answer(event)}
            to_host.write(json.dumps(reply).encode() + b"\n")
            to_host.flush()


def _event(data: bytes, host: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise ProtocolError(f"{host} sent something that is no event", host) from error
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise ProtocolError(f"{host} sent something that is no event", host)
    return event
