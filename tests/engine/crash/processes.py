# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session and an agent as processes of their own, forked from this one, which has no threads."""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import signal
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from pairsync.model.errors import PairsyncError
from pairsync.replica.interface import Replica
from pairsync.replica.local import LocalReplica
from pairsync.wire.frames import FrameReader, FrameWriter
from pairsync.wire.handshake import await_agent, greet
from pairsync.wire.remote import RemoteReplica
from pairsync.wire.serve import serve

KILLED = 137
_PATIENCE_SECONDS = 60  # until a process that hangs is ended


class Ended(NamedTuple):
    """A process that ended. code: its exit code, or minus a signal. value: what it returned."""

    code: int
    value: Any


class Process:
    """A forked process that runs a function."""

    def __init__(self, body: Callable[[], Any]) -> None:
        self._read, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._read)
            _run(body, write)
        os.close(write)

    def end(self) -> Ended:
        """Wait for its end."""
        parts = []
        while part := os.read(self._read, 1 << 16):
            parts.append(part)
        os.close(self._read)
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return Ended(code, pickle.loads(b"".join(parts)) if code == 0 else None)


def _run(body: Callable[[], Any], write: int) -> None:
    try:
        signal.alarm(_PATIENCE_SECONDS)
        data = memoryview(pickle.dumps(body()))
        while data:
            data = data[os.write(write, data) :]
    except BaseException:
        traceback.print_exc()
        os._exit(70)
    os._exit(0)


class Pipes(NamedTuple):
    """Both directions between a session and an agent."""

    agent_reads: int
    session_writes: int
    session_reads: int
    agent_writes: int

    @classmethod
    def new(cls) -> Pipes:
        return cls(*os.pipe(), *os.pipe())

    def close(self) -> None:
        for fd in self:
            os.close(fd)

    def serve(self) -> None:
        """Be the agent until the session hangs up, which in the middle of an answer is an error."""
        os.close(self.session_writes)
        os.close(self.session_reads)
        with contextlib.suppress(PairsyncError):
            serve(self.agent_reads, self.agent_writes, LocalReplica(), "source")

    def connect(self) -> tuple[Replica, Replica]:
        """Be the session: replica a is here, b is the agent's."""
        os.close(self.agent_reads)
        os.close(self.agent_writes)
        reader = FrameReader(self.session_reads, "b")
        writer = FrameWriter(self.session_writes, "b")

        def hang_up() -> str:
            os.close(self.session_writes)
            return ""

        nonce = secrets.token_hex(16)
        greet(writer, nonce, "source")
        await_agent(self.session_reads, reader, nonce, "b", "source")
        return LocalReplica(), RemoteReplica(reader, writer, "b", hang_up)
