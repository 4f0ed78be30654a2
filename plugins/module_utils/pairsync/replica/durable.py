# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How something is made durable: one by one, or with everything else on its file system.

One `syncfs` is faster than many fsyncs, but it also waits for what everybody else has written;
so a few things (FEW) are made durable one by one. Where the kernel or the file system does not
tell a caller of syncfs about errors, everything is, however much it is.

A failure is a PairsyncError, fatal for the root: nobody knows then what is durable, and asking
again may be answered with a lie. Whoever stages, lands, keeps or records calls this module, and
fsops.sync_* nowhere else.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from typing import Optional

from ..model.entry import DIR, FILE, Entry, parent_of
from ..model.errors import PairsyncError
from . import fsops, guard
from .tree import Tree

# Up to this many files are made durable one by one; more at once, by file system.
FEW = 16

# Of these syncfs hands on the errors of writing back. An overlay's are those of the layer below
# it, which it does not hand on; of network file systems and FUSE each is different.
_TELLING = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs"})
_TELLING_KERNEL = (5, 8)

_NO_SUCH_CALL = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)


def sync_all(fd: int) -> bool:
    """Make everything on a descriptor's file system durable.

    False where errors would go unnoticed: then each thing has to be made durable by sync_one.
    """
    return _tells(fd) and _sync_file_system(fd)


def sync_one(fd: int) -> None:
    """Make an open file or directory durable.

    A directory of a file system that has no such call (some network ones write names at once)
    is as durable as it can be.
    """
    try:
        fsops.sync_file(fd)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise _fatal(error) from error


def make_durable(tree: Tree, rows: Mapping[bytes, Optional[Entry]]) -> None:
    """Make what a replica has, and no longer has, survive a power cut, before a base says so.

    rows: what the base will say, by path; the same for what was received, sent or found equal.
    """
    files = [path for path, entry in rows.items() if entry is not None and entry.kind == FILE]
    directories = {parent_of(path) for path in rows}
    for path, entry in rows.items():
        if entry is not None and entry.kind == DIR:
            directories.add(path)
        else:
            directories.discard(path)  # gone itself, with the names in it
    tree.forget()  # directories may have changed places since it was used last
    if not rows or (len(files) + len(directories) > FEW and sync_all(tree.root_fd)):
        return
    # What was moved since it was read or landed may not be durable under its new name either;
    # then the base would know of a deletion, and nobody of the contents. What may not be opened
    # cannot be made durable alone.
    complete = _each(tree, files)
    if not (_each(tree, sorted(directories), directories=True) and complete):
        _sync_file_system(tree.root_fd)


def _each(tree: Tree, paths: Iterable[bytes], *, directories: bool = False) -> bool:
    """Make paths durable one by one; False when one was not there, or may not be opened."""
    complete = True
    for path in paths:
        try:
            fd = tree.directory(path) if directories else fsops.open_file(*tree.parent(path))
        except OSError as error:
            if error.errno not in (*_NOT_THERE, errno.EACCES, errno.EPERM):
                raise _fatal(error) from error
            complete = False
            continue
        try:
            sync_one(fd)
        finally:
            if not directories:  # those are the tree's own
                fsops.close(fd)
    return complete


def _tells(fd: int) -> bool:
    """Tell whether syncfs reports what could not be written."""
    release = os.uname().release.split("-")[0].split(".")
    numbers = tuple(int(part) for part in release[:2] if part.isdigit())
    return numbers >= _TELLING_KERNEL and guard.file_system(fd).partition(" ")[0] in _TELLING


def _sync_file_system(fd: int) -> bool:
    try:
        return fsops.sync_file_system(fd)
    except OSError as error:
        raise _fatal(error) from error


def _fatal(error: OSError) -> PairsyncError:
    said = error.strerror or str(error)
    return PairsyncError(
        "space",
        f"what was written could not be made durable: {said}",
        "check the disk and its free space before the next run; nothing was recorded",
    )
