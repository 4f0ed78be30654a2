# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/hostile.md: every row is a test that is there, or says why it is none."""

from __future__ import annotations

import re

import pytest

from tests.tables import ROOT, missing_tests, named_tests

TABLE = ROOT / "docs/hostile.md"
ROW = re.compile(r"\| H(\d+) \| (.+?) \| (.*?) \| (.+) \|")
WHY_NOT = re.compile(r"\b(Not built yet|Does not apply): .{15,}")
ROWS = [match.groups() for match in map(ROW.fullmatch, TABLE.read_text().splitlines()) if match]


def test_every_row_is_there_once(figure):
    assert [int(number) for number, *__ in ROWS] == list(range(1, 131))
    shown = [row for row in ROWS if named_tests(row[3])]
    figure("hostile inputs of docs/hostile.md that tests show", len(shown))


@pytest.mark.parametrize("row", ROWS, ids=[f"H{row[0]}" for row in ROWS])
def test_a_row_names_its_tests_or_says_why_it_has_none(row):
    __, what, happens, shown = row
    named = named_tests(shown)
    assert what.strip()
    assert named or WHY_NOT.search(shown), shown
    assert happens.strip() or not named
    assert missing_tests(shown) == []
