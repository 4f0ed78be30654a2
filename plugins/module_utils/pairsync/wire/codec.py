# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Binary lists on the wire: paths, entries, changes, actions, rows, results, contents.

All numbers are big endian. A path is written as the number of leading components it shares with
the path before it, the number of components that follow, and each of those with its length: a
path is never one string, and a component is checked where it is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Callable, Optional, TypeVar

from ..model.entry import (
    DIR,
    FILE,
    LINK,
    PERMISSION_BITS,
    SPECIAL,
    STATE_NAME,
    Change,
    Entry,
    is_state_name,
)
from ..model.errors import ProtocolError
from ..model.plan import DONE, FAILED, HELD, SKIPPED
from ..reconcile.actions import Action
from ..replica.contents import Begin, Done, End, Piece, Proof, Record, Unsent, Whole
from .limits import (
    MOST_DEPTH,
    MOST_NAME,
    MOST_RECORDS,
    MOST_SIZE,
    MOST_TARGET,
    MOST_TIMES,
    UNFOLDED,
)
from .messages import printable

_U32 = struct.Struct("!I")
_PATH = struct.Struct("!HH")
_U16 = struct.Struct("!H")
_ENTRY = struct.Struct("!BIQqB")  # kind, mode, size, mtime_ns, has a digest
_ACTION = struct.Struct("!IIB")  # number, item, flags
_RECORD = struct.Struct("!BII")  # kind, number, length of what follows
_PROOF = struct.Struct("!QqB32s")
_NO_MODE = 0xFFFFFFFF
_NO_COMPONENT = (b"", b".", b"..")
_STATE_LENGTH = len(STATE_NAME)
_RESULTS = (DONE, SKIPPED, FAILED, HELD)
_WHOLE, _BEGIN, _PIECE, _END, _UNSENT = range(5)

T = TypeVar("T")


class Writer:
    """Builds one binary list."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._before: list[bytes] = []

    def number(self, value: int) -> None:
        """Write an unsigned number of 32 bits."""
        self._parts.append(_U32.pack(value))

    def path(self, path: bytes) -> None:
        """Write a path."""
        parts = path.split(b"/")
        before = self._before
        shared = 0
        for one, other in zip(parts, before):
            if one != other:
                break
            shared += 1
        shared = min(shared, len(parts) - 1)  # the same path again is not shared as a whole
        add = self._parts.append
        add(_PATH.pack(shared, len(parts) - shared))
        for part in parts[shared:]:
            add(_U16.pack(len(part)))
            add(part)
        self._before = parts

    def entry(self, entry: Optional[Entry]) -> None:
        """Write an entry, or that there is none."""
        if entry is None:
            self._parts.append(b"\0")
            return
        kind, mode, size, mtime_ns, digest, target = entry
        self._parts.append(
            _ENTRY.pack(
                kind, _NO_MODE if mode is None else mode, size, mtime_ns, digest is not None
            )
        )
        if digest is not None:
            self._parts.append(digest)
        self.text(target)

    def text(self, data: bytes) -> None:
        """Write bytes with their length."""
        self._parts.append(_U16.pack(len(data)))
        self._parts.append(data)

    def raw(self, data: bytes) -> None:
        """Write bytes whose length the reader knows."""
        self._parts.append(data)

    def done(self) -> bytes:
        """All that was written."""
        return b"".join(self._parts)


class Reader:
    """Reads one binary list; every fault is a ProtocolError."""

    def __init__(self, data: bytes, host: str = "the peer") -> None:
        """host: whom to name in errors."""
        self._data = data
        self._at = 0
        self._host = host
        self._before: list[bytes] = []
        self._unfolded = 0

    def fault(self, what: str) -> ProtocolError:
        """The error that says what is wrong with the data."""
        return ProtocolError(f"{self._host} sent {what}", self._host)

    def number(self) -> int:
        """Read an unsigned number of 32 bits."""
        return int(self.fields(_U32)[0])

    def count(self) -> int:
        """Read the length of a list."""
        value = self.number()
        if value > MOST_RECORDS:
            raise self.fault("a list that is too long")
        return value

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        """Read fixed fields."""
        try:
            values = layout.unpack_from(self._data, self._at)
        except struct.error as error:
            raise self.fault("a list that breaks off") from error
        self._at += layout.size
        return values

    def rest(self) -> bytes:
        """Read all that is left."""
        return self.raw(len(self._data) - self._at)

    def raw(self, size: int) -> bytes:
        """Read this many bytes."""
        end = self._at + size
        if end > len(self._data):
            raise self.fault("a list that breaks off")
        data = self._data[self._at : end]
        self._at = end
        return data

    def text(self, most: int = MOST_TARGET) -> bytes:
        """Read bytes with their length."""
        # Without the two methods above: this is what lists consist of.
        data, start = self._data, self._at + 2
        if start > len(data):
            raise self.fault("a list that breaks off")
        size = data[start - 2] << 8 | data[start - 1]
        if size > most:
            raise self.fault("a text that is too long")
        end = start + size
        if end > len(data):
            raise self.fault("a list that breaks off")
        self._at = end
        return data[start:end]

    def path(self) -> bytes:
        """Read a path; every component is checked."""
        shared, more = self.fields(_PATH)
        before = self._before
        if shared > len(before) or not more or shared + more > MOST_DEPTH:
            raise self.fault("a malformed path")
        parts = before[:shared]
        for __ in range(more):
            name = self.text(MOST_NAME)
            if (
                name in _NO_COMPONENT
                or b"/" in name
                or b"\0" in name
                # As any file system may read it, in any case and with invisible characters.
                or ((len(name) == _STATE_LENGTH or not name.isascii()) and is_state_name(name))
            ):
                raise self.fault("a path with a component that is not allowed")
            parts.append(name)
        self._before = parts
        path = b"/".join(parts)
        # A few bytes can repeat a long path: what they unfold to is limited as well.
        self._unfolded += len(path)
        if self._unfolded > UNFOLDED + MOST_TIMES * len(self._data):
            raise self.fault("a list of paths that is too long")
        return path

    def entry(self) -> Optional[Entry]:
        """Read an entry, or None."""
        if self._at >= len(self._data):
            raise self.fault("a list that breaks off")
        if self._data[self._at] == 0:
            self._at += 1
            return None
        kind, mode, size, mtime_ns, has_digest = self.fields(_ENTRY)
        if not FILE <= kind <= SPECIAL or has_digest > 1 or (has_digest and kind != FILE):
            raise self.fault("an entry of an unknown kind")
        if size > MOST_SIZE or (size and kind != FILE):
            raise self.fault("an entry with a size that is not allowed")
        if mode != _NO_MODE and (mode & ~PERMISSION_BITS or kind not in (FILE, DIR)):
            raise self.fault("an entry with permissions that are not allowed")
        digest = self.raw(32) if has_digest else None
        target = self.text()
        if (kind == LINK and (not target or b"\0" in target)) or (kind in (FILE, DIR) and target):
            raise self.fault("an entry with a malformed target")
        if kind not in (FILE, DIR, LINK):
            target = _said(target).encode()
        return Entry(kind, None if mode == _NO_MODE else mode, size, mtime_ns, digest, target)

    def done(self) -> None:
        """Raise when anything is left over."""
        if self._at != len(self._data):
            raise self.fault("a list with something after its end")


def write_list(items: Iterable[T], write: Callable[[Writer, T], None]) -> bytes:
    """A list: the number of items, then each of them."""
    writer = Writer()
    count = 0
    for item in items:
        write(writer, item)
        count += 1
    return _U32.pack(count) + writer.done()


def read_list(data: bytes, host: str, read: Callable[[Reader], T]) -> list[T]:
    """The items of a list that write_list wrote."""
    reader = Reader(data, host)
    found = [read(reader) for __ in range(reader.count())]
    reader.done()
    return found


def write_number(writer: Writer, number: int) -> None:
    """One item of a list of numbers."""
    writer.number(number)


def read_number(reader: Reader) -> int:
    """One item of a list of numbers."""
    return reader.number()


def write_path(writer: Writer, path: bytes) -> None:
    """One item of a list of paths."""
    writer.path(path)


def read_path(reader: Reader) -> bytes:
    """One item of a list of paths."""
    return reader.path()


def write_change(writer: Writer, change: Change) -> None:
    """One item of a list of changes."""
    writer.path(change.path)
    writer.raw(b"\1" if change.unsettled else b"\0")
    writer.entry(change.before)
    writer.entry(change.after)


def read_change(reader: Reader) -> Change:
    """One item of a list of changes."""
    path = reader.path()
    unsettled = reader.raw(1)[0]
    if unsettled > 1:
        raise reader.fault("a malformed change")
    return Change(path, reader.entry(), reader.entry(), bool(unsettled))


def write_row(writer: Writer, row: tuple[bytes, Optional[Entry]]) -> None:
    """One item of a list of base rows."""
    writer.path(row[0])
    writer.entry(row[1])


def read_row(reader: Reader) -> tuple[bytes, Optional[Entry]]:
    """One item of a list of base rows."""
    return reader.path(), reader.entry()


def write_wanted(writer: Writer, wanted: tuple[int, bytes]) -> None:
    """One item of a list of wanted contents."""
    writer.number(wanted[0])
    writer.path(wanted[1])


def read_wanted(reader: Reader) -> tuple[int, bytes]:
    """One item of a list of wanted contents."""
    return reader.number(), reader.path()


def write_action(writer: Writer, action: Action) -> None:
    """One item of a list of actions."""
    flags = action.props_only | action.by_reference << 1
    writer.raw(_ACTION.pack(action.number, action.item, flags))
    writer.path(action.path)
    writer.entry(action.want)
    writer.entry(action.have)


def read_action(reader: Reader) -> Action:
    """One item of a list of actions."""
    number, item, flags = reader.fields(_ACTION)
    path, want, have = reader.path(), reader.entry(), reader.entry()
    if flags > 3 or (want is not None and want.kind not in (FILE, DIR, LINK)):
        raise reader.fault("an action that makes no sense")
    return Action(number, path, want, have, item, bool(flags & 1), bool(flags & 2))


def write_done(writer: Writer, done: Done) -> None:
    """One item of a list of results; the session has the proof, which passed through it."""
    writer.number(done.number)
    writer.raw(bytes((_RESULTS.index(done.result),)))
    writer.text(done.reason.encode("utf-8", "replace")[:MOST_TARGET])


def read_done(reader: Reader) -> Done:
    """One item of a list of results."""
    number = reader.number()
    result = reader.raw(1)[0]
    if result >= len(_RESULTS):
        raise reader.fault("a result of an unknown kind")
    return Done(number, _RESULTS[result], _said(reader.text()))


def _said(text: bytes) -> str:
    """A reason in the words of the peer, which people will read."""
    return printable(text.decode("utf-8", "replace"))


def _proof(proof: Proof) -> bytes:
    return _PROOF.pack(proof.size, proof.mtime_ns, proof.grew, proof.digest)


def read_proof(reader: Reader) -> Proof:
    """What a sender vouches for."""
    size, mtime_ns, grew, digest = reader.fields(_PROOF)
    if grew > 1 or size > MOST_SIZE:
        raise reader.fault("a malformed proof")
    return Proof(size, mtime_ns, bytes(digest), bool(grew))


def encode_record(record: Record) -> bytes:
    """One record of a CONTENTS frame; a frame may hold any number of them."""
    if isinstance(record, Whole):
        length = _PROOF.size + len(record.data)
        return _RECORD.pack(_WHOLE, record.number, length) + _proof(record.proof) + record.data
    if isinstance(record, Piece):
        return _RECORD.pack(_PIECE, record.number, len(record.data)) + record.data
    if isinstance(record, Begin):
        return _RECORD.pack(_BEGIN, record.number, 8) + record.size.to_bytes(8, "big")
    if isinstance(record, End):
        return _RECORD.pack(_END, record.number, _PROOF.size) + _proof(record.proof)
    text = record.reason.encode("utf-8", "replace")[:MOST_TARGET]
    return _RECORD.pack(_UNSENT, record.number, 1 + len(text)) + bytes((record.failed,)) + text


def decode_records(payload: bytes, host: str) -> list[Record]:
    """The records of one CONTENTS frame."""
    reader = Reader(payload, host)
    records: list[Record] = []
    at = 0
    while at < len(payload):
        kind, number, length = reader.fields(_RECORD)
        at += _RECORD.size + length
        if kind == _WHOLE and length >= _PROOF.size:
            # Read where it lies: there may be hundreds of thousands of these.
            proof = read_proof(reader)
            records.append(Whole(number, proof, reader.raw(length - _PROOF.size)))
        else:
            records.append(_record(kind, number, reader.raw(length), host))
    return records


def _record(kind: int, number: int, body: bytes, host: str) -> Record:
    if kind == _PIECE and body:  # an empty one would be no progress, and there might be no end
        return Piece(number, body)
    inner = Reader(body, host)
    if kind == _END and len(body) == _PROOF.size:
        return End(number, read_proof(inner))
    if kind == _BEGIN and len(body) == 8 and body[0] < 0x80:  # below MOST_SIZE
        return Begin(number, int.from_bytes(body, "big"))
    if kind == _UNSENT and 1 <= len(body) <= 1 + MOST_TARGET and body[0] <= 1:
        return Unsent(number, _said(body[1:]), bool(body[0]))
    raise inner.fault("contents of an unknown kind")
