# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""S1: the first sync of many small files."""

from __future__ import annotations

from pathlib import Path

from tests.bench import trees
from tests.bench.measure import Usage
from tests.bench.rounds import Bench, Row, take_turns
from tests.bench.tools import Tool

FILES = 100_000
SIZE = 2_000


def measure(bench: Bench) -> dict[str, list[Usage]]:
    """One source for all; a new target, and nothing remembered, for every run."""
    place = bench.work / "S1"
    source = place / "source"
    shape = trees.Shape(FILES // bench.scale, SIZE)
    bench.say(f"making {shape.text}")
    trees.make(source, shape)

    def new_target(tool: Tool, number: int) -> Path:
        # Nothing is removed between runs: see disk.py.
        tool.forget(source)
        target = place / f"{tool.name}-{number}"
        target.mkdir()
        return target

    return take_turns(bench, source, new_target, slow={"unison"})


ROW = Row(
    "S1",
    f"first sync, {trees.Shape(FILES, SIZE).text}",
    "at most 2 x rsync durable, Unison at least 8 x as long",
    measure,
)
