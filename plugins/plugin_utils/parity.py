# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a tool is the same wherever a session will start it: asking, comparing, the table.

How a command gets to a host is a function that the caller passes in; see asking.py.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..module_utils.pairsync.session import connect
from .rendering import escape, plain_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..module_utils.pairsync.model.spec import ReplicaSpec

    # Runs a command line in a host's shell: its exit code, stdout and stderr.
    Run = Callable[[str], tuple[int, str, str]]

LEVELS = ("build", "version", "protocol")
COLUMNS = ("host", "path", "version", "build", "seen from", "problem")
# What installing mends; anything else is between a host and whoever looks at it.
MENDABLE = ("missing", "different")
WOULD_INSTALL = "would install"
NOT_FOUND = 127
# ssh's own 255, one lower: Ansible would take 255 for a failure of its connection to the asker.
SSH_FAILED = 254


class UnreachableError(Exception):
    """A host does not answer; the text is the reason in one line."""


@dataclass(frozen=True)
class Row:
    """What one host answered, as seen from itself or from another host.

    problem: "" when all is well, else one of missing, different, would install, unreachable,
    refused (it was reached and said something else), with the reason in detail.
    """

    host: str
    seen_from: str
    path: str = ""
    version: str = ""
    protocol: int | None = None
    build: str = ""
    problem: str = ""
    detail: str = ""


def remote_commands(binary: str, name: str = "pairsync") -> list[str]:
    """Return what to call on a host, in order: the next one only when one ended with 127."""
    if binary or name == "pairsync":
        return connect.remote_commands(binary)
    return [f"/usr/bin/{name}", f"~/.local/bin/{name}"]


def ask(host: str, seen_from: str, name: str, binary: str, run: Run) -> Row:
    """Ask the tool NAME on HOST who it is, with RUN; every failure becomes a row."""
    try:
        for command in remote_commands(binary, name):
            row = _ask(Row(host=host, seen_from=seen_from, path=command), name, run)
            if row.problem != "missing":
                return row
    except UnreachableError as error:
        return Row(host=host, seen_from=seen_from, problem="unreachable", detail=str(error))
    return Row(host=host, seen_from=seen_from, problem="missing")


def _ask(row: Row, name: str, run: Run) -> Row:
    """Return ROW with what the command at its path says."""
    if name != "pairsync":
        return _ask_other(row, run)
    code, output, errors = run(f"{row.path} --version --json")
    if code == NOT_FOUND:
        return replace(row, problem="missing")
    if code == SSH_FAILED:
        return replace(row, problem="unreachable", detail=last_line(errors))
    answer = answer_in(output)
    if code != 0 or answer is None:
        detail = last_line(errors) or last_line(output) or f"it ended with {code}"
        return replace(row, problem="refused", detail=detail)
    return replace(
        row,
        path=str(answer.get("path", row.path)),
        version=str(answer.get("version", "")),
        protocol=int(answer["protocol"]) if "protocol" in answer else None,
        build=str(answer.get("build", "")),
    )


def _ask_other(row: Row, run: Run) -> Row:
    """Return ROW with the version and digest of a tool that is not ours."""
    output = ""
    for option in ("--version", "-version"):  # Unison knows only the second
        code, output, errors = run(f"{row.path} {option}")
        if code == NOT_FOUND:
            return replace(row, problem="missing")
        if code == SSH_FAILED:
            return replace(row, problem="unreachable", detail=last_line(errors))
        if code == 0:
            break
    found = re.search(r"\d+(\.\d+)+", output)
    if found is None:
        return replace(row, problem="refused", detail="it says no version")
    _code, digest, _errors = run(f"sha256sum {row.path}")
    return replace(row, version=found.group(), build=digest.split(" ")[0])


def answer_in(output: str) -> dict[str, Any] | None:
    """Return the JSON object in OUTPUT; what a login shell prints around it is passed over."""
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            if isinstance(answer, dict):
                return answer
    return None


def last_line(text: str) -> str:
    """Return the last line of TEXT that says something, where programs put their reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def leg_command(replica: ReplicaSpec, command: str) -> str:
    """Return the command line that runs COMMAND on a replica's host as a session would."""
    plain = replace(replica, key="")
    ssh = shlex.join([*connect.ssh_argv(plain, batch=True), command])
    if replica.key:
        own = shlex.join([*connect.ssh_argv(replica, batch=True), command])
        there = f"{connect.KEYS}/{shlex.quote(replica.key)}"
        ssh = f"if [ -e {there} ]; then {own}; else {ssh}; fi"
    return f"{ssh}; code=$?; [ $code -eq 255 ] && exit {SSH_FAILED}; exit $code"


def compare(rows: Iterable[Row], level: str, own: Row | None, *, check_mode: bool) -> list[Row]:
    """Return ROWS with the problem of those that differ from the rest at LEVEL.

    The measure is OWN, what this controller would install, if any host has it; otherwise what
    most hosts have. In check mode what an installation would mend is `would install`.
    """
    compared = list(rows)
    present = [getattr(row, level) for row in compared if not row.problem]
    measure = getattr(own, level) if own is not None else None
    if measure not in present and present:
        measure = Counter(present).most_common(1)[0][0]
    result = []
    for row in compared:
        different = not row.problem and getattr(row, level) != measure
        found = replace(row, problem="different") if different else row
        if check_mode and found.problem in MENDABLE:
            found = replace(found, problem=WOULD_INSTALL)
        result.append(found)
    return result


def mismatches(rows: Iterable[Row]) -> list[Row]:
    """Return the rows for which a session cannot be relied on to work."""
    return [row for row in rows if row.problem and row.problem != WOULD_INSTALL]


def table(rows: Sequence[Row]) -> str:
    """Return ROWS as a table of aligned columns, without control characters of foreign output."""
    cells = [
        (
            row.host,
            row.path if row.version else "-",
            row.version or "-",
            row.build[:12] or "-",
            "itself" if row.seen_from == row.host else row.seen_from,
            f"{row.problem}: {row.detail}" if row.detail else row.problem,
        )
        for row in rows
    ]
    return plain_table(COLUMNS, [[escape(cell) for cell in line] for line in cells])


def repairs(rows: Sequence[Row]) -> list[str]:
    """Return the next steps for the rows that have a problem, each once."""
    hosts = sorted({row.host for row in rows if row.problem in MENDABLE})
    steps = [f"invoke bootstrap --limit {','.join(hosts)}"] if hosts else []
    steps += [
        f"on {row.seen_from}, see why this fails: ssh {row.host} true"
        for row in rows
        if row.problem == "unreachable" and row.seen_from != row.host
    ]
    return list(dict.fromkeys(steps))


def as_result(row: Row) -> dict[str, Any]:
    """Return ROW as the module returns it."""
    return asdict(row)
