# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: what a session would do, item by item, and the digest by which a person approves it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple, Optional

from .entry import FILE, Change, Entry, sort_key

A_TO_B = "a->b"
B_TO_A = "b->a"
EQUAL = "equal"
CONFLICT = "conflict"
MERGE = "merge"
SKIP = "skip"
ERROR = "error"

DONE = "done"
PLANNED = "planned"
SKIPPED = "skipped"
FAILED = "failed"
HELD = "held"

# What an item is about: both columns, or one of them where they are decided differently.
BOTH = "both"
CONTENTS = "contents"
PROPS = "props"


class Part(NamedTuple):
    """One path of an item: what the base, a and b hold there. None is "nothing"."""

    path: bytes
    base: Optional[Entry]
    a: Optional[Entry]
    b: Optional[Entry]


class Item(NamedTuple):
    """One line of a plan.

    a, b: status words (see entry.status). recommendation: what the three-way comparison says;
    decision: what will be done. column: BOTH, CONTENTS or PROPS. parts: usually one; a held
    conflict over a deleted directory has one for every changed path in it. note: listed, but
    nothing that a person has to act on.
    """

    path: bytes
    a: str
    b: str
    recommendation: str
    decision: str
    parts: tuple[Part, ...]
    reason: str = ""
    column: str = BOTH
    note: bool = False
    unsettled: bool = False


def plan_digest(
    pair_id: str, bases: tuple[str, str], policy_digest: str, items: Iterable[Item]
) -> str:
    """SHA-256 over what exactly is approved, as lower-case hexadecimal.

    Covers pair, base commits, policy and the sorted (path, decision, both entries). A lazy file
    has no digest yet: its size and mtime stand for its contents.
    """
    rows = sorted(
        [sort_key(part.path).hex(), item.column, item.decision, _facts(part.a), _facts(part.b)]
        for item in items
        for part in item.parts
    )
    text = json.dumps([pair_id, list(bases), policy_digest, rows], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _facts(entry: Optional[Entry]) -> Any:
    if entry is None:
        return None
    contents: Any = entry.target.hex()
    if entry.kind == FILE:
        contents = entry.digest.hex() if entry.digest else [entry.size, entry.mtime_ns]
    return [entry.kind, entry.mode, contents]


def part_of(path: bytes, a: Optional[Change], b: Optional[Change]) -> Part:
    """Join two changes of one path; the side without a change holds what the base holds."""
    base = a.before if a is not None else b.before if b is not None else None
    return Part(path, base, a.after if a else base, b.after if b else base)
