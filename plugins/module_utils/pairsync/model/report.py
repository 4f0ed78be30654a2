# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report, `pairsync.report/1`: what a session did, for people and programs.

Paths are bytes inside the engine; in JSON they are display text, escaped, with the exact bytes
in `path_b64` beside it whenever the name is not clean UTF-8.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

from .entry import FILE, KIND_NAMES, Entry
from .errors import EXIT_DONE, EXIT_FAILED, EXIT_SKIPPED, PairsyncError
from .plan import (
    A_TO_B,
    B_TO_A,
    CONFLICT,
    DONE,
    EQUAL,
    ERROR,
    FAILED,
    HELD,
    PLANNED,
    SKIP,
    SKIPPED,
    Item,
)

SCHEMA = "pairsync.report/1"
MOST_ITEMS = 10_000


class Outcome(NamedTuple):
    """What became of an item. size: bytes of contents sent for it."""

    item: Item
    result: str
    reason: str = ""
    size: int = 0


@dataclass
class Run:
    """What a session knows of itself while it runs; the report is made from it."""

    run: str
    started: str
    a: str
    b: str
    version: str
    mode: str = "two-way"
    route: str = "direct"
    pair_id: str = ""
    base: str = "first"
    plan_digest: str = ""
    dry_run: bool = False
    collapsed: bool = False
    contents_bytes: int = 0
    wire_bytes: int = 0
    seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: Optional[PairsyncError] = None


def display(path: bytes) -> str:
    """A path as text that no terminal, log or line-based reader can misread.

    Control characters, bidirectional overrides and bytes that are not UTF-8 are escaped with a
    backslash, and so is the backslash itself. The root is shown as `.`.
    """
    text = path.decode("utf-8", "surrogateescape")
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text or "."
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    code = ord(char)
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    if short:
        return short
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def path_fields(path: bytes) -> dict[str, str]:
    """`path`, and `path_b64` beside it when the text alone would not give the bytes back."""
    shown = display(path)
    fields = {"path": shown}
    if shown.encode("utf-8", "surrogatepass") != path:
        fields["path_b64"] = base64.b64encode(path).decode("ascii")
    return fields


def item_json(outcome: Outcome) -> dict[str, Any]:
    """One item of the report."""
    item = outcome.item
    part = item.parts[0]
    entry = (
        part.a
        if item.decision == A_TO_B
        else part.b
        if item.decision == B_TO_A
        else part.a or part.b
    )
    fields: dict[str, Any] = dict(path_fields(item.path))
    fields.update(
        decision=item.decision,
        recommendation=item.recommendation,
        a=item.a,
        b=item.b,
        kind=_kind(entry or part.a or part.b or part.base),
        result=outcome.result,
        reason=outcome.reason or item.reason or None,
        bytes=outcome.size,
    )
    fields["from"] = None  # set for moves only
    return fields


def _kind(entry: Optional[Entry]) -> str:
    return KIND_NAMES[entry.kind] if entry is not None else KIND_NAMES[FILE]


def counts(outcomes: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """Number of items by decision and result; every item is counted exactly once."""
    table: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        row = table.setdefault(outcome.item.decision, {})
        row[outcome.result] = row.get(outcome.result, 0) + 1
    return table


def exit_code(run: Run) -> int:
    """0: nothing is left to do under the policy; 1: skipped or in conflict; 2: failed; 3: fatal."""
    if run.error is not None:
        return run.error.exit_code
    code = EXIT_DONE
    for outcome in run.outcomes:
        item = outcome.item
        if outcome.result == FAILED or item.decision == ERROR:
            return EXIT_FAILED
        if item.note:
            continue
        if (
            outcome.result in (SKIPPED, HELD)
            or item.decision in (CONFLICT, SKIP)
            or (outcome.result == PLANNED and item.decision != EQUAL)
        ):
            code = EXIT_SKIPPED
    return code


def changed(run: Run) -> bool:
    """Tell whether the session changed anything that a person can see in a replica."""
    return any(
        outcome.result == DONE and outcome.item.decision in (A_TO_B, B_TO_A)
        for outcome in run.outcomes
    )


def report_json(run: Run) -> dict[str, Any]:
    """The whole report; conflicts and failures first among the items."""
    listed = [outcome for outcome in run.outcomes if outcome.item.decision != EQUAL]
    listed.sort(key=_urgency)  # stable: path order within one urgency
    return {
        "schema": SCHEMA,
        "pair": {"a": run.a, "b": run.b, "id": run.pair_id or None},
        "version": run.version,
        "run": run.run,
        "started": run.started,
        "seconds": round(run.seconds, 3),
        "exit": exit_code(run),
        "mode": run.mode,
        "base": run.base,
        "route": run.route,
        "plan_digest": run.plan_digest or None,
        "dry_run": run.dry_run,
        "counts": counts(run.outcomes),
        "items_total": len(run.outcomes),
        "items": [item_json(outcome) for outcome in listed[:MOST_ITEMS]],
        "bytes": {"contents": run.contents_bytes, "wire": run.wire_bytes},
        "warnings": run.warnings,
        "notes": run.notes,
        "collapsed": run.collapsed,
        "error": run.error.as_json() if run.error is not None else None,
    }


def _urgency(outcome: Outcome) -> int:
    if outcome.result == FAILED or outcome.item.decision == ERROR:
        return 0
    if outcome.item.decision == CONFLICT:
        return 1
    if outcome.result in (HELD, SKIPPED):
        return 2
    return 3
