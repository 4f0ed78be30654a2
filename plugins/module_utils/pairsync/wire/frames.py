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

import contextlib
import os
import queue
import select
import struct
import threading
import time
from typing import NamedTuple, Optional

from ..model.errors import LinkError, ProtocolError
from .limits import (
    BEAT_SECONDS,
    CLOSE_SECONDS,
    MOST_FRAME,
    MOST_HELLO,
    SILENCE_SECONDS,
    SLOWEST,
    STALL_SECONDS,
)

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
_READ = 64 << 10  # bytes: memory is taken as data comes, never as it is announced
_NO_HELLO = "took too long to introduce itself"
_MOST = {HELLO: MOST_HELLO, BEAT: 0}  # bytes of a payload, where they are not MOST_FRAME


class Frame(NamedTuple):
    """One frame."""

    type: int
    number: int
    payload: bytes


class FrameReader:
    """Reads frames from a descriptor; gives up on a peer that falls silent, or drips.

    Between frames a peer may be silent for SILENCE_SECONDS. A frame that has begun must come at
    SLOWEST, however regularly its bytes do: the time for it is set when it begins.
    """

    def __init__(self, fd: int, host: str) -> None:
        """host: whom to name in errors."""
        self._fd = fd
        self._host = host
        self.received = 0
        # Until the handshake is over: when that must be (time.monotonic), however bytes trickle.
        self.deadline: Optional[float] = None

    def read(self) -> Optional[Frame]:
        """The next frame; None at the end of the stream. Raises ProtocolError."""
        first = self._some(1, None)
        if not first:
            return None
        due = time.monotonic() + SILENCE_SECONDS
        length, kind, number = _HEADER.unpack(first + self._exactly(_HEADER.size - 1, due))
        if not HELLO <= kind <= BEAT or length > _MOST.get(kind, MOST_FRAME):
            raise ProtocolError(f"{self._host} sent something that is no frame", self._host)
        payload = self._exactly(length, due + length / SLOWEST)
        self.received += _HEADER.size + length
        return Frame(kind, number, payload)

    def _exactly(self, size: int, due: float) -> bytes:
        """So many bytes, all of which must be there by a time (time.monotonic)."""
        parts = bytearray()
        while len(parts) < size:
            data = self._some(min(size - len(parts), _READ), due)
            if not data:
                raise LinkError(f"the connection to {self._host} broke off", self._host)
            if len(data) == size:
                return data
            parts += data
        return bytes(parts)

    def _some(self, most: int, due: Optional[float]) -> bytes:
        """What there is to read, nothing at the end of the stream; due: of a frame that has begun.

        Raises ProtocolError when it does not come in time.
        """
        wait = SILENCE_SECONDS
        said = f"has said nothing for {SILENCE_SECONDS:.0f} seconds"
        for end, what in ((due, "sends too slowly"), (self.deadline, _NO_HELLO)):
            left = wait if end is None else end - time.monotonic()
            if left < wait:
                wait, said = left, what
        if wait <= 0 or not select.select([self._fd], [], [], wait)[0]:
            raise LinkError(f"{self._host} {said}", self._host)
        return os.read(self._fd, most)


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
        due = time.monotonic() + STALL_SECONDS
        while self._error is None:
            try:
                self._queue.put(data, timeout=1)
            except queue.Full:
                if time.monotonic() > due:
                    self.fail(ProtocolError(f"{self._host} takes nothing any more", self._host))
                continue
            return
        if isinstance(self._error, ProtocolError):
            raise self._error
        raise LinkError(f"the connection to {self._host} broke off", self._host)

    def fail(self, error: Exception) -> None:
        """Be told that the other direction broke: nobody will read what is still to be written."""
        self._error = self._error or error

    def put_bulk(self, number: int, data: bytes) -> None:
        """Queue binary data for the CALL or REPLY that follows."""
        for start in range(0, len(data), _CHUNK):
            self.put(BULK, number, data[start : start + _CHUNK])

    def close(self) -> None:
        """Write what is queued, then stop; the descriptor stays open.

        When that takes too long nobody reads any more: then no further write is begun, since the
        descriptor may be another file's by the time the one that hangs has come back.
        """
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_SECONDS)
            self._thread.join(CLOSE_SECONDS)
        self.fail(ProtocolError(f"the connection to {self._host} was closed", self._host))

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
            while view and self._error is None:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._error = error
        self.sent += len(data)
