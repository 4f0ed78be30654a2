# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica on another host: the same interface, over a pipe to an agent."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional, Union

from ..model.entry import DIR, FILE, PROBLEM, Change, Entry, is_below, sort_key
from ..model.errors import LinkError, PairsyncError, ProtocolError
from ..model.pathspec import PathSet
from ..model.plan import DONE
from ..model.report import display
from ..reconcile.actions import Action
from ..replica.contents import Begin, Done, End, Piece, Proof, Record, Whole
from ..replica.interface import BaseState, Beginning, Opened, Recording, Scanned
from . import codec, messages
from .frames import BEAT, BULK, CALL, CONTENTS, FAIL, REPLY, Frame, FrameReader, FrameWriter
from .limits import MOST_BULK, MOST_REPORT, MOST_SIZE
from .news import read_news

_QUEUED = 64  # frames of contents that wait for their consumer
_BATCH = 256 << 10  # bytes of contents gathered into one frame

_MOST_SECONDS = 1e9  # of a scan that anybody has waited for

# What a call can get: contents, a reply with its data, or an error.
_Got = Union[bytes, "tuple[dict[str, Any], bytes]", PairsyncError]


class _Call(NamedTuple):
    """A call that waits for its answer.

    streams: for contents as well; stays: may fail later; tells: says how far it is until then.
    """

    answers: queue.Queue[_Got]
    streams: bool
    stays: bool
    tells: bool = False


class RemoteReplica:
    """Calls an agent. Sends and receives contents at the same time, from different threads."""

    def __init__(
        self, reader: FrameReader, writer: FrameWriter, host: str, hang_up: Callable[[], str]
    ) -> None:
        """Take over a connection after its handshake.

        hang_up ends the connection and returns what ssh said last, for error messages.
        """
        self._reader = reader
        self._writer = writer
        self._host = host
        self._hang_up = hang_up
        self.weak = False
        self._number = 0
        self._calls: dict[int, _Call] = {}
        self._lock = threading.Lock()
        self._broken: Optional[PairsyncError] = None
        self._receiving = 0
        self._told: dict[int, bool] = {}  # by number of an action: whether contents are for it
        self._proofs: dict[int, Proof] = {}
        self._receive_error: Optional[PairsyncError] = None
        self._news: list[bytes] = []
        self._news_size = 0
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._ignore = PathSet()
        self._paths: tuple[bytes, ...] = ()
        threading.Thread(target=self._read, name=f"frames from {host}", daemon=True).start()

    @property
    def wire_bytes(self) -> int:
        """Bytes that went over the connection, both ways."""
        return self._reader.received + self._writer.sent

    # -- interface.Replica ----------------------------------------------------------------------

    def open(self, path: str) -> Opened:
        """See interface.Replica."""
        return messages.read_opened(self._call("open", {"path": path})[0], self._host)

    def create(self) -> Opened:
        """See interface.Replica."""
        return messages.read_opened(self._call("create", {})[0], self._host)

    def shares(self, nonce: str, *, write: bool) -> bool:
        """See interface.Replica."""
        return self._flag(self._call("shares", {"nonce": nonce, "write": write})[0])

    def begin(self, beginning: Beginning) -> BaseState:
        """See interface.Replica."""
        self._ignore = PathSet(beginning.policy.ignore)
        self._paths = tuple(os.fsencode(path) for path in beginning.policy.paths)
        reply, __ = self._call("begin", messages.write_beginning(beginning))
        return messages.read_base_state(reply, self._host)

    def scan(self, base: str) -> Scanned:
        """See interface.Replica."""
        reply, data = self._call("scan", {"base": base})
        first, rest = self._split(reply, "dropped", data)
        second, third = self._split(reply, "late", rest)
        seconds = reply.get("seconds")
        return Scanned(
            self._changes(third),
            messages.number(reply, "entries", self._host, MOST_SIZE),
            codec.read_list(first, self._host, codec.read_path),
            seconds if isinstance(seconds, float) and 0 <= seconds <= _MOST_SECONDS else 0.0,
            codec.read_list(second, self._host, codec.read_path),
        )

    def details(
        self, files: list[bytes], directories: list[bytes]
    ) -> tuple[list[tuple[bytes, Entry]], list[bytes]]:
        """See interface.Replica."""
        asked = codec.write_list(files, codec.write_path)
        data = asked + codec.write_list(directories, codec.write_path)
        reply, answer = self._call("details", {"files": len(asked)}, data)
        first, second = self._split(reply, "entries", answer)
        rows = codec.read_list(first, self._host, codec.read_row)
        hidden = codec.read_list(second, self._host, codec.read_path)
        if (
            [path for path, __ in rows] != files
            or not set(hidden) <= set(directories)
            or any(entry is not None and entry.kind not in (FILE, PROBLEM) for __, entry in rows)
        ):
            raise ProtocolError(
                f"{self._host} answered about other files than it was asked", self._host
            )
        return [(path, entry) for path, entry in rows if entry is not None], hidden

    def send(self, wanted: list[tuple[int, bytes]]) -> Iterator[Record]:
        """See interface.Replica."""
        listed = codec.write_list(wanted, codec.write_wanted)
        __, answers = self._start("send", {}, listed, streams=True)
        asked = {number for number, __ in wanted}
        large, left = -1, 0  # the file that has begun, and how much of it may still come
        while True:
            got = self._next(answers)
            if not isinstance(got, bytes):
                if large >= 0:
                    raise self._broken_stream("ended inside a file")
                return
            for record in codec.decode_records(got, self._host):
                if record.number not in asked:
                    raise self._broken_stream("holds a file that nobody asked for")
                if isinstance(record, Begin):
                    if large >= 0:
                        raise self._broken_stream("holds a file inside another one")
                    large, left = record.number, record.size
                elif large not in (-1, record.number) or (
                    isinstance(record, (Piece, End)) and large < 0
                ):
                    raise self._broken_stream("holds a piece of a file that has not begun")
                elif isinstance(record, Piece):
                    left -= len(record.data)
                    if left < 0:
                        raise self._broken_stream("holds more of a file than it said")
                elif isinstance(record, Whole) and large >= 0:
                    raise self._broken_stream("holds a file twice")
                else:
                    asked.discard(record.number)
                    large = -1
                yield record

    def _broken_stream(self, what: str) -> ProtocolError:
        return ProtocolError(f"the stream of contents from {self._host} {what}", self._host)

    def receive(self, actions: list[Action], incomplete: list[bytes]) -> None:
        """See interface.Replica."""
        listed = codec.write_list(actions, codec.write_action)
        data = listed + codec.write_list(incomplete, codec.write_path)
        number, answers = self._start("receive", {"actions": len(listed)}, data, stays=True)
        self._receiving = number
        self._told = {action.number: action.takes_contents for action in actions}
        self._proofs.clear()
        # The answer is not waited for: an error is raised by the feed() or finish() after it.
        threading.Thread(target=self._watch, args=(answers,), daemon=True).start()

    def feed(self, record: Record) -> None:
        """See interface.Replica."""
        if self._receive_error is not None:
            raise self._receive_error
        if isinstance(record, (Whole, End)):
            self._proofs[record.number] = record.proof
        encoded = codec.encode_record(record)
        self._gathered.append(encoded)
        self._gathered_size += len(encoded)
        if self._gathered_size >= _BATCH:
            self._flush()

    def news(self) -> list[Done]:
        """See interface.Replica."""
        with self._lock:
            arrived, self._news = self._news, []
        found: list[Done] = []
        for data in arrived:
            results = read_news(data, self._host, len(self._told))
            if not all(one.number in self._told for one in results):
                raise ProtocolError(f"{self._host} answered about what it was not told", self._host)
            found.extend(self._done(one.number, one) for one in results)
        return found

    def finish(self) -> list[Done]:
        """See interface.Replica."""
        self._flush()
        reply, data = self._call("finish", {})
        self.weak = messages.field(reply, "weak", bool, self._host)
        if self._receive_error is not None:
            raise self._receive_error
        answered = codec.read_list(data, self._host, codec.read_done)
        results = {one.number: one for one in answered}
        if len(results) != len(answered) or not results.keys() <= self._told.keys():
            raise ProtocolError(f"{self._host} answered about what it was not told", self._host)
        # Only what was not simply done is in the answer.
        return [self._done(number, results.get(number)) for number in self._told]

    def _done(self, number: int, result: Optional[Done]) -> Done:
        if result is not None and result.result != DONE:
            return result
        proof = self._proofs.get(number)
        if proof is None and self._told[number]:
            raise ProtocolError(f"{self._host} claims to have what it was not sent", self._host)
        return Done(number, DONE, result.reason if result is not None else "", proof)

    def record_so_far(
        self, commit: str, rows: list[tuple[bytes, Optional[Entry]]], coverage: str
    ) -> str:
        """See interface.Replica."""
        arguments = {"commit": commit, "coverage": coverage}
        data = codec.write_list(rows, codec.write_row)
        reply, __ = self._call("record_so_far", arguments, data)
        return messages.checksum(reply, self._host)

    def record(self, recording: Recording) -> str:
        """See interface.Replica."""
        rows = codec.write_list(recording.rows, codec.write_row)
        keep = codec.write_list(recording.keep, codec.write_path)
        leave = codec.write_list(recording.leave, codec.write_number)
        arguments = {
            "commit": recording.commit,
            "rows": len(rows),
            "keep": len(keep),
            "coverage": recording.coverage,
        }
        reply, __ = self._call("record", arguments, rows + keep + leave)
        return messages.checksum(reply, self._host)

    def promote(self, commit: str) -> None:
        """See interface.Replica."""
        self._call("promote", {"commit": commit})

    def end(self, status: dict[str, Any], report: Optional[dict[str, Any]]) -> None:
        """See interface.Replica."""
        # A report can be longer than a frame; where it is longer than any should be, all but its
        # items is kept.
        data = messages.encode(report) if report else b""
        if report and len(data) > MOST_REPORT:
            data = messages.encode({**report, "items": []})
        self._call("end", {"status": status}, data)

    def forget(self, pair_id: str) -> bool:
        """See interface.Replica."""
        return self._flag(self._call("forget", {"pair_id": pair_id})[0])

    def interrupt(self) -> None:
        """See interface.Replica: whoever waits for an answer gets an error instead."""
        error = PairsyncError("interrupted", "the session was interrupted", "", self._host)
        self._writer.fail(error)
        self._break(error)

    def close(self) -> None:
        """See interface.Replica."""
        self._writer.close()
        self._hang_up()

    # -- calls ----------------------------------------------------------------------------------

    def _call(
        self, operation: str, arguments: dict[str, Any], data: bytes = b""
    ) -> tuple[dict[str, Any], bytes]:
        __, answers = self._start(operation, arguments, data)
        got = self._next(answers)
        if isinstance(got, bytes):
            raise ProtocolError(f"{self._host} sent contents instead of an answer", self._host)
        return got

    def _start(
        self,
        operation: str,
        arguments: dict[str, Any],
        data: bytes,
        *,
        streams: bool = False,
        stays: bool = False,
    ) -> tuple[int, queue.Queue[_Got]]:
        answers: queue.Queue[_Got] = queue.Queue(_QUEUED)
        with self._lock:
            if self._broken is not None:
                raise self._broken
            self._number += 1
            number = self._number
            self._calls[number] = _Call(answers, streams, stays)
        self._writer.put_bulk(number, data)
        self._writer.put(CALL, number, messages.encode({**arguments, "op": operation}))
        return number, answers

    @staticmethod
    def _next(answers: queue.Queue[_Got]) -> Union[bytes, tuple[dict[str, Any], bytes]]:
        got = answers.get()
        if isinstance(got, PairsyncError):
            raise got
        return got

    def _watch(self, answers: queue.Queue[_Got]) -> None:
        # The call stays open for its whole session: its failure may come at any later time.
        while True:
            got = answers.get()
            if isinstance(got, PairsyncError):
                self._receive_error = got
                return

    def _flush(self) -> None:
        if self._gathered:
            self._writer.put(CONTENTS, self._receiving, b"".join(self._gathered))
            self._gathered, self._gathered_size = [], 0

    # -- the reading thread ---------------------------------------------------------------------

    def _read(self) -> None:
        bulk: dict[int, bytearray] = {}
        kept = 0
        try:
            while True:
                frame = self._reader.read()
                if frame is None:
                    raise LinkError(f"the connection to {self._host} broke off", self._host)
                if frame.type == BEAT:
                    continue
                with self._lock:
                    call = self._calls.get(frame.number)
                if call is None:
                    raise ProtocolError(
                        f"{self._host} answered a question nobody asked", self._host
                    )
                if frame.type == CONTENTS and call.streams:
                    call.answers.put(frame.payload)
                elif frame.type == CONTENTS and call.tells:
                    self._keep_news(frame.payload)
                elif frame.type == BULK and not call.streams and not call.stays:
                    kept += len(frame.payload)
                    if kept > MOST_BULK:
                        raise ProtocolError(
                            f"{self._host} sent more data than an answer can have", self._host
                        )
                    bulk.setdefault(frame.number, bytearray()).extend(frame.payload)
                elif frame.type in (REPLY, FAIL):
                    data = bytes(bulk.pop(frame.number, b""))
                    kept -= len(data)
                    self._settle(frame, call, data)
                else:
                    raise ProtocolError(
                        f"{self._host} sent a frame that does not belong there", self._host
                    )
        except (PairsyncError, OSError, ValueError) as error:
            self._break(error)

    def _settle(self, frame: Frame, call: _Call, data: bytes) -> None:
        """Pass on the end of a call: there is one, and nothing after it."""
        answer = messages.decode(frame.payload, self._host)
        got: _Got = (
            messages.read_error(answer, self._host) if frame.type == FAIL else (answer, data)
        )
        with self._lock:
            del self._calls[frame.number]
            if call.stays and frame.type == REPLY:
                # It may still fail, and says what became of its actions until then.
                self._calls[frame.number] = _Call(
                    call.answers, streams=False, stays=False, tells=True
                )
        call.answers.put(got)

    def _keep_news(self, data: bytes) -> None:
        # Here and not in a thread that waits for answers: what was told before the connection
        # broke is known before anybody hears of that.
        with self._lock:
            self._news_size += len(data)
            if self._news_size > MOST_BULK:
                raise ProtocolError(f"{self._host} sent more results than there can be", self._host)
            self._news.append(data)

    def _break(self, error: Exception) -> None:
        if not isinstance(error, PairsyncError):
            error = LinkError(f"the connection to {self._host} broke off: {error}", self._host)
        self._writer.fail(error)
        with self._lock:
            self._broken = error
            waiting = [call.answers for call in self._calls.values()]
        for answers in waiting:
            try:
                answers.put_nowait(error)
            except queue.Full:
                # Its consumer has more to read; it meets the error when it has read that.
                threading.Thread(target=answers.put, args=(error,), daemon=True).start()

    # -- small things ---------------------------------------------------------------------------

    def _flag(self, reply: dict[str, Any]) -> bool:
        return messages.field(reply, "found", bool, self._host)

    def _split(self, reply: dict[str, Any], key: str, data: bytes) -> tuple[bytes, bytes]:
        size = messages.number(reply, key, self._host, len(data))
        return data[:size], data[size:]

    def _changes(self, data: bytes) -> list[Change]:
        """What a scan found: in path order, each path once, and nothing beside the session's."""
        changes = codec.read_list(data, self._host, codec.read_change)
        before = closed = b""
        for change in changes:
            path, after = change.path, change.after
            key = sort_key(path)
            if key <= before:
                raise ProtocolError(f"{self._host} sent a list that is out of order", self._host)
            if closed and path.startswith(closed):
                if after is not None:
                    raise ProtocolError(
                        f"{self._host} has something below what is no directory", self._host
                    )
            else:
                closed = b"" if after is not None and after.kind == DIR else path + b"/"
            if self._is_left_out(path):
                raise ProtocolError(
                    f"{self._host} sent a change that the session is not about: {display(path)}",
                    self._host,
                )
            before = key
        return changes

    def _is_left_out(self, path: bytes) -> bool:
        if self._ignore and self._ignore.matches(path):
            return True
        return bool(self._paths) and not any(
            path == one or is_below(path, one) or is_below(one, path) for one in self._paths
        )
