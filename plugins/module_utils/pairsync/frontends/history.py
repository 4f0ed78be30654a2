# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`pairsync history` and `pairsync restore`, for people and as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Callable, Optional

from ..model.entry import KIND_NAMES, sort_key
from ..model.errors import EXIT_DONE, EXIT_FAILED, EXIT_SKIPPED, UsageError
from ..model.plan import DONE, FAILED
from ..model.report import display, path_fields
from ..replica import history
from ..replica.faults import as_fatal
from ..replica.history import Held, Kept, Version
from ..replica.restore import Restoration, restore, restore_to
from ..replica.restore_plan import UNCHANGED
from .terminal import size_text

HISTORY_SCHEMA = "pairsync.history/1"
RESTORE_SCHEMA = "pairsync.restore/1"
_LISTED = 20  # restored paths that are named one by one; of those that were not, all are


@dataclass(frozen=True)
class Asked:
    """What was asked for.

    root: the replica's, as typed. path: relative to it or absolute below it; None for none.
    run: "" for none. to: a directory for copies, or "". wait: seconds for a lock, see lock.py.
    """

    root: str
    path: Optional[str] = None
    run: str = ""
    to: str = ""
    wait: int = 60
    json: bool = False


def show_history(asked: Asked) -> int:
    """Show the runs of a backup, or the versions of a path; return the exit code."""
    return _told(asked, HISTORY_SCHEMA, _history)


def run_restore(asked: Asked) -> int:
    """Bring back versions and show what became of them; return the exit code."""
    return _told(asked, RESTORE_SCHEMA, _restore)


def _told(
    asked: Asked, schema: str, command: Callable[[Asked, Held, bytes], dict[str, Any]]
) -> int:
    """Run a command on the replica's backup; an error becomes the answer, too."""
    root = os.path.abspath(os.path.expanduser(os.fsencode(asked.root)))
    head: dict[str, Any] = {"schema": schema, "root": display(root), "error": None}
    try:
        with history.opened(root) as held:
            path = None if asked.path is None else os.fsencode(asked.path)
            answer = command(
                asked, held, b"" if path is None else history.path_in(held, root, path)
            )
    except Exception as error:
        fatal = as_fatal(error)
        if asked.json:
            _write({**head, "exit": fatal.exit_code, "error": fatal.as_json()})
        sys.stderr.write(f"pairsync: {fatal.sentence()}\n")
        return fatal.exit_code
    if asked.json:
        _write({**head, **answer})
    return int(answer["exit"])


def _write(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")


# -- history --------------------------------------------------------------------------------------


def _history(asked: Asked, held: Held, path: bytes) -> dict[str, Any]:
    if asked.path is None and not asked.run:
        return _show_runs(asked, held)
    if asked.run:
        found = history.choose(held, path, asked.run)
    else:
        found = [
            version
            for run in history.runs(held.backup)
            for version in history.versions(held.backup, run, path)
        ]
    if not found:
        history.choose(held, path, "")  # says what there is
    # By path, and of one path the newest first.
    found.sort(key=lambda one: (one.run.name, one.layer), reverse=True)
    found.sort(key=lambda one: sort_key(one.path))
    if not asked.json:
        _print(_version_line(version) for version in found)
    return {
        "exit": EXIT_DONE,
        "runs": [_run_json(run, None) for run in dict.fromkeys(one.run for one in found)],
        "versions": [_version_json(version) for version in found],
    }


def _show_runs(asked: Asked, held: Held) -> dict[str, Any]:
    """Every run with what it kept, the newest last."""
    rows = []
    for run in history.runs(held.backup):
        sizes = [one.seen.size for one in history.versions(held.backup, run)]
        if sizes:
            rows.append((run, (len(sizes), sum(sizes))))
    if not asked.json:
        if not rows:
            sys.stdout.write(f"nothing has been replaced or deleted in {held.shown} yet\n")
        _print(
            f"{run.name}  {_when(run.time)}  {count:>8} kept  {size_text(size):>9}"
            + ("  until the next run of its pair" if run.brief else "")
            for run, (count, size) in rows
        )
    return {"exit": EXIT_DONE, "runs": [_run_json(*row) for row in rows], "versions": None}


def _run_json(run: Kept, kept: Optional[tuple[int, int]]) -> dict[str, Any]:
    fields: dict[str, Any] = {"run": run.name, "time": run.time, "brief": run.brief}
    if kept is not None:
        fields["versions"], fields["bytes"] = kept
    return fields


def _version_json(version: Version) -> dict[str, Any]:
    was = version.seen
    return {
        **path_fields(version.path),
        "run": version.label,
        "kind": KIND_NAMES.get(was.kind, "special"),
        "bytes": was.size,
        "mode": f"{was.mode:04o}",
        "mtime_ns": was.mtime_ns,
    }


def _version_line(version: Version) -> str:
    was = version.seen
    kind = KIND_NAMES.get(was.kind, "special")
    size = size_text(was.size) if kind == "file" else kind
    written = _when(was.mtime_ns // 1_000_000_000) if was.mtime_ns else " " * 20
    return f"{version.label}  {size:>9}  written {written}  {display(version.path)}"


def _when(seconds: Optional[int]) -> str:
    if seconds is None:
        return "at a time unknown   "
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def _print(lines: Iterable[str]) -> None:
    sys.stdout.writelines(line + "\n" for line in lines)


# -- restore --------------------------------------------------------------------------------------


def _restore(asked: Asked, held: Held, path: bytes) -> dict[str, Any]:
    if asked.path is None and not asked.run:
        raise UsageError(
            "what is to be restored is not said",
            f"name a path, or a whole run with --run; `pairsync history {held.shown}` lists them",
        )
    found = history.choose(held, path, asked.run)
    if asked.to:
        to = os.path.abspath(os.path.expanduser(os.fsencode(asked.to)))
        done = restore_to(held, found, to, asked.wait)
    else:
        to = b""
        done = restore(held, found, asked.wait)
    if not asked.json:
        _print(_restored_lines(done, found[0].run, display(to) if to else "", held))
    return {
        "exit": _exit(done),
        "run": found[0].run.name,
        "to": display(to) if to else None,
        "undo": done.undo or None,
        "items": [
            {
                **path_fields(item.version.path),
                "kind": KIND_NAMES.get(item.version.seen.kind, "special"),
                "bytes": item.version.seen.size,
                "result": item.result,
                "reason": item.reason or None,
            }
            for item in done.items
        ],
    }


def _exit(done: Restoration) -> int:
    results = {item.result for item in done.items}
    if FAILED in results:
        return EXIT_FAILED
    return EXIT_SKIPPED if results - {DONE, UNCHANGED} else EXIT_DONE


def _restored_lines(done: Restoration, run: Kept, to: str, held: Held) -> list[str]:
    restored = [item for item in done.items if item.result == DONE]
    unchanged = sum(item.result == UNCHANGED for item in done.items)
    lines = [f"restored   {display(item.version.path)}" for item in restored[:_LISTED]]
    if len(restored) > _LISTED:
        lines.append(f"           and {len(restored) - _LISTED} more")
    lines += [
        f"{item.result:<9}  {display(item.version.path)}: {item.reason}"
        for item in done.items
        if item.result not in (DONE, UNCHANGED)
    ]
    size = size_text(sum(item.version.seen.size for item in restored))
    summary = f"{len(restored)} restored ({size}) from run {run.name}"
    if to:
        summary += f" below {to}"
    if unchanged:
        summary += f", {unchanged} were there already"
    lines.append(summary)
    if done.undo:
        lines.append(f"what was replaced: pairsync restore {held.shown} --run {done.undo}")
    return lines
