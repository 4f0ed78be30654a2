# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a row of the benchmark is, and the rounds in which its tools take turns.

Each file in `rows/` is one row: it has a `ROW`, and nothing else has to know of it.
"""

from __future__ import annotations

import importlib
import statistics
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench import trees
from tests.bench.measure import BenchError, Usage, run
from tests.bench.tools import Tool, environment


@dataclass(frozen=True)
class Bench:
    """What rows work with.

    runs: per tool; slow_runs: of a tool that takes a minute for the row. scale: divides numbers of
    files. say: is told what happens now.
    """

    work: Path
    sshd: int
    tools: list[Tool]
    runs: int
    slow_runs: int
    scale: int
    say: Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """key: as in `--only`. goal: what is wanted, for the table. measure: gives each tool's runs."""

    key: str
    title: str
    goal: str
    measure: Callable[[Bench], dict[str, list[Usage]]]


def find() -> list[Row]:
    """All rows, by key."""
    directory = Path(__file__).parent / "rows"
    names = sorted(path.stem for path in directory.glob("*.py"))
    return [importlib.import_module(f"tests.bench.rows.{name}").ROW for name in names]


def median(runs: list[Usage]) -> Usage:
    """The median of every figure; of the peaks, the largest."""
    middle = {
        name: statistics.median(getattr(one, name) for one in runs)
        for name in ("seconds", "durable", "cpu_here", "cpu_there")
    }
    return replace(
        runs[0],
        **middle,
        peak_here=max(one.peak_here for one in runs),
        peak_there=max(one.peak_there for one in runs),
    )


def take_turns(
    bench: Bench,
    source: Path,
    target_for: Callable[[Tool, int], Path],
    *,
    slow: Collection[str] = (),
) -> dict[str, list[Usage]]:
    """Run the tools in turns, so that what else the machine does hits all of them alike.

    target_for: makes ready, which is not measured, and names, the target for a tool's run of that
    number. slow: names of tools that take a minute. After each run source and target have to be
    equal, else BenchError.
    """
    expected = trees.fingerprint(source)
    found: dict[str, list[Usage]] = {tool.name: [] for tool in bench.tools}
    for number in range(bench.runs):
        for tool in bench.tools:
            if tool.name in slow and number >= bench.slow_runs:
                continue
            target = target_for(tool, number)
            usage = run_tool(bench, tool, source, target)
            bench.say(f"{tool.name}: {usage.durable:.2f} s")
            found[tool.name].append(usage)
            wrong = trees.difference(expected, trees.fingerprint(target))
            if wrong:
                raise BenchError(f"{tool.name} did not make the trees equal: {wrong}")
    return found


def run_tool(bench: Bench, tool: Tool, source: Path, target: Path) -> Usage:
    """Run a tool once. What others have written is flushed first, so that nobody pays for it."""
    subprocess.run(["sync", "-f", bench.work], check=True)
    return run(
        tool.command(source, target),
        environment(bench.work),
        sshd=bench.sshd,
        flush=None if tool.durable else target,
        log=bench.work / f"{tool.name}.log",
    )
