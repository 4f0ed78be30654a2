# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change small files in a user's home: as that user, under a lock beside the file, in one step.

As root, a path in somebody's home must not be followed with root's rights: its owner may have put
a symlink there. A home may also be shared by several hosts, or closed to root (NFS).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from . import occupancy

if TYPE_CHECKING:
    import pwd

LOCK_SECONDS = 60.0


@contextlib.contextmanager
def acting_as(user: pwd.struct_passwd) -> Iterator[None]:
    """Have the rights of USER, and make files of theirs; only root can be somebody else."""
    mask = os.umask(0o077)
    groups = os.getgroups()
    own = (os.geteuid(), os.getegid())
    try:
        if own[0] == 0 and user.pw_uid != 0:
            os.initgroups(user.pw_name, user.pw_gid)
            os.setegid(user.pw_gid)
            os.seteuid(user.pw_uid)
        yield
    finally:
        if os.geteuid() != own[0]:
            os.seteuid(own[0])
            os.setegid(own[1])
            os.setgroups(groups)
        os.umask(mask)


def read(path: Path) -> str:
    """Return the text of a file, whatever its bytes; "" when there is none."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""


def edit(path: Path, change: Callable[[str], str], mode: int = 0o600) -> None:
    """Give the file PATH the text that CHANGE makes of its text; no text means no file.

    Its directory must be there. An existing file keeps its mode and group; where PATH is a symlink,
    the file that it leads to is changed. Raises OSError, and TimeoutError when somebody else holds
    the lock.
    """
    path = Path(os.path.realpath(path))
    lock = path.with_name(f".{path.name}.pairsync-lock")
    with occupancy.locked(lock, LOCK_SECONDS):
        try:
            before = read(path)
            after = change(before)
            if after == "":
                path.unlink(missing_ok=True)
            elif after != before or not path.exists():
                write(path, after, mode)
        finally:
            lock.unlink(missing_ok=True)


def write(path: Path, text: str, mode: int) -> None:
    """Give the file PATH the contents TEXT in one step, durably; a new one gets MODE."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8", "surrogateescape"))
            stream.flush()
            try:
                known = path.stat()
            except FileNotFoundError:
                os.fchmod(handle, mode)
            else:
                os.fchmod(handle, stat.S_IMODE(known.st_mode))
                with contextlib.suppress(PermissionError):  # a group that the user has left
                    os.fchown(handle, -1, known.st_gid)
            os.fsync(handle)
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
