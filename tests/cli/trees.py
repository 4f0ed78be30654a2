# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in a tree, for comparing: contents and permissions, or everything a write would touch."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

STATE = b".pairsync"


def entries(root: Path, *, state: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Yield (relative path, full path) of the root and all below it; our own state if asked."""
    top = os.fsencode(root)
    yield b"", top
    for directory, dirs, files in os.walk(top):
        if not state and STATE in dirs:
            dirs.remove(STATE)
        for name in [*dirs, *files]:
            full = os.path.join(directory, name)
            yield os.path.relpath(full, top), full


def contents(root: Path) -> dict[bytes, tuple[str, bytes, int]]:
    """What a person would compare: type, contents or target, permissions; by path."""
    found = {}
    for path, full in entries(root):
        status = os.lstat(full)
        if stat.S_ISLNK(status.st_mode):
            found[path] = ("link", os.readlink(full), 0)
        elif stat.S_ISDIR(status.st_mode):
            found[path] = ("dir", b"", status.st_mode & 0o777)
        else:
            with open(full, "rb") as stream:
                found[path] = ("file", stream.read(), status.st_mode & 0o777)
    del found[b""]
    return found


def traces(root: Path, *, state: bool = False) -> dict[bytes, tuple[int, ...]]:
    """What any write would change, by path: inode, mode, size, mtime and ctime."""
    return {path: trace(full) for path, full in entries(root, state=state)}


def trace(path: Path | bytes) -> tuple[int, ...]:
    """The same for one path."""
    status = os.lstat(path)
    return (
        status.st_ino,
        status.st_mode,
        # A directory's size is its file system's business.
        0 if stat.S_ISDIR(status.st_mode) else status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
