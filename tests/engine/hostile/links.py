# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network between a session and its agent, both in this process, that fails at a chosen byte."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pairsync.model.errors import PairsyncError
from pairsync.model.spec import ReplicaSpec
from pairsync.replica.interface import Replica
from pairsync.replica.local import LocalReplica
from pairsync.session.connect import explain
from pairsync.wire.frames import FrameReader, FrameWriter
from pairsync.wire.handshake import await_agent, greet
from pairsync.wire.remote import RemoteReplica
from pairsync.wire.serve import serve

NONCE = "0123456789abcdef" * 2
NEVER = 1 << 60
TO_AGENT, TO_SESSION = 0, 1


@dataclass(frozen=True)
class Fault:
    """What happens to the bytes of one direction.

    at: so many bytes pass first. then: `cut` ends both directions for both ends, `hang` loses
    all that comes later, both ways, while both ends stay open; bytes are put in between.
    """

    direction: int = TO_AGENT
    at: int = NEVER
    then: str | bytes = "cut"


class Link:
    """Carries bytes between a session and an agent until its fault; an agent serves behind it."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.passed = [0, 0]
        self.agent_error: Exception | None = None
        self._session, near = socket.socketpair()
        far, self._agent = socket.socketpair()
        self._ends = near, far
        self._stop, self._stopped = os.pipe()
        self._before = set(threading.enumerate())
        self._threads = [threading.Thread(target=one) for one in (self._carry, self._serve)]
        for thread in self._threads:
            thread.start()

    def replica(self) -> Replica:
        """The replica behind the link, after the handshake; raises what that raises."""
        fd = self._session.fileno()
        reader, writer = FrameReader(fd, "gpu2"), FrameWriter(fd, "gpu2")

        def hang_up() -> str:
            with contextlib.suppress(OSError):
                self._session.shutdown(socket.SHUT_RDWR)
            return ""

        try:
            greet(writer, NONCE, "source")
            await_agent(fd, reader, NONCE, "gpu2", "source")
        except EOFError as error:  # as session.connect, where ssh ends
            writer.close()
            raise explain(ReplicaSpec("gpu2", "/"), "pairsync", 255, "", error.args[0]) from error
        except BaseException:
            writer.close()
            hang_up()
            raise
        return RemoteReplica(reader, writer, "gpu2", hang_up)

    def agent_ends(self, seconds: float) -> bool:
        """Tell whether the agent ends by itself within so many seconds."""
        self._threads[1].join(seconds)
        return not self._threads[1].is_alive()

    def close(self) -> None:
        """End what is left; both threads must end by themselves then."""
        os.write(self._stopped, b"x")
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "an end of the link hangs"
        # Whoever still reads must not find the numbers of these sockets in use by something else.
        for thread in set(threading.enumerate()) - self._before:
            if thread.name.startswith("frames "):
                thread.join(30)
                assert not thread.is_alive(), f"{thread.name} hangs"
        for end in (self._session, self._agent, *self._ends):
            end.close()
        os.close(self._stop)
        os.close(self._stopped)

    def _serve(self) -> None:
        fd = self._agent.fileno()
        try:
            serve(fd, fd, LocalReplica(), "source")
        except (PairsyncError, OSError) as error:
            self.agent_error = error
        with contextlib.suppress(OSError):
            self._agent.shutdown(socket.SHUT_RDWR)

    def _carry(self) -> None:
        ends, lost = list(self._ends), False
        while True:
            ready = select.select([*ends, self._stop], [], [])[0]
            if self._stop in ready:
                return self._hang_up()
            for end in [one for one in ends if one in ready]:
                data = self._received(end)
                if not data and not lost:
                    return self._hang_up()
                if not data:
                    ends.remove(end)  # nobody tells the other one
                elif not lost:
                    lost = self._pass(self._ends.index(end), data)
                    if lost and self.fault.then == "cut":
                        return self._hang_up()

    @staticmethod
    def _received(end: socket.socket) -> bytes:
        try:
            return end.recv(65536)
        except OSError:
            return b""

    def _pass(self, direction: int, data: bytes) -> bool:
        """Hand data on as far as the fault lets it; tell whether the link is lost now."""
        fault = self.fault
        before = self.passed[direction]
        self.passed[direction] += len(data)
        if direction == fault.direction and before <= fault.at < before + len(data):
            left = fault.at - before
            if isinstance(fault.then, bytes):
                data = data[:left] + fault.then + data[left:]
            else:
                self._send(direction, data[:left])
                return True
        self._send(direction, data)
        return False

    def _send(self, direction: int, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._ends[1 - direction].sendall(data)

    def _hang_up(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def behind(fault: Fault = Fault()) -> Iterator[tuple[Link, Callable[[], tuple[Replica, Replica]]]]:
    """A link, and what connects a local replica and the one behind the link."""
    link = Link(fault)
    try:
        yield link, lambda: (LocalReplica(), link.replica())
    finally:
        link.close()
