# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sending side: read files that were scanned, and prove that nothing else was read.

Each file is opened once, compared with what the scan saw, read, and compared again. One that
changed is left for the next session. One that only grew travels as the beginning that was read,
when the policy lists its path, or when what was last agreed on is a proven beginning of it; and
if it grew while it was read, what was read is proven to be a beginning of it as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional

from ..model.entry import FILE, PERMISSION_BITS, PROBLEM, Change, Entry
from ..model.errors import PairsyncError
from ..model.pathspec import PathSet
from . import fsops
from .contents import PIECE, WHOLE_LIMIT, Begin, End, Piece, Proof, Record, Unsent, Whole
from .digest import Digester, digest_bytes, digest_file
from .rows import Lookup, Seen
from .swap import seen
from .tree import Tree
from .walk import Scan

CHANGED = "changed while it was read; the next sync takes it"


class Wanted(NamedTuple):
    """A file to send.

    seen: what the scan saw. prefix: size and digest of the contents last agreed on, if any.
    may_grow: the policy lists the path as growing.
    """

    number: int
    path: bytes
    seen: Seen
    prefix: Optional[tuple[int, bytes]] = None
    may_grow: bool = False


def requested(scan: Scan, wanted: list[tuple[int, bytes]], growing: PathSet) -> list[Wanted]:
    """What a session asks for, by action number, with what the scan knows of it.

    Raises PairsyncError `protocol` for a path that was not scanned.
    """
    lookup = Lookup(scan.listings)
    requests = []
    for number, path in wanted:
        expected = lookup.seen(path)
        if expected is None or expected.kind != FILE:
            raise PairsyncError(
                "protocol",
                f"contents of a path were asked for that was not scanned (action {number})",
            )
        change = scan.changes.get(path)
        before = change.before if change is not None else None
        prefix = None
        if before is not None and before.kind == FILE and before.digest is not None:
            prefix = (before.size, before.digest)
        requests.append(Wanted(number, path, expected, prefix, growing.matches(path)))
    return requests


def hashed(tree: Tree, change: Optional[Change], expected: Optional[Seen]) -> Entry:
    """The entry of a change with its digest: a problem when it cannot be read.

    expected: what the scan saw. Without a digest when that is there no more: it agrees with
    nothing then.
    """
    entry = change.after if change is not None else None
    if change is None or entry is None:
        return Entry(FILE)
    if entry.kind != FILE or entry.digest is not None or expected is None:
        return entry
    try:
        fd = fsops.open_file(*tree.parent(change.path))
        try:
            if seen(fsops.fstat(fd))[:6] != expected[:6]:
                return entry
            digest = digest_file(fd, entry.size)
            same = seen(fsops.fstat(fd))[:6] == expected[:6]
        finally:
            fsops.close(fd)
    except OSError as error:
        return Entry(PROBLEM, target=f"cannot be read: {error.strerror}".encode())
    return entry._replace(digest=digest) if same else entry


def send(
    tree: Tree, wanted: list[Wanted], learned: Callable[[Wanted, bytes], None]
) -> Iterator[Record]:
    """Yield the contents of files in order.

    learned is called with the digest of each file that was sent as it was scanned.
    """
    for one in wanted:
        try:
            parent, name = tree.parent(one.path)
            fd = fsops.open_file(parent, name)
        except (FileNotFoundError, NotADirectoryError):
            yield Unsent(one.number, "deleted since it was scanned; the next sync sees that", False)
            continue
        except OSError as error:
            yield Unsent(one.number, f"cannot be read: {error.strerror}", True)
            continue
        try:
            yield from _send_file(fd, one, learned)
        except OSError as error:
            yield Unsent(one.number, f"cannot be read: {error.strerror}", True)
        finally:
            fsops.close(fd)


def _send_file(fd: int, one: Wanted, learned: Callable[[Wanted, bytes], None]) -> Iterator[Record]:
    before = _seen(fd)
    as_scanned = _but_ctime(before) == _but_ctime(one.seen[:6])
    if not as_scanned and not _may_have_grown(one.seen[:6], before):
        yield Unsent(one.number, CHANGED, False)
        return
    size, mtime_ns = before[2], before[3]
    if size <= WHOLE_LIMIT:
        data = fsops.read(fd, size)
        digest = digest_bytes(data)
        verdict = _verdict(fd, one, before, len(data), digest)
        if verdict is None:
            yield Unsent(one.number, CHANGED, False)
            return
        if not verdict.grew:
            learned(one, digest)
        yield Whole(one.number, Proof(size, mtime_ns, digest, verdict.grew), data)
        return
    digester = Digester(size)
    read = 0
    yield Begin(one.number, size)
    while read < size:
        data = fsops.read(fd, min(PIECE, size - read))
        if not data:
            break
        digester.feed(data)
        read += len(data)
        yield Piece(one.number, data)
    digest = digester.digest()
    verdict = _verdict(fd, one, before, read, digest)
    if verdict is None:
        yield Unsent(one.number, CHANGED, False)
        return
    if not verdict.grew:
        learned(one, digest)
    yield End(one.number, Proof(size, mtime_ns, digest, verdict.grew))


class _Verdict(NamedTuple):
    """What was read may be sent. grew: as a beginning of what is there."""

    grew: bool


def _verdict(
    fd: int, one: Wanted, before: tuple[int, ...], read: int, digest: bytes
) -> Optional[_Verdict]:
    """Judge what was read, now that it was; None when it may not be sent.

    before: the fingerprint before the first byte was read. read: bytes read. digest: theirs.
    """
    if read != before[2]:
        return None
    after = _seen(fd)
    if after != before and not (_may_have_grown(before, after) and _starts(fd, read, digest)):
        return None  # it may be a mixture of two versions
    scanned = one.seen[:6]
    if _but_ctime(after) == _but_ctime(before) == _but_ctime(scanned):
        # Another name of the file came or went, or its owner changed: that is no edit. What was
        # never hashed is taken for what has its size, its time and its inode.
        known = one.seen.digest
        told = after[4] == scanned[4] or known is None or known == digest
        return _Verdict(grew=False) if told else None
    prefix = one.prefix
    if one.may_grow or (prefix is not None and prefix[0] <= read and _starts(fd, *prefix)):
        return _Verdict(grew=True)
    return None


def _but_ctime(seen: tuple[int, ...]) -> tuple[int, ...]:
    """A fingerprint without the time that every link, rename and chown of the file sets."""
    return (*seen[:4], seen[5])


def _may_have_grown(then: tuple[int, ...], now: tuple[int, ...]) -> bool:
    """Tell whether it is the same file, and not shorter than it was."""
    return now[5] == then[5] and now[2] >= then[2]


def _starts(fd: int, size: int, digest: bytes) -> bool:
    """Tell whether the first bytes of a file are still those with this digest."""
    again = fsops.reopen(fd)
    try:
        return digest_file(again, size) == digest
    finally:
        fsops.close(again)


def _seen(fd: int) -> tuple[int, int, int, int, int, int]:
    status = fsops.fstat(fd)
    return (
        FILE,
        status.st_mode & PERMISSION_BITS,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    )
