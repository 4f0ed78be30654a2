# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks that the kernel releases when their owner ends, so that none ever needs a person.

The pair lock is held for a session; the root lock only around index writes and around swapping
and recording. A waiter gives up when the holder makes no progress, not when it takes long.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator

from ..model.errors import PairsyncError
from . import fsops

_POLL_SECONDS = 0.1
_BEAT_SECONDS = 1.0


class Sign:
    """The file in which a holder says who it is, and shows that there is progress."""

    def __init__(self, fd: int) -> None:
        """fd: stays the caller's."""
        self._fd = fd
        self._beaten = time.monotonic()

    def beat(self) -> None:
        """Show waiters that there is progress; cheap enough to call for every step."""
        now = time.monotonic()
        if now - self._beaten >= _BEAT_SECONDS:
            self._beaten = now
            fsops.touch(self._fd)


class PairLock:
    """The lock of one pair on one host, held until close()."""

    def __init__(self, directory_fd: int, what: str, wait: int) -> None:
        """Take it, waiting while the holder makes progress.

        directory_fd: the pair's state directory. what: the pair, for messages. wait: seconds
        without progress of the holder after which PairsyncError `locked` is raised.
        """
        self._fd = fsops.open_note(directory_fd, b"lock")
        self.sign = Sign(self._fd)
        try:
            _wait(self._fd, self._fd, what, wait)
        except BaseException:
            fsops.close(self._fd)
            raise
        _sign(self._fd)

    def close(self) -> None:
        """Release it."""
        fsops.close(self._fd)


@contextlib.contextmanager
def root_lock(root_fd: int, state_fd: int, what: str, wait: int) -> Iterator[Sign]:
    """Hold the root: flock on the root directory itself, whatever the layout of the state.

    Arguments as for PairLock; raises PairsyncError `locked`.
    """
    # Opened again: a lock belongs to one opening, and the root's own stays open for the session.
    held = fsops.open_dir(root_fd, b".")
    note = fsops.open_note(state_fd, b"lock")
    try:
        _wait(held, note, what, wait)
        _sign(note)
        yield Sign(note)
    finally:
        fsops.close(note)
        fsops.close(held)


def _wait(lock_fd: int, sign_fd: int, what: str, wait: int) -> None:
    progress = -1
    since = time.monotonic()
    while not fsops.try_lock(lock_fd):
        now = fsops.fstat(sign_fd).st_mtime_ns
        if now != progress:
            progress, since = now, time.monotonic()
        if time.monotonic() - since >= wait:
            raise PairsyncError(
                "locked",
                f"{what} is in use by {_holder(sign_fd)}",
                "wait until that session ends, or end it; a dead session holds no lock",
            )
        time.sleep(_POLL_SECONDS)


def _sign(fd: int) -> None:
    text = json.dumps(
        {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%FT%TZ", time.gmtime()),
        }
    )
    fsops.write_note(fd, text.encode())


def _holder(fd: int) -> str:
    try:
        sign = json.loads(fsops.read_note(fd))
        host, since = str(sign["host"])[:80], str(sign["since"])[:40]
        return f"process {int(sign['pid'])} on {host} since {since}"
    except (ValueError, KeyError, TypeError):
        return "another session"
