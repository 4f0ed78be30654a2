# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A peer written from docs/protocol.md alone: as an agent and as a session, right or wrong.

It shares no code with the engine. Every field of every message passes through a knob of its name
(`scan.changes`, `begin.rows`, `entry.kind`…); a test turns one of them, and test_peer.py shows that
without any turned its bytes are those of the real encoder and real sessions work with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

HELLO, CALL, REPLY, FAIL, BULK, CONTENTS, BEAT = range(1, 8)
FILE, DIR, LINK, PROBLEM, SPECIAL = range(1, 6)
NO_MODE = 0xFFFFFFFF
PIECE = 1 << 20
WHOLE_LIMIT = 256 << 10
PATIENCE = 10  # seconds for an end that takes or says nothing

Knobs = dict[str, Any]


class HungUpError(Exception):
    """The other end has closed the connection."""


# -- bytes -----------------------------------------------------------------------------------------


def frame(kind: int, number: int, payload: bytes = b"", length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack("!IBI", size, kind, number) + payload


def listed(items: list[bytes], count: int | None = None) -> bytes:
    return struct.pack("!I", len(items) if count is None else count) + b"".join(items)


def path(name: bytes, before: bytes = b"") -> bytes:
    parts, held = name.split(b"/"), before.split(b"/") if before else []
    shared = 0
    while shared < min(len(parts) - 1, len(held)) and parts[shared] == held[shared]:
        shared += 1
    return raw_path(parts[shared:], shared)


def raw_path(parts: list[bytes], shared: int = 0, more: int | None = None) -> bytes:
    body = b"".join(struct.pack("!H", len(part)) + part for part in parts)
    return struct.pack("!HH", shared, len(parts) if more is None else more) + body


def entry(
    kind: int = FILE, mode: int = 0o644, size: int = 0, mtime: int = 0,
    digest: bytes | None = None, target: bytes = b"", flag: int | None = None,
) -> bytes:  # fmt: skip
    if kind not in (FILE, DIR):
        mode = NO_MODE
    return raw_entry(kind, mode, size, mtime, digest, target, flag)


def raw_entry(
    kind: int, mode: int, size: int, mtime: int, digest: bytes | None, target: bytes,
    flag: int | None = None,
) -> bytes:  # fmt: skip
    flag = (digest is not None) if flag is None else flag
    fixed = struct.pack("!BIQqB", kind, mode, size, mtime, flag)
    return fixed + (digest or b"") + struct.pack("!H", len(target)) + target


def proof(size: int, mtime: int, digest: bytes, grew: int = 0) -> bytes:
    return struct.pack("!QqB32s", size, mtime, grew, digest)


def record(kind: int, number: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("!BII", kind, number, len(body) if length is None else length) + body


def digest_of(data: bytes) -> bytes:
    if len(data) <= 4 << 20:
        return hashlib.sha256(data).digest()
    leaves = (data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20))
    return hashlib.sha256(b"".join(hashlib.sha256(leaf).digest() for leaf in leaves)).digest()


# -- what is read ----------------------------------------------------------------------------------


class Entry(NamedTuple):
    kind: int
    mode: int
    size: int
    mtime: int
    digest: bytes | None
    target: bytes


class Action(NamedTuple):
    number: int
    item: int
    flags: int
    path: bytes
    want: Entry | None
    have: Entry | None


class Cursor:
    """Reads what an honest end has written."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.before = data, 0, b""

    def unpack(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return values

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def path(self) -> bytes:
        shared, more = self.unpack("!HH")
        parts = self.before.split(b"/")[:shared]
        parts += [self.take(self.unpack("!H")[0]) for __ in range(more)]
        self.before = b"/".join(parts)
        return self.before

    def entry(self) -> Entry | None:
        if self.data[self.at] == 0:
            self.at += 1
            return None
        kind, mode, size, mtime, flag = self.unpack("!BIQqB")
        digest = self.take(32) if flag else None
        return Entry(kind, mode, size, mtime, digest, self.take(self.unpack("!H")[0]))

    def items(self, read: Callable[[], Any]) -> list[Any]:
        return [read() for __ in range(self.unpack("!I")[0])]

    def action(self) -> Action:
        return Action(*self.unpack("!IIB"), self.path(), self.entry(), self.entry())

    def row(self) -> tuple[bytes, Entry | None]:
        return self.path(), self.entry()

    def wanted(self) -> tuple[int, bytes]:
        return self.unpack("!I")[0], self.path()


def checksum(rows: dict[bytes, Entry]) -> str:
    """Of a base, as both ends must compute it."""
    tables: dict[bytes, dict[bytes, Entry]] = {}
    for name, one in rows.items():
        directory, __, last = name.rpartition(b"/")
        tables.setdefault(directory, {})[last] = one
    total = 0
    for directory, table in tables.items():
        packed = b""
        for last in sorted(table):
            one = table[last]
            packed += struct.pack("<HBIQ", len(last), one.kind, one.mode, one.size)
            if one.kind == FILE:
                packed += one.digest or bytes(32)
            elif one.kind == LINK:
                packed += struct.pack("<H", len(one.target)) + one.target
            packed += last
        row = hashlib.sha256(directory + b"\0" + packed).digest()
        total += int.from_bytes(row, "big")
    return f"{total % (1 << 256):064x}"


# -- the connection --------------------------------------------------------------------------------


class Peer:
    """One end of a connection, with its knobs."""

    def __init__(self, read_fd: int, write_fd: int, knobs: Knobs | None = None) -> None:
        self.read_fd, self.write_fd, self.knobs = read_fd, write_fd, knobs or {}
        if write_fd >= 0:
            os.set_blocking(write_fd, False)

    def knob(self, name: str, value: Any) -> Any:
        """What to say for a field: the right value, or what a test wants; a function changes it."""
        turned = self.knobs.get(name, value)
        return turned(value) if callable(turned) else turned

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                if not select.select([], [self.write_fd], [], PATIENCE)[1]:
                    raise HungUpError
                view = view[os.write(self.write_fd, view[: 64 << 10]) :]
        except OSError as error:
            raise HungUpError from error

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            ready = select.select([self.read_fd], [], [], PATIENCE)[0]
            more = os.read(self.read_fd, size - len(data)) if ready else b""
            if not more:
                raise HungUpError
            data += more
        return data

    def read_frame(self) -> tuple[int, int, bytes]:
        """The next frame that is no beat."""
        while True:
            size, kind, number = struct.unpack("!IBI", self.read(9))
            payload = self.read(size)
            if kind != BEAT:
                return kind, number, payload

    def read_to_the_end(self) -> None:
        """Read on until the other end hangs up, which raises."""
        while True:
            self.read_frame()

    def tell(self, kind: int, number: int, data: bytes, value: Any) -> None:
        """A message with the data that belongs to it."""
        number = self.knob("frame.number", number)
        for at in range(0, len(data), 1 << 20):
            self.write(frame(BULK, number, data[at : at + (1 << 20)]))
        payload = value if isinstance(value, bytes) else json.dumps(value).encode()
        kind = self.knob("frame.type", kind)
        self.write(frame(kind, number, payload, self.knob("frame.length", None)))

    def fields(self, knobs: str, /, **values: Any) -> dict[str, Any]:
        told = {key: self.knob(f"{knobs}.{key}", value) for key, value in values.items()}
        return {key: value for key, value in told.items() if value is not ABSENT}

    def contents(self, number: int, data: bytes, mtime: int) -> Iterator[bytes]:
        """The records of one file."""
        number = self.knob("contents.number", number)
        size = self.knob("contents.size", len(data))
        digest = self.knob("contents.digest", digest_of(data))
        data = self.knob("contents.data", data)
        sure = proof(size, mtime, digest, self.knob("contents.grew", 0))
        if len(data) <= WHOLE_LIMIT and not self.knob("contents.large", False):
            yield record(0, number, sure + data)
            return
        yield record(1, number, struct.pack("!Q", self.knob("begin.size", len(data))))
        for at in range(0, len(data), PIECE):
            yield record(2, number, data[at : at + PIECE])
        yield record(3, number, sure)


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"  # in the names of tests, which every worker must know alike


ABSENT = _Absent()  # for a knob: leave this field out


# -- as an agent -----------------------------------------------------------------------------------


class File(NamedTuple):
    """In the tree of an agent or a session; None there is a directory."""

    data: bytes
    mode: int = 0o644
    mtime: int = 1_600_000_000_000_000_000


Tree = dict[bytes, "File | None"]


def entry_of(one: File | None) -> Entry:
    if one is None:
        return Entry(DIR, 0o755, 0, 0, None, b"")
    return Entry(FILE, one.mode, len(one.data), one.mtime, digest_of(one.data), b"")


def write_entry(one: Entry | None) -> bytes:
    return b"\0" if one is None else raw_entry(*one)


class Agent(Peer):
    """Serves a tree in memory, which has never been synced."""

    def __init__(self, read_fd: int, write_fd: int, tree: Tree, knobs: Knobs | None = None) -> None:
        super().__init__(read_fd, write_fd, knobs)
        self.tree = tree
        self.actions: list[Action] = []
        self.got: dict[int, bytes] = {}
        self.rows: dict[bytes, Entry] = {}
        self.promoted = ""

    def serve(self) -> None:
        """Until the session hangs up."""
        with contextlib.suppress(HungUpError):
            hello = json.loads(self.read_frame()[2])
            self.write(f"PAIRSYNC {hello['nonce']}\n".encode())
            told = self.fields("hello", version="0", protocol=hello["protocol"], build="source")
            self.tell(HELLO, 0, b"", told)
            bulk = b""
            while True:
                kind, number, payload = self.read_frame()
                if kind == BULK:
                    bulk += payload
                elif kind == CONTENTS:
                    self.take(payload)
                elif kind == CALL:
                    self.answer(number, json.loads(payload), bulk)
                    bulk = b""

    def answer(self, number: int, call: dict[str, Any], bulk: bytes) -> None:
        op = call["op"]
        reply, data = getattr(self, f"on_{op}")(number, call, bulk)
        extra = self.knob(f"{op}.instead", None)
        if extra is not None:
            self.write(extra(number) if callable(extra) else extra)
            if self.knob(f"{op}.hang_up", False):
                raise HungUpError
            return
        self.tell(REPLY, number, data, self.fields(op, **reply))

    def opened(self) -> dict[str, Any]:
        return {
            "host": "gpu2", "path": "/b", "user": "me", "version": "0", "build": "source",
            "replica_id": "f" * 32, "missing": False, "parent": True, "identity": "x:1:1",
            "ancestors": ["x:1:2"], "former": [], "peers": [],
            "clock_ns": 1_700_000_000_000_000_000,
        }  # fmt: skip

    def on_open(self, *__: Any) -> tuple[dict[str, Any], bytes]:
        return self.opened(), b""

    on_create = on_open

    def on_shares(self, *__: Any) -> tuple[dict[str, Any], bytes]:
        return {"found": False}, b""

    on_forget = on_shares

    def on_begin(self, *__: Any) -> tuple[dict[str, Any], bytes]:
        return {
            "current": "", "pending": "", "rows": 0, "sound": True, "coverage": "",
            "current_sum": "", "pending_sum": "", "pending_coverage": "",
        }, b""  # fmt: skip

    def changes(self) -> list[bytes]:
        """One for each path of the tree; nothing was there before."""
        found = []
        before = b""
        for name in sorted(self.tree, key=lambda one: one.split(b"/")):
            told = entry_of(self.tree[name])
            flag = struct.pack("!B", self.knob("change.unsettled", 0))
            old = self.knob("change.before", b"\0")
            found.append(path(name, before) + flag + old + self.knob("entry", write_entry(told)))
            before = name
        return found

    def on_scan(self, *__: Any) -> tuple[dict[str, Any], bytes]:
        dropped = self.knob("scan.dropped_list", listed([]))
        late = listed([])
        changes = listed(self.knob("scan.changes", self.changes()), self.knob("scan.count", None))
        reply = {
            "entries": len(self.tree), "seconds": 0.25, "dropped": len(dropped), "late": len(late),
        }  # fmt: skip
        return reply, dropped + late + changes

    def on_details(self, __: int, ___: Any, bulk: bytes) -> tuple[dict[str, Any], bytes]:
        cursor = Cursor(bulk)
        files = cursor.items(cursor.path)
        before = b""
        rows = []
        for name in files:
            rows.append(path(name, before) + write_entry(entry_of(self.tree[name])))
            before = name
        first = self.knob("details.rows", listed(rows))
        return {"entries": len(first)}, first + self.knob("details.hidden", listed([]))

    def on_send(self, number: int, __: Any, bulk: bytes) -> tuple[dict[str, Any], bytes]:
        cursor = Cursor(bulk)
        for wanted, name in cursor.items(cursor.wanted):
            one = self.tree[name]
            assert one is not None
            for part in self.knob("send.records", list(self.contents(wanted, one.data, one.mtime))):
                self.write(frame(CONTENTS, number, part))
        return {}, b""

    def on_receive(self, __: int, call: dict[str, Any], bulk: bytes) -> tuple[Any, bytes]:
        cursor = Cursor(bulk[: call["actions"]])
        self.actions = cursor.items(cursor.action)
        return {}, b""

    def take(self, payload: bytes) -> None:
        cursor = Cursor(payload)
        while cursor.at < len(payload):
            kind, number, length = cursor.unpack("!BII")
            body = cursor.take(length)
            if kind in (0, 2):
                self.got[number] = self.got.get(number, b"") + (body[49:] if kind == 0 else body)

    def on_finish(self, *__: Any) -> tuple[dict[str, Any], bytes]:
        for action in self.actions:
            if action.want is None:
                self.tree.pop(action.path, None)
            elif action.want.kind == DIR:
                self.tree[action.path] = None
            else:
                data = self.got.get(action.number, b"")
                self.tree[action.path] = File(data, action.want.mode, action.want.mtime)
        return {"weak": False}, self.knob("finish.results", listed([]))

    def on_record(self, __: int, call: dict[str, Any], bulk: bytes) -> tuple[dict[str, Any], bytes]:
        rows, keep = Cursor(bulk[: call["rows"]]), Cursor(bulk[call["rows"] :])
        kept = set(keep.items(keep.path))
        found = {name: entry_of(one) for name, one in self.tree.items() if name not in kept}
        for name, one in rows.items(rows.row):
            found.pop(name, None)
            if one is not None:
                found[name] = one
        self.rows = found
        return {"checksum": checksum(found)}, b""

    def on_promote(self, __: int, call: dict[str, Any], ___: bytes) -> tuple[Any, bytes]:
        self.promoted = call["commit"]
        return {}, b""

    def on_end(self, *__: Any) -> tuple[dict[str, Any], bytes]:
        return {}, b""


# -- as a session ----------------------------------------------------------------------------------


class Answer(NamedTuple):
    value: dict[str, Any]
    data: bytes
    failed: bool


class Session(Peer):
    """Brings a tree to an agent, and records it there."""

    number = 0
    NONCE = "0123456789abcdef" * 2

    def hello(self, protocol: int) -> None:
        told = self.fields(
            "hello", version="0", protocol=protocol, build="source", nonce=self.NONCE
        )
        self.tell(HELLO, 0, b"", told)
        assert self.read(42) == f"PAIRSYNC {self.NONCE}\n".encode()
        assert self.read_frame()[0] == HELLO

    def start(self, operation: str, data: bytes = b"", /, **arguments: Any) -> int:
        self.number += 1
        told = self.fields(operation, op=operation, **arguments)
        instead = self.knob(f"{operation}.payload", None)
        self.tell(CALL, self.number, data, told if instead is None else instead)
        return self.number

    def wait(self) -> Answer:
        data = b""
        while True:
            kind, __, payload = self.read_frame()
            if kind in (REPLY, FAIL):
                return Answer(json.loads(payload), data, kind == FAIL)
            data += payload

    def call(self, op: str, data: bytes = b"", /, **arguments: Any) -> Answer:
        self.start(op, data, **arguments)
        return self.wait()

    def begin(self, root: str, **policy: Any) -> Answer:
        """Up to a scan, if nothing is refused."""
        answer = self.call("open", path=root)
        if not answer.failed and not answer.value["replica_id"]:
            answer = self.call("create")
        if answer.failed:
            return answer
        peer = self.fields("peer", replica_id="f" * 32, label="x", host="x", path="/x")
        answer = self.call(
            "begin", pair_id="e" * 32, side="b", label="b", peer=peer, run="20261121T000000Z-0",
            policy={"lock_wait": 0, **policy}, dry_run=False,
        )  # fmt: skip
        return answer if answer.failed else self.call("scan", base="keep")

    def action(
        self, number: int, name: bytes, want: bytes, have: bytes = b"\0", flags: int = 2,
        before: bytes = b"",
    ) -> bytes:  # fmt: skip
        head = struct.pack("!IIB", number, self.knob("action.item", 0), flags)
        return head + path(name, before) + want + have

    def actions(self, tree: Tree) -> list[bytes]:
        found, before = [], b""
        for number, name in enumerate(sorted(tree, key=lambda one: one.split(b"/"))):
            want = write_entry(entry_of(tree[name]))
            found.append(self.action(number, name, want, before=before))
            before = name
        return found

    def receive(self, actions: list[bytes], incomplete: bytes = b"\0\0\0\0") -> Answer:
        told = listed(self.knob("receive.list", actions), self.knob("receive.count", None))
        return self.call("receive", told + incomplete, actions=len(told))

    def bring(self, tree: Tree) -> Answer:
        """Receive, contents, finish; the first answer that is a failure, or the last."""
        answer = self.receive(self.actions(tree))
        if answer.failed:
            return answer
        number = self.number
        for place, name in enumerate(sorted(tree, key=lambda one: one.split(b"/"))):
            one = tree[name]
            if one is not None:
                records = list(self.contents(place, one.data, one.mtime))
                for part in self.knob("records", records):
                    self.write(frame(CONTENTS, number, part))
        answer = self.call("finish")
        if answer.failed and answer.value == {}:
            return answer
        return answer

    def record(self, rows: list[bytes] | None = None) -> Answer:
        told = listed(rows or [])
        empty = listed([])
        answer = self.call(
            "record", told + empty + empty, commit="c" * 32, rows=len(told), keep=len(empty),
            coverage="",
        )  # fmt: skip
        return answer if answer.failed else self.call("promote", commit="c" * 32)
