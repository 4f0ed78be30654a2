# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file system a root is on, and what is mounted below it.

The identity is what survives a remount: the type, with the UUID of a disk or the name of an
export. Device numbers change with every remount and prove nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import socket
import stat
from collections.abc import Iterator
from typing import NamedTuple, Optional

from . import fsops

_MOUNTS = "/proc/self/mountinfo"
_UUIDS = "/dev/disk/by-uuid"
# Their statvfs id is made from the volume's UUID.
_FSID_IS_UUID = frozenset({"ext2", "ext3", "ext4", "btrfs", "f2fs"})
# Made for a single user: owner and permissions of everything are options of the mount.
_NO_OWNERS = frozenset(
    {"vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "cifs", "smb3", "fuse"}
)
# With these options, flock is known to this host alone.
_LOCAL_FLOCK = frozenset({"nolock", "local_lock=all", "local_lock=flock", "localflock"})


class _Mount(NamedTuple):
    """One mount. root: what of its file system is seen at the point. device: major:minor."""

    point: bytes
    kind: str
    source: str
    root: bytes = b"/"
    device: bytes = b""
    options: frozenset[str] = frozenset()


def file_system(root_fd: int) -> str:
    """The identity of the file system that holds a root, such as `ext4 6f1c…`."""
    best = _holder(fsops.real_path(root_fd), _mounts())
    return f"{best.kind} {_volume(best, root_fd)}".strip()


def mounts_below(root_fd: int) -> frozenset[bytes]:
    """Paths relative to the root at which something else is mounted."""
    prefix = fsops.real_path(root_fd).rstrip(b"/") + b"/"
    return frozenset(
        mount.point[len(prefix) :]
        for mount in _mounts()
        if mount.point.startswith(prefix) and len(mount.point) > len(prefix)
    )


def stores_modes(fd: int) -> bool:
    """Tell whether permission bits are kept where a file of ours lies; FAT and its like do not."""
    try:
        for mode in (0o640, 0o600):
            fsops.set_mode(fd, mode)
            if stat.S_IMODE(fsops.fstat(fd).st_mode) != mode:
                return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return False
    return True


def keeps_owners(fd: int) -> bool:
    """Tell whether who may write is a matter of the file system, and not of how it is mounted."""
    return _holder(fsops.real_path(fd), _mounts()).kind not in _NO_OWNERS


def same_file_system(now: str, then: str) -> bool:
    """Tell whether two identities can be those of one file system; then: "" for unknown.

    A volume that could not be told, where no udev runs, contradicts none.
    """
    if not then:
        return True
    kind, __, volume = now.partition(" ")
    known_kind, __, known_volume = then.partition(" ")
    return kind == known_kind and (not volume or not known_volume or volume == known_volume)


def flock_reaches_all(fd: int) -> bool:
    """Tell whether flock keeps out other hosts that see the same files, as far as mounts tell."""
    device = fsops.fstat(fd).st_dev
    if device not in _flock:  # asked before every lock
        mount = _holder(fsops.real_path(fd), _mounts())
        _flock[device] = not mount.options & _LOCAL_FLOCK
    return _flock[device]


_flock: dict[int, bool] = {}


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
        return fsops.volume_uuid(root_fd)
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
            found.append(
                _Mount(
                    _unescaped(fields[4]),
                    kind,
                    source,
                    _unescaped(fields[3]),
                    fields[2],
                    frozenset(b",".join(rest[2:]).decode("ascii", "replace").split(",")),
                )
            )
    return found


def _holder(path: bytes, mounts: list[_Mount]) -> _Mount:
    """The mount that a path lies on."""
    best = _Mount(b"", "unknown", "")
    for mount in mounts:
        # Later lines cover earlier ones at the same point.
        if _within(path, mount.point) is not None and len(mount.point) >= len(best.point):
            best = mount
    return best


def _within(path: bytes, top: bytes) -> Optional[bytes]:
    """What follows the directory `top` in a path that is it or lies below it."""
    if path == top or path.startswith(top.rstrip(b"/") + b"/"):
        return path[len(top.rstrip(b"/")) :].strip(b"/")
    return None


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

    itself = name(path)
    above = []
    for place in (path, *_also_at(path)):
        with contextlib.suppress(OSError):  # hidden there by another mount, or not for us to see
            if name(place) == itself:
                above += [name(directory) for directory in _above(place)]
    return itself, tuple(dict.fromkeys(above))


def _above(path: bytes) -> Iterator[bytes]:
    while path not in (b"/", b""):
        path = os.path.dirname(path) or b"/"
        yield path


def _also_at(path: bytes) -> Iterator[bytes]:
    """Where else a directory may be seen: a part of its file system may be mounted twice."""
    mounts = _mounts()
    held = _holder(path, mounts)
    inside = os.path.join(held.root, _within(path, held.point) or b"")
    for mount in mounts:
        rest = _within(inside, mount.root)
        if mount != held and mount.device == held.device and rest is not None:
            yield os.path.join(mount.point, rest).rstrip(b"/") or b"/"


def user_name() -> str:
    """Whom this process runs as."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
