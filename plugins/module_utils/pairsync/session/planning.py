# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands around a plan: what has to be asked before, what stops it, how it is summed up."""

from __future__ import annotations

from collections.abc import Mapping

from ..model.entry import DIR, FILE, Change
from ..model.errors import PairsyncError
from ..model.plan import A_TO_B, B_TO_A, EQUAL, Item
from ..model.spec import PairSpec
from ..reconcile.actions import Action, too_many_deletions
from ..replica.interface import Scanned


def undecided(a: Mapping[bytes, Change], b: Mapping[bytes, Change]) -> list[bytes]:
    """Files of one size on both sides, of which at least one was never hashed."""
    return [path for path, change in a.items() if path in b and _is_undecided(change, b[path])]


def _is_undecided(one: Change, other: Change) -> bool:
    a, b = one.after, other.after
    if a is None or b is None or a.kind != FILE or b.kind != FILE or a.size != b.size:
        return False
    return a.digest is None or b.digest is None


def directories_gone(changes: Mapping[bytes, Change]) -> list[bytes]:
    """Paths that were a directory, and are none any more."""
    return [
        path
        for path, change in changes.items()
        if change.before is not None
        and change.before.kind == DIR
        and (change.after is None or change.after.kind != DIR)
    ]


def is_confirmed(confirm: str, digest: str) -> bool:
    """Tell whether a person approved this plan; raise PairsyncError when it was another one.

    confirm: the digest that was approved, "" for none.
    """
    if confirm and confirm != digest:
        raise PairsyncError(
            "mass_change",
            "the plan is not the one that was confirmed: something changed since",
            f"look at it again; this plan is confirmed with `--confirm {digest}`",
        )
    return bool(confirm)


def check_emptied(
    spec: PairSpec, scans: tuple[Scanned, Scanned], rows: tuple[int, int], digest: str
) -> None:
    """Stop before a replica that lost all it held empties the other; raise PairsyncError.

    rows: entries of a and b in the base.
    """
    for place, found, other, number in zip((spec.a, spec.b), scans, reversed(scans), rows):
        if number > 1 and found.entries == 0 and other.entries > 0 and not spec.policy.paths:
            raise PairsyncError(
                "root_emptied",
                f"{place.display} held {number} entries at the last sync, and holds none now",
                "mount or restore it; if it was emptied on purpose, confirm with"
                f" `--confirm {digest}`",
                place.label,
            )


def check_brake(
    spec: PairSpec, actions: tuple[list[Action], list[Action]], rows: tuple[int, int], digest: str
) -> None:
    """Stop before more is deleted on a replica than the policy allows; raise PairsyncError."""
    for place, todo, held in zip((spec.a, spec.b), actions, rows):
        number = too_many_deletions(todo, held, spec.policy.max_delete)
        if number:
            raise PairsyncError(
                "mass_change",
                f"{number} of {held} entries would be deleted on {place.display},"
                f" more than {spec.policy.max_delete} %",
                f"look at the plan; if it is meant, confirm it with `--confirm {digest}`",
                place.label,
            )


def labels_of(spec: PairSpec) -> dict[str, str]:
    """What a and b are called in a plan: by host, or by what tells two roots on one host apart."""
    labels = {"a": spec.a.label or "local", "b": spec.b.label or "local"}
    if labels["a"] != labels["b"]:
        return labels
    roots = spec.a.root, spec.b.root
    ends = tuple(map(_end_of, roots))
    return dict(zip("ab", roots if ends[0] == ends[1] else ends))


def summary(items: list[Item], labels: Mapping[str, str]) -> tuple[str, ...]:
    """What the plan comes to, in Unison's words."""
    to_b = sum(1 for item in items if item.decision == A_TO_B)
    to_a = sum(1 for item in items if item.decision == B_TO_A)
    left = sum(
        1 for item in items if item.decision not in (A_TO_B, B_TO_A, EQUAL) and not item.note
    )
    return (
        f"{to_a + to_b} items will be synced, {left} skipped",
        f"{to_b} to be synced from {labels['a']} to {labels['b']}",
        f"{to_a} to be synced from {labels['b']} to {labels['a']}",
    )


def _end_of(root: str) -> str:
    """What tells a root from others on its host in few letters: its last component."""
    return root.rstrip("/").rpartition("/")[2] or root
