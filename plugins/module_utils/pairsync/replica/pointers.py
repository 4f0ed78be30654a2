# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pointer files (`last:`) during a scan: looked at before their directory is listed, and after all.

What a pointer names was there when it was looked at. One that has moved since may name what the
walk had passed by then, or may have named what has gone: it waits for the next session, and with
it every deletion around it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Optional

from ..model.entry import DIR, Change, parent_of
from ..model.pathspec import PathSet
from . import fsops
from .rows import Listing, records, seen_of


class Pointers:
    """The pointer files of one scan."""

    def __init__(self, root_fd: int, last: PathSet) -> None:
        """root_fd: stays the caller's. last: which files are pointers."""
        self._root_fd = root_fd
        self._last = last
        self._found: dict[bytes, dict[bytes, os.stat_result]] = {}  # by directory, then name

    def watch(self, fd: int, path: bytes, listed: list[tuple[bytes, fsops.Listed]]) -> bool:
        """Look at the pointers of a directory; tell whether there are any.

        fd: the directory at path. listed: what is in it.
        """
        prefix = path + b"/" if path else b""
        for name, status in listed:
            if isinstance(status, OSError) or not _may_point(status):
                continue
            if self._last.matches(prefix + name):
                try:
                    self._found.setdefault(path, {})[name] = fsops.lstat(fd, name)
                except OSError:
                    continue
        return path in self._found

    def among(
        self, listed: list[tuple[bytes, fsops.Listed]], path: bytes
    ) -> list[tuple[bytes, fsops.Listed]]:
        """A later listing of a directory, in which pointers are as they were watched."""
        held = self._found.get(path, {})
        return [(name, held.get(name, status)) for name, status in listed]

    def check(self, changes: dict[bytes, Change], listings: Mapping[bytes, Listing]) -> None:
        """Mark what has to wait, once the walk is over: pointers, and deletions around them."""
        for path, watched in self._found.items():
            for name, before in watched.items():
                full = path + b"/" + name if path else name
                change = changes.get(full)
                if change is None:
                    continue
                now = self._lstat(path, name)
                if now is None or _moved(before, now):
                    changes[full] = change._replace(unsettled=True)
        gone = [path for path, change in changes.items() if change.after is None]
        if not gone or not self._last:
            return
        # Looked for only around deletions, so that directories known by their mark cost nothing.
        moving: dict[bytes, bool] = {}
        for path in gone:
            if self._is_moving(parent_of(path), listings, moving):
                changes[path] = changes[path]._replace(unsettled=True)

    def _is_moving(
        self, path: bytes, listings: Mapping[bytes, Listing], known: dict[bytes, bool]
    ) -> bool:
        """Tell whether a pointer in a directory, or in one above it, is not as it was listed."""
        climbed: list[bytes] = []
        found = False
        while path not in known and not found:
            climbed.append(path)
            found = self._has_moved(path, listings.get(path))
            if not path:
                break
            path = parent_of(path)
        found = found or known.get(path, False)
        known.update(dict.fromkeys(climbed, found))
        return found

    def _has_moved(self, path: bytes, listing: Optional[Listing]) -> bool:
        if listing is None:
            return False
        prefix = path + b"/" if path else b""
        for name, record in records(listing.seen):
            if record[2] == DIR or not self._last.matches(prefix + name):
                continue
            now = self._lstat(path, name)
            if now is None or not _may_point(now) or seen_of(name, now) != record:
                return True
        return False

    def _lstat(self, path: bytes, name: bytes) -> Optional[os.stat_result]:
        """What is in a directory under a name now; None when that cannot be told."""
        try:
            fd = self._open(path)
            try:
                return fsops.lstat(fd, name)
            finally:
                if fd != self._root_fd:
                    fsops.close(fd)
        except OSError:
            return None

    def _open(self, path: bytes) -> int:
        fd = self._root_fd
        for part in path.split(b"/") if path else ():
            inner = fsops.open_dir(fd, part)
            if fd != self._root_fd:
                fsops.close(fd)
            fd = inner
        return fd


def _may_point(status: os.stat_result) -> bool:
    """Tell whether this can be a pointer file: `latest` is as often a symlink."""
    return stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)


def _moved(before: os.stat_result, now: os.stat_result) -> bool:
    return (before.st_ino, before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        now.st_ino,
        now.st_size,
        now.st_mtime_ns,
        now.st_ctime_ns,
    )
