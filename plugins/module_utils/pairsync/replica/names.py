# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file system makes of names: which of the new ones it would change, or take for others.

Some overlook case or Unicode composition, some drop a full stop at the end. What landed there
under another name than its own would look deleted to the next scan. So a file system is asked
once per session with a few names in the stage, and, if it is one of those, about every new name.
"""

from __future__ import annotations

from typing import NamedTuple

from ..model.entry import fold, is_below, parent_of
from ..model.plan import FAILED
from ..model.report import display
from ..reconcile.actions import Action
from . import fsops
from .contents import Done
from .faults import of_file_system
from .tree import Tree

_PLACE = b"names"
_PROBES = (b"Probe", "probe-\u00e9".encode(), "probe-e\u0301".encode(), b"probe.")


class Judged(NamedTuple):
    """refused: results of what cannot be stored. late: numbers of what needs a deletion first."""

    refused: dict[int, Done]
    late: set[int]


def judge(stage_fd: int, tree: Tree, actions: list[Action]) -> Judged:
    """Look at the names that actions would make; actions: in path order.

    stage_fd: on the root's file system; what is made there goes with the stage. Raises OSError
    and PairsyncError when the file system is in trouble.
    """
    found = Judged({}, set())
    new = [one for one in actions if one.have is None and one.want is not None]
    if not new:
        return found
    fsops.make_dir(stage_fd, _PLACE)
    place = fsops.open_dir(stage_fd, _PLACE)
    try:
        if not _is_exact(place):
            _Judge(place, tree, {one.path for one in actions if one.want is None}).run(new, found)
    finally:
        fsops.close(place)
    return found


def is_listed(directory: int, name: bytes) -> bool:
    """Tell whether a directory has exactly this name, not one that is taken for it."""
    return name in fsops.names(directory)


def _is_exact(place: int) -> bool:
    if any(_refusal(place, name) for name in _PROBES):
        return False
    return set(fsops.names(place)) == set(_PROBES) and not _exists(place, _PROBES[0].swapcase())


def _refusal(place: int, name: bytes) -> str:
    """Make an empty file; return why that is not possible, or ""."""
    try:
        fsops.close(fsops.create_file(place, name))
    except OSError as error:
        fatal = of_file_system(error)
        if fatal is not None:
            raise fatal from error
        return (error.strerror or str(error)).lower()
    return ""


def _exists(place: int, name: bytes) -> bool:
    try:
        fsops.lstat(place, name)
    except OSError:
        return False
    return True


class _Judge:
    """Asks the file system about one name after the other, each in a directory of its own."""

    def __init__(self, place: int, tree: Tree, doomed: set[bytes]) -> None:
        self._place = place
        self._tree = tree
        self._doomed = doomed
        self._asked = 0
        self._taken: dict[bytes, dict[bytes, list[bytes]]] = {}  # directory: folded name: names

    def run(self, new: list[Action], found: Judged) -> None:
        top = b""
        reason = ""
        for action in new:
            path = action.path
            if not (reason and is_below(path, top)):
                reason, waits = self._look_at(path)
                top = path
                if waits:
                    found.late.add(action.number)
            if reason:
                found.refused[action.number] = Done(action.number, FAILED, reason)

    def _look_at(self, path: bytes) -> tuple[str, bool]:
        """Why a path cannot be made, and whether it can be once what is to go has gone."""
        directory, name = parent_of(path), path.rpartition(b"/")[2]
        taken = self._taken.get(directory)
        if taken is None:
            taken = self._taken[directory] = {}
            for one in self._names(directory):
                taken.setdefault(fold(one), []).append(one)
        rivals = [
            one
            for one in taken.setdefault(fold(name), [])
            if one != name and self._are_one(one, name)
        ]
        prefix = directory + b"/" if directory else b""
        staying = next((one for one in rivals if prefix + one not in self._doomed), None)
        if staying is not None:
            return f"the file system here takes its name for {display(staying)}", False
        reason = self._unstorable(name)
        if not reason:
            taken[fold(name)].append(name)
        return reason, bool(rivals) and not reason

    def _names(self, directory: bytes) -> list[bytes]:
        try:
            return fsops.names(self._tree.directory(directory))
        except OSError:
            return []  # it is new itself

    def _are_one(self, one: bytes, other: bytes) -> bool:
        place = self._fresh()
        try:
            return not _refusal(place, one) and _exists(place, other)
        finally:
            fsops.close(place)

    def _unstorable(self, name: bytes) -> str:
        place = self._fresh()
        try:
            refusal = _refusal(place, name)
            if refusal:
                return f"its name cannot be stored here: {refusal}"
            if not is_listed(place, name):
                return "the file system here would change its name"
            return ""
        finally:
            fsops.close(place)

    def _fresh(self) -> int:
        self._asked += 1
        name = b"%d" % self._asked
        fsops.make_dir(self._place, name)
        return fsops.open_dir(self._place, name)
