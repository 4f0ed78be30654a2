# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent: serves one replica over a pair of descriptors until the client hangs up."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Any, Callable, Union

from ..model.errors import PairsyncError, ProtocolError
from ..model.plan import DONE
from ..replica.faults import as_fatal
from ..replica.interface import Recording, Replica
from . import codec, messages
from .frames import BEAT, BULK, CALL, CONTENTS, FAIL, REPLY, Frame, FrameReader, FrameWriter
from .handshake import answer
from .limits import MOST_BULK

_CLIENT = "the session"
_BATCH = 256 << 10  # bytes of contents gathered into one frame

_WAITING = 8  # frames that wait to be worked on

_Read = Union[Frame, Exception, None]
_Answer = tuple[dict[str, Any], bytes]
_Handler = Callable[[int, dict[str, Any], bytes], _Answer]


def serve(read_fd: int, write_fd: int, replica: Replica, build: str) -> None:
    """Answer calls until the end of the stream; raise PairsyncError when the client misbehaves."""
    reader = FrameReader(read_fd, _CLIENT)
    writer = FrameWriter(write_fd)
    try:
        answer(reader, writer, write_fd, build)
        _Agent(reader, writer, replica).run()
    finally:
        replica.close()
        writer.close()


class _Agent:
    """One client being served."""

    def __init__(self, reader: FrameReader, writer: FrameWriter, replica: Replica) -> None:
        self._reader = reader
        self._writer = writer
        self._replica = replica
        self._bulk: dict[int, bytearray] = {}
        self._receiving = -1
        self._failed: dict[int, PairsyncError] = {}
        self._operations: dict[str, _Handler] = {
            "open": self._open,
            "create": self._create,
            "shares": self._shares,
            "begin": self._begin,
            "scan": self._scan,
            "details": self._details,
            "receive": self._receive,
            "finish": self._finish,
            "record": self._record,
            "promote": self._promote,
            "end": self._end,
            "forget": self._forget,
        }

    def run(self) -> None:
        inbox: queue.Queue[_Read] = queue.Queue(_WAITING)
        threading.Thread(target=self._read, args=(inbox,), name="frames in", daemon=True).start()
        while True:
            frame = inbox.get()
            if frame is None:
                return
            if isinstance(frame, Exception):
                raise frame
            if frame.type == CALL:
                self._call(frame)
            elif frame.type == BULK:
                self._gather(frame)
            elif frame.type == CONTENTS:
                self._feed(frame)
            else:
                raise ProtocolError(f"{_CLIENT} sent a frame that only an agent sends")

    def _read(self, inbox: queue.Queue[_Read]) -> None:
        """Read on while calls are worked on: a dead session is noticed even in mid-answer."""
        try:
            while True:
                frame = self._reader.read()
                if frame is None:
                    break
                if frame.type != BEAT:
                    inbox.put(frame)
        except (PairsyncError, OSError) as error:
            self._writer.fail(error)
            inbox.put(error)
        else:
            self._writer.fail(ProtocolError(f"{_CLIENT} hung up"))
            inbox.put(None)

    def _gather(self, frame: Frame) -> None:
        bulk = self._bulk.setdefault(frame.number, bytearray())
        if len(self._bulk) > 8 or len(bulk) + len(frame.payload) > MOST_BULK:
            raise ProtocolError(f"{_CLIENT} sent more data than a call can have")
        bulk += frame.payload

    def _feed(self, frame: Frame) -> None:
        if frame.number in self._failed:
            return  # on its way before the client knew
        if frame.number != self._receiving:
            raise ProtocolError(f"{_CLIENT} sent contents that nobody waits for")
        try:
            for record in codec.decode_records(frame.payload, _CLIENT):
                self._replica.feed(record)
        except Exception as error:
            self._fail(frame.number, error)

    def _call(self, frame: Frame) -> None:
        bulk = bytes(self._bulk.pop(frame.number, b""))
        try:
            arguments = messages.decode(frame.payload, _CLIENT)
            operation = messages.field(arguments, "op", str, _CLIENT)
            if operation == "send":
                wanted = codec.read_list(bulk, _CLIENT, codec.read_wanted)
                threading.Thread(
                    target=self._send, args=(frame.number, wanted), name="send", daemon=True
                ).start()
                return
            handler = self._operations.get(operation)
            if handler is None:
                raise ProtocolError(f"{_CLIENT} asked for an unknown operation")
            reply, data = handler(frame.number, arguments, bulk)
        except Exception as error:
            # Also what nobody foresaw reaches the session as an answer, not as a silence.
            self._fail(frame.number, error)
            return
        self._writer.put_bulk(frame.number, data)
        self._writer.put(REPLY, frame.number, messages.encode(reply))

    def _fail(self, number: int, cause: Exception) -> None:
        error = as_fatal(cause)
        self._failed[number] = error
        self._writer.put(FAIL, number, messages.encode(messages.write_error(error)))

    def _send(self, number: int, wanted: list[tuple[int, bytes]]) -> None:
        gathered: list[bytes] = []
        size = 0
        try:
            for record in self._replica.send(wanted):
                encoded = codec.encode_record(record)
                gathered.append(encoded)
                size += len(encoded)
                if size >= _BATCH:
                    self._writer.put(CONTENTS, number, b"".join(gathered))
                    gathered, size = [], 0
            if gathered:
                self._writer.put(CONTENTS, number, b"".join(gathered))
            self._writer.put(REPLY, number, b"{}")
        except Exception as error:
            with contextlib.suppress(ProtocolError):  # nobody is there any more
                self._fail(number, error)

    # -- operations -----------------------------------------------------------------------------

    def _open(self, __: int, arguments: dict[str, Any], ___: bytes) -> _Answer:
        return self._replica.open(messages.field(arguments, "path", str, _CLIENT))._asdict(), b""

    def _create(self, *__: object) -> _Answer:
        return self._replica.create()._asdict(), b""

    def _shares(self, __: int, arguments: dict[str, Any], ___: bytes) -> _Answer:
        nonce = messages.field(arguments, "nonce", str, _CLIENT)
        if not (nonce.isascii() and nonce.isalnum()) or len(nonce) > 64:
            raise ProtocolError(f"{_CLIENT} sent a malformed nonce")
        write = messages.field(arguments, "write", bool, _CLIENT)
        return {"found": self._replica.shares(nonce, write=write)}, b""

    def _begin(self, __: int, arguments: dict[str, Any], ___: bytes) -> _Answer:
        return self._replica.begin(messages.read_beginning(arguments, _CLIENT))._asdict(), b""

    def _scan(self, __: int, arguments: dict[str, Any], ___: bytes) -> _Answer:
        verb = messages.field(arguments, "base", str, _CLIENT)
        if verb not in ("keep", "promote", "drop", "reset"):
            raise ProtocolError(f"{_CLIENT} sent an unknown verb for the base")
        found = self._replica.scan(verb)
        dropped = codec.write_list(found.dropped, codec.write_path)
        changes = codec.write_list(found.changes, codec.write_change)
        reply = {"entries": found.entries, "seconds": found.seconds, "dropped": len(dropped)}
        return reply, dropped + changes

    def _details(self, __: int, arguments: dict[str, Any], bulk: bytes) -> _Answer:
        files, directories = _split(bulk, arguments, "files")
        entries, hidden = self._replica.details(
            codec.read_list(files, _CLIENT, codec.read_path),
            codec.read_list(directories, _CLIENT, codec.read_path),
        )
        rows = codec.write_list(entries, codec.write_row)
        return {"entries": len(rows)}, rows + codec.write_list(hidden, codec.write_path)

    def _receive(self, number: int, arguments: dict[str, Any], bulk: bytes) -> _Answer:
        actions, incomplete = _split(bulk, arguments, "actions")
        self._replica.receive(
            codec.read_list(actions, _CLIENT, codec.read_action),
            codec.read_list(incomplete, _CLIENT, codec.read_path),
        )
        self._receiving = number
        return {}, b""

    def _finish(self, *__: object) -> _Answer:
        if self._receiving in self._failed:
            raise self._failed[self._receiving]
        done = self._replica.finish()
        # What was simply done is the rule, and has nothing to say.
        told = [one for one in done if one.result != DONE or one.reason]
        return {"weak": self._replica.weak}, codec.write_list(told, codec.write_done)

    def _record(self, __: int, arguments: dict[str, Any], bulk: bytes) -> _Answer:
        rows, keep = _split(bulk, arguments, "rows")
        leave = messages.field(arguments, "leave", list, _CLIENT)
        if not all(isinstance(number, int) for number in leave):
            raise ProtocolError(f"{_CLIENT} sent numbers of actions that are none")
        recording = Recording(
            messages.field(arguments, "commit", str, _CLIENT),
            codec.read_list(rows, _CLIENT, codec.read_row),
            codec.read_list(keep, _CLIENT, codec.read_path),
            leave,
            messages.field(arguments, "coverage", str, _CLIENT, messages.MOST_COVERAGE),
        )
        return {"checksum": self._replica.record(recording)}, b""

    def _promote(self, __: int, arguments: dict[str, Any], ___: bytes) -> _Answer:
        self._replica.promote(messages.field(arguments, "commit", str, _CLIENT))
        return {}, b""

    def _end(self, __: int, arguments: dict[str, Any], bulk: bytes) -> _Answer:
        report = messages.decode(bulk, _CLIENT) if bulk else None
        self._replica.end(messages.field(arguments, "status", dict, _CLIENT), report)
        return {}, b""

    def _forget(self, __: int, arguments: dict[str, Any], ___: bytes) -> _Answer:
        pair = messages.field(arguments, "pair_id", str, _CLIENT)
        if not (pair.isascii() and pair.isalnum()) or len(pair) > 64:
            raise ProtocolError(f"{_CLIENT} sent a malformed pair id")
        return {"found": self._replica.forget(pair)}, b""


def _split(bulk: bytes, arguments: dict[str, Any], key: str) -> tuple[bytes, bytes]:
    """Two lists in one piece of data; the message says how long the first one is."""
    size = messages.field(arguments, key, int, _CLIENT)
    if not 0 <= size <= len(bulk):
        raise ProtocolError(f"{_CLIENT} sent lists of the wrong length")
    return bulk[:size], bulk[size:]
