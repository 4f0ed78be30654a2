# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Late writes: a program that still holds a displaced file open writes into the backup.

`.pairsync/displaced/<run>` notes what each displaced object looked like, one JSON line each:
`path` (base64, below the run's directory in the backup), `was` (what the scan saw there; null for
a directory) and `new` (what waited in the backup to replace it; null if nothing did), both as
[size, mtime_ns, inode]. The file is locked for as long as its session lives. Later sessions
compare, until GRACE has passed; then it is `.pairsync/settled/<run>`, and whoever drops a version
compares that one, and lets be what some program still has open, by remove().

`.pairsync/pinned/<run>` lists versions that no retention may drop, one JSON line each: `path` as
above, an object or a directory with all below it. Whoever drops versions asks pinned() first.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import stat
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

from ..model.entry import DIR, STATE_NAME
from . import fsops
from .durable import sync_one
from .rows import Seen
from .state import State
from .tree import Tree

# A program may go on writing for a while after the session that displaced its file, and sessions
# may follow each other closely; in seconds.
GRACE = 60.0

GONE, OPEN, LATE = "gone", "open", "late"

_Print = tuple[int, int, int]


class Late(NamedTuple):
    """A displaced object that changed afterwards: its run, and its path below the run."""

    run: bytes
    path: bytes

    @property
    def told(self) -> bytes:
        """The run as it is named to people, a slash, and the path in the replica."""
        path = self.path
        if path.startswith(STATE_NAME + b"/"):
            path = path.split(b"/", 2)[2]  # without its layer
        return self.run.partition(b".")[0] + b"/" + path


class Record:
    """What one run displaces, noted as it happens."""

    def __init__(self, state: State, run: bytes) -> None:
        """Begin a run's record, and hold its lock: no other session looks at it before close()."""
        directory = state.directory(b"displaced")
        try:
            self._fd = fsops.open_note(directory, run)
        finally:
            fsops.close(directory)
        with contextlib.suppress(OSError):  # a file system without locks
            fsops.try_lock(self._fd)

    def add(self, path: bytes, was: Seen, new: Optional[Seen]) -> None:
        """Note an object that is about to be displaced. Raises OSError."""
        line = {"path": _text(path), "was": _print(was), "new": new and _print(new)}
        fsops.write(self._fd, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Let others compare."""
        fsops.close(self._fd)


def compare(state: State, now: float) -> list[Late]:
    """Find displaced objects that changed since, and pin them; each is returned once.

    now: seconds since the epoch. Objects that only waited to replace something go, so the caller
    holds the root lock: nothing is on its way in or out meanwhile, and no record is being begun.
    Costs next to nothing when nothing was displaced lately. Raises OSError and PairsyncError.
    """
    found: list[Late] = []
    try:
        directory = fsops.open_dir(state.fd, b"displaced")
    except FileNotFoundError:
        return found
    try:
        for run in sorted(fsops.names(directory)):
            fd = fsops.open_note(directory, run)
            try:
                if _is_at_work(fd):
                    continue
                late = _compare_run(state, run, _lines(fd))
                pin(state, run, late)
                found += [Late(run, path) for path in late]
                if now - fsops.fstat(fd).st_mtime >= GRACE:
                    _settle(state, directory, run)
            finally:
                fsops.close(fd)
    finally:
        fsops.close(directory)
    return found


def _settle(state: State, displaced: int, run: bytes) -> None:
    """Set a record apart, to be looked at when a version of its run is to be dropped."""
    settled = state.directory(b"settled")
    try:
        fsops.rename(displaced, run, settled, run)
    finally:
        fsops.close(settled)


def noted(state: State, run: bytes) -> dict[bytes, list[_Print]]:
    """What objects of a run looked like, by their paths below it. Raises OSError."""
    found: dict[bytes, list[_Print]] = {}
    for kind in (b"displaced", b"settled"):
        with contextlib.suppress(FileNotFoundError):
            directory = fsops.open_dir(state.fd, kind)
            try:
                fd = fsops.open_file(directory, run)
            finally:
                fsops.close(directory)
            try:
                for note in _lines(fd):
                    looks = [note[key] for key in ("was", "new") if note[key] is not None]
                    found.setdefault(_path(note), []).extend(map(tuple, looks))
            finally:
                fsops.close(fd)
    return found


def remove(directory: int, name: bytes, looks: Sequence[_Print]) -> str:
    """Drop a version that is no directory, unless somebody would miss it: GONE, OPEN or LATE.

    looks: what was noted of it; LATE, when it was written to since. Raises OSError.
    """
    fd = -1
    with contextlib.suppress(OSError):  # a link, which nobody writes into, or not ours to read
        fd = fsops.open_file(directory, name)
    try:
        # From here on to the unlink nobody can begin to write.
        if fd >= 0 and not fsops.keep_still(fd):
            return OPEN
        status = fsops.lstat(directory, name)
        now = (status.st_size, status.st_mtime_ns, status.st_ino)
        # Another inode is a copy of what was displaced, which no program had open.
        if now not in looks and any(look[2] == status.st_ino for look in looks):
            return LATE
        fsops.unlink(directory, name)
        return GONE
    finally:
        if fd >= 0:
            fsops.close(fd)


def tidy(state: State) -> None:
    """Remove records of runs that are gone. Raises OSError."""
    try:
        settled = fsops.open_dir(state.fd, b"settled")
    except FileNotFoundError:
        return
    backup = state.directory(b"backup")
    try:
        for run in set(fsops.names(settled)).difference(fsops.names(backup)):
            with contextlib.suppress(FileNotFoundError):  # another pair's session does the same
                fsops.unlink(settled, run)
    finally:
        fsops.close(settled)
        fsops.close(backup)


def _is_at_work(fd: int) -> bool:
    """Tell whether a record's session still lives; of that, nothing is known without locks."""
    try:
        return not fsops.try_lock(fd)
    except OSError:
        return False


def pin(state: State, run: bytes, paths: list[bytes]) -> None:
    """Keep versions of a run from being dropped, durably. Raises OSError and PairsyncError."""
    if not paths:
        return
    directory = state.directory(b"pinned")
    try:
        fd = fsops.open_note(directory, run)
        try:
            for __ in _lines(fd):
                pass  # to the end of what is there
            lines = [json.dumps({"path": _text(path)}).encode() + b"\n" for path in paths]
            fsops.write(fd, b"\n" + b"".join(lines))  # there may be half a line
            sync_one(fd)
        finally:
            fsops.close(fd)
        sync_one(directory)
    finally:
        fsops.close(directory)


def pinned(state: State) -> dict[bytes, set[bytes]]:
    """What must not be dropped: paths below a run's directory, by run."""
    found: dict[bytes, set[bytes]] = {}
    try:
        directory = fsops.open_dir(state.fd, b"pinned")
    except FileNotFoundError:
        return found
    try:
        for run in fsops.names(directory):
            fd = fsops.open_file(directory, run)
            try:
                found[run] = {_path(line) for line in _lines(fd)}
            finally:
                fsops.close(fd)
    finally:
        fsops.close(directory)
    return found


def _compare_run(state: State, run: bytes, notes: Iterator[dict[str, Any]]) -> list[bytes]:
    """The paths of a run that changed after they were displaced, and are not pinned yet."""
    late: list[bytes] = []
    known = pinned(state).get(run, set())
    try:
        backup = fsops.open_dir(state.fd, b"backup")
    except FileNotFoundError:
        return late
    tree: Optional[Tree] = None
    try:
        tree = Tree(fsops.open_dir(backup, run))
        for note in notes:
            path = _path(note)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if path not in known and _is_late(*tree.parent(path), note):
                    late.append(path)
    except FileNotFoundError:
        pass  # dropped as a whole
    finally:
        if tree is not None:
            tree.close()
        fsops.close(backup)
    return late


def _is_late(directory: int, name: bytes, note: dict[str, Any]) -> bool:
    """Compare one object with what was noted of it; one that only waited there goes."""
    status = fsops.lstat(directory, name)
    if stat.S_ISDIR(status.st_mode):
        return note["was"] is None and not _removed(directory, name)
    now = [status.st_size, status.st_mtime_ns, status.st_ino]
    if now == note["new"]:
        fsops.unlink(directory, name)
        return False
    return bool(now != note["was"])


def _removed(directory: int, name: bytes) -> bool:
    """Remove a directory that should be empty; tell whether it was."""
    try:
        fsops.remove_dir(directory, name)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _lines(fd: int) -> Iterator[dict[str, Any]]:
    """The sound lines of a file of ours; a session that was cut short may leave half a line."""
    data = fsops.read(fd, fsops.fstat(fd).st_size)
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def _print(seen: Seen) -> Optional[_Print]:
    return None if seen.kind == DIR else (seen.size, seen.mtime_ns, seen.inode)


def _text(path: bytes) -> str:
    return base64.b64encode(path).decode("ascii")


def _path(line: dict[str, Any]) -> bytes:
    return base64.b64decode(line["path"])
