# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Swap and verify: how one staged object takes its place, and what it displaces is kept.

A newcomer that replaces something waits in the backup, under the very name that the displaced
object is to have there; then the two exchange names in one step. So whatever is displaced, also
what somebody saved an instant before, is in the backup from that moment on, and never in a
place that is cleared away. Then it is looked at: if it is not what the scan saw, it is put back.
Creating never replaces anything. So no edit made between the scan and the swap is lost, and a
reader sees the old or the new file, never none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import NamedTuple, Optional

from ..model.entry import DIR, FILE, LINK, PERMISSION_BITS
from ..model.report import display
from . import fsops
from .backup import Backup
from .copies import copy_name
from .digest import digest_file
from .rows import Seen

CHANGED = "changed while the session ran"
APPEARED = "appeared while the session ran"
NEW_BELOW = "new content below"
_IN_BACKUP = f"{CHANGED}; what it was changed to is in the backup"


class Swapped(NamedTuple):
    """What became of a swap. reason: "" when done. weak: the file system has no atomic rename."""

    reason: str = ""
    weak: bool = False


class At(NamedTuple):
    """A name in a held directory."""

    fd: int
    name: bytes


class Aside(NamedTuple):
    """Where what is displaced goes: its path in the replica, and the backup of this run.

    replica: what a copy of a conflicting version is called after.
    """

    path: bytes
    backup: Backup
    replica: bytes = b""


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


def replace(staged: At, place: At, expected: Seen, aside: Aside) -> Swapped:
    """Exchange a staged object with what is at its place, and keep that in the backup.

    expected: what the scan saw there; anything else is put back. Raises OSError, and then what
    was there is there, or in the backup.
    """
    if not _is_there(expected, place):
        return Swapped(CHANGED)
    if expected.kind == DIR and _holds_something(place):
        return Swapped(NEW_BELOW)
    newcomer = seen(fsops.lstat(staged.fd, staged.name))
    slot = At(*aside.backup.take(staged.fd, staged.name, aside.path, expected, newcomer))
    try:
        exchanged = fsops.rename_exchange(slot.fd, slot.name, place.fd, place.name)
    except OSError:
        _return(slot, staged)
        raise
    if not exchanged:
        _return(slot, staged)
        return _replace_weakly(staged, place, expected, aside)
    if not _is(expected, fsops.lstat(slot.fd, slot.name), exact=False):
        return Swapped(_put_back(slot, place, newcomer, aside))
    if expected.kind == DIR:
        try:
            fsops.remove_dir(slot.fd, slot.name)  # it was emptied before
        except OSError as error:
            reason = _put_back(slot, place, newcomer, aside)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return Swapped(NEW_BELOW if reason == CHANGED else reason)
            raise
        return Swapped()
    aside.backup.kept += 1
    return Swapped()


def _return(slot: At, staged: At) -> None:
    """Take a newcomer that has not been anywhere back into the stage."""
    with contextlib.suppress(OSError):
        fsops.rename_noreplace(slot.fd, slot.name, staged.fd, staged.name)


def _put_back(slot: At, place: At, newcomer: Seen, aside: Aside) -> str:
    """Give what was displaced by mistake its name again, by an exchange; return the reason.

    What that displaces in turn should be our newcomer, which stays in the backup for as long as
    somebody may be writing into it. If it is not, it is a second version that somebody wrote,
    and lies beside the first from now on.
    """
    try:
        if not fsops.rename_exchange(slot.fd, slot.name, place.fd, place.name):
            return _kept(aside)
    except FileNotFoundError:
        return _give_name(slot, place, aside)  # ours was deleted meanwhile
    except OSError:
        return _kept(aside)
    if _is(newcomer, fsops.lstat(slot.fd, slot.name), exact=False):
        return CHANGED
    return _set_beside(slot, place, aside)


def _give_name(slot: At, place: At, aside: Aside) -> str:
    """Move an object that was displaced by mistake to its name, or beside it if that is taken."""
    try:
        fsops.rename_noreplace(slot.fd, slot.name, place.fd, place.name)
    except FileExistsError:
        return _set_beside(slot, place, aside)
    except OSError:
        return _kept(aside)
    return CHANGED


def _set_beside(slot: At, place: At, aside: Aside) -> str:
    """Show the second of two versions under the name of a copy, or leave it in the backup."""
    try:
        copy = copy_name(slot.fd, slot.name, place.name, aside.replica)
        fsops.rename_noreplace(slot.fd, slot.name, place.fd, copy)
    except OSError:
        return _kept(aside)
    return f"{CHANGED}, twice; one version is now {display(copy)}"


def _kept(aside: Aside) -> str:
    """Leave an object that should not be in the backup there; the next session speaks of it."""
    aside.backup.kept += 1
    return _IN_BACKUP


def _replace_weakly(staged: At, place: At, expected: Seen, aside: Aside) -> Swapped:
    """Without an exchange: move the old object aside, then the new one in.

    The name is missing for a moment; an object created in that moment is kept.
    """
    if expected.kind == DIR:
        fsops.remove_dir(place.fd, place.name)
        return create(staged, place)._replace(weak=True)
    slot, reason = _take(place, expected, aside)
    if reason:
        return Swapped(reason, weak=True)
    try:
        return create(staged, place)._replace(weak=True)
    except OSError:
        _give_name(slot, place, aside)
        raise


def remove(place: At, expected: Seen, aside: Aside) -> Swapped:
    """Move a file or link into the backup, unless it is not what the scan saw."""
    if not _is_there(expected, place):
        return Swapped(CHANGED)
    return Swapped(_take(place, expected, aside)[1])


def _take(place: At, expected: Seen, aside: Aside) -> tuple[At, str]:
    """Move an object into the backup and verify it there: where it is, and "" or what was wrong."""
    slot = At(*aside.backup.take(place.fd, place.name, aside.path, expected))
    if not _is(expected, fsops.lstat(slot.fd, slot.name), exact=False):
        return slot, _give_name(slot, place, aside)
    aside.backup.kept += 1
    return slot, ""


def remove_dir(place: At) -> Swapped:
    """Remove a directory that must be empty by now."""
    try:
        fsops.remove_dir(place.fd, place.name)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return Swapped(NEW_BELOW)
        raise
    return Swapped()


def _holds_something(place: At) -> bool:
    """Tell whether a directory that is to go is not empty, before it is touched."""
    fd = fsops.open_dir(place.fd, place.name)
    try:
        return bool(fsops.names(fd))
    finally:
        fsops.close(fd)


def _is_there(expected: Seen, place: At) -> bool:
    """Tell whether a name still holds what the scan saw."""
    try:
        status = fsops.lstat(place.fd, place.name)
    except FileNotFoundError:
        return False
    if _is(expected, status, exact=True):
        return True
    # Another name of the same file came or went, as when it was displaced an instant ago, or its
    # owner changed: that sets ctime and is no edit. What it holds tells one from the other.
    return _is(expected, status, exact=False) and _holds(expected, place)


def _holds(expected: Seen, place: At) -> bool:
    """Tell whether an object of which only ctime is another has the contents that were scanned."""
    if expected.kind != FILE:
        return True  # a symlink's text cannot be changed
    if expected.digest is None:
        return False
    fd = fsops.open_file(place.fd, place.name)
    try:
        before = fsops.fstat(fd)
        same = digest_file(fd, expected.size) == expected.digest
        return same and seen(fsops.fstat(fd)) == seen(before) and before.st_ino == expected.inode
    finally:
        fsops.close(fd)


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
