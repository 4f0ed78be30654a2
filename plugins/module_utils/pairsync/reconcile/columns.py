# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three-way comparison of one path, in two columns.

Contents (with type and link target) and permissions are each decided, and may conflict, on
their own.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from ..model.entry import DIR, FILE, Entry, same_contents, same_mode
from ..model.plan import A_TO_B, B_TO_A, CONFLICT, EQUAL, Part

NONE = ""  # neither side changed this column


class Columns(NamedTuple):
    """The recommendation for each column, and the reason of a conflict."""

    contents: str
    props: str
    reason: str = ""
    # Equal contents whose permissions were never agreed on: a recommendation, no conflict.
    first_props: bool = False


def compare(part: Part) -> Columns:
    """Decide both columns of one path whose entries are all known."""
    base, a, b = part.base, part.a, part.b
    contents, reason = _contents(base, a, b)
    if contents in (A_TO_B, B_TO_A):
        winner, loser = (a, b) if contents == A_TO_B else (b, a)
        if winner is None or loser is None or winner.kind != loser.kind:
            if loser is not None and base is not None and not same_mode(base, loser):
                return Columns(CONFLICT, NONE, _lost_permissions(contents, winner))
            # Created, deleted or of another type: permissions go with the contents.
            return Columns(contents, NONE, reason)
    if a is None or b is None or a.kind != b.kind or a.kind not in (FILE, DIR):
        return Columns(contents, NONE, reason)
    props, first_props = _props(base, a, b)
    if props == CONFLICT and not reason:
        reason = "permissions changed on both sides"
    return Columns(contents, props, reason, first_props)


def _contents(base: Optional[Entry], a: Optional[Entry], b: Optional[Entry]) -> tuple[str, str]:
    changed_a = not same_contents(base, a)
    changed_b = not same_contents(base, b)
    if not changed_a and not changed_b:
        return NONE, ""
    if not changed_b:
        return A_TO_B, ""
    if not changed_a:
        return B_TO_A, ""
    if same_contents(a, b):
        return EQUAL, ""
    return CONFLICT, conflict_reason(base, a, b)


def conflict_reason(base: Optional[Entry], a: Optional[Entry], b: Optional[Entry]) -> str:
    """Say in a few words why two contents conflict."""
    if a is None or b is None:
        return "deleted on a, changed on b" if a is None else "changed on a, deleted on b"
    if a.kind != b.kind:
        return "of different type on the two sides"
    if base is None:
        return "different on the two sides, and never synced before"
    return "contents changed on both sides"


def _lost_permissions(contents: str, winner: Optional[Entry]) -> str:
    """As for contents: what one side changed does not disappear because the other deleted it."""
    gone, kept = ("a", "b") if contents == A_TO_B else ("b", "a")
    verb = "deleted" if winner is None else "replaced"
    return f"{verb} on {gone}, permissions changed on {kept}"


def _props(base: Optional[Entry], a: Entry, b: Entry) -> tuple[str, bool]:
    if same_mode(a, b):
        return (NONE if same_mode(base, a) and base is not None else EQUAL), False
    if base is None or base.mode is None or base.kind != a.kind:
        return A_TO_B, True
    if a.mode == base.mode:
        return B_TO_A, False
    if b.mode == base.mode:
        return A_TO_B, False
    return CONFLICT, False
