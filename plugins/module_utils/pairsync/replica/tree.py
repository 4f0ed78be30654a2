# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Held descriptors: from a path relative to the root to an open parent directory and a name."""

from __future__ import annotations

from typing import Optional

from . import fsops


class Tree:
    """A root held open, and the chain of directories that was walked last.

    Consecutive paths of one directory, the usual case, cost no further system call. Call
    forget() after moving or removing a directory.
    """

    def __init__(self, root_fd: int) -> None:
        """Take over an open descriptor of the root."""
        self.root_fd = root_fd
        self._chain: list[tuple[bytes, int]] = []
        self._last: Optional[tuple[bytes, int]] = None  # the directory that parent() found last

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """An open descriptor of path's directory, and its last component.

        The descriptor stays the tree's own and is valid until the next call. Raises OSError when
        a component is missing, or no directory (a symlink is none).
        """
        directory, __, name = path.rpartition(b"/")
        last = self._last
        if last is not None and last[0] == directory:
            return last[1], name
        parts = directory.split(b"/") if directory else []
        self._last = None
        chain = self._chain
        keep = 0
        for part, link in zip(parts, chain):
            if part != link[0]:
                break
            keep += 1
        while len(chain) > keep:
            fsops.close(chain.pop()[1])
        fd = chain[-1][1] if chain else self.root_fd
        for part in parts[keep:]:
            fd = fsops.open_dir(fd, part)
            chain.append((part, fd))
        self._last = (directory, fd)
        return fd, name

    def directory(self, path: bytes) -> int:
        """An open descriptor of the directory at path; the tree's own, as in parent()."""
        return self.parent(path + b"/.")[0] if path else self.root_fd

    def forget(self) -> None:
        """Close all held directories but the root."""
        self._last = None
        while self._chain:
            fsops.close(self._chain.pop()[1])

    def close(self) -> None:
        """Close everything."""
        self.forget()
        fsops.close(self.root_fd)
