# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks that end with their owner, so that none ever needs a person.

The pair lock is held for a session; the root lock only around index writes and around swapping
and recording. A waiter gives up when the holder makes no progress, not when it takes long. The
kernel releases them (flock); where it cannot, a lease takes their place (see lease.py).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Callable, Optional

from ..model.errors import PairsyncError
from . import fsops, guard
from .lease import Lease

_POLL_SECONDS = 0.1
_BEAT_SECONDS = 1.0
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Sign:
    """The file in which a holder says who it is, and shows that there is progress."""

    def __init__(self, fd: int, what: str, lease: Optional[Lease]) -> None:
        """fd, lease: stay the caller's. what: as for the lock."""
        self._fd = fd
        self._what = what
        self._lease = lease
        self._beaten = time.monotonic()

    def beat(self) -> None:
        """Show waiters that there is progress; cheap enough to call for every step.

        Raises PairsyncError `locked` when this process stood still for so long that another one
        took the lock over.
        """
        now = time.monotonic()
        if now - self._beaten >= _BEAT_SECONDS:
            self._beaten = now
            self.confirm()
            fsops.touch(self._fd)

    def confirm(self) -> None:
        """Raise PairsyncError `locked` when the lock was taken over."""
        if self._lease is not None and not self._lease.held():
            raise PairsyncError(
                "locked",
                f"{self._what} was taken over by {_holder(self._fd)},"
                " since this session stood still for too long",
                "run the same command again; nothing was lost",
            )


class PairLock:
    """The lock of one pair on one host, held until close()."""

    def __init__(self, directory_fd: int, what: str, wait: int, run: str = "") -> None:
        """Take it, waiting while the holder makes progress.

        directory_fd: the pair's state directory. what: the pair, for messages. wait: seconds
        without progress of the holder after which PairsyncError `locked` is raised. run: what
        to tell those who wait for this lock.
        """
        self._fd = fsops.open_note(directory_fd, b"lock")
        try:
            self._lease = _taken(self._fd, self._fd, directory_fd, what, wait, run)
        except BaseException:
            fsops.close(self._fd)
            raise
        self.sign = Sign(self._fd, what, self._lease)

    def close(self) -> None:
        """Release it."""
        if self._lease is not None:
            self._lease.close()
        fsops.close(self._fd)


@contextlib.contextmanager
def root_lock(root_fd: int, state_fd: int, what: str, wait: int, run: str = "") -> Iterator[Sign]:
    """Hold the root: flock on the root directory itself, whatever the layout of the state.

    Arguments as for PairLock; raises PairsyncError `locked`.
    """
    # Opened again: a lock belongs to one opening, and the root's own stays open for the session.
    held = fsops.open_dir(root_fd, b".")
    note = fsops.open_note(state_fd, b"lock")
    lease: Optional[Lease] = None
    try:
        lease = _taken(held, note, state_fd, what, wait, run)
        yield Sign(note, what, lease)
    finally:
        if lease is not None:
            lease.close()
        fsops.close(note)
        fsops.close(held)


def _taken(
    lock_fd: int, note_fd: int, directory_fd: int, what: str, wait: int, run: str
) -> Optional[Lease]:
    """Take a lock and sign it; return the lease that it is, if it is none of the kernel's."""
    lease = None if guard.flock_reaches_all(lock_fd) else Lease(directory_fd, run)

    def taken() -> bool:
        nonlocal lease
        if lease is None:
            try:
                return fsops.try_lock(lock_fd)
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise
                lease = Lease(directory_fd, run)
        return lease.try_take()

    try:
        _wait(taken, note_fd, what, wait)
        _sign(note_fd, run)
    except BaseException:
        if lease is not None:
            lease.close()
        raise
    return lease


def _wait(taken: Callable[[], bool], note_fd: int, what: str, wait: int) -> None:
    progress = -1
    since = time.monotonic()
    while not taken():
        now = fsops.fstat(note_fd).st_mtime_ns
        if now != progress:
            progress, since = now, time.monotonic()
        if time.monotonic() - since >= wait:
            still = f", which has made no progress for {wait} seconds" if wait else ""
            raise PairsyncError(
                "locked",
                f"{what} is in use by {_holder(note_fd)}{still}",
                "wait until that session ends, or end it; a dead session holds no lock",
            )
        time.sleep(_POLL_SECONDS)


def _sign(fd: int, run: str) -> None:
    text = json.dumps(
        {
            "run": run,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%FT%TZ", time.gmtime()),
        }
    )
    fsops.write_note(fd, text.encode())


def _holder(fd: int) -> str:
    try:
        sign = json.loads(fsops.read_note(fd))
        run, host, since = (str(sign[key])[:80] for key in ("run", "host", "since"))
        who = f"process {int(sign['pid'])} on {host} since {since}"
        return f"run {run}, {who}" if run else who
    except (ValueError, KeyError, TypeError):
        return "another session"
