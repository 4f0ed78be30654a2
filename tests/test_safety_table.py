# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/safety.md: every promise and property names what keeps it and tests that are there."""

from __future__ import annotations

import re

import pytest

from tests.tables import ROOT, missing_tests, named_tests

PAGE = (ROOT / "docs/safety.md").read_text(encoding="utf-8")
ENGINE = ROOT / "plugins/module_utils/pairsync"
PROMISE = re.compile(r"\| (\d)([a-z]?) \| (.+?) \| (.+?) \| (.+) \|")
PROPERTY = re.compile(r"\| P(\d+) \| (.+?) \| (`engine.+|`cli.+|`fleet.+|Not built yet: .{15,}) \|")
FILE = re.compile(r"`([a-z_]+/[a-z_]+\.py)`")


def rows(pattern):
    return [match.groups() for match in map(pattern.fullmatch, PAGE.splitlines()) if match]


def test_every_promise_and_every_property_is_there():
    assert sorted({number for number, *__ in rows(PROMISE)}) == list("1234567")
    assert [int(number) for number, *__ in rows(PROPERTY)] == list(range(1, 44))


@pytest.mark.parametrize("row", rows(PROMISE), ids=lambda row: "".join(row[:2]))
def test_a_promise_names_what_keeps_it_and_its_tests(row):
    *__, kept_by, shown_by = row
    files = FILE.findall(kept_by)
    assert files
    assert [file for file in files if not (ENGINE / file).is_file()] == []
    assert named_tests(shown_by)


def test_every_test_that_is_named_is_there():
    assert len(named_tests(PAGE)) > 100
    assert missing_tests(PAGE) == []
