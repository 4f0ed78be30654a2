# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is not synced and belongs to where an object lies: its owner, ACL, label, extra attributes.

What replaces an object keeps all that of it, where that is permitted; else the item says what was
lost. A new object gets what creating it in its directory would have given: group and ACL.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

from . import fsops

ACCESS_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"

# What to call them; other attributes (capabilities, checksums of the contents) go with contents.
_NAMES = {ACCESS_ACL: "ACL", DEFAULT_ACL: "ACL", "security.selinux": "label"}
_USERS = "user."


@dataclass(frozen=True)
class Owner:
    """Who an object belongs to where it will lie, and with what; -1 leaves it as it is.

    lost: what cannot be kept of what it replaces, in words; more is added when setting it fails.
    """

    uid: int = -1
    gid: int = -1
    set_gid: bool = False
    attributes: tuple[tuple[str, bytes], ...] = ()
    lost: list[str] = field(default_factory=list)


def of_new(directory: int) -> Owner:
    """What a new object gets in a directory that is held open. Raises OSError."""
    parent = fsops.fstat(directory)
    acl = fsops.attribute(directory, DEFAULT_ACL)
    uid, gid, __ = _permitted(parent.st_uid, parent.st_gid, follows=_set_gid(parent))
    return Owner(uid, gid, _set_gid(parent), () if acl is None else ((DEFAULT_ACL, acl),))


def of_replaced(parent: int, name: bytes) -> Owner:
    """What an object keeps of the one that it replaces. Raises OSError."""
    status = fsops.lstat(parent, name)
    lost: list[str] = []
    found: list[tuple[str, bytes]] = []
    if stat.S_ISREG(status.st_mode):
        found = _kept(parent, name, lost)
    uid, gid, missing = _permitted(status.st_uid, status.st_gid, follows=True)
    set_gid = _set_gid(fsops.fstat(parent))
    return Owner(uid, gid, set_gid, tuple(found), missing + lost)


def give(fd: int, owner: Owner) -> None:
    """Set owner, group and attributes of an open file or directory, before its mode.

    Raises OSError, but for an attribute that cannot be stored: that is noted as lost.
    """
    if owner.uid >= 0 or owner.gid >= 0:
        fsops.set_owner(fd, owner.uid, owner.gid)
    if not owner.attributes:
        return
    is_dir = stat.S_ISDIR(fsops.fstat(fd).st_mode)
    for name, value in owner.attributes:
        try:
            if name != DEFAULT_ACL or is_dir:
                fsops.set_attribute(fd, name, value)
            if name == DEFAULT_ACL:
                fsops.set_attribute(fd, ACCESS_ACL, value)  # as the kernel hands it down
        except OSError as error:
            if error.errno in (errno.EIO, errno.EROFS):
                raise
            what = _NAMES.get(name, name)
            if what not in owner.lost:
                owner.lost.append(what)


def _kept(parent: int, name: bytes, lost: list[str]) -> list[tuple[str, bytes]]:
    """The attributes of a file that what replaces it keeps."""
    try:
        fd = fsops.open_file(parent, name)
    except PermissionError:
        lost.append("what it had of ACL and attributes")
        return []
    try:
        found: list[tuple[str, bytes]] = []
        for attribute in fsops.attribute_names(fd):
            if attribute in _NAMES or attribute.startswith(_USERS):
                value = fsops.attribute(fd, attribute)
                if value is not None:
                    found.append((attribute, value))
        return found
    finally:
        fsops.close(fd)


def _permitted(uid: int, gid: int, *, follows: bool) -> tuple[int, int, list[str]]:
    """Owner and group to set, and what this user may not give.

    Only root can give files away. Others can give them to a group they are in, and do so when
    the group is to follow.
    """
    own_uid, own_gid = os.geteuid(), os.getegid()
    if own_uid == 0:
        return (-1, -1, []) if (uid, gid) == (0, own_gid) else (uid, gid, [])
    lost = [] if uid == own_uid else ["its owner"]
    if not follows or gid == own_gid:
        return -1, -1, lost
    if gid in os.getgroups():
        return -1, gid, lost
    return -1, -1, [*lost, "its group"]


def _set_gid(parent: os.stat_result) -> bool:
    return bool(parent.st_mode & stat.S_ISGID)
