# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Between the engine and the system: every system call on a replica, and every SQLite statement.

`install()` once puts this between; what then happens at a call is up to `hook`. The engine's own
functions stay as they are: only what fsops knows as `os`, `fcntl` and the C library is replaced.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sqlite3
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pairsync.replica import fsops, store

# What fsops calls. test_seam.py compares this with its source.
READING = frozenset(
    {"close", "dup", "fstat", "fstatvfs", "getxattr", "listdir", "listxattr", "open", "pread"}
    | {"read", "readlink", "scandir", "stat"}
)
WRITING = frozenset(
    {"chmod", "chown", "fchmod", "fchown", "fsync", "ftruncate", "link", "mkdir", "pwrite"}
    | {"rename", "rmdir", "setxattr", "symlink", "unlink", "utime", "write"}
)
SYSTEM_CALLS = READING | WRITING
C_CALLS = frozenset({"renameat2", "syncfs"})
# What changes something that another process can see.
CHANGING = (WRITING - {"fsync"}) | {"renameat2", "COMMIT"}


class Call(NamedTuple):
    """One call: a system call, or an SQLite statement (named by its first word)."""

    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    run: Callable[[], Any]
    listed: bool = False  # the stat of an entry of a listing

    @property
    def making(self) -> bool:
        """Whether an open() makes the file."""
        return self.name == "open" and bool(self.arguments[1] & os.O_CREAT)

    @property
    def changing(self) -> bool:
        if self.name == "open":
            return self.making
        return self.name in CHANGING

    @property
    def torn(self) -> bool:
        """Whether half of it can be done."""
        return self.name in ("write", "pwrite") and len(self.arguments[1]) > 1

    def path(self) -> bytes:
        """Where it acts: an absolute path; the first one of two. Empty for SQLite."""
        if self.name.isupper() or not self.arguments:
            return b""
        first = self.arguments[0]
        if self.name == "renameat2":
            return os.path.join(_path_of(first), self.arguments[1])
        if isinstance(first, int):
            return _path_of(first)
        name = os.fsencode(self.arguments[1] if self.name == "symlink" else first)
        if name.startswith(b"/proc/self/fd/"):
            return _path_of(int(name.rpartition(b"/")[2]))
        directory = self.options.get("dir_fd", self.options.get("src_dir_fd"))
        return name if directory is None else os.path.join(_path_of(directory), name)

    def __str__(self) -> str:
        return f"{self.name} {os.fsdecode(self.path())}".strip()


def _path_of(fd: int) -> bytes:
    try:
        return os.readlink(b"/proc/self/fd/%d" % fd)
    except OSError:
        return b"?"


Hook = Callable[[Call], Any]
hook: Hook | None = None


def set_hook(new: Hook | None) -> None:
    """From now on this is asked to make every call: `call.run()` is the real thing."""
    global hook
    hook = new


def install() -> None:
    """Replace what fsops and store call, for the rest of this process; once is enough."""
    if fsops.os is not os:
        return
    fsops.os = types.SimpleNamespace(
        **{**vars(os), **{name: _hooked(name, getattr(os, name)) for name in SYSTEM_CALLS}}
    )
    fsops.os.scandir = _scandir
    fsops.fcntl = types.SimpleNamespace(**{**vars(fcntl), "flock": _hooked("flock", fcntl.flock)})
    real_function = fsops._libc_function

    def function(name: str) -> Callable[..., int] | None:
        found = real_function(name)
        return None if found is None else _hooked_c(name, found)

    fsops._libc_function = function

    def connect(*arguments: Any, **options: Any) -> Database:
        return Database(_made("CONNECT", sqlite3.connect, arguments, options))

    store.sqlite3 = types.SimpleNamespace(**{**vars(sqlite3), "connect": connect})


def _made(
    name: str,
    real: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    *,
    listed: bool = False,
) -> Any:
    if hook is None:
        return real(*arguments, **options)
    return hook(Call(name, arguments, options, lambda: real(*arguments, **options), listed))


def _hooked(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        return _made(name, real, arguments, options)

    return call


def _hooked_c(name: str, real: Callable[..., int]) -> Callable[..., int]:
    """A C function, which tells of errors by errno."""

    def call(*arguments: Any) -> int:
        try:
            return int(_made(name, real, arguments, {}))
        except OSError as error:
            ctypes.set_errno(error.errno or errno.EIO)
            return -1

    return call


def _scandir(fd: int) -> _Listed:
    return _Listed(_made("scandir", os.scandir, (fd,), {}), fd)


class _Listed:
    """What scandir gives, with a call of its own for every entry's stat."""

    def __init__(self, entries: Any, fd: int) -> None:
        self._entries, self._fd = entries, fd

    def __enter__(self) -> Iterator[_Entry]:
        return (_Entry(entry, self._fd) for entry in self._entries)

    def __exit__(self, *__: object) -> None:
        self._entries.close()


class _Entry:
    def __init__(self, entry: os.DirEntry[str], fd: int) -> None:
        self._entry, self._fd = entry, fd
        self.name = entry.name

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        options = {"dir_fd": self._fd, "follow_symlinks": follow_symlinks}
        return _made("stat", os.stat, (self.name,), options, listed=True)


class Database:
    """An SQLite connection whose statements are calls."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real = real

    @property
    def in_transaction(self) -> bool:
        return self._real.in_transaction

    def execute(self, statement: str, *arguments: Any) -> Any:
        word = statement.split(maxsplit=1)[0]
        return _made(word, self._real.execute, (statement, *arguments), {})

    def executemany(self, statement: str, *arguments: Any) -> Any:
        word = statement.split(maxsplit=1)[0]
        return _made(word, self._real.executemany, (statement, *arguments), {})

    def executescript(self, statements: str) -> Any:
        return _made("CREATE", self._real.executescript, (statements,), {})

    def close(self) -> None:
        # Not a call that can fail or matter: what was not committed is gone either way.
        self._real.close()


class Point(NamedTuple):
    """Which call: the n-th that a thread of this name makes, counted from 1.

    Threads of one name follow one another, so that a number means the same call in every run.
    """

    thread: str
    number: int


class Counting:
    """Numbers calls, each thread's on their own."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def next(self) -> Point:
        thread = threading.current_thread().name
        self._counts[thread] += 1
        return Point(thread, self._counts[thread])
