# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lock for file systems whose flock fails, or does not exclude other hosts.

Leases are numbered files, `lease.N`, and whoever has the highest number holds the lock. Names are
taken with link(2), which succeeds for one of many, also over NFS; the highest is never removed, so
a number that is passed is passed for good. While its process runs, a thread rewrites the file with
a counter. A lease is over when it says so, when its process is known to be dead, or when nothing
in it has changed for a while; its holder, should it come back, finds a higher number.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import socket
import threading
import time
from typing import Any, NamedTuple, Optional

from ..model.errors import PairsyncError
from . import fsops
from .processes import kernel, started

STANDSTILL_SECONDS = 30.0  # by the waiter's own clock; the holder writes every BEAT_SECONDS
BEAT_SECONDS = 3.0

_NAME = re.compile(rb"lease\.([0-9]{1,18})")
_DRAFT = b"lease-"


class _Newest(NamedTuple):
    number: int
    inode: int
    text: bytes


class Lease:
    """A lease on what a directory stands for."""

    def __init__(self, directory_fd: int, run: str) -> None:
        """directory_fd: stays the caller's. run: whom to name to waiters."""
        self._directory = directory_fd
        self._run = run
        self._number = 0
        self._fd = -1
        self._seen: Optional[_Newest] = None
        self._since = 0.0
        self._ended = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def try_take(self) -> bool:
        """Take it if nobody holds it; call again and again to find out that nobody is alive.

        Raises PairsyncError where the file system cannot link files either.
        """
        newest = self._newest()
        if newest is not None and not self._over(newest):
            return False
        number = newest.number + 1 if newest is not None else 1
        fd = self._linked(number)
        if fd < 0:
            return False
        self._number, self._fd = number, fd
        if not self.held():
            # A slow one: the number before was over long ago, and others were higher since.
            self._number, self._fd = 0, -1
            fsops.close(fd)
            with contextlib.suppress(FileNotFoundError):
                fsops.unlink(self._directory, b"lease.%d" % number)
            return False
        self._clean()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return True

    def held(self) -> bool:
        """Tell whether this lease still is the one that counts."""
        newest = self._newest()
        return (
            self._fd >= 0
            and newest is not None
            and newest.number == self._number
            and newest.inode == fsops.fstat(self._fd).st_ino
        )

    def close(self) -> None:
        """Give it back, if it is held."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                fsops.write_note(self._fd, b"{}\n")  # whoever reads this may have the next number
            fsops.close(self._fd)
            self._fd = -1

    def _newest(self) -> Optional[_Newest]:
        while True:
            # Opened anew: over NFS, a listing may be as old as its opening.
            listed = fsops.open_dir(self._directory, b".")
            try:
                found = [_NAME.fullmatch(name) for name in fsops.names(listed)]
            finally:
                fsops.close(listed)
            numbers = [int(match[1]) for match in found if match]
            if not numbers:
                return None
            number = max(numbers)
            try:
                fd = fsops.open_file(self._directory, b"lease.%d" % number)
            except FileNotFoundError:
                continue  # replaced by a higher one just now
            try:
                return _Newest(number, fsops.fstat(fd).st_ino, fsops.read_note(fd))
            finally:
                fsops.close(fd)

    def _over(self, newest: _Newest) -> bool:
        holder = _parsed(newest.text)
        if holder == {} or _known_dead(holder):
            return True
        if newest != self._seen:
            self._seen, self._since = newest, time.monotonic()
        return time.monotonic() - self._since >= STANDSTILL_SECONDS

    def _linked(self, number: int) -> int:
        """The descriptor of a file that has got the number, or -1 when another has it."""
        draft = _DRAFT + secrets.token_hex(8).encode()
        fd = fsops.create_file(self._directory, draft)
        try:
            fsops.write_note(fd, self._text(0))
            fsops.sync_file(fd)  # other hosts read it as soon as it has the name
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                fsops.link(self._directory, draft, self._directory, b"lease.%d" % number)
            # Not what link said: over NFS, an answer that was lost makes a success look taken.
            won = fsops.fstat(fd).st_nlink == 2
        except OSError as error:
            fsops.close(fd)
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            raise PairsyncError(
                "locked",
                "the file system has neither locks nor hard links,"
                " so that two sessions could not keep apart",
                "put the replica on a file system that has one of them",
            ) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                fsops.unlink(self._directory, draft)
        if won:
            return fd
        fsops.close(fd)
        return -1

    def _clean(self) -> None:
        """Remove lower numbers, and drafts: one that is still wanted is simply made again."""
        for name in fsops.names(self._directory):
            match = _NAME.fullmatch(name)
            if name.startswith(_DRAFT) or (match and int(match[1]) < self._number):
                with contextlib.suppress(FileNotFoundError):
                    fsops.unlink(self._directory, name)

    def _beat(self) -> None:
        counter = 0
        while not self._ended.wait(BEAT_SECONDS):
            counter += 1
            with contextlib.suppress(OSError):  # held() tells what is the matter
                fsops.write_note(self._fd, self._text(counter))

    def _text(self, counter: int) -> bytes:
        pid = os.getpid()
        holder = {
            "host": socket.gethostname(),
            "kernel": kernel(),
            "pid": pid,
            "started": started(pid),
            "run": self._run,
            "counter": counter,
        }
        return json.dumps(holder).encode() + b"\n"


def _parsed(text: bytes) -> Optional[dict[str, Any]]:
    """What a lease says; {} when it was given back, None when it is being written."""
    try:
        holder = json.loads(text)
    except ValueError:
        return None
    return holder if isinstance(holder, dict) else None


def _known_dead(holder: Optional[dict[str, Any]]) -> bool:
    if holder is None or holder.get("kernel") != kernel():
        return False  # its process cannot be seen from here
    return bool(started(holder.get("pid")) != holder.get("started"))
