# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames: a length, a type, the number of the call they belong to, and a payload.

    offset  size  field
    0       4     length of the payload, big endian
    4       1     type
    5       4     number of the call, big endian
    9       …     payload

CALL, REPLY and FAIL hold JSON; BULK holds binary data for the CALL or REPLY that follows it with
the same number; CONTENTS holds records of file contents; BEAT is empty and says "alive".
"""

from __future__ import annotations

import os
import queue
import select
import struct
import threading
import time
from typing import NamedTuple, Optional

from ..model.errors import ProtocolError
from .limits import BEAT_SECONDS, CLOSE_SECONDS, MOST_FRAME, SILENCE_SECONDS

HELLO = 1
CALL = 2
REPLY = 3
FAIL = 4
BULK = 5
CONTENTS = 6
BEAT = 7

_HEADER = struct.Struct("!IBI")
_QUEUED = 16  # frames that wait for the pipe before their producer has to
_CHUNK = 1 << 20


class Frame(NamedTuple):
    """One frame."""

    type: int
    number: int
    payload: bytes


class FrameReader:
    """Reads frames from a descriptor; gives up on a peer that falls silent."""

    def __init__(self, fd: int, host: str) -> None:
        """host: whom to name in errors."""
        self._fd = fd
        self._host = host
        self.received = 0
        # Until the handshake is over: when that must be (time.monotonic), however bytes trickle.
        self.deadline: Optional[float] = None

    def read(self) -> Optional[Frame]:
        """The next frame; None at the end of the stream. Raises ProtocolError."""
        header = self._exactly(_HEADER.size, at_start=True)
        if header is None:
            return None
        length, kind, number = _HEADER.unpack(header)
        if length > MOST_FRAME or not HELLO <= kind <= BEAT:
            raise ProtocolError(f"{self._host} sent something that is no frame", self._host)
        return Frame(kind, number, self._exactly(length, at_start=False) or b"")

    def _exactly(self, size: int, *, at_start: bool) -> Optional[bytes]:
        parts: list[bytes] = []
        missing = size
        while missing:
            patience = SILENCE_SECONDS
            if self.deadline is not None:
                patience = min(patience, max(self.deadline - time.monotonic(), 0))
            ready, __, __ = select.select([self._fd], [], [], patience)
            if not ready or patience == 0:
                if patience < SILENCE_SECONDS:
                    raise ProtocolError(
                        f"{self._host} took too long to introduce itself", self._host
                    )
                raise ProtocolError(
                    f"{self._host} has said nothing for {SILENCE_SECONDS:.0f} seconds", self._host
                )
            data = os.read(self._fd, missing)
            if not data:
                if at_start and missing == size:
                    return None
                raise ProtocolError(f"the connection to {self._host} broke off", self._host)
            parts.append(data)
            missing -= len(data)
        self.received += size
        return parts[0] if len(parts) == 1 else b"".join(parts)


class FrameWriter:
    """Writes frames from any thread, in order, through one thread of its own.

    put() waits while the pipe is full, so that a fast producer needs no memory; an idle stream
    gets a BEAT every few seconds.
    """

    def __init__(self, fd: int, host: str = "the session") -> None:
        """fd: the pipe; stays the caller's. host: whom to name in errors."""
        self._fd = fd
        self._host = host
        self._queue: queue.Queue[Optional[bytes]] = queue.Queue(_QUEUED)
        self._error: Optional[Exception] = None
        self.sent = 0
        self._thread = threading.Thread(target=self._run, name="frames out", daemon=True)
        self._thread.start()

    def put(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Queue one frame; raise ProtocolError when the stream is broken."""
        data = _HEADER.pack(len(payload), kind, number) + payload
        while self._error is None:
            try:
                self._queue.put(data, timeout=1)
            except queue.Full:
                continue
            return
        if isinstance(self._error, ProtocolError):
            raise self._error
        raise ProtocolError(f"the connection to {self._host} broke off", self._host)

    def fail(self, error: Exception) -> None:
        """Be told that the other direction broke: nobody will read what is still to be written."""
        self._error = self._error or error

    def put_bulk(self, number: int, data: bytes) -> None:
        """Queue binary data for the CALL or REPLY that follows."""
        for start in range(0, len(data), _CHUNK):
            self.put(BULK, number, data[start : start + _CHUNK])

    def close(self) -> None:
        """Write what is queued, then stop; the descriptor stays open."""
        try:
            self._queue.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return  # nobody reads any more; the thread ends with the process
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        beat = _HEADER.pack(0, BEAT, 0)
        while True:
            try:
                data = self._queue.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                data = beat
            if data is None:
                return
            if self._error is None:
                self._write(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._error = error
        self.sent += len(data)
