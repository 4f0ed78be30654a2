# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconcile: (base, changes of a, changes of b, policy) -> plan items. Total and pure.

Both sets of changes are walked together in path order, in which everything below a directory
directly follows it. Two things concern a whole subtree: a problem blocks all below it, and a
directory deleted on one side with news below it on the other is one held conflict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from ..model.entry import (
    DIR,
    SPECIAL,
    Change,
    blocked,
    is_below,
    is_dir,
    same_contents,
    sort_key,
    status,
)
from ..model.plan import (
    A_TO_B,
    B_TO_A,
    BOTH,
    CONFLICT,
    CONTENTS,
    EQUAL,
    ERROR,
    PROPS,
    SKIP,
    Item,
    Part,
    part_of,
)
from ..model.report import display
from .columns import NONE, Columns, compare, conflict_reason

Changes = Mapping[bytes, Change]


def reconcile(
    changes_a: Changes, changes_b: Changes, hidden: frozenset[tuple[str, bytes]] = frozenset()
) -> tuple[list[Item], list[str]]:
    """Compare two sets of changes against one base.

    hidden: (side, path) of directories that hold ignored content; such a directory is never
    deleted. Returns the items with their recommendations as decisions, and notes for people.
    """
    paths = sorted(set(changes_a) | set(changes_b), key=sort_key)
    items: list[Item] = []
    notes: list[str] = []
    index = 0
    while index < len(paths):
        path = paths[index]
        a, b = changes_a.get(path), changes_b.get(path)
        new = a if b is None else b if a is None else None
        if new is not None and new.before is None and not (new.after is None or blocked(new.after)):
            items.append(_creation(new, A_TO_B if b is None else B_TO_A))
            index += 1
            continue
        end = index + 1
        if _takes_subtree(a, b):
            while end < len(paths) and is_below(paths[end], path):
                end += 1
        below = paths[index + 1 : end]
        if _problem(a) or _problem(b):
            found, note = _blocked(path, a, b, below, changes_a, changes_b)
            items.extend(found)
            notes.extend(note)
        elif below or _dir_gone(a) or _dir_gone(b):
            held = _held(path, a, b, below, changes_a, changes_b)
            if held is not None:
                items.append(held)
            else:
                # Only deletions below: decided one by one like everything else.
                end = index + 1
                items.extend(_decide(path, a, b, hidden))
        else:
            items.extend(_decide(path, a, b, hidden))
        index = end
    return items, notes


def _creation(change: Change, decision: str) -> Item:
    """The item of something that is only new, as _decide() makes it, in a fraction of its time.

    A first sync has little else.
    """
    path, entry = change.path, change.after
    if decision == A_TO_B:
        a, b, part = "new", "unchanged", Part(path, None, entry, None)
    else:
        a, b, part = "unchanged", "new", Part(path, None, None, entry)
    return Item(
        path, a, b, decision, decision, (part,), unsettled=change.unsettled
    )  # fmt: skip


def _problem(change: Optional[Change]) -> bool:
    return change is not None and blocked(change.after)


def _dir_gone(change: Optional[Change]) -> bool:
    if change is None or change.before is None or change.before.kind != DIR:
        return False
    return change.after is None or change.after.kind != DIR


def _takes_subtree(a: Optional[Change], b: Optional[Change]) -> bool:
    """Tell whether what happened at this path concerns everything below it."""
    if _problem(a) or _problem(b) or _dir_gone(a) or _dir_gone(b):
        return True
    return a is not None and b is not None and is_dir(a.after) != is_dir(b.after)


def _blocked(
    path: bytes,
    a: Optional[Change],
    b: Optional[Change],
    below: list[bytes],
    changes_a: Changes,
    changes_b: Changes,
) -> tuple[list[Item], list[str]]:
    """One error item for a problem, and a skip for everything it blocks."""
    sides = [side for side, change in (("a", a), ("b", b)) if _problem(change)]
    changes = [change for change in (a, b) if _problem(change) and change is not None]
    reasons = [
        f"{change.after.target.decode('utf-8', 'replace')} on {side}"
        for side, change in zip(sides, changes)
        if change.after is not None
    ]
    only_special = all(c.after is not None and c.after.kind == SPECIAL for c in changes)
    part = part_of(path, a, b)
    others = [entry for entry in (part.a, part.b) if entry is not None and not blocked(entry)]
    if only_special and part.base is None and not others and not below:
        return [], [f"{display(path)}: {reasons[0]}, not synced"]
    reason = " and ".join(reasons)
    items = [Item(path, status(a), status(b), ERROR, ERROR, (part,), reason)]
    why = f"below {display(path)}, which is blocked: {reason}"
    for inner in below:
        inner_a, inner_b = changes_a.get(inner), changes_b.get(inner)
        if _problem(inner_a) or _problem(inner_b):
            more, __ = _blocked(inner, inner_a, inner_b, [], changes_a, changes_b)
            items.extend(more)
            continue
        inner_part = part_of(inner, inner_a, inner_b)
        if compare(inner_part).contents == EQUAL:
            items.extend(_decide(inner, inner_a, inner_b, frozenset()))
            continue
        items.append(Item(inner, status(inner_a), status(inner_b), SKIP, SKIP, (inner_part,), why))
    return items, []


def _held(
    path: bytes,
    a: Optional[Change],
    b: Optional[Change],
    below: list[bytes],
    changes_a: Changes,
    changes_b: Changes,
) -> Optional[Item]:
    """The one conflict over a directory that one side removed and the other side used.

    None when nothing below stands against the removal.
    """
    part = part_of(path, a, b)
    if _dir_gone(a) != _dir_gone(b):
        gone, kept, kept_changes = ("a", b, changes_b) if _dir_gone(a) else ("b", a, changes_a)
        news = [inner for inner in below if _is_news(kept_changes.get(inner))]
        if not _is_news(kept) and not news:
            return None
        where = display(news[0]) if news else "its permissions"
        verb = "deleted" if (part.a if gone == "a" else part.b) is None else "replaced"
        reason = f"{verb} on {gone}, but {where} changed on the other side"
    elif same_contents(part.a, part.b) or is_dir(part.a) == is_dir(part.b):
        return None
    else:
        reason = conflict_reason(part.base, part.a, part.b)
    inner_parts = (part_of(one, changes_a.get(one), changes_b.get(one)) for one in below)
    parts = (part, *inner_parts)
    return Item(path, status(a), status(b), CONFLICT, CONFLICT, parts, reason)


def _is_news(change: Optional[Change]) -> bool:
    """A change that a deletion would destroy, or that is unknown to us."""
    return change is not None and change.after is not None and status(change) != "unchanged"


def _decide(
    path: bytes, a: Optional[Change], b: Optional[Change], hidden: frozenset[tuple[str, bytes]]
) -> list[Item]:
    """The items of one path: one, or two when its columns go different ways, or none."""
    part = part_of(path, a, b)
    columns = compare(part)
    words = (status(a), status(b))
    unsettled = any(change is not None and change.unsettled for change in (a, b))

    def item(decision: str, column: str, reason: str = "") -> Item:
        return Item(
            path, words[0], words[1], decision, decision, (part,), reason, column,
            unsettled=unsettled and decision in (A_TO_B, B_TO_A),
        )  # fmt: skip

    kept = _kept(part, columns, hidden)
    if kept:
        return [item(SKIP, CONTENTS, "kept: ignored content")._replace(note=True)]
    if columns.contents == NONE:
        if columns.props == NONE:
            return []
        return [item(columns.props, PROPS, _props_reason(columns))]
    if columns.props in (NONE, EQUAL, columns.contents) and not columns.first_props:
        return [item(columns.contents, BOTH, columns.reason)]
    contents_reason = columns.reason if columns.contents == CONFLICT else ""
    return [
        item(columns.contents, CONTENTS, contents_reason),
        item(columns.props, PROPS, _props_reason(columns)),
    ]


def _props_reason(columns: Columns) -> str:
    if columns.first_props:
        return "permissions differ, and were never synced"
    return "permissions changed on both sides" if columns.props == CONFLICT else ""


def _kept(part: Part, columns: Columns, hidden: frozenset[tuple[str, bytes]]) -> bool:
    """A directory that one side deleted and that holds ignored content on the other."""
    if columns.contents not in (A_TO_B, B_TO_A):
        return False
    side, loser, winner = (
        ("b", part.b, part.a) if columns.contents == A_TO_B else ("a", part.a, part.b)
    )
    return is_dir(loser) and not is_dir(winner) and (side, part.path) in hidden
