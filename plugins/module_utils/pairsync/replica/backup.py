# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup: displaced objects themselves, by run, under the path they had.

`backup/<run>/<path>` holds the very inode that was replaced or deleted, so that a program that
still writes into it loses nothing.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import Optional

from . import fsops
from .state import State
from .tree import Tree


class Backup:
    """Where one run puts what it displaces."""

    def __init__(self, state: State, run: str) -> None:
        """run: the run's id; its directory is made when something is first displaced."""
        self._state = state
        self._run = run.encode()
        self._tree: Optional[Tree] = None
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

    def _place(self, path: bytes) -> tuple[int, bytes]:
        if self._tree is None:
            self._tree = Tree(self._state.directory(b"backup", self._run))
        tree = self._tree
        parts = path.split(b"/")
        held = tree.root_fd
        for depth in range(1, len(parts)):
            try:
                held = tree.directory(b"/".join(parts[:depth]))
            except (FileNotFoundError, NotADirectoryError):
                # A file displaced earlier in this run may have the name of this directory.
                parts[depth - 1] = self._fresh_dir(held, parts[depth - 1])
                held = tree.directory(b"/".join(parts[:depth]))
        return held, parts[-1]

    @staticmethod
    def _fresh_dir(parent: int, name: bytes) -> bytes:
        with contextlib.suppress(FileExistsError):
            fsops.make_dir(parent, name, 0o700)
            return name
        other = name[:200] + b"~" + secrets.token_hex(4).encode()
        fsops.make_dir(parent, other, 0o700)
        return other

    def close(self) -> None:
        """Make what was kept durable by name, and let go of it."""
        if self._tree is not None:
            self._tree.close()
            self._tree = None
