# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a decided plan to what each replica has to do, and what both agree on afterwards."""

from __future__ import annotations

from typing import NamedTuple, Optional

from ..model.entry import FILE, LINK, Entry, is_below, is_dir, same_contents, same_mode
from ..model.plan import A_TO_B, B_TO_A, BOTH, PROPS, Item, Part
from ..model.policy import SMALL_DELETION


class Action(NamedTuple):
    """One step on the replica that receives.

    number: its name on the wire. want: the entry to bring about (None: delete). have: what the
    plan says is there now. item: index into the plan's items. by_reference: after the action both
    replicas agree on exactly `want`, so the base row need not travel.
    """

    number: int
    path: bytes
    want: Optional[Entry]
    have: Optional[Entry]
    item: int
    props_only: bool = False
    by_reference: bool = True

    @property
    def takes_contents(self) -> bool:
        """Tell whether bytes of a file have to arrive for it."""
        return self.want is not None and self.want.kind == FILE and not self.props_only


def actions_of(items: list[Item]) -> tuple[list[Action], list[Action]]:
    """The actions on a and on b, in path order, with numbers unique over both."""
    on_a: list[Action] = []
    on_b: list[Action] = []
    number = 0
    for index, item in enumerate(items):
        if item.decision == A_TO_B:
            target = on_b
        elif item.decision == B_TO_A:
            target = on_a
        else:
            continue
        for part in item.parts:
            source, have = (part.a, part.b) if item.decision == A_TO_B else (part.b, part.a)
            action = _action(number, part.path, source, have, index, item)
            if action is not None:
                target.append(action)
                number += 1
    return on_a, on_b


def _action(
    number: int,
    path: bytes,
    source: Optional[Entry],
    have: Optional[Entry],
    index: int,
    item: Item,
) -> Optional[Action]:
    if item.column == PROPS:
        if source is None or have is None or same_mode(source, have):
            return None
        return Action(number, path, have._replace(mode=source.mode), have, index, True, False)
    if same_contents(source, have) and same_mode(source, have):
        return None
    if source is not None and have is not None and same_contents(source, have):
        want = have._replace(mode=source.mode)
        return Action(number, path, want, have, index, True, item.column == BOTH)
    if source is not None and have is not None and item.column != BOTH and source.kind == have.kind:
        return Action(number, path, source._replace(mode=have.mode), have, index, False, False)
    return Action(number, path, source, have, index, False, item.column == BOTH)


def agreed(current: Optional[Entry], part: Part, item: Item) -> Optional[Entry]:
    """The base row of a part once its item is done.

    current: the row as it stands, which another item of the same path may have changed already.
    """
    winner = part.b if item.decision == B_TO_A else part.a
    if item.column == PROPS:
        if current is None or winner is None:
            return current
        return current._replace(mode=winner.mode)
    if winner is None:
        return None
    if item.column == BOTH or winner.kind == LINK:
        return winner
    same_kind = current is not None and current.kind == winner.kind
    return winner._replace(mode=current.mode if same_kind and current is not None else None)


def too_many_deletions(actions: list[Action], rows: int, percent: int) -> int:
    """The number of deletions when it trips the brake on mass change, else 0.

    rows: entries in the replica's base. percent: the policy's max_delete.
    """
    deletions = sum(1 for action in actions if action.want is None)
    if deletions <= SMALL_DELETION or deletions * 100 <= rows * percent:
        return 0
    return deletions


def new_tops(actions: list[Action], start: int, stop: int) -> list[tuple[int, int]]:
    """Spans of actions that build one new directory each, the directory itself first.

    Looks at actions[start:stop], which are in path order; spans are half-open.
    """
    spans: list[tuple[int, int]] = []
    index = start
    while index < stop:
        action = actions[index]
        end = index + 1
        if is_dir(action.want) and not is_dir(action.have):
            while end < stop and is_below(actions[end].path, action.path):
                end += 1
            spans.append((index, end))
        index = end
    return spans
