# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Swap and verify: how one staged object takes its place, and what it displaces is kept.

Replacing exchanges two names in one step, then looks at what was displaced: if that is not what
the scan saw, it is put back. Creating never replaces anything. So no edit made between the scan
and the swap is lost, and a reader sees the old or the new file, never none.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple, Optional

from ..model.entry import DIR, FILE, LINK, PERMISSION_BITS
from . import fsops
from .backup import Backup
from .rows import Seen

CHANGED = "changed while the session ran"
APPEARED = "appeared while the session ran"


class Swapped(NamedTuple):
    """What became of a swap. reason: "" when done. weak: the file system has no atomic rename."""

    reason: str = ""
    weak: bool = False


class At(NamedTuple):
    """A name in a held directory."""

    fd: int
    name: bytes


def seen(status: os.stat_result, digest: Optional[bytes] = None) -> Seen:
    """The fingerprint of a stat result, as a scan packs it."""
    kind = kind_of(status)
    if kind == DIR:
        return Seen(DIR, status.st_mode & PERMISSION_BITS, 0, 0, 0, 0)
    mode = status.st_mode & PERMISSION_BITS if kind == FILE else 0
    return Seen(
        kind, mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, digest
    )


def kind_of(status: os.stat_result) -> int:
    """FILE, DIR or LINK; 0 for anything else."""
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return FILE
    if stat.S_ISDIR(mode):
        return DIR
    return LINK if stat.S_ISLNK(mode) else 0


def create(staged: At, place: At) -> Swapped:
    """Give a staged object its name, which must be free."""
    try:
        strong = fsops.rename_noreplace(staged.fd, staged.name, place.fd, place.name)
    except FileExistsError:
        return Swapped(APPEARED)
    return Swapped(weak=not strong)


def replace(staged: At, place: At, expected: Seen, path: bytes, backup: Backup) -> Swapped:
    """Exchange a staged object with what is at its place, and keep that in the backup.

    expected: what the scan saw there; anything else is put back. Raises OSError.
    """
    if not _is_there(expected, place):
        return Swapped(CHANGED)
    ours = fsops.lstat(staged.fd, staged.name).st_ino
    # In the backup before it is displaced: a crash right after the exchange loses nothing.
    kept = None if expected.kind == DIR else backup.link(place.fd, place.name, path)
    try:
        swapped = _exchange(staged, place, expected, ours, path, backup, kept=kept is not None)
    except OSError:
        if kept is not None:
            backup.unlink(*kept)
        raise
    if kept is not None and (swapped is None or swapped.reason):
        backup.unlink(*kept)
    if swapped is None:
        return _replace_weakly(staged, place, expected, path, backup)
    return swapped


def _exchange(
    staged: At,
    place: At,
    expected: Seen,
    ours: int,
    path: bytes,
    backup: Backup,
    *,
    kept: bool,
) -> Optional[Swapped]:
    """Exchange, verify, and let go of what was displaced; None where nothing can be exchanged."""
    if not fsops.rename_exchange(staged.fd, staged.name, place.fd, place.name):
        return None
    # From here on the displaced object has the staged name.
    if not _is(expected, fsops.lstat(staged.fd, staged.name), exact=False):
        _put_back(staged, place, ours, path, backup)
        return Swapped(CHANGED)
    try:
        if expected.kind == DIR:
            fsops.remove_dir(staged.fd, staged.name)  # it was emptied before
        elif kept:
            fsops.unlink(staged.fd, staged.name)
        else:
            backup.take(staged.fd, staged.name, path)
    except OSError as error:
        # What cannot be kept is not replaced.
        _put_back(staged, place, ours, path, backup)
        if expected.kind == DIR and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return Swapped("new content below")
        raise
    return Swapped()


def _put_back(staged: At, place: At, ours: int, path: bytes, backup: Backup) -> None:
    """Undo an exchange; what cannot go back goes to the backup, and does not stay in the stage."""
    try:
        left = _exchange_back(staged, place, ours)
    except OSError:
        backup.take(staged.fd, staged.name, path)
        raise
    if left:
        backup.take(staged.fd, staged.name, path)


def _exchange_back(staged: At, place: At, ours: int) -> bool:
    """Give a displaced object its name again; tell whether the stage now holds somebody else's."""
    try:
        if not fsops.rename_exchange(staged.fd, staged.name, place.fd, place.name):
            return True
    except FileNotFoundError:
        # Ours was deleted meanwhile.
        return bool(create(staged, place).reason)
    return fsops.lstat(staged.fd, staged.name).st_ino != ours


def _replace_weakly(staged: At, place: At, expected: Seen, path: bytes, backup: Backup) -> Swapped:
    """Without an exchange: move the old object aside, then the new one in.

    The name is missing for a moment; an object created in that moment is kept.
    """
    if expected.kind == DIR:
        fsops.remove_dir(place.fd, place.name)
    else:
        reason = _take(place, expected, path, backup)
        if reason:
            return Swapped(reason, weak=True)
    return create(staged, place)._replace(weak=True)


def remove(place: At, expected: Seen, path: bytes, backup: Backup) -> Swapped:
    """Move a file or link into the backup, unless it is not what the scan saw."""
    if not _is_there(expected, place):
        return Swapped(CHANGED)
    return Swapped(_take(place, expected, path, backup))


def _take(place: At, expected: Seen, path: bytes, backup: Backup) -> str:
    """Move an object into the backup and verify it there; "" or the reason it was put back."""
    directory, name = backup.take(place.fd, place.name, path)
    if _is(expected, fsops.lstat(directory, name), exact=False):
        return ""
    try:
        fsops.rename_noreplace(directory, name, place.fd, place.name)
    except FileExistsError:
        return f"{CHANGED}, twice; one version is in the backup"
    backup.kept -= 1
    return CHANGED


def remove_dir(place: At) -> Swapped:
    """Remove a directory that must be empty by now."""
    try:
        fsops.remove_dir(place.fd, place.name)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return Swapped("new content below")
        raise
    return Swapped()


def _is_there(expected: Seen, place: At) -> bool:
    """Tell whether a name still holds what the scan saw."""
    try:
        return _is(expected, fsops.lstat(place.fd, place.name), exact=True)
    except FileNotFoundError:
        return False


def _is(expected: Seen, status: os.stat_result, *, exact: bool) -> bool:
    """Tell whether an object is what the scan saw.

    A rename changes ctime, so once moved (exact=False) it is not compared.
    """
    now = seen(status)
    if now.kind != expected.kind or expected.kind == DIR:
        return now.kind == expected.kind
    if exact and now.ctime_ns != expected.ctime_ns:
        return False
    return (now.size, now.mtime_ns, now.inode, now.mode) == (
        expected.size,
        expected.mtime_ns,
        expected.inode,
        expected.mode,
    )
