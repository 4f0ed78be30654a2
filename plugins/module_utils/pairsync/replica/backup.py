# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup: displaced objects themselves, by run, under the path they had.

`backup/<run>/<path>` holds the very inode that was replaced or deleted, so that a program that
still writes into it loses nothing. Where the name is taken, because a run displaced two objects of
one path or a file where it displaces something below a directory, the later one is in a layer of
its own, `backup/<run>/.pairsync/<number>/<path>`: no synced path has that name in it. What
replaces an object waits here under the name that object is to have, and changes names with it.
What is noted of both, and which versions are pinned against retention, says late.py. A directory
that went is kept as an empty one with its permissions; in it lies what it held.

A run of which nothing is to be kept is `<run>.<pair>.brief`, and goes when the next session of its
pair has something to receive here.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import stat
from typing import Optional

from ..model.entry import DIR, PERMISSION_BITS, STATE_NAME, Entry
from ..model.errors import PairsyncError
from ..model.policy import Retention
from . import fsops, late
from .durable import make_durable, sync_one
from .late import Late, Record
from .rows import Seen
from .state import State
from .tree import Tree

BRIEF = ".brief"


class Backup:
    """Where one run puts what it displaces."""

    def __init__(self, state: State, run: str) -> None:
        """run: a name from run_name(); its directory is made when something is first displaced."""
        self._state = state
        self._run = run.encode()
        self._tree: Optional[Tree] = None
        self._record: Optional[Record] = None
        self._touched: set[bytes] = set()
        self.kept = 0  # objects that were displaced, and stay

    def take(
        self,
        source: int,
        name: bytes,
        path: bytes,
        was: Optional[Seen] = None,
        new: Optional[Seen] = None,
    ) -> tuple[int, bytes]:
        """Move an object here and say where it now is (a held directory and a name).

        source, name: where it lies; path: the path in the replica it is kept for. was: what the
        scan saw there; noted, so that a late write shows. new: the object itself, when it is a
        newcomer that waits here. Raises OSError when it cannot be kept: then it was not moved.
        """
        directory, kept_as, below = self._moved(source, name, path)
        if was is not None:
            try:
                if self._record is None:
                    self._record = Record(self._state, self._run)
                self._record.add(below, was, new)
            except OSError:
                fsops.rename_noreplace(directory, kept_as, source, name)
                raise
        return directory, kept_as

    def keep_dir(self, path: bytes, mode: int) -> None:
        """Keep what there is of a directory that is about to go: that it was there, and its mode.

        Raises OSError.
        """
        for layer in itertools.count():
            with contextlib.suppress(NotADirectoryError):
                directory = self._directory(_in_layer(layer, path))
                # Writable, or nothing goes in and out; that it was not says the sticky bit.
                note = 0 if mode & stat.S_IWUSR else stat.S_ISVTX
                fsops.set_mode(directory, mode & PERMISSION_BITS | stat.S_IRWXU | note)
                break
        self.kept += 1

    def _moved(self, source: int, name: bytes, path: bytes) -> tuple[int, bytes, bytes]:
        """Move an object to the first free place for a path: directory, name, path in the run."""
        parent, __, wanted = path.rpartition(b"/")
        for layer in itertools.count():
            try:
                directory = self._directory(_in_layer(layer, parent))
            except NotADirectoryError:
                continue  # what was displaced before has the name of a directory on the way
            with contextlib.suppress(FileExistsError):
                fsops.move_aside(source, name, directory, wanted)
                break
        return directory, wanted, _in_layer(layer, path)

    def _directory(self, path: bytes) -> int:
        """Open a directory of the run, making what is missing; it gets its mode by keep_dir()."""
        if self._tree is None:
            self._tree = Tree(self._state.directory(b"backup", self._run))
        tree = self._tree
        try:
            directory = tree.directory(path)
        except FileNotFoundError:
            parts = path.split(b"/")
            for depth in range(1, len(parts) + 1):
                with contextlib.suppress(FileExistsError):
                    fsops.make_dir(*tree.parent(b"/".join(parts[:depth])), 0o700)
                    self._touched.add(b"/".join(parts[: depth - 1]))
            directory = tree.directory(path)
        self._touched.add(path)
        return directory

    def sync(self) -> None:
        """Make the names of what was kept durable. Raises PairsyncError."""
        if self._tree is None or not self._touched:
            return
        make_durable(self._tree, dict.fromkeys(self._touched, Entry(DIR)))
        fd = self._state.directory(b"backup")
        try:
            sync_one(fd)
        finally:
            fsops.close(fd)
        sync_one(self._state.fd)
        self._touched.clear()

    def close(self) -> None:
        """Make durable what a session that was cut short has kept, and let go of it."""
        if self._tree is None:
            return
        try:
            with contextlib.suppress(PairsyncError):
                self.sync()
        finally:
            self._tree.close()
            self._tree = None
            if self._record is not None:
                self._record.close()
                self._record = None


def kept_mode(mode: int) -> int:
    """The permissions that a directory had, from those of what is kept of it."""
    return mode & PERMISSION_BITS & ~(stat.S_IWUSR if mode & stat.S_ISVTX else 0)


def _in_layer(layer: int, path: bytes) -> bytes:
    """Where a path of a layer lies below the run's directory."""
    return (b"%s/%d/" % (STATE_NAME, layer) + path).rstrip(b"/") if layer else path


def run_name(run: str, retention: Retention, pair_id: str) -> str:
    """What a run's directory in the backup is called."""
    return run if retention.enabled else f"{run}.{pair_id}{BRIEF}"


def drop_brief(state: State, pair_id: str) -> list[Late]:
    """Remove what a pair kept only until this session of its own, which holds the pair's lock.

    What other pairs of the same root keep is theirs, and may be in use. What is pinned stays, and
    what a program has open for writing; what one wrote into stays from now on, and is returned.
    """
    ending = f".{pair_id}{BRIEF}".encode()
    written: list[Late] = []
    root = state.directory(b"backup")
    try:
        runs = [name for name in fsops.names(root) if name.endswith(ending)]
        pins = late.pinned(state) if runs else {}
        for run in runs:
            paths = _drop_run(state, root, run, pins.get(run, set()))
            written += [Late(run, path) for path in paths]
    finally:
        fsops.close(root)
    late.tidy(state)
    return written


def _drop_run(state: State, backup: int, run: bytes, pins: set[bytes]) -> list[bytes]:
    """Remove what a run holds and may go; pin and return what was written to unnoticed."""
    looks = late.noted(state, run)
    written = []
    tree = Tree(fsops.open_dir(backup, run))
    try:
        directories = []  # parents before what is in them
        todo = [b""]
        while todo:
            directory = todo.pop()
            directories.append(directory)
            for name in fsops.names(tree.directory(directory)):
                path = directory + b"/" + name if directory else name
                if path in pins:
                    continue
                parent = tree.directory(directory)
                if stat.S_ISDIR(fsops.lstat(parent, name).st_mode):
                    todo.append(path)
                elif late.remove(parent, name, looks.get(path, ())) == late.LATE:
                    written.append(path)
        late.pin(state, run, written)
        for directory in reversed(directories[1:]):
            tree.forget()
            _remove_empty(*tree.parent(directory))
    finally:
        tree.close()
    _remove_empty(backup, run)
    return written


def _remove_empty(parent: int, name: bytes) -> None:
    try:
        fsops.remove_dir(parent, name)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
