# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scan: walk a root with held descriptors and compare it with the base.

Nothing here follows a symlink or crosses into another mount. What cannot be read is a problem
entry, never an absence. A file is hashed only when a decision needs it: when its size is the
base's and its fingerprint is not one whose digest we know.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, field
from typing import Callable, Optional

from ..model.denied import Denied
from ..model.entry import (
    DIR,
    FILE,
    LINK,
    PERMISSION_BITS,
    PROBLEM,
    SPECIAL,
    STATE_NAME,
    Change,
    Entry,
    fold,
    is_below,
    is_state_name,
    parent_of,
    same_contents,
    same_mode,
    sort_key,
)
from ..model.pathspec import PathSet
from . import fsops, guard
from .base import Base
from .digest import digest_file
from .index import Index, agreement
from .pointers import Pointers
from .rows import NO_DIGEST, Listing, front_of_seen, pack_seen, records, seen_of

_MOUNTED = "another file system is mounted there"
# Below this depth a directory is a problem, so that descriptors stay bounded; what lies in the
# deepest one still has as many components as a peer may name (see wire/limits.py).
MOST_LEVELS = 1023


@dataclass
class Scan:
    """What a scan found.

    changes: by path, in path order. listings: every directory by path. hidden: directories that
    directly hold ignored content. dropped: base paths that are ignored now. entries: number of
    visible entries. marks: of directories in which nothing differs from the base.
    """

    changes: dict[bytes, Change] = field(default_factory=dict)
    listings: dict[bytes, Listing] = field(default_factory=dict)
    hidden: set[bytes] = field(default_factory=set)
    dropped: list[bytes] = field(default_factory=list)
    entries: int = 0
    marks: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules:
    """What the policy says about a scan. paths: restricts it to these subtrees, if any.

    mounts, denied: what this host says itself, whatever the policy. modes: whether the file
    system keeps permissions; where it does not, they are what was agreed on.
    """

    ignore: PathSet
    last: PathSet
    paths: tuple[bytes, ...] = ()
    mounts: frozenset[bytes] = frozenset()
    denied: Denied = field(default_factory=Denied)
    modes: bool = True

    def hides(self, path: bytes) -> bool:
        """Tell whether what is at a path is invisible, where its directory is not."""
        return (
            is_state_name(path.rpartition(b"/")[2])
            or self.ignore.matches(path)
            or self.denied.hides(path)
        )

    def leaves_out(self, path: bytes) -> bool:
        """Tell whether the policy keeps a session away from a path, where its directory is not."""
        if is_state_name(path.rpartition(b"/")[2]) or self.ignore.matches(path):
            return True
        return bool(self.paths) and not any(
            path == one or is_below(path, one) or is_below(one, path) for one in self.paths
        )


def scan(
    root_fd: int,
    rules: Rules,
    base: Optional[Base],
    index: Index,
    progress: Callable[[int], None] = lambda __: None,
) -> Scan:
    """Walk the root and return what changed against the base (everything, without one).

    progress is called with the number of entries seen so far.
    """
    return _Walk(root_fd, rules, base, index, progress).run()


class _Walk:
    """One scan in progress."""

    def __init__(
        self,
        root_fd: int,
        rules: Rules,
        base: Optional[Base],
        index: Index,
        progress: Callable[[int], None],
    ) -> None:
        self.root_fd = root_fd
        self.rules = rules
        self.base = base
        self.index = index
        self.progress = progress
        self.found = Scan()
        self.pointers = Pointers(root_fd, rules.last)
        self.inner: list[bytes] = []  # names of the directories in the one packed last
        self.unmarked: set[bytes] = set()  # compared, and found to agree

    def run(self) -> Scan:
        self._directory(self.root_fd, b"")
        # Held directories and their subdirectories still to visit, last ones first.
        stack: list[tuple[int, bytes, list[bytes]]] = [(self.root_fd, b"", self._subdirs(b""))]
        while stack:
            fd, path, subdirs = stack[-1]
            if not subdirs:
                stack.pop()
                if fd != self.root_fd:
                    fsops.close(fd)
                continue
            name = subdirs.pop()
            inner = path + b"/" + name if path else name
            try:
                if len(stack) > MOST_LEVELS:
                    raise OSError(0, f"more than {MOST_LEVELS} levels deep")
                inner_fd = fsops.open_dir(fd, name)
            except FileNotFoundError:
                continue  # gone since its parent was listed: the next session will see that
            except OSError as error:
                self._problem(inner, f"cannot be opened: {error.strerror}")
                continue
            try:
                self._directory(inner_fd, inner)
            except OSError as error:
                self._problem(inner, f"cannot be listed: {error.strerror}")
                fsops.close(inner_fd)
                continue
            stack.append((inner_fd, inner, self._subdirs(inner)))
        self._check_mounts()
        self.pointers.check(self.found.changes, self.found.listings)
        found = self.found
        if self.base is not None:
            found.marks = {
                path: agreement(found.listings[path], self.base.packed(path))
                for path in self.unmarked
            }
        found.changes = {
            path: found.changes[path]
            for path in sorted(found.changes, key=sort_key)
            if self._in_scope(path)
        }
        return found

    def _check_mounts(self) -> None:
        """Take back what was said of places that were mounted over during the walk.

        What it saw there may be the foreign file system, and what lies below it look deleted.
        """
        found = self.found
        for path in sorted(guard.mounts_below(self.root_fd) - self.rules.mounts):
            if parent_of(path) not in found.listings or self.rules.hides(path):
                continue
            before = self.base.entry(path) if self.base is not None else None
            for seen in (found.changes, found.listings):
                for inner in [one for one in seen if one == path or is_below(one, path)]:
                    del seen[inner]
            self.unmarked = {one for one in self.unmarked if one in found.listings}
            self.unmarked.discard(parent_of(path))
            found.changes[path] = Change(path, before, _special_entry(_MOUNTED))

    def _subdirs(self, path: bytes) -> list[bytes]:
        """Names of the directories to visit below the one just scanned, last one first."""
        prefix = path + b"/" if path else b""
        names = [name for name in self.inner if self._visits(prefix + name)]
        names.reverse()
        return names

    def _visits(self, path: bytes) -> bool:
        paths = self.rules.paths
        return not paths or any(
            path == one or is_below(path, one) or is_below(one, path) for one in paths
        )

    def _in_scope(self, path: bytes) -> bool:
        """Inside the paths asked for, or a new directory on the way to one of them."""
        paths = self.rules.paths
        if not paths or any(path == one or is_below(path, one) for one in paths):
            return True
        change = self.found.changes[path]
        return change.before is None and any(is_below(one, path) for one in paths)

    def _directory(self, fd: int, path: bytes) -> None:
        """List one directory and compare it with the base; raise OSError if it cannot be listed."""
        listed = fsops.list_dir(fd)
        listing, others = self._pack(listed, path)
        stored = self.index.listings.get(path)
        digests = self._known_digests(listing, stored)
        found = self.found
        found.entries += len(digests) // 32
        self.progress(found.entries)
        if self.base is not None and not others:
            whole = Listing(listing, digests)
            mark = self.index.marks.get(path)
            if mark is not None and mark == agreement(whole, self.base.packed(path)):
                found.listings[path] = whole
                return
        if self.rules.last and self.pointers.watch(fd, path, listed):
            # A pointer is stat'ed before the listing: what it names was there by then.
            listed = self.pointers.among(fsops.list_dir(fd), path)
            listing, others = self._pack(listed, path)
            digests = self._known_digests(listing, stored)
        found.listings[path] = self._compare(fd, path, listing, digests, others)

    def _pack(
        self, listed: list[tuple[bytes, fsops.Listed]], path: bytes
    ) -> tuple[bytes, dict[bytes, Entry]]:
        """Packed fingerprints of what is visible, and the entries that are no such thing."""
        parts: list[bytes] = []
        others: dict[bytes, Entry] = {}
        inner = self.inner = []
        ignore, mounts = self.rules.ignore, self.rules.mounts
        denied = self.rules.denied.names(path)
        prefix = path + b"/" if path else b""
        for name, status in listed:
            full = prefix + name
            if (
                is_state_name(name)
                or (ignore and ignore.matches(full))
                or (denied and fold(name) in denied)
            ):
                if full != STATE_NAME:
                    self.found.hidden.add(path)
                continue
            if isinstance(status, OSError):
                others[name] = _problem_entry(f"cannot be read: {status.strerror}")
                continue
            if full in mounts:
                others[name] = _special_entry(_MOUNTED)
                continue
            mode = status.st_mode
            try:
                if stat.S_ISREG(mode):
                    parts.append(
                        pack_seen(
                            len(name), FILE, mode & PERMISSION_BITS, status.st_size,
                            status.st_mtime_ns, status.st_ctime_ns, status.st_ino,
                        ) + name
                    )  # fmt: skip
                elif stat.S_ISDIR(mode):
                    inner.append(name)
                    parts.append(
                        pack_seen(len(name), DIR, mode & PERMISSION_BITS, 0, 0, 0, 0) + name
                    )
                elif stat.S_ISLNK(mode):
                    parts.append(
                        pack_seen(
                            len(name), LINK, 0, status.st_size,
                            status.st_mtime_ns, status.st_ctime_ns, status.st_ino,
                        ) + name
                    )  # fmt: skip
                else:
                    others[name] = _special_entry(_special_name(mode))
            except struct.error:
                # 64 bits of nanoseconds end in 1677 and 2262; some file systems go further.
                others[name] = _problem_entry("has a modification time that cannot be carried")
        return b"".join(parts), others

    def _known_digests(self, listing: bytes, stored: Optional[Listing]) -> bytes:
        if stored is None:
            return NO_DIGEST * sum(1 for __ in records(listing))
        if stored.seen == listing:
            return stored.digests
        known = {
            record: stored.digests[place * 32 : place * 32 + 32]
            for place, (__, record) in enumerate(records(stored.seen))
        }
        return b"".join(known.get(record, NO_DIGEST) for __, record in records(listing))

    def _compare(
        self, fd: int, path: bytes, listing: bytes, digests: bytes, others: dict[bytes, Entry]
    ) -> Listing:
        """Emit the changes of one directory; return its listing with the digests now known."""
        base = self.base.entries(path) if self.base is not None else {}
        known = bytearray(digests)
        changes = self.found.changes
        prefix = path + b"/" if path else b""
        changed = bool(others)
        for place, (name, record) in enumerate(records(listing)):
            before = base.pop(name, None)
            digest = digests[place * 32 : place * 32 + 32]
            entry = self._entry(fd, name, record, None if digest == NO_DIGEST else digest, before)
            if entry.kind == FILE and entry.digest is not None:
                known[place * 32 : place * 32 + 32] = entry.digest
            if not (same_contents(before, entry) and same_mode(before, entry)):
                changes[prefix + name] = Change(prefix + name, before, entry)
                changed = True
                if before is not None and before.kind == DIR and entry.kind != DIR:
                    self._gone(prefix + name)
        for name, entry in others.items():
            changes[prefix + name] = Change(prefix + name, base.pop(name, None), entry)
        for name, before in base.items():
            changed = True
            if self.rules.hides(prefix + name):
                self.found.dropped.append(prefix + name)
            else:
                changes[prefix + name] = Change(prefix + name, before, None)
                if before.kind == DIR:
                    self._gone(prefix + name)
        if self.base is not None and not changed:
            self.unmarked.add(path)
        return Listing(listing, bytes(known))

    def _entry(
        self, fd: int, name: bytes, record: bytes, digest: Optional[bytes], before: Optional[Entry]
    ) -> Entry:
        """The entry behind a packed fingerprint; reads or hashes only what the comparison needs."""
        kind, mode, size, mtime_ns = front_of_seen(record)
        if not self.rules.modes:
            mode = _agreed_mode(kind, before)
        if kind == DIR:
            return Entry(DIR, mode)
        try:
            if kind == LINK:
                return Entry(LINK, None, 0, mtime_ns, None, fsops.read_link(fd, name))
            if (
                digest is None
                and before is not None
                and before.kind == FILE
                and before.size == size
            ):
                digest = hash_unchanged(fd, name, record)
        except OSError as error:
            return _problem_entry(f"cannot be read: {error.strerror}")
        return Entry(FILE, mode, size, mtime_ns, digest)

    def _gone(self, path: bytes) -> None:
        """Everything the base has below a directory that is gone is deleted, unless ignored."""
        if self.base is None:
            return
        hidden = b""  # the ignored directory that was met last; what it holds is ignored with it
        for inner, entry in self.base.below(path):
            if hidden and is_below(inner, hidden):
                continue
            if self.rules.hides(inner):
                self.found.dropped.append(inner)
                hidden = inner
            else:
                self.found.changes[inner] = Change(inner, entry, None)

    def _problem(self, path: bytes, reason: str) -> None:
        """Replace what was said about a directory by: it is unknown."""
        change = self.found.changes.get(path)
        before = (
            change.before if change is not None else self.base.entry(path) if self.base else None
        )
        self.found.changes[path] = Change(path, before, _problem_entry(reason))
        parent = path.rpartition(b"/")[0]
        self.unmarked.discard(parent)


def hash_unchanged(fd: int, name: bytes, record: bytes) -> Optional[bytes]:
    """The digest of a file that has the packed fingerprint before and after it is read.

    None when it changed meanwhile: the change stays lazy, and is found out when it is sent.
    """
    file_fd = fsops.open_file(fd, name)
    try:
        if seen_of(name, fsops.fstat(file_fd)) != record:
            return None
        digest = digest_file(file_fd, front_of_seen(record)[2])
        return digest if seen_of(name, fsops.fstat(file_fd)) == record else None
    finally:
        fsops.close(file_fd)


def _agreed_mode(kind: int, before: Optional[Entry]) -> int:
    if before is not None and before.kind == kind and before.mode is not None:
        return before.mode
    return 0o755 if kind == DIR else 0o644


def _problem_entry(reason: str) -> Entry:
    return Entry(PROBLEM, target=reason.encode("utf-8", "replace"))


def _special_entry(reason: str) -> Entry:
    return Entry(SPECIAL, target=reason.encode())


def _special_name(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"
