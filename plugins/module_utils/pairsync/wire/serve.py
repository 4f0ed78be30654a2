# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent: serves one replica over a pair of descriptors until the client hangs up."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Any, Callable, Optional, Union

from ..model.errors import PairsyncError, ProtocolError
from ..model.plan import DONE
from ..replica.faults import as_fatal
from ..replica.interface import Recording, Replica
from . import codec, messages
from .frames import BEAT, BULK, CALL, CONTENTS, FAIL, REPLY, Frame, FrameReader, FrameWriter
from .handshake import answer
from .limits import MOST_BULK, MOST_REPORT
from .news import write_news

_CLIENT = "the session"
_BATCH = 256 << 10  # bytes of contents gathered into one frame

_WAITING = 8  # frames that wait to be worked on
_MOST_CALLS = 8  # that have sent data and not said what it is for

# How far a session has come. It goes forward only, and back to SCANNED for another round.
_NEW, _OPEN, _BEGUN, _SCANNED, _RECEIVING, _FINISHED, _RECORDED = range(7)
_AFTER_SCAN = frozenset((_SCANNED, _RECEIVING, _FINISHED))
_ANY = frozenset(range(_BEGUN, _RECORDED + 1))

# When each operation may be asked for, and where it leads; None: nowhere.
_ORDER: dict[str, tuple[frozenset[int], Optional[int]]] = {
    "open": (frozenset((_NEW,)), _OPEN),
    "create": (frozenset((_OPEN,)), None),
    "shares": (frozenset((_OPEN,)), None),
    "forget": (frozenset((_OPEN,)), None),
    "begin": (frozenset((_OPEN,)), _BEGUN),
    "scan": (frozenset((_BEGUN, _SCANNED, _FINISHED, _RECORDED)), _SCANNED),
    "details": (frozenset((_SCANNED,)), None),
    "send": (_AFTER_SCAN, None),
    "receive": (frozenset((_SCANNED,)), _RECEIVING),
    "finish": (frozenset((_RECEIVING,)), _FINISHED),
    "record_so_far": (_AFTER_SCAN, None),
    "record": (frozenset((_SCANNED, _FINISHED)), _RECORDED),
    "promote": (_AFTER_SCAN | {_RECORDED}, None),
    "end": (_ANY, None),
}
# Each takes something on this host that only the end of the connection gives back.
_ONCE = frozenset(("begin", "receive", "end"))
_MOST_TIMES = 4  # for those that leave something on this host and may come again

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
        self._kept = 0  # bytes of it
        self._phase = _NEW
        self._times: dict[str, int] = {}
        self._sending: Optional[threading.Thread] = None
        self._receiving = -1
        self._receive_error: Optional[PairsyncError] = None
        self._operations: dict[str, _Handler] = {
            "open": self._open,
            "create": self._create,
            "shares": self._shares,
            "begin": self._begin,
            "scan": self._scan,
            "details": self._details,
            "receive": self._receive,
            "finish": self._finish,
            "record_so_far": self._record_so_far,
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
        self._kept += len(frame.payload)
        bulk = self._bulk.setdefault(frame.number, bytearray())
        if len(self._bulk) > _MOST_CALLS or self._kept > MOST_BULK:
            raise ProtocolError(f"{_CLIENT} sent more data than calls can have")
        bulk += frame.payload

    def _feed(self, frame: Frame) -> None:
        if frame.number != self._receiving or self._phase != _RECEIVING:
            raise ProtocolError(f"{_CLIENT} sent contents that nobody waits for")
        if self._receive_error is not None:
            return  # on their way before the client knew
        try:
            for record in codec.decode_records(frame.payload, _CLIENT):
                self._replica.feed(record)
        except Exception as error:
            self._tell_news()
            self._receive_error = self._fail(frame.number, error)
        else:
            self._tell_news()

    def _tell_news(self) -> None:
        news = self._replica.news()
        if news:
            self._writer.put(CONTENTS, self._receiving, write_news(news))

    def _call(self, frame: Frame) -> None:
        bulk = bytes(self._bulk.pop(frame.number, b""))
        self._kept -= len(bulk)
        try:
            arguments = messages.decode(frame.payload, _CLIENT)
            operation = messages.field(arguments, "op", str, _CLIENT)
            self._check_order(operation)
            if operation == "send":
                self._start_sending(frame.number, bulk)
                return
            reply, data = self._operations[operation](frame.number, arguments, bulk)
            following = _ORDER[operation][1]
            self._phase = self._phase if following is None else following
        except Exception as error:
            # Also what nobody foresaw reaches the session as an answer, not as a silence.
            self._fail(frame.number, error)
            return
        self._writer.put_bulk(frame.number, data)
        self._writer.put(REPLY, frame.number, messages.encode(reply))

    def _check_order(self, operation: str) -> None:
        """Refuse what does not come in its turn: a replica is made for one session's calls."""
        if operation not in _ORDER:
            raise ProtocolError(f"{_CLIENT} asked for an unknown operation")
        times = self._times[operation] = self._times.get(operation, 0) + 1
        most = 1 if operation in _ONCE else _MOST_TIMES
        bounded = operation in _ONCE or self._phase == _OPEN
        if self._phase not in _ORDER[operation][0] or (bounded and times > most):
            raise ProtocolError(f"{_CLIENT} asked for {operation!r} out of order")

    def _fail(self, number: int, cause: Exception) -> PairsyncError:
        error = as_fatal(cause)
        self._writer.put(FAIL, number, messages.encode(messages.write_error(error)))
        return error

    def _start_sending(self, number: int, bulk: bytes) -> None:
        if self._sending is not None and self._sending.is_alive():
            raise ProtocolError(f"{_CLIENT} asked for more contents while some are on their way")
        wanted = codec.read_list(bulk, _CLIENT, codec.read_wanted)
        self._sending = threading.Thread(
            target=self._send, args=(number, wanted), name="send", daemon=True
        )
        self._sending.start()

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
        return self._replica.open(messages.path(arguments, "path", _CLIENT))._asdict(), b""

    def _create(self, *__: object) -> _Answer:
        return self._replica.create()._asdict(), b""

    def _shares(self, __: int, arguments: dict[str, Any], ___: bytes) -> _Answer:
        nonce = messages.plain(arguments, "nonce", _CLIENT)
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
        late = codec.write_list(found.late, codec.write_path)
        reply = {
            "entries": found.entries,
            "seconds": found.seconds,
            "dropped": len(dropped),
            "late": len(late),
        }
        return reply, dropped + late + changes

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
        todo = codec.read_list(actions, _CLIENT, codec.read_action)
        absent = codec.read_list(incomplete, _CLIENT, codec.read_path)
        self._receiving, self._phase = number, _RECEIVING
        try:
            self._replica.receive(todo, absent)
        except Exception as error:
            self._receive_error = as_fatal(error)  # contents are on their way already
            raise
        return {}, b""

    def _finish(self, *__: object) -> _Answer:
        if self._receive_error is not None:
            raise self._receive_error
        try:
            done = self._replica.finish()
        except Exception:
            self._tell_news()
            raise
        # What was simply done is the rule, and has nothing to say.
        told = [one for one in done if one.result != DONE or one.reason]
        return {"weak": self._replica.weak}, codec.write_list(told, codec.write_done)

    def _record_so_far(self, __: int, arguments: dict[str, Any], bulk: bytes) -> _Answer:
        checksum = self._replica.record_so_far(
            messages.commit(arguments, _CLIENT),
            codec.read_list(bulk, _CLIENT, codec.read_row),
            messages.coverage(arguments, "coverage", _CLIENT),
        )
        return {"checksum": checksum}, b""

    def _record(self, __: int, arguments: dict[str, Any], bulk: bytes) -> _Answer:
        rows, more = _split(bulk, arguments, "rows")
        keep, leave = _split(more, arguments, "keep")
        recording = Recording(
            messages.commit(arguments, _CLIENT),
            codec.read_list(rows, _CLIENT, codec.read_row),
            codec.read_list(keep, _CLIENT, codec.read_path),
            codec.read_list(leave, _CLIENT, codec.read_number),
            messages.coverage(arguments, "coverage", _CLIENT),
        )
        return {"checksum": self._replica.record(recording)}, b""

    def _promote(self, __: int, arguments: dict[str, Any], ___: bytes) -> _Answer:
        self._replica.promote(messages.commit(arguments, _CLIENT))
        return {}, b""

    def _end(self, __: int, arguments: dict[str, Any], bulk: bytes) -> _Answer:
        if len(bulk) > MOST_REPORT:
            raise ProtocolError(f"{_CLIENT} sent a report that is too long")
        report = messages.decode(bulk, _CLIENT) if bulk else None
        self._replica.end(messages.field(arguments, "status", dict, _CLIENT), report)
        return {}, b""

    def _forget(self, __: int, arguments: dict[str, Any], ___: bytes) -> _Answer:
        return {"found": self._replica.forget(messages.plain(arguments, "pair_id", _CLIENT))}, b""


def _split(bulk: bytes, arguments: dict[str, Any], key: str) -> tuple[bytes, bytes]:
    """Two lists in one piece of data; the message says how long the first one is."""
    size = messages.number(arguments, key, _CLIENT, len(bulk))
    return bulk[:size], bulk[size:]
