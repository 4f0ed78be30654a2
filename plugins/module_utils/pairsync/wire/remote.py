# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica on another host: the same interface, over a pipe to an agent."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, Callable, Optional, Union

from ..model.entry import Entry
from ..model.errors import PairsyncError, ProtocolError
from ..model.plan import DONE
from ..reconcile.actions import Action
from ..replica.contents import Done, End, Proof, Record, Whole
from ..replica.interface import BaseState, Beginning, Opened, Recording, Scanned
from . import codec, messages
from .frames import BEAT, BULK, CALL, CONTENTS, FAIL, REPLY, FrameReader, FrameWriter
from .limits import MOST_BULK

_QUEUED = 64  # frames of contents that wait for their consumer
_BATCH = 256 << 10  # bytes of contents gathered into one frame

# What a call can get: contents, a reply with its data, or an error.
_Got = Union[bytes, "tuple[dict[str, Any], bytes]", PairsyncError]


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
        self._calls: dict[int, queue.Queue[_Got]] = {}
        self._lock = threading.Lock()
        self._broken: Optional[PairsyncError] = None
        self._receiving = 0
        self._told: dict[int, bool] = {}  # by number of an action: whether contents are for it
        self._proofs: dict[int, Proof] = {}
        self._receive_error: Optional[PairsyncError] = None
        self._gathered: list[bytes] = []
        self._gathered_size = 0
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
        reply, __ = self._call("begin", messages.write_beginning(beginning))
        return messages.read_base_state(reply, self._host)

    def scan(self, base: str) -> Scanned:
        """See interface.Replica."""
        reply, data = self._call("scan", {"base": base})
        first, second = self._split(reply, "dropped", data)
        seconds = reply.get("seconds")
        return Scanned(
            codec.read_list(second, self._host, codec.read_change),
            messages.field(reply, "entries", int, self._host),
            codec.read_list(first, self._host, codec.read_path),
            float(seconds) if isinstance(seconds, (int, float)) else 0.0,
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
        if [path for path, __ in rows] != files:
            raise ProtocolError(
                f"{self._host} answered about other files than it was asked", self._host
            )
        hidden = codec.read_list(second, self._host, codec.read_path)
        return [(path, entry) for path, entry in rows if entry is not None], hidden

    def send(self, wanted: list[tuple[int, bytes]]) -> Iterator[Record]:
        """See interface.Replica."""
        number, answers = self._start("send", {}, codec.write_list(wanted, codec.write_wanted))
        asked = {number for number, __ in wanted}
        while True:
            got = self._next(number, answers)
            if not isinstance(got, bytes):
                return
            for record in codec.decode_records(got, self._host):
                if record.number not in asked:
                    raise ProtocolError(
                        f"{self._host} sent a file that nobody asked for", self._host
                    )
                yield record

    def receive(self, actions: list[Action], incomplete: list[bytes]) -> None:
        """See interface.Replica."""
        listed = codec.write_list(actions, codec.write_action)
        data = listed + codec.write_list(incomplete, codec.write_path)
        number, answers = self._start("receive", {"actions": len(listed)}, data)
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

    def finish(self) -> list[Done]:
        """See interface.Replica."""
        self._flush()
        reply, data = self._call("finish", {})
        self.weak = messages.field(reply, "weak", bool, self._host)
        if self._receive_error is not None:
            raise self._receive_error
        results = {one.number: one for one in codec.read_list(data, self._host, codec.read_done)}
        if not results.keys() <= self._told.keys():
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

    def record(self, recording: Recording) -> str:
        """See interface.Replica."""
        rows = codec.write_list(recording.rows, codec.write_row)
        data = rows + codec.write_list(recording.keep, codec.write_path)
        arguments = {
            "commit": recording.commit,
            "rows": len(rows),
            "leave": recording.leave,
            "coverage": recording.coverage,
        }
        return messages.field(self._call("record", arguments, data)[0], "checksum", str, self._host)

    def promote(self, commit: str) -> None:
        """See interface.Replica."""
        self._call("promote", {"commit": commit})

    def end(self, status: dict[str, Any], report: Optional[dict[str, Any]]) -> None:
        """See interface.Replica."""
        # A report can be longer than a frame.
        self._call("end", {"status": status}, messages.encode(report) if report else b"")

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
        number, answers = self._start(operation, arguments, data)
        got = self._next(number, answers)
        if isinstance(got, bytes):
            raise ProtocolError(f"{self._host} sent contents instead of an answer", self._host)
        return got

    def _start(
        self, operation: str, arguments: dict[str, Any], data: bytes
    ) -> tuple[int, queue.Queue[_Got]]:
        answers: queue.Queue[_Got] = queue.Queue(_QUEUED)
        with self._lock:
            if self._broken is not None:
                raise self._broken
            self._number += 1
            number = self._number
            self._calls[number] = answers
        self._writer.put_bulk(number, data)
        self._writer.put(CALL, number, messages.encode({**arguments, "op": operation}))
        return number, answers

    def _next(
        self, number: int, answers: queue.Queue[_Got]
    ) -> Union[bytes, tuple[dict[str, Any], bytes]]:
        got = answers.get()
        if isinstance(got, bytes):
            return got
        with self._lock:
            self._calls.pop(number, None)
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
        try:
            while True:
                frame = self._reader.read()
                if frame is None:
                    raise ProtocolError(f"the connection to {self._host} broke off", self._host)
                if frame.type == BEAT:
                    continue
                answers = self._calls.get(frame.number)
                if answers is None:
                    raise ProtocolError(
                        f"{self._host} answered a question nobody asked", self._host
                    )
                if frame.type == BULK:
                    data = bulk.setdefault(frame.number, bytearray())
                    if len(data) + len(frame.payload) > MOST_BULK:
                        raise ProtocolError(
                            f"{self._host} sent more data than an answer can have", self._host
                        )
                    data += frame.payload
                elif frame.type == CONTENTS:
                    answers.put(frame.payload)
                elif frame.type == REPLY:
                    data = bulk.pop(frame.number, bytearray())
                    answers.put((messages.decode(frame.payload, self._host), bytes(data)))
                elif frame.type == FAIL:
                    answers.put(
                        messages.read_error(messages.decode(frame.payload, self._host), self._host)
                    )
                else:
                    raise ProtocolError(
                        f"{self._host} sent a frame that only a session sends", self._host
                    )
        except (PairsyncError, OSError, ValueError) as error:
            self._break(error)

    def _break(self, error: Exception) -> None:
        if not isinstance(error, PairsyncError):
            error = ProtocolError(f"the connection to {self._host} broke off: {error}", self._host)
        self._writer.fail(error)
        with self._lock:
            self._broken = error
            waiting = list(self._calls.values())
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
        size = messages.field(reply, key, int, self._host)
        if not 0 <= size <= len(data):
            raise ProtocolError(f"{self._host} sent lists of the wrong length", self._host)
        return data[:size], data[size:]
