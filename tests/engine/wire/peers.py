# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real agents behind real pipes, sessions with them, and peers that misbehave on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pairsync.model.report import Run
from pairsync.model.spec import PairSpec, ReplicaSpec
from pairsync.replica.interface import Replica
from pairsync.replica.local import LocalReplica
from pairsync.session.run import Options, run_session
from pairsync.wire.frames import Frame, FrameReader, FrameWriter
from pairsync.wire.handshake import await_agent, greet
from pairsync.wire.remote import RemoteReplica

NONCE = "0123456789abcdef" * 2


@contextmanager
def agent(state: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running agent; ended with its input."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pairsync", "agent"],
        env={**os.environ, "PAIRSYNC_STATE": str(state)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    process.writers = []
    try:
        yield process
    finally:
        # A thread that still writes beats must not find the numbers of its pipe in use again.
        for writer in process.writers:
            writer.fail(EOFError())
            writer.close()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Wire:
    """The frames of a client that says what a test wants, right or wrong."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """process: an agent, from its first byte."""
        read_fd = process.stdout.fileno()
        self.reader = FrameReader(read_fd, "gpu2")
        self.writer = FrameWriter(process.stdin.fileno(), "gpu2")
        process.writers.append(self.writer)
        greet(self.writer, NONCE, "source")
        self.greeting = await_agent(read_fd, self.reader, NONCE, "gpu2", "source")

    def read(self) -> Frame | None:
        """The next frame that is no beat."""
        while True:
            frame = self.reader.read()
            if frame is None or frame.type != 7:
                return frame


def remote(process: subprocess.Popen[bytes]) -> RemoteReplica:
    """The replica that an agent serves, as a session sees it."""
    wire = Wire(process)

    def hang_up() -> str:
        process.stdin.close()
        process.wait(10)
        return ""

    return RemoteReplica(wire.reader, wire.writer, "gpu2", hang_up)


def sync(a: Path, b: Path, replica_b: Replica, state: Path, **options: object) -> Run:
    """A session in batch: a is of this process, b is behind the given replica."""
    spec = PairSpec(
        a=ReplicaSpec("", str(a), local=True), b=ReplicaSpec("gpu2", str(b)),
    )  # fmt: skip
    local = LocalReplica("source", str(state))
    return run_session(spec, lambda: (local, replica_b), Options(**options), lambda __: None)
