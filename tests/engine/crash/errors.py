# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which errors which call can give, and what else gives them when they are there for good."""

from __future__ import annotations

import fcntl
import os
from errno import (
    EACCES,
    EBUSY,
    EDQUOT,
    EEXIST,
    EFBIG,
    EINTR,
    EIO,
    ELOOP,
    EMFILE,
    EMLINK,
    ENFILE,
    ENOENT,
    ENOLCK,
    ENOMEM,
    ENOSPC,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
    EROFS,
    ESTALE,
    EXDEV,
)

from tests.engine.crash.seam import Call

FULL = (ENOSPC, EDQUOT)
WHOLE_FILE_SYSTEM = (*FULL, EROFS)
RESOURCES = (EMFILE, ENFILE, ENOMEM)
PASSING = (EINTR, EEXIST)  # never there for good: the next try is for another name
GONE = (ENOENT, ENOTDIR, ELOOP)  # what a path that somebody removes or replaces gives

_LOOKING = (EACCES, EIO, ENOENT, ENOTDIR, ELOOP, ESTALE, ENOMEM)
_OPENING = (*_LOOKING, EMFILE, ENFILE, EPERM)
_NAMING = (EACCES, EPERM, EIO, ENOENT, ESTALE, ENOMEM, *WHOLE_FILE_SYSTEM)
_MARKING = (EPERM, EACCES, EIO, ESTALE, EROFS)

# By call; an open that makes a file is "create". Python goes on by itself after EINTR in what it
# calls, which leaves syncfs.
ERRORS: dict[str, tuple[int, ...]] = {
    "chmod": (*_MARKING, ENOENT),
    "chown": (*_MARKING, ENOENT, EDQUOT),
    "close": (EIO, *FULL),  # of what was written to
    "create": (*_OPENING, *WHOLE_FILE_SYSTEM, EEXIST),
    "dup": (EMFILE,),
    # In a listing; there, ENOENT is no fault but a deletion.
    "entry": (EACCES, EIO, ESTALE, ENOMEM),
    "fchmod": _MARKING,
    "fchown": (*_MARKING, EDQUOT),
    "flock": (ENOLCK, EIO, ENOMEM),
    "fstat": (EIO, ESTALE, ENOMEM),
    "fstatvfs": (EIO, EACCES, ESTALE),
    "fsync": (EIO, *WHOLE_FILE_SYSTEM),
    "ftruncate": (EIO, EROFS, EPERM),
    "link": (*_NAMING, EEXIST, EMLINK, EXDEV),
    "listdir": (*_LOOKING, EMFILE),
    "mkdir": (*_NAMING, EEXIST, EMLINK),
    "open": _OPENING,
    "pread": (EIO, ESTALE),
    "pwrite": (EIO, EFBIG, ESTALE, *FULL),
    "read": (EIO, ESTALE),
    "readlink": (EACCES, EIO, ENOENT, ESTALE, ENOMEM),
    "rename": (*_NAMING, EXDEV, EBUSY),
    "renameat2": (*_NAMING, EXDEV, EBUSY, EEXIST),
    "rmdir": (EACCES, EPERM, EIO, ENOENT, EROFS, EBUSY, ENOTEMPTY, ESTALE),
    "scandir": (*_LOOKING, EMFILE),
    "stat": (EACCES, EIO, ENOENT, ESTALE, ENOMEM),
    "symlink": (*_NAMING, EEXIST),
    "syncfs": (EIO, *WHOLE_FILE_SYSTEM, EINTR),
    "unlink": (EACCES, EPERM, EIO, ENOENT, EROFS, EBUSY, ESTALE),
    "utime": _MARKING,
    "write": (EIO, EFBIG, ESTALE, *FULL),
}

# One of each kind that the engine can tell apart: the others take a night.
TELLING = frozenset({EIO, ENOSPC, EACCES, ENOENT, EEXIST, ENOTEMPTY, EXDEV, EINTR, ENOLCK})


def kind(call: Call) -> str:
    """What decides on a call's errors: mostly its name."""
    if call.making:
        return "create"
    return "entry" if call.name == "stat" and call.listed else call.name


def possible(call: Call) -> tuple[int, ...]:
    """What a call can fail with. SQLite has errors of its own, and a base its own tests."""
    if call.name == "close" and not _written(call.arguments[0]):
        return ()
    if call.making and not call.arguments[1] & os.O_EXCL:
        return tuple(error for error in ERRORS["create"] if error != EEXIST)
    if call.name == "readlink" and call.arguments[0][:6] == b"/proc/":
        return ()  # the path of something that is open
    found = ERRORS.get(kind(call), ())
    if ELOOP in found and b"/.pairsync/" in call.path():
        # It says that somebody has put a symlink there, which is damage and has its own tests.
        return tuple(error for error in found if error != ELOOP)
    return found


def _written(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def is_about_all(error: int, kind: str) -> bool:
    """Whether an error at such a call speaks of the file system, not of a path."""
    written = kind in ("fsync", "syncfs", "write")
    return error in WHOLE_FILE_SYSTEM or (error == EIO and written)


def stays(error: int, first: tuple[str, bytes], call: Call, root: bytes) -> bool:
    """Whether an error that came at one call, and is there for good, comes at a later one too.

    first: kind and path of that call. root: of the replica it was on.
    """
    if error not in possible(call):
        return False
    if error in RESOURCES:
        return kind(call) == first[0]
    path = call.path()
    if is_about_all(error, first[0]):
        changing = call.changing or call.name in ("fsync", "syncfs")
        return changing and (path == root or path.startswith(root + b"/"))
    return (kind(call), path) == first
