# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup: displaced objects themselves, by run, under the path they had.

`backup/<run>/<path>` holds the very inode that was replaced or deleted, so that a program that
still writes into it loses nothing. A run of which nothing is to be kept is `<run>.<pair>.brief`,
and goes when the next session of its pair has something to receive here.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import stat
import time
from collections.abc import Iterator
from typing import Optional

from ..model.policy import Retention
from . import fsops
from .state import State, remove_tree
from .tree import Tree

_BRIEF = ".brief"


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
        directory, wanted = self._place(path)
        target = wanted
        while True:
            try:
                fsops.rename_noreplace(source, name, directory, target)
            except FileExistsError:
                target = wanted[:200] + b"~" + secrets.token_hex(4).encode()
            else:
                self.kept += 1
                return directory, target

    def link(self, source: int, name: bytes, path: bytes) -> Optional[tuple[int, bytes]]:
        """Give an object a second name here, before it is displaced, and say which.

        None where that is not possible (another user's file, too many links): then it is moved
        here afterwards. Arguments as for take().
        """
        directory, wanted = self._place(path)
        target = wanted
        while True:
            try:
                fsops.link(source, name, directory, target)
            except FileExistsError:
                target = wanted[:200] + b"~" + secrets.token_hex(4).encode()
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
                    return None
                raise
            else:
                self.kept += 1
                return directory, target

    def unlink(self, directory: int, name: bytes) -> None:
        """Take back what link() did."""
        fsops.unlink(directory, name)
        self.kept -= 1

    def _place(self, path: bytes) -> tuple[int, bytes]:
        if self._tree is None:
            self._tree = Tree(self._state.directory(b"backup", self._run))
            self._touched.add(b"")
        tree = self._tree
        parts = path.split(b"/")
        held = tree.root_fd
        for depth in range(1, len(parts)):
            try:
                held = tree.directory(b"/".join(parts[:depth]))
            except (FileNotFoundError, NotADirectoryError):
                # A file displaced earlier in this run may have the name of this directory.
                parts[depth - 1] = self._fresh_dir(held, parts[depth - 1])
                self._touched.add(b"/".join(parts[: depth - 1]))
                held = tree.directory(b"/".join(parts[:depth]))
        self._touched.add(b"/".join(parts[:-1]))
        return held, parts[-1]

    @staticmethod
    def _fresh_dir(parent: int, name: bytes) -> bytes:
        with contextlib.suppress(FileExistsError):
            fsops.make_dir(parent, name, 0o700)
            return name
        other = name[:200] + b"~" + secrets.token_hex(4).encode()
        fsops.make_dir(parent, other, 0o700)
        return other

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
    return run if retention.enabled else f"{run}.{pair_id}{_BRIEF}"


def prune(state: State, retention: Retention, now: float) -> None:
    """Drop versions beyond the retention, oldest first; the newest of each path stays.

    now: seconds since the epoch.
    """
    root = state.directory(b"backup")
    try:
        runs = sorted(name for name in fsops.names(root) if not name.endswith(_BRIEF.encode()))
        versions: dict[bytes, list[bytes]] = {}
        for run in runs:
            for path in _objects(root, run):
                versions.setdefault(path, []).append(run)
        oldest = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now - retention.days * 86400)).encode()
        for path, held in versions.items():
            for place, run in enumerate(held[:-1]):
                if run < oldest or len(held) - place > retention.keep:
                    _drop(root, run, path)
    finally:
        fsops.close(root)


def drop_brief(state: State, pair_id: str) -> None:
    """Remove what a pair kept only until this session of its own, which holds the pair's lock.

    What other pairs of the same root keep is theirs, and may be in use.
    """
    ending = f".{pair_id}{_BRIEF}".encode()
    root = state.directory(b"backup")
    try:
        for name in fsops.names(root):
            if name.endswith(ending):
                remove_tree(root, name)
    finally:
        fsops.close(root)


def _objects(parent: int, name: bytes) -> Iterator[bytes]:
    """Paths of all files and links below a directory, relative to it."""
    fd = fsops.open_dir(parent, name)
    try:
        for inner, status in fsops.list_dir(fd):
            if isinstance(status, OSError):
                continue
            if stat.S_ISDIR(status.st_mode):
                for path in _objects(fd, inner):
                    yield inner + b"/" + path
            else:
                yield inner
    finally:
        fsops.close(fd)


def _drop(root: int, run: bytes, path: bytes) -> None:
    """Remove one version, and the directories that held nothing else."""
    tree = Tree(fsops.duplicate(root))
    try:
        fsops.unlink(*tree.parent(run + b"/" + path))
        parts = [run, *path.split(b"/")[:-1]]
        while parts:
            directory = b"/".join(parts)
            tree.forget()
            fsops.remove_dir(*tree.parent(directory))
            parts.pop()
    except OSError as error:
        # Another pair's session may be dropping the same, or keeping something there.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
    finally:
        tree.close()
