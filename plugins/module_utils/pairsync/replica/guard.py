# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file system a root is on, and what is mounted below it.

The identity is what survives a remount: the type, with the UUID of a disk or the name of an
export. Device numbers change with every remount and prove nothing.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
from typing import NamedTuple

from . import fsops

_MOUNTS = "/proc/self/mountinfo"
_UUIDS = "/dev/disk/by-uuid"
# Their statvfs id is made from the volume's UUID.
_FSID_IS_UUID = frozenset({"ext2", "ext3", "ext4", "btrfs", "f2fs"})


class _Mount(NamedTuple):
    point: bytes
    kind: str
    source: str


def file_system(root_fd: int) -> str:
    """The identity of the file system that holds a root, such as `ext4 6f1c…`."""
    path = fsops.real_path(root_fd)
    best = _Mount(b"", "unknown", "")
    for mount in _mounts():
        inside = path == mount.point or path.startswith(mount.point.rstrip(b"/") + b"/")
        # Later lines cover earlier ones at the same point.
        if inside and len(mount.point) >= len(best.point):
            best = mount
    return f"{best.kind} {_volume(best, root_fd)}".strip()


def mounts_below(root_fd: int) -> frozenset[bytes]:
    """Paths relative to the root at which something else is mounted."""
    prefix = fsops.real_path(root_fd).rstrip(b"/") + b"/"
    return frozenset(
        mount.point[len(prefix) :]
        for mount in _mounts()
        if mount.point.startswith(prefix) and len(mount.point) > len(prefix)
    )


def same_file_system(now: str, then: str) -> bool:
    """Tell whether two identities can be those of one file system; then: "" for unknown.

    A volume that could not be told, where no udev runs, contradicts none.
    """
    if not then:
        return True
    kind, __, volume = now.partition(" ")
    known_kind, __, known_volume = then.partition(" ")
    return kind == known_kind and (not volume or not known_volume or volume == known_volume)


def _volume(mount: _Mount, root_fd: int) -> str:
    # The same wherever it is asked: in a container, there are no names of disks.
    if mount.kind in _FSID_IS_UUID:
        return f"{fsops.volume_id(root_fd):016x}"
    if mount.source.startswith("/dev/"):
        with contextlib.suppress(OSError):  # no udev here
            device = os.path.realpath(mount.source)
            for name in os.listdir(_UUIDS):
                if os.path.realpath(os.path.join(_UUIDS, name)) == device:
                    return name
        return ""
    return mount.source if mount.kind.startswith(("nfs", "fuse", "cifs", "lustre", "ceph")) else ""


def _mounts() -> list[_Mount]:
    try:
        with open(_MOUNTS, "rb") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        left, __, right = line.partition(b" - ")
        fields, rest = left.split(b" "), right.split(b" ")
        if len(fields) >= 5 and len(rest) >= 2:
            kind, source = rest[0].decode("ascii", "replace"), os.fsdecode(rest[1])
            found.append(_Mount(_unescaped(fields[4]), kind, source))
    return found


def _unescaped(text: bytes) -> bytes:
    """Mountinfo writes space, tab, newline and backslash as three octal digits."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text)


def lineage(path: bytes) -> tuple[str, tuple[str, ...]]:
    """Names of a directory and of those above it that are the same for every path to them."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            machine = stream.read().strip()
    except OSError:
        machine = socket.gethostname()

    def name(one: bytes) -> str:
        status = fsops.stat_root(one)
        return f"{machine}:{status.st_dev}:{status.st_ino}"

    above = []
    one = path
    while one not in (b"/", b""):
        one = os.path.dirname(one)
        above.append(name(one or b"/"))
    return name(path), tuple(above)


def user_name() -> str:
    """Whom this process runs as."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
