# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup: displaced objects themselves, by run, under the path they had.

`backup/<run>/<path>` holds the very inode that was replaced or deleted, so that a program that
still writes into it loses nothing. Where the name is taken, because a run displaced two objects of
one path or a file where it displaces something below a directory, the later one is in a layer of
its own, `backup/<run>/.pairsync/<number>/<path>`: no synced path has that name in it.

A run of which nothing is to be kept is `<run>.<pair>.brief`, and goes when the next session of its
pair has something to receive here.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
from typing import Callable, Optional

from ..model.entry import STATE_NAME
from ..model.policy import Retention
from . import fsops
from .state import State, remove_tree
from .tree import Tree

BRIEF = ".brief"


class Backup:
    """Where one run puts what it displaces."""

    def __init__(self, state: State, run: str) -> None:
        """run: a name from run_name(); its directory is made when something is first displaced."""
        self._state = state
        self._run = run.encode()
        self._tree: Optional[Tree] = None
        self._touched: set[bytes] = set()
        self.kept = 0

    def take(self, source: int, name: bytes, path: bytes) -> tuple[int, bytes]:
        """Move an object here and say where it now is (a held directory and a name).

        source, name: where it lies; path: its path in the replica. Raises OSError when it
        cannot be kept, and then nothing was moved.
        """
        return self._keep(path, functools.partial(fsops.rename_noreplace, source, name))

    def link(self, source: int, name: bytes, path: bytes) -> Optional[tuple[int, bytes]]:
        """Give an object a second name here, before it is displaced, and say which.

        None where that is not possible (another user's file, too many links): then it is moved
        here afterwards. Arguments as for take().
        """
        try:
            return self._keep(path, functools.partial(fsops.link, source, name))
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
                return None
            raise

    def unlink(self, directory: int, name: bytes) -> None:
        """Take back what link() did."""
        fsops.unlink(directory, name)
        self.kept -= 1

    def _keep(self, path: bytes, step: Callable[[int, bytes], object]) -> tuple[int, bytes]:
        """Run a step with the first free place for a path; return the place."""
        parent, __, name = path.rpartition(b"/")
        for layer in itertools.count():
            top = b"%s/%d/" % (STATE_NAME, layer) if layer else b""
            try:
                directory = self._directory((top + parent).rstrip(b"/"))
            except NotADirectoryError:
                continue  # what was displaced before has the name of a directory on the way
            with contextlib.suppress(FileExistsError):
                step(directory, name)
                break
        self.kept += 1
        return directory, name

    def _directory(self, path: bytes) -> int:
        """Open a directory of the run, making what is missing."""
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
        """Make the names of what was kept durable. Raises OSError."""
        if self._tree is None or not self._touched:
            return
        for path in sorted(self._touched):
            with contextlib.suppress(FileNotFoundError):  # pruned by another pair's session
                fsops.sync_file(self._tree.directory(path))
        fd = self._state.directory(b"backup")
        try:
            fsops.sync_file(fd)
        finally:
            fsops.close(fd)
        fsops.sync_file(self._state.fd)
        self._touched.clear()

    def close(self) -> None:
        """Make durable what a session that was cut short has kept, and let go of it."""
        if self._tree is None:
            return
        try:
            with contextlib.suppress(OSError):
                self.sync()
        finally:
            self._tree.close()
            self._tree = None


def run_name(run: str, retention: Retention, pair_id: str) -> str:
    """What a run's directory in the backup is called."""
    return run if retention.enabled else f"{run}.{pair_id}{BRIEF}"


def drop_brief(state: State, pair_id: str) -> None:
    """Remove what a pair kept only until this session of its own, which holds the pair's lock.

    What other pairs of the same root keep is theirs, and may be in use.
    """
    ending = f".{pair_id}{BRIEF}".encode()
    root = state.directory(b"backup")
    try:
        for name in fsops.names(root):
            if name.endswith(ending):
                remove_tree(root, name)
    finally:
        fsops.close(root)
