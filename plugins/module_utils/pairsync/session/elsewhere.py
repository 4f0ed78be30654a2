# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The `direct` route between two other hosts: the session runs on host a, its events come here."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import select
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import IO, Any, Callable, Optional, cast

from ..model.errors import PairsyncError
from ..model.spec import PairSpec, ReplicaSpec, spec_json
from ..replica import fsops
from ..wire.limits import HANDSHAKE_SECONDS, MOST_FRAME, MOST_NOISE
from .connect import StderrTail, end_ssh, explain, remote_commands, start_ssh
from .told import read_event

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
    one_host = replace(spec.b, path=spec.a.path) == spec.a
    there = replace(
        spec,
        a=replace(spec.a, local=True),
        b=replace(spec.b, local=True) if one_host else spec.b,
        route="direct",
    )
    line = json.dumps(spec_json(there)) + "\n"
    *likely, last = remote_commands(spec.a.binary)
    for binary in likely:
        try:
            return _run(spec.a, binary, arguments, line, handle, answer, batch=batch)
        except PairsyncError as error:
            if error.code != "binary_missing":
                raise
    return _run(spec.a, last, arguments, line, handle, answer, batch=batch)


def _run(
    place: ReplicaSpec,
    binary: str,
    arguments: list[str],
    line: str,
    handle: Handle,
    answer: Optional[Answer],
    *,
    batch: bool,
) -> dict[str, Any]:
    # The shell says the mark when it is done with its start-up files, in any kind of shell.
    mark = f"pairsync-{secrets.token_hex(16)}"
    command = ["echo", f"{mark};", binary, arguments[0], "--spec", "-", "--events", *arguments[1:]]
    process = start_ssh(place, command, batch=batch)
    to_host, from_host = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    said = StderrTail(cast("IO[bytes]", process.stderr))
    printed, report = b"", None
    try:
        # Nothing runs there before it has read the specification.
        printed = _await_mark(from_host.fileno(), mark.encode() + b"\n", place.label)
        if not printed:
            report = _follow(place.label, line, to_host, from_host, handle, answer)
    finally:
        # A session that still runs stops at its next word; a full pipe must not keep ssh.
        to_host.close()
        from_host.close()
        end_ssh(process)
    if printed:
        raise explain(place, binary, 0, "", printed)
    if report is None:
        raise explain(place, binary, process.returncode, said.text(), b"")
    return report


def _await_mark(fd: int, mark: bytes, host: str) -> bytes:
    """Wait for the mark; return what came before it, or instead of it, up to its first line."""
    seen = bytearray()
    deadline = time.monotonic() + HANDSHAKE_SECONDS
    while not seen.strip() or not seen.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or len(seen) > MOST_NOISE:
            break
        if not select.select([fd], [], [], left)[0]:
            continue
        # One byte at a time up to the mark: what follows belongs to the events.
        byte = os.read(fd, 1)
        if not byte:
            return bytes(seen)
        seen += byte
    if not seen:
        raise PairsyncError(
            "unreachable",
            f"{host} did not answer within {HANDSHAKE_SECONDS:.0f} seconds",
            "check that the host is up and not overloaded",
            host,
        )
    return bytes(seen).removesuffix(mark)


def _follow(
    host: str,
    line: str,
    to_host: IO[bytes],
    from_host: IO[bytes],
    handle: Handle,
    answer: Optional[Answer],
) -> Optional[dict[str, Any]]:
    """Pass events on until the report; None when the stream ends before it."""
    reader = io.BufferedReader(cast("io.RawIOBase", from_host))
    _tell(to_host, line)
    for data in iter(lambda: reader.readline(64 * MOST_FRAME), b""):
        event = read_event(data, host)
        if event["event"] == "report":
            return dict(event["report"])
        handle(event)
        if event["event"] == "question" and answer is not None:
            _tell(to_host, json.dumps({"id": event["id"], "answer": answer(event)}) + "\n")
    return None


def _tell(to_host: IO[bytes], line: str) -> None:
    # A host that is gone is noticed where its answer is read.
    with contextlib.suppress(BrokenPipeError):
        fsops.write(to_host.fileno(), line.encode())
