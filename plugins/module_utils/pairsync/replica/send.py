# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sending side: read files that were scanned, and prove that nothing else was read.

Each file is opened once, compared with what the scan saw, read, and compared again. One that
changed is left for the next session; one that only grew, and may (see below), travels as the
prefix that was read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional

from ..model.entry import FILE, PERMISSION_BITS
from . import fsops
from .contents import PIECE, WHOLE_LIMIT, Begin, End, Piece, Proof, Record, Unsent, Whole
from .digest import Digester, digest_bytes, digest_file
from .rows import Seen
from .tree import Tree

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
    grew = before != one.seen[:6]
    if grew and not _only_grew(fd, one, before):
        yield Unsent(one.number, CHANGED, False)
        return
    size, mtime_ns = before[2], before[3]
    if size <= WHOLE_LIMIT:
        data = fsops.read(fd, size)
        digest = digest_bytes(data)
        reason, grew = _verdict(fd, one, before, len(data), grew=grew)
        if reason:
            yield Unsent(one.number, reason, False)
            return
        if not grew:
            learned(one, digest)
        yield Whole(one.number, Proof(size, mtime_ns, digest, grew), data)
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
    reason, grew = _verdict(fd, one, before, read, grew=grew)
    if reason:
        yield Unsent(one.number, reason, False)
        return
    digest = digester.digest()
    if not grew:
        learned(one, digest)
    yield End(one.number, Proof(size, mtime_ns, digest, grew))


def _verdict(
    fd: int, one: Wanted, before: tuple[int, ...], read: int, *, grew: bool
) -> tuple[str, bool]:
    """After reading: ("", whether it grew) when what was read may be sent, else a reason."""
    if read != before[2]:
        return CHANGED, grew
    after = _seen(fd)
    if after == before:
        return "", grew
    if after[5] == before[5] and after[2] >= before[2] and _may_grow(fd, one):
        return "", True
    return CHANGED, grew


def _only_grew(fd: int, one: Wanted, now: tuple[int, ...]) -> bool:
    return now[5] == one.seen.inode and now[2] >= one.seen.size and _may_grow(fd, one)


def _may_grow(fd: int, one: Wanted) -> bool:
    """The policy says so, or what was last agreed on is provably a prefix of what is there."""
    if one.may_grow:
        return True
    if one.prefix is None:
        return False
    size, digest = one.prefix
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
