# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""S2: a sync of many small files of which none has changed."""

from __future__ import annotations

from pathlib import Path

from tests.bench import trees
from tests.bench.measure import Usage
from tests.bench.rounds import Bench, Row, run_tool, take_turns
from tests.bench.tools import Tool

FILES = 100_000
SIZE = 2_000


def measure(bench: Bench) -> dict[str, list[Usage]]:
    """One source for all and a target for each, which are equal and known to be."""
    place = bench.work / "S2"
    source = place / "source"
    shape = trees.Shape(FILES // bench.scale, SIZE)

    def target(tool: Tool) -> Path:
        return place / tool.name

    bench.say(f"making {shape.text}, once for the source and once for each tool")
    trees.make(source, shape)
    for tool in bench.tools:
        trees.make(target(tool), shape)
    for tool in bench.tools:
        # Twice: a tool may learn in the run after the first one what it knows from then on.
        for __ in range(2):
            bench.say(f"{tool.name}, not measured")
            run_tool(bench, tool, source, target(tool))
    return take_turns(bench, source, lambda tool, __: target(tool))


ROW = Row(
    "S2",
    f"nothing changed, {trees.Shape(FILES, SIZE).text}",
    "not slower than Unison",
    measure,
)
