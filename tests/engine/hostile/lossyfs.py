# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mounted file system that does to names what FAT, HFS+, NTFS and their like do.

Run as `python -m tests.engine.hostile.lossyfs BACKING MOUNTPOINT RULE…`: BACKING shows through at
MOUNTPOINT, changed by the rules below. Where tests run, the kernel need not know such file
systems, but does know FUSE. Ends when its standard input does, and the mount with it.

case     names differ only if they do so in more than upper and lower case; they keep their case
nfc      names are stored in Unicode's composed form
dots     full stops at the end of a name are dropped, as Linux does on FAT
strict   no : * ? " < > | and control characters, no space at the end, nothing but UTF-8 (EINVAL)
plain    no symlinks, no hard links, one mode for all, as on FAT
weak     no renameat2 flags
"""

# ruff: noqa: ARG002 - names and signatures are the library's
from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import mfusepy

REFUSED = frozenset(b':*?"<>|' + bytes(range(32)))
PLAIN_MODE = 0o755
STATS = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")

_libc = ctypes.CDLL(None, use_errno=True)


class Lossy(mfusepy.Operations):
    """The operations, on paths as text in which bytes that are no UTF-8 are surrogates."""

    use_ns = True

    def __init__(self, backing: bytes, rules: frozenset[str]) -> None:
        self.backing = backing
        self.rules = rules

    # -- names ----------------------------------------------------------------------------------

    def _stored(self, name: bytes) -> bytes:
        """The form in which a name is written; OSError where it cannot be."""
        if "strict" in self.rules:
            if REFUSED & set(name) or name.endswith(b" "):
                raise OSError(errno.EINVAL, "name")
            try:
                name.decode()
            except UnicodeDecodeError as error:
                raise OSError(errno.EINVAL, "name") from error
        if "dots" in self.rules:
            name = name.rstrip(b".") or name
        if "nfc" in self.rules:
            text = name.decode("utf-8", "surrogateescape")
            name = unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")
        return name

    def _key(self, name: bytes) -> bytes:
        name = self._stored(name)
        if "case" not in self.rules:
            return name
        return name.decode("utf-8", "surrogateescape").casefold().encode("utf-8", "surrogateescape")

    def _real(self, path: str) -> bytes:
        """Where a path lies in the backing tree: under the name that is there, if any fits."""
        real = self.backing
        for part in filter(None, os.fsencode(path).split(b"/")):
            key = self._key(part)
            there = os.listdir(real) if os.path.isdir(real) else []
            found = next((name for name in there if self._key(name) == key), None)
            real = os.path.join(real, self._stored(part) if found is None else found)
        return real

    # -- what is there --------------------------------------------------------------------------

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.fstat(fh) if fh else os.lstat(self._real(path))
        told = {name: getattr(found, name) for name in STATS}
        told.update(st_mtime=found.st_mtime_ns, st_atime=found.st_atime_ns)
        told.update(st_ctime=found.st_ctime_ns)
        if "plain" in self.rules:
            told["st_mode"] = stat.S_IFMT(found.st_mode) | PLAIN_MODE
        return told

    def readdir(self, path: str, fh: int) -> Iterable[Any]:
        # An entry without an inode number counts as deleted.
        with os.scandir(self._real(path)) as entries:
            inner = [(os.fsdecode(one.name), {"st_ino": one.inode()}, 0) for one in entries]
        return [(name, {"st_ino": 1}, 0) for name in (".", "..")] + inner

    def readlink(self, path: str) -> str:
        return os.fsdecode(os.readlink(self._real(path)))

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self.backing)
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}

    # -- contents -------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        return os.open(self._real(path), flags & ~os.O_NOFOLLOW)

    def create(self, path: str, mode: int, flags: int) -> int:
        return os.open(self._real(path), flags & ~os.O_NOFOLLOW, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(fh or self._real(path), length)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        os.fsync(fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    # -- changes --------------------------------------------------------------------------------

    def chmod(self, path: str, mode: int) -> int:
        if "plain" not in self.rules:
            os.chmod(self._real(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.lchown(self._real(path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self._real(path), ns=times, follow_symlinks=False)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._real(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._real(path))
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._real(path))
        return 0

    def symlink(self, target: str, source: str) -> int:
        if "plain" in self.rules:
            raise OSError(errno.EPERM, "symlink")
        os.symlink(os.fsencode(source), self._real(target))
        return 0

    def link(self, target: str, source: str) -> int:
        if "plain" in self.rules:
            raise OSError(errno.EPERM, "link")
        os.link(self._real(source), self._real(target), follow_symlinks=False)
        return 0

    def rename(self, old: str, new: str, flags: int = 0) -> int:
        if flags and "weak" in self.rules:
            raise OSError(errno.EINVAL, "flags")
        source, target = self._real(old), self._real(new)
        if source == target:  # a name changes its case
            wanted = self._stored(os.fsencode(new).rpartition(b"/")[2])
            target = os.path.join(os.path.dirname(target), wanted)
        if _libc.renameat2(-100, source, -100, target, ctypes.c_uint(flags)) != 0:
            raise OSError(ctypes.get_errno(), "rename")
        return 0


class WithFlags(mfusepy.FUSE):
    """The library drops the flags of renameat2."""

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
        return self.operations.rename(os.fsdecode(old), os.fsdecode(new), flags)


def _end_with(stream: Any, end: Callable[[int], None]) -> None:
    stream.read()
    end(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(sys.stdin, os._exit), daemon=True).start()
    WithFlags(
        Lossy(os.fsencode(sys.argv[1]), frozenset(sys.argv[3:])),
        sys.argv[2],
        foreground=True,
        nothreads=True,
        use_ino=True,
        hard_remove=True,
        # What the kernel remembers of names would be wrong where several mean one file.
        entry_timeout=0,
        negative_timeout=0,
        attr_timeout=0,
    )
