# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From recommendations to decisions: mode, preference, batch, and what a person has confirmed."""

from __future__ import annotations

from typing import Callable, Optional

from ..model.entry import FILE, LINK, Entry, blocked
from ..model.plan import A_TO_B, B_TO_A, CONFLICT, EQUAL, ERROR, PROPS, SKIP, Item
from ..model.policy import Policy

# One tick of a slow kernel clock: file times closer than this have no order.
LEAST_UNCERTAINTY_NS = 10_000_000


def decide(
    items: list[Item],
    policy: Policy,
    *,
    covers: Callable[[bytes], bool],
    interactive: bool,
    confirmed: bool = False,
    clock_offset_ns: int = 0,
    clock_uncertainty_ns: int = 0,
) -> list[Item]:
    """Apply a policy to recommendations.

    covers: tells whether the base can speak for a path; where it cannot, nothing may be deleted.
    interactive: a person will be asked, so
    recommendations that batch runs leave alone are offered. confirmed: this very plan was
    approved by its digest. clock_offset_ns: b's clock minus a's, in nanoseconds, known to
    within clock_uncertainty_ns.
    """
    slack = max(LEAST_UNCERTAINTY_NS, clock_uncertainty_ns)

    def newer(item: Item) -> str:
        return _by_time(item, clock_offset_ns, slack)

    decided = []
    for item in items:
        if item.decision == ERROR or (item.decision == SKIP and item.note) or item.unsettled:
            decided.append(item)
        elif len(item.parts) > 1 and any(blocked(one.a) or blocked(one.b) for one in item.parts):
            # No preference decides over what is unknown.
            decided.append(item)
        elif policy.mode == "mirror":
            decided.append(_mirror(item, policy, newer, covers=covers, confirmed=confirmed))
        elif policy.mode == "push":
            decided.append(_push(item, policy, newer, interactive=interactive))
        else:
            decided.append(_two_way(item, policy, newer, interactive=interactive))
    return decided


def _two_way(
    item: Item, policy: Policy, newer: Callable[[Item], str], *, interactive: bool
) -> Item:
    if item.decision == CONFLICT:
        return _preferred(item, policy, newer)
    if _never_synced_props(item) and not interactive:
        winner = _preferred(item._replace(decision=CONFLICT), policy, newer)
        return item._replace(decision=SKIP) if winner.decision == CONFLICT else winner
    return item


def _never_synced_props(item: Item) -> bool:
    if item.column != PROPS or item.decision != A_TO_B:
        return False
    base, a = item.parts[0].base, item.parts[0].a
    return base is None or base.mode is None or (a is not None and a.kind != base.kind)


def _mirror(
    item: Item,
    policy: Policy,
    newer: Callable[[Item], str],
    *,
    covers: Callable[[bytes], bool],
    confirmed: bool,
) -> Item:
    """B becomes a copy of a; surplus and unequal contents never synced wait for a person."""
    if item.decision in (EQUAL, SKIP):
        return item
    never = item.parts[0].base is None and not covers(item.path)
    if item.decision == B_TO_A and item.parts[0].a is None and never and not confirmed:
        return item._replace(
            recommendation=A_TO_B, decision=SKIP, reason="only on b, and never synced before"
        )
    if item.decision == CONFLICT and never and not confirmed:
        return _preferred(item._replace(recommendation=A_TO_B), policy, newer)
    return item._replace(recommendation=A_TO_B, decision=A_TO_B)


def _push(item: Item, policy: Policy, newer: Callable[[Item], str], *, interactive: bool) -> Item:
    """A's changes go to b where b is unchanged; what b did on its own is only noted."""
    if item.decision == B_TO_A:
        return item._replace(decision=SKIP, note=True, reason="changed on b only; mode is push")
    return _two_way(item, policy, newer, interactive=interactive)


def _preferred(item: Item, policy: Policy, newer: Callable[[Item], str]) -> Item:
    decision = CONFLICT
    if policy.prefer in ("a", "b"):
        decision = A_TO_B if policy.prefer == "a" else B_TO_A
    elif policy.prefer:
        decision = newer(item)
        if policy.prefer == "older" and decision != CONFLICT:
            decision = A_TO_B if decision == B_TO_A else B_TO_A
    if decision == CONFLICT:
        return item._replace(decision=CONFLICT)
    if policy.mode != "two-way" and decision == B_TO_A:
        return item._replace(decision=CONFLICT)  # a is never changed
    return item._replace(decision=decision, reason=f"prefer {policy.prefer}")


def _by_time(item: Item, offset_ns: int, slack_ns: int) -> str:
    """The side that was written later, if both have a time and the clocks allow to tell."""
    if len(item.parts) != 1 or item.column == PROPS:
        return CONFLICT
    a, b = item.parts[0].a, item.parts[0].b
    if not (_timed(a) and _timed(b)) or a is None or b is None:
        return CONFLICT  # a missing path never wins by time
    difference = (b.mtime_ns - offset_ns) - a.mtime_ns
    if abs(difference) <= slack_ns:
        return CONFLICT
    return B_TO_A if difference > 0 else A_TO_B


def _timed(entry: Optional[Entry]) -> bool:
    return entry is not None and entry.kind in (FILE, LINK)
