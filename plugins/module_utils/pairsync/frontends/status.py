# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`pairsync status`: how old each pair is, and how its last session ended."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Optional

from ..model.errors import EXIT_DONE, EXIT_SKIPPED, PairsyncError, printable
from ..replica.journal import STATUS_SCHEMA, known_roots, read_backup, read_status
from .terminal import size_text


def show_status(named: str, state_home: str, *, as_json: bool, max_age: Optional[int]) -> int:
    """Print the status of the pairs known on this host; return the exit code.

    named: a pair's id (or its beginning), a replica's root, or "" for all. max_age: seconds since
    the last complete scan after which a pair counts as stale. Raises PairsyncError.
    """
    roots = [os.path.abspath(named)] if named and os.path.isdir(named) else known_roots(state_home)
    pairs: list[dict[str, Any]] = []
    for root in roots:
        try:
            found = read_status(root)
        except PairsyncError as error:
            if named:
                raise
            # One root that cannot be read hides no other.
            sys.stderr.write(f"pairsync: {error.sentence()}\n")
            continue
        for status in found:
            pair = status.get("pair")
            if not isinstance(pair, dict):
                continue  # nothing that we have written
            if named and not os.path.isdir(named) and not str(pair.get("id", "")).startswith(named):
                continue
            if any(known["pair"] == pair for known in pairs):
                continue  # both replicas are on this host
            scanned = status.get("scanned_unix")
            age = int(time.time()) - scanned if isinstance(scanned, int) else None
            backup = _backup(root, str(pair.get("id")))
            pairs.append({**status, "root": root, "age_seconds": age, "backup": backup})
    if named and not pairs:
        raise PairsyncError(
            "unknown_pair",
            f"no pair {named!r} is known on this host",
            "run `pairsync status` to see all",
        )
    if as_json:
        sys.stdout.write(json.dumps({"schema": STATUS_SCHEMA, "pairs": pairs}) + "\n")
    else:
        for one in pairs:
            sys.stdout.write(_line(one) + "\n")
        if not pairs:
            sys.stdout.write("no pair has been synced on this host yet\n")
    late = max_age is not None and any(
        one["age_seconds"] is None or one["age_seconds"] > max_age for one in pairs
    )
    return EXIT_SKIPPED if late else EXIT_DONE


def _backup(root: str, pair: str) -> dict[str, Any]:
    """What a root's backup holds as far as is noted, and how long the pair keeps it there."""
    note = read_backup(root)
    retention = note.get("retention")
    kept = retention.get(pair) if isinstance(retention, dict) else None
    return {
        "versions": _number(note.get("versions")),
        "bytes": _number(note.get("bytes")),
        "oldest": note.get("oldest"),
        "retention": kept if isinstance(kept, dict) else None,
    }


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _backup_text(backup: dict[str, Any]) -> str:
    text = f"backup {size_text(backup['bytes'])} in {backup['versions']} versions"
    kept = backup["retention"]
    if kept is None:
        return text
    free = f", {kept.get('min_free')} free" if kept.get("min_free") != "0" else ""
    return (
        f"{text} (at most {kept.get('keep')} of a path, {kept.get('days')} days,"
        f" {kept.get('max_size')}{free})"
    )


def _line(one: dict[str, Any]) -> str:
    """One pair; the file that says so may be another user's."""
    pair, error, age = one["pair"], one.get("error"), one["age_seconds"]
    shown = "never complete" if age is None else f"{age} s ago"
    state = (
        f"error {error.get('code')}"
        if isinstance(error, dict)
        else f"exit {one.get('exit')}, {one.get('conflicts')} conflicts"
    )
    line = f"{str(pair.get('id'))[:12]}  {pair.get('a')}  {pair.get('b')}  {shown}  {state}"
    return printable(f"{line}  {_backup_text(one['backup'])}")
