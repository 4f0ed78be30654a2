# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report (`pairsync.report/1`) means: was anything changed, the diff, one sentence.

Shared by the module, which returns reports, and by the controller, which draws tables of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Decisions that do something to a replica. `equal` only adopts what both sides already hold.
ACTIONS = ("a->b", "b->a", "merge")

# At most this many conflicting or failed paths are named in a message.
_NAMED = 5


def moved(report: Mapping[str, Any], decision: str) -> int:
    """Return how many items of this decision were done; in a plan, how many would be."""
    results = (report.get("counts") or {}).get(decision) or {}
    planned = int(results.get("planned", 0)) if report.get("dry_run") else 0
    return int(results.get("done", 0)) + planned


def is_changed(report: Mapping[str, Any]) -> bool:
    """Say whether the session did something to a replica; for a plan: would do."""
    return any(moved(report, decision) for decision in ACTIONS)


def conflicts(report: Mapping[str, Any]) -> int:
    """Return the number of items in conflict."""
    return sum(int(one) for one in ((report.get("counts") or {}).get("conflict") or {}).values())


def failures(report: Mapping[str, Any]) -> int:
    """Return the number of items that failed, or that nothing could be said about."""
    counts = report.get("counts") or {}
    return sum(
        # Every `error` item is one, whatever became of it.
        sum(int(one) for one in results.values())
        if decision == "error"
        else int(results.get("failed", 0))
        for decision, results in counts.items()
    )


def left_over(report: Mapping[str, Any]) -> int:
    """Return the number of items that are left for the next run, conflicts aside."""
    return sum(
        int(results.get("skipped", 0)) + int(results.get("held", 0))
        for decision, results in (report.get("counts") or {}).items()
        if decision not in ("conflict", "equal")
    )


def is_overtaken(report: Mapping[str, Any]) -> bool:
    """Say whether the session left things only because they changed while it ran."""
    return bool(report.get("exit") == 1 and left_over(report) and not conflicts(report))


def sentence(report: Mapping[str, Any]) -> str:
    """Return what became of the session in one sentence, with the next step where there is one."""
    error = report.get("error")
    if error:
        message, host = error.get("message", "the session failed"), error.get("host") or ""
        where = "" if host in message else f"{host}: "
        following = f"; {error['next']}" if error.get("next") else ""
        return f"{where}{message}{following}"
    if report.get("collapsed"):
        return "both replicas are one file system: nothing to do"
    parts = []
    done = sum(moved(report, decision) for decision in ACTIONS)
    if done:
        parts.append(f"{done} {'to propagate' if report.get('dry_run') else 'propagated'}")
    if conflicts(report):
        parts.append(f"{conflicts(report)} in conflict ({_names(report, 'conflict')})")
    if failures(report):
        parts.append(f"{failures(report)} failed ({_names(report, 'failed')})")
    if left_over(report):
        parts.append(f"{left_over(report)} left for the next run")
    return ", ".join(parts) or "nothing to do"


def _names(report: Mapping[str, Any], what: str) -> str:
    """Return the first few paths in conflict, or failed."""
    paths = [
        str(item.get("path"))
        for item in report.get("items") or []
        if (item.get("decision") == "conflict" if what == "conflict" else _is_failed(item))
    ]
    more = ", …" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more


def _is_failed(item: Mapping[str, Any]) -> bool:
    return item.get("result") == "failed" or item.get("decision") == "error"


def trimmed(report: Mapping[str, Any], items_max: int) -> dict[str, Any]:
    """Return the report with at most items_max items, failed ones first, then conflicts."""
    items = sorted(report.get("items") or [], key=_urgency)
    return {**report, "items": items[:items_max]}


def _urgency(item: Mapping[str, Any]) -> int:
    if _is_failed(item):
        return 0
    return 1 if item.get("decision") == "conflict" else 2


def diff(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return before and after of each replica that changes: names and properties, no contents."""
    pair = report.get("pair") or {}
    sides = []
    for decision, source, target in (("a->b", "a", "b"), ("b->a", "b", "a")):
        before, after = [], []
        for item in sorted(report.get("items") or [], key=lambda one: str(one.get("path"))):
            if item.get("decision") != decision or item.get("result") not in ("done", "planned"):
                continue
            change = item.get(source)
            path, kind = item.get("path"), item.get("kind", "file")
            if change != "new":
                before.append(f"{path}  {kind}\n")
            if change != "deleted":
                size = f", {item['bytes']} bytes" if item.get("bytes") else ""
                after.append(f"{path}  {kind}, {change} on {pair.get(source, source)}{size}\n")
        if before or after:
            header = str(pair.get(target, target))
            sides.append(
                {
                    "before_header": header,
                    "after_header": header,
                    "before": "".join(before),
                    "after": "".join(after),
                }
            )
    return sides
