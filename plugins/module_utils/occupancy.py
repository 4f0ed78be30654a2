# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else is at an installation: the processes that use a version, and other installers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCESSES = Path("/proc")
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def holders(directory: Path) -> list[int]:
    """Return the ids of the processes of this host that use a file below DIRECTORY.

    That is an open file, the program itself, a mapped library, or the path on the command line:
    Python opens a zip archive anew for every module it imports late. What other users have open
    is seen by root only.
    """
    inside = os.fsencode(directory) + b"/"
    others = [path for path in PROCESSES.iterdir() if path.name.isdigit()]
    return sorted(
        int(path.name)
        for path in others
        if int(path.name) != os.getpid() and any(inside in use for use in _uses(path))
    )


def _uses(process: Path) -> Iterator[bytes]:
    """Yield what PROCESS has to do with files, as far as it may be read and still is there."""
    for name in ("cmdline", "maps"):
        with contextlib.suppress(OSError):
            yield (process / name).read_bytes()
    paths = [process / "exe", process / "cwd"]
    with contextlib.suppress(OSError):
        paths += (process / "fd").iterdir()
    for path in paths:
        with contextlib.suppress(OSError):
            yield os.fsencode(path.readlink()) + b"/"


@contextlib.contextmanager
def locked(lock: Path, seconds: float) -> Iterator[None]:
    """Hold the file LOCK; TimeoutError when somebody else holds it for SECONDS.

    A file system without locks is no reason to refuse: every single step of an installation is
    atomic, the lock only keeps two of them from doing the same work.
    """
    deadline = time.monotonic() + seconds
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if _lock(handle) and _named(handle, lock):
                yield
                return
        finally:
            os.close(handle)
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"another installation has held {lock} for more than {seconds:.0f} seconds;"
                " run this again when it has ended"
            )
        time.sleep(0.1)


def _lock(handle: int) -> bool:
    """Try to lock HANDLE; return False when somebody else holds the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno not in UNSUPPORTED:
            raise
    return True


def _named(handle: int, path: Path) -> bool:
    """Return whether the file of HANDLE is still the one at PATH: a removal may have taken it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
