# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a plan is shown: Unison's columns, words and arrows, one line an item.

Works on the items of the report and of the event stream, so that a plan looks the same wherever
the session runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..model.plan import A_TO_B, B_TO_A, CONFLICT, ERROR, MERGE

MOST_LINES = 1000

_WORDS = {
    ("new", "file"): "new file",
    ("new", "directory"): "new dir",
    ("new", "symlink"): "new link",
    ("changed", "directory"): "chgd dir",
    ("changed", "symlink"): "chgd lnk",
    ("unchanged", "file"): "",
}
_ARROWS = {A_TO_B: "---->", B_TO_A: "<----", MERGE: "<-M->", ERROR: "error"}
_TURNED = {A_TO_B: "====>", B_TO_A: "<====", MERGE: "<=M=>", ERROR: "error"}


def header(labels: Mapping[str, str]) -> str:
    """The line above a plan: both hosts, at the columns of their status words."""
    return f"{labels['a'][:12]:<12}   {labels['b'][:12]:<12}".rstrip()


def plan_line(item: Mapping[str, Any]) -> str:
    """One item: status on a, arrow, status on b, path.

    A doubled arrow is another decision than the recommended one.
    """
    decision, recommendation = item["decision"], item["recommendation"]
    if decision == recommendation:
        arrow = _ARROWS.get(decision, "<-?->")
    else:
        arrow = _TURNED.get(decision, "<=?=>")
    kind = item.get("kind") or "file"
    left, right = _word(item["a"], kind), _word(item["b"], kind)
    return f"{left:<8} {arrow} {right:<8}   {item['path']}"


def _word(status: str, kind: str) -> str:
    if status == "unchanged":
        return ""
    return _WORDS.get((status, kind), status)


def plan_lines(items: Iterable[Mapping[str, Any]]) -> list[str]:
    """All lines of a plan. What is created or deleted with its directory is only counted there."""
    lines: list[str] = []
    top: Mapping[str, Any] = {}
    inside = 0
    left_out = 0

    def close() -> None:
        nonlocal inside
        if inside:
            lines[-1] += f"  ({inside} inside)"
            inside = 0

    for item in items:
        if top and item["path"].startswith(top["path"] + "/") and _same_way(item, top):
            inside += 1
            continue
        close()
        top = (
            item
            if item.get("kind") == "directory" and {"new", "deleted"} & {item["a"], item["b"]}
            else {}
        )
        if len(lines) >= MOST_LINES:
            left_out += 1
            top = {}
        else:
            lines.append(plan_line(item))
    close()
    if left_out:
        lines.append(f"… and {left_out} more items")
    return lines


def _same_way(item: Mapping[str, Any], top: Mapping[str, Any]) -> bool:
    return all(item[key] == top[key] for key in ("decision", "recommendation", "a", "b"))


def reason_line(item: Mapping[str, Any]) -> str:
    """An item that was not done, and why."""
    word = CONFLICT if item["decision"] == CONFLICT else item["result"]
    reason = f" ({item['reason']})" if item.get("reason") else ""
    return f"  {word}: {item['path']}{reason}"
