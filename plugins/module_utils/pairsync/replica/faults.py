# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an error of the operating system, of SQLite or of our own code is to a session."""

from __future__ import annotations

import errno
import sqlite3
import traceback
from typing import Optional

from ..model.errors import PairsyncError

_WHOLE_FILE_SYSTEM = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "has no quota left",
    errno.EROFS: "is read-only",
    errno.EIO: "reports input/output errors",
}
_USED_UP = {
    errno.EMFILE: "this process may open no more files",
    errno.ENFILE: "the system may open no more files",
    errno.ENOMEM: "the system has no memory left",
    errno.EFBIG: "a file may not grow beyond a limit of this process or its file system",
    errno.EMLINK: "a directory may hold no more directories",
}
_REFUSED = (errno.EACCES, errno.EPERM)
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)


def of_file_system(error: OSError) -> Optional[PairsyncError]:
    """The fatal error, when one is not about a single path but about the whole file system."""
    what = _WHOLE_FILE_SYSTEM.get(error.errno or 0)
    if what is None:
        return None
    return PairsyncError(
        "space",
        f"the file system {what}",
        "put that right and run the same command again; nothing was lost",
    )


def as_fatal(error: Exception) -> PairsyncError:
    """Any error as the one that ends a session."""
    if isinstance(error, PairsyncError):
        return error
    if isinstance(error, OSError):
        found = of_file_system(error) or _of_system(error)
        if found is not None:
            return found
    if isinstance(error, sqlite3.Error) and "full" in str(error):
        return PairsyncError(
            "space",
            "the file system is full: what was agreed on cannot be written",
            "make room and run the same command again; nothing was lost",
        )
    return _of_ours(error)


def _of_system(error: OSError) -> Optional[PairsyncError]:
    """An error that hit what a session itself stands on: its state, the root, the process."""
    said = (error.strerror or str(error)).lower()
    if error.errno in _USED_UP:
        return PairsyncError(
            "space",
            _USED_UP[error.errno],
            "let other programs end, or raise the limit, and run the same command again;"
            " nothing was lost",
        )
    if error.errno in _REFUSED:
        return PairsyncError(
            "root_identity",
            f"the system does not let this user work in the root or its .pairsync: {said}",
            "give both to the user who syncs, and run the same command again",
        )
    if error.errno in _VANISHED:
        return PairsyncError(
            "root_missing",
            f"a part of the root or of its .pairsync vanished while the session ran: {said}",
            "see that it is mounted and that nothing else changes .pairsync,"
            " and run the same command again",
        )
    if error.errno == errno.EBUSY:
        return PairsyncError(
            "locked",
            f"something else uses a part of the root or of its .pairsync: {said}",
            "end that, or unmount it, and run the same command again",
        )
    return None


def _of_ours(error: Exception) -> PairsyncError:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].name}:{frames[-1].lineno}" if frames else ""
    said = " ".join(str(error).split())[:200]
    return PairsyncError(
        "internal",
        f"pairsync failed in a way it should not: {type(error).__name__}{where}: {said}",
        "run the same command again; if it happens again, please report it",
    )
