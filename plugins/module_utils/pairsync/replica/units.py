# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which actions are staged together: a new directory whole, up to a limit; all else alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from ..reconcile.actions import Action, new_tops
from .attributes import Owner
from .rows import Seen

# A new directory with more than this in it appears empty and is filled.
MOST_ENTRIES = 10_000
MOST_BYTES = 1 << 30


@dataclass
class Unit:
    """A new directory that is staged whole.

    actions: the directory itself first, in path order. waiting: files that have not come yet.
    seen: what was staged, by path. owner: who it belongs to where it lands.
    """

    actions: list[Action]
    waiting: int = 0
    owner: Owner = field(default_factory=Owner)
    seen: dict[bytes, Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Work out once what is asked for every file."""
        self.top = self.actions[0]  # makes the directory itself
        self._stage = b"u%d" % self.top.number
        self._above = len(self.top.path)

    def arrived(self, action: Action) -> Action:
        """One of the actions, with the size and digest of what was really staged."""
        seen = self.seen.get(action.path)
        if seen is None or action.want is None:
            return action
        return action._replace(want=action.want._replace(size=seen.size, digest=seen.digest))

    def staged_name(self, path: bytes) -> bytes:
        """Where a path of the unit lies in the stage."""
        return self._stage + path[self._above :]


class Units:
    """All units of one session on one replica."""

    def __init__(self, actions: list[Action]) -> None:
        """actions: in path order."""
        self.all: list[Unit] = []
        self.plain_dirs: list[Action] = []
        self._of: dict[int, Unit] = {}
        self._assign(actions, 0, len(actions))

    def of(self, action: Action) -> Optional[Unit]:
        """The unit an action belongs to."""
        return self._of.get(action.number)

    def staged_name(self, action: Action) -> bytes:
        """Where an action's object lies in the stage."""
        unit = self._of.get(action.number)
        return b"f%d" % action.number if unit is None else unit.staged_name(action.path)

    def _assign(self, actions: list[Action], start: int, stop: int) -> None:
        for top, end in new_tops(actions, start, stop):
            members = [action for action in actions[top:end] if action.want is not None]
            size = sum(action.want.size for action in members if action.want is not None)
            # What replaces a file must come whole, however large it is.
            small = len(members) <= MOST_ENTRIES and size <= MOST_BYTES
            if small or actions[top].have is not None:
                unit = Unit(members)
                self.all.append(unit)
                self._of.update((action.number, unit) for action in members)
            else:
                self.plain_dirs.append(actions[top])
                self._assign(actions, top + 1, end)
