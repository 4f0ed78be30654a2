# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The results: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.measure import Usage
from tests.bench.rounds import Row, median

SCHEMA = "pairsync.bench/1"
OURS = "pairsync"
HEADINGS = (
    "tool", "runs", "durable s", "ours is", "plain s", "ours is",
    "CPU s here", "there", "peak MB here", "there",
)  # fmt: skip
LEGEND = (
    "durable: until everything is on disk (others: followed by `sync -f`; pairsync does that "
    "itself). plain: until the command ends.\n"
    "ours is: pairsync's time, which is always durable, divided by that, within one round. "
    "Medians; peaks: largest process. here: the side that runs the command."
)


@dataclass(frozen=True)
class Results:
    """What was measured: by row the runs of each tool, in the order of the rows."""

    machine: Mapping[str, str]
    scale: int
    rows: list[tuple[Row, dict[str, list[Usage]]]]


def machine(directory: Path, versions: Mapping[str, str]) -> dict[str, str]:
    """What the figures depend on. directory: where the trees are."""
    return {
        "CPU": f"{os.cpu_count()} x {_cpu()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "file system": _file_system(directory),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "date": time.strftime("%Y-%m-%d"),
        **versions,
    }


def as_json(results: Results) -> dict[str, Any]:
    """Everything, also each single run."""
    return {
        "schema": SCHEMA,
        "machine": dict(results.machine),
        "scale": results.scale,
        "rows": [
            {
                "key": row.key,
                "title": row.title,
                "goal": row.goal,
                "tools": {
                    name: {
                        "median": dataclasses.asdict(median(runs)),
                        "ours_is": {
                            figure: ratio(found[OURS], runs, figure)
                            for figure in ("durable", "seconds")
                        },
                        "runs": [dataclasses.asdict(one) for one in runs],
                    }
                    for name, runs in found.items()
                },
            }
            for row, found in results.rows
        ],
    }


def show(results: Results) -> None:
    """Print the tables; with rich where it is installed."""
    out = sys.stdout.write
    out("\n" + ", ".join(f"{name} {value}" for name, value in results.machine.items()) + "\n")
    if results.scale != 1:
        out(f"Only 1/{results.scale} of the files: these figures say little.\n")
    for row, found in results.rows:
        out("\n")
        _print(f"{row.key}  {row.title} (wanted: {row.goal})", lines(found))
    out(LEGEND + "\n")


def lines(found: dict[str, list[Usage]]) -> list[tuple[str, ...]]:
    """The cells of one row's table, under HEADINGS."""
    ours = found[OURS]
    table = []
    for name, runs in found.items():
        one = median(runs)
        table.append(
            (
                name,
                str(len(runs)),
                f"{one.durable:.2f}",
                "" if name == OURS else f"{ratio(ours, runs, 'durable'):.2f} x",
                f"{one.seconds:.2f}",
                "" if name == OURS else f"{ratio(ours, runs, 'seconds'):.2f} x",
                f"{one.cpu_here:.2f}",
                f"{one.cpu_there:.2f}",
                f"{one.peak_here / 1e6:.0f}",
                f"{one.peak_there / 1e6:.0f}",
            )
        )
    return table


def ratio(ours: list[Usage], others: list[Usage], figure: str) -> float:
    """Our durable time divided by a figure of another tool: the median over the rounds.

    Within a round the machine has the same other work to do; between rounds it may have not.
    """
    pairs = zip(ours, others, strict=False)  # some tools are run less often
    return statistics.median(one.durable / getattr(other, figure) for one, other in pairs)


def _print(title: str, cells: list[tuple[str, ...]]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        sys.stdout.write(title + "\n")
        widths = [max(map(len, column)) for column in zip(HEADINGS, *cells, strict=True)]
        for line in (HEADINGS, *cells):
            text = "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            sys.stdout.write(text + "\n")
        return
    table = Table(title=title, title_justify="left")
    for place, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if place else "left")
    for line in cells:
        table.add_row(*line)
    Console(width=110).print(table)


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as stream:
        names = [line.partition(":")[2].strip() for line in stream if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _file_system(directory: Path) -> str:
    """The type of the file system of a directory, by the longest mount point above it."""
    path = os.path.realpath(directory)
    with open("/proc/self/mounts", encoding="utf-8") as stream:
        mounts = [line.split()[1:3] for line in stream]
    above = [
        (len(point), kind)
        for point, kind in mounts
        if path == point or path.startswith(point.rstrip("/") + "/")
    ]
    return max(above)[1] if above else "?"
