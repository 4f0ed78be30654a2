# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/hostile.md: every row is a test that is there, or says why it is none."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TABLE = ROOT / "docs/hostile.md"
ROW = re.compile(r"\| H(\d+) \| (.+?) \| (.*?) \| (.+) \|")
TEST = re.compile(r"`([a-z0-9_/]+\.py)::(test_\w+)`")
WHY_NOT = re.compile(r"\b(Not built yet|Does not apply): .{15,}")
ROWS = [match.groups() for match in map(ROW.fullmatch, TABLE.read_text().splitlines()) if match]


@functools.cache
def names_in(file):
    """The names of a file's tests, methods of classes included."""
    tree = ast.parse((ROOT / "tests" / file).read_bytes())
    return {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)}


def test_every_row_is_there_once():
    assert [int(number) for number, *__ in ROWS] == list(range(1, 131))


@pytest.mark.parametrize("row", ROWS, ids=[f"H{row[0]}" for row in ROWS])
def test_a_row_names_its_tests_or_says_why_it_has_none(row):
    __, what, happens, shown = row
    named = TEST.findall(shown)
    assert what.strip()
    assert named or WHY_NOT.search(shown), shown
    assert happens.strip() or not named
    assert shown.count("::") == len(named), "a name that is not written as others are"
    for file, name in named:
        assert name in names_in(file), f"{file} has no {name}"
