# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only file that makes system calls on a replica.

Every function takes a held directory descriptor and one name: no path string below a root ever
reaches the kernel, so a directory that turns into a symlink cannot lead a call astray. Tests
replace functions of this module to inject faults, crashes and edits at every call.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import sys
from signal import SIGURG
from typing import Callable, Optional, Union

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
_GET_UUID = 0x80111500  # FS_IOC_GETFSUUID, Linux 6.9

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a file that turns into a pipe must not hang its reader.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_ENCODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

Listed = Union[os.stat_result, OSError]


def open_root(path: bytes) -> int:
    """Open a root directory as its operator named it; a symlink there is followed once."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def make_root(path: bytes) -> None:
    """Make a root directory as its operator named it."""
    os.mkdir(path, 0o777)


def stat_root(path: bytes) -> os.stat_result:
    """Stat a root, or a directory above one, as its operator named it."""
    return os.stat(path)


def open_dir(parent: int, name: bytes) -> int:
    """Open a directory below a held one; never through a symlink."""
    return os.open(name, _DIR_FLAGS, dir_fd=parent)


def list_dir(fd: int) -> list[tuple[bytes, Listed]]:
    """All entries of a directory with their lstat, or the error that lstat gave, in name order."""
    found: list[tuple[bytes, Listed]] = []
    encoding, errors = _ENCODING  # what os.fsencode uses, which takes three times as long
    with os.scandir(fd) as entries:
        for entry in entries:
            name = entry.name.encode(encoding, errors)
            try:
                found.append((name, entry.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue  # deleted between the listing and now
            except OSError as error:
                found.append((name, error))
    found.sort(key=_first)
    return found


def _first(pair: tuple[bytes, Listed]) -> bytes:
    return pair[0]


def names(fd: int) -> list[bytes]:
    """The names in a directory, unordered."""
    return [os.fsencode(name) for name in os.listdir(fd)]


def duplicate(fd: int) -> int:
    """Another descriptor of an open directory."""
    return os.dup(fd)


def lstat(parent: int, name: bytes) -> os.stat_result:
    """Stat an entry itself, not what it points to."""
    return os.stat(name, dir_fd=parent, follow_symlinks=False)


def fstat(fd: int) -> os.stat_result:
    """Stat an open file."""
    return os.fstat(fd)


def read_link(parent: int, name: bytes) -> bytes:
    """The text of a symlink."""
    return os.readlink(name, dir_fd=parent)


def open_file(parent: int, name: bytes) -> int:
    """Open a regular file for reading; ELOOP for a symlink, EINVAL for anything else."""
    fd = os.open(name, _READ_FLAGS, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return fd


def reopen(fd: int) -> int:
    """Open the very file behind a descriptor once more, at its beginning."""
    return os.open(b"/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_CLOEXEC)


def read(fd: int, size: int) -> bytes:
    """Read exactly size bytes, or what there is before the end of the file."""
    data = os.read(fd, size)
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing:
        data = os.read(fd, missing)
        if not data:
            break
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def create_file(parent: int, name: bytes, mode: int = 0o600) -> int:
    """Create a new file for writing; EEXIST when the name is taken."""
    return os.open(name, _NEW_FLAGS, mode, dir_fd=parent)


def write(fd: int, data: Union[bytes, memoryview]) -> None:
    """Write all of data."""
    done = os.write(fd, data)
    if done < len(data):
        view = memoryview(data)
        while done < len(view):
            done += os.write(fd, view[done:])


def make_dir(parent: int, name: bytes, mode: int = 0o700) -> None:
    """Make a directory."""
    os.mkdir(name, mode, dir_fd=parent)


def make_link(parent: int, name: bytes, target: bytes) -> None:
    """Make a symlink with this text."""
    os.symlink(target, name, dir_fd=parent)


def set_mode(fd: int, mode: int) -> None:
    """Set the permission bits of an open file or directory."""
    os.fchmod(fd, mode)


def set_mode_at(parent: int, name: bytes, mode: int) -> None:
    """Set the permission bits of an entry that need not be readable; ELOOP for a symlink."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        os.chmod(b"/proc/self/fd/%d" % fd, mode)
    finally:
        os.close(fd)


def set_owner(fd: int, uid: int, gid: int) -> None:
    """Set owner and group of an open file or directory."""
    os.fchown(fd, uid, gid)


def set_link_owner(parent: int, name: bytes, uid: int, gid: int) -> None:
    """Set owner and group of a symlink."""
    os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)


def attribute_names(fd: int) -> list[str]:
    """The names of an open file's extended attributes; none where there is no such thing."""
    try:
        return os.listxattr(fd)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return []
        raise


def attribute(fd: int, name: str) -> Optional[bytes]:
    """An extended attribute of an open file or directory; None when it has no such."""
    try:
        return os.getxattr(fd, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.ENOSYS):
            return None
        raise


def set_attribute(fd: int, name: str, value: bytes) -> None:
    """Set an extended attribute of an open file or directory."""
    os.setxattr(fd, name, value)


def set_mtime(fd: int, mtime_ns: int) -> None:
    """Set the modification time, in nanoseconds; the access time becomes the same."""
    os.utime(fd, ns=(mtime_ns, mtime_ns))


def set_link_mtime(parent: int, name: bytes, mtime_ns: int) -> None:
    """Set the modification time of a symlink, in nanoseconds."""
    os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)


def touch(fd: int) -> int:
    """Set an open file's times to the file system's own now; return it in nanoseconds."""
    os.utime(fd)
    return os.fstat(fd).st_mtime_ns


def unlink(parent: int, name: bytes) -> None:
    """Remove a name that is not a directory."""
    os.unlink(name, dir_fd=parent)


def remove_dir(parent: int, name: bytes) -> None:
    """Remove an empty directory."""
    os.rmdir(name, dir_fd=parent)


def link(source: int, name: bytes, target: int, new_name: bytes) -> None:
    """Give a file or symlink a second name, which must be free."""
    os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)


def rename(source: int, name: bytes, target: int, new_name: bytes) -> None:
    """Rename within one file system, replacing what is there: for our own state files only."""
    os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)


def rename_noreplace(source: int, name: bytes, target: int, new_name: bytes) -> bool:
    """Rename to a name that must be free, else EEXIST.

    Returns False where the file system cannot promise that in one step, and the weaker way
    (link, then unlink; for a directory a check, then rename) was used.
    """
    if _renameat2(source, name, target, new_name, RENAME_NOREPLACE):
        return True
    if stat.S_ISDIR(lstat(source, name).st_mode):
        try:
            lstat(target, new_name)
        except FileNotFoundError:
            os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
            return False
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    os.unlink(name, dir_fd=source)
    return False


def move_aside(source: int, name: bytes, target: int, new_name: bytes) -> None:
    """Move whatever has a name into a directory of ours, to a name that must be free, else EEXIST.

    One step on every file system, so that what somebody saves meanwhile is moved or stays, and
    is never removed: nobody but us makes names in the target, so that looking first is enough.
    """
    if _renameat2(source, name, target, new_name, RENAME_NOREPLACE):
        return
    try:
        lstat(target, new_name)
    except FileNotFoundError:
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def rename_exchange(source: int, name: bytes, target: int, new_name: bytes) -> bool:
    """Swap two names in one step; False where the file system cannot, and nothing was done."""
    return _renameat2(source, name, target, new_name, RENAME_EXCHANGE)


def _renameat2(source: int, name: bytes, target: int, new_name: bytes, flags: int) -> bool:
    """renameat2(2); False when kernel or file system does not know the flags."""
    call = _libc_function("renameat2")
    if call is None:
        return False
    if call(source, name, target, new_name, ctypes.c_uint(flags)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code))


_libc: Optional[ctypes.CDLL] = None


def _libc_function(name: str) -> Optional[Callable[..., int]]:
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    return getattr(_libc, name, None)


def sync_file(fd: int) -> None:
    """Make an open file or directory durable."""
    os.fsync(fd)


def sync_file_system(fd: int) -> bool:
    """Make everything on the descriptor's file system durable; False where there is no syncfs."""
    call = _libc_function("syncfs")
    if call is None:
        return False
    while call(fd) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:  # Python goes on by itself in what it calls, not in this
            raise OSError(code, os.strerror(code))
    return True


def open_note(parent: int, name: bytes) -> int:
    """Open a small file of ours for reading and writing; make it when it is missing."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=parent)


def write_note(fd: int, data: bytes) -> None:
    """Replace the contents of a small file of ours."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)


def read_note(fd: int) -> bytes:
    """The contents of a small file of ours, 4096 bytes at most."""
    return os.pread(fd, 4096, 0)


def try_lock(fd: int) -> bool:
    """Take an exclusive lock, held until the descriptor is closed; False if another has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def keep_still(fd: int) -> bool:
    """Let nobody open a file for writing until fd is closed; False if somebody has it open so.

    True also where that cannot be told: another user's file, a file system without leases.
    """
    try:
        # Whoever opens it meanwhile has the kernel signal us; the usual signal ends a process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True


def close(fd: int) -> None:
    """Close a descriptor."""
    os.close(fd)


def real_path(fd: int) -> bytes:
    """The present absolute path of a held directory."""
    return os.readlink(b"/proc/self/fd/%d" % fd)


def volume_id(fd: int) -> int:
    """The id that the descriptor's file system gives for itself."""
    return os.fstatvfs(fd).f_fsid


def volume_uuid(fd: int) -> str:
    """The UUID of the descriptor's file system, as udev writes it; "" where it tells none."""
    answer = bytearray(17)  # its length, then up to 16 bytes
    try:
        fcntl.ioctl(fd, _GET_UUID, answer)
    except OSError:
        return ""
    digits = answer[1:].hex()
    parts = digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]
    return "-".join(parts) if answer[0] == 16 else ""


def free_bytes(fd: int) -> int:
    """Bytes that this user may still write on the descriptor's file system."""
    numbers = os.fstatvfs(fd)
    return numbers.f_bavail * numbers.f_frsize


def total_bytes(fd: int) -> int:
    """The size of the descriptor's file system, or of the project quota that bounds it there."""
    numbers = os.fstatvfs(fd)
    return numbers.f_blocks * numbers.f_frsize


def free_inodes(fd: int) -> Optional[int]:
    """Entries that may still be created, or None where the file system has no such limit."""
    numbers = os.fstatvfs(fd)
    return numbers.f_favail if numbers.f_files else None
