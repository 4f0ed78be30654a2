# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Staging: everything new is complete, verified and durable before it gets its name.

A file or link is staged alone; a new directory is staged whole, up to a limit, and appears with
one rename. The stage is a directory of ours on the same file system as the root.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import Optional

from ..model.entry import DIR, FILE, LINK, PERMISSION_BITS, Entry
from . import fsops
from .attributes import Owner, give
from .contents import Proof
from .digest import Digester, digest_bytes
from .durable import make_durable
from .rows import Seen
from .swap import At, seen
from .tree import Tree


class Incoming:
    """A large file that is being received."""

    def __init__(self, fd: int, size: int, prefix: int = 0) -> None:
        """fd: the staged file, taken over. size: the most that may come, in bytes.

        prefix: length of the beginning whose digest is of interest as well, at most size.
        """
        self.fd = fd
        self.left = size
        self._digester = Digester(size, prefix)

    def write(self, data: bytes) -> bool:
        """Add the next bytes; False when there are more than announced."""
        if len(data) > self.left:
            return False
        fsops.write(self.fd, data)
        self._digester.feed(data)
        self.left -= len(data)
        return True

    def digest(self) -> Optional[bytes]:
        """The digest of all that came; None when something is missing."""
        return self._digester.digest() if not self.left else None

    def prefix_digest(self) -> Optional[bytes]:
        """The digest of the beginning, once that has come."""
        return self._digester.prefix_digest()


class Stage:
    """The staging directory of one session."""

    def __init__(self, fd: int) -> None:
        """fd: the directory, held by the caller's state and taken over here."""
        self.fd = fd
        self._tree = Tree(fsops.duplicate(fd))

    def place(self, name: bytes) -> At:
        """Where a staged path lies; valid until the next call."""
        return At(*self._tree.parent(name))

    def write_file(
        self, name: bytes, want: Entry, proof: Proof, data: bytes, owner: Owner
    ) -> Optional[Seen]:
        """Stage a small file; None when the bytes are not what the sender vouched for."""
        if len(data) != proof.size or digest_bytes(data) != proof.digest:
            return None
        fd = fsops.create_file(*self._tree.parent(name), _bits(want))
        try:
            fsops.write(fd, data)
            return finish_file(fd, want, proof.mtime_ns, proof.digest, owner)
        finally:
            fsops.close(fd)

    def begin_file(self, name: bytes, want: Entry, size: int, prefix: int = 0) -> Incoming:
        """Begin to stage a large file; size and prefix as for Incoming."""
        at = self.place(name)
        return Incoming(fsops.create_file(at.fd, at.name, _bits(want)), size, prefix)

    def write_link(self, name: bytes, want: Entry, owner: Owner) -> Seen:
        """Stage a symlink."""
        at = self.place(name)
        fsops.make_link(at.fd, at.name, want.target)
        if owner.uid >= 0 or owner.gid >= 0:
            fsops.set_link_owner(at.fd, at.name, owner.uid, owner.gid)
        fsops.set_link_mtime(at.fd, at.name, want.mtime_ns)
        return seen(fsops.lstat(at.fd, at.name))

    def make_dir(self, name: bytes) -> None:
        """Stage a directory, writable until finish_dir."""
        at = self.place(name)
        fsops.make_dir(at.fd, at.name)

    def finish_dir(self, name: bytes, want: Entry, owner: Owner) -> None:
        """Give a staged directory its owner and mode, once everything is in it."""
        finish_dir(self._tree.directory(name), want, owner)

    def discard(self, name: bytes) -> None:
        """Remove one staged file or link."""
        at = self.place(name)
        fsops.unlink(at.fd, at.name)

    def sync(self, rows: Mapping[bytes, Optional[Entry]]) -> None:
        """Make staged objects durable: what is at which staged name."""
        make_durable(self._tree, rows)

    def forget(self) -> None:
        """Close held directories, before one of them is moved."""
        self._tree.forget()

    def close(self) -> None:
        """Let go of the directory."""
        self._tree.close()
        fsops.close(self.fd)


def finish_file(fd: int, want: Entry, mtime_ns: int, digest: bytes, owner: Owner) -> Seen:
    """Set owner, time and mode of a staged file; return what it is now."""
    give(fd, owner)
    fsops.set_mtime(fd, mtime_ns)
    status = fsops.fstat(fd)
    if status.st_mode & PERMISSION_BITS != _bits(want):
        # The umask, a default ACL or the new owner took something away.
        fsops.set_mode(fd, _bits(want))
        status = fsops.fstat(fd)
    return seen(status, digest)


def finish_dir(fd: int, want: Entry, owner: Owner) -> None:
    """Set owner and mode of a directory."""
    give(fd, owner)
    fsops.set_mode(fd, _bits(want) | (stat.S_ISGID if owner.set_gid else 0))


def is_leaf(entry: Optional[Entry]) -> bool:
    """Tell whether an entry is a file or a link."""
    return entry is not None and entry.kind in (FILE, LINK)


def _bits(want: Entry) -> int:
    default = 0o755 if want.kind == DIR else 0o644
    return default if want.mode is None else want.mode
