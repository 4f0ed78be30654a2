# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The deny list of one root: paths that no session reads or writes there, whatever it says.

What is on it, replica/denylist.py finds out on each host for itself. A scan does not see these
paths, as if they were ignored; what a session wants to do to them is refused.
"""

from __future__ import annotations

from functools import cached_property
from typing import Optional

from .entry import DIR, Entry, fold, parent_of


class Denied:
    """Denied paths, relative to the root, with all that lies below them.

    Compared as the most forgiving file system would: a directory may have been made to take `.SSH`
    for `.ssh`, and nothing shows that to those who use it.
    """

    def __init__(self, paths: tuple[bytes, ...] = ()) -> None:
        """paths: none of them empty."""
        self._paths = frozenset(map(fold, paths))

    def __bool__(self) -> bool:
        return bool(self._paths)

    @cached_property
    def _names(self) -> dict[bytes, frozenset[bytes]]:
        found: dict[bytes, set[bytes]] = {}
        for path in self._paths:
            found.setdefault(parent_of(path), set()).add(path.rpartition(b"/")[2])
        return {directory: frozenset(names) for directory, names in found.items()}

    @cached_property
    def _above(self) -> frozenset[bytes]:
        """Every directory on the way to a denied path."""
        found = set()
        for path in self._paths:
            directory = path
            while directory:
                directory = parent_of(directory)
                found.add(directory)
        return frozenset(found)

    def names(self, directory: bytes) -> frozenset[bytes]:
        """What is denied directly in a directory, as fold() gives it."""
        return self._names.get(fold(directory), frozenset()) if self._paths else frozenset()

    def hides(self, path: bytes) -> bool:
        """Tell whether a path is denied, or lies below one that is."""
        if not self._paths:
            return False
        path = fold(path)
        while path and path not in self._paths:
            path = parent_of(path)
        return bool(path)

    def refuses(self, path: bytes, have: Optional[Entry], want: Optional[Entry]) -> bool:
        """Tell whether what a session wants at a path must not be done.

        have: what is there, want: what is to be there. A directory on the way to a denied path
        stays one: as a symlink it would lead to whatever the peer has put elsewhere.
        """
        if self.hides(path):
            return True
        if not self._paths or fold(path) not in self._above:
            return False
        return any(entry is not None and entry.kind != DIR for entry in (have, want))
