# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a base can speak for, after sessions with other paths and other ignore rules."""

from __future__ import annotations

from pairsync.model.coverage import NOTHING, Coverage, parse_coverage
from pairsync.model.policy import Policy


def test_a_whole_session_covers_all_but_what_it_ignored():
    coverage = NOTHING.after(Policy(ignore=("Name *.tmp",)))
    assert coverage.covers(b"d/f")
    assert not coverage.covers(b"d/x.tmp")
    assert not coverage.covers(b"x.tmp/inside")
    assert coverage.after(Policy()).covers(b"d/x.tmp")


def test_sessions_over_subtrees_add_up():
    coverage = NOTHING.after(Policy(paths=("d",)))
    assert coverage.covers(b"d")
    assert coverage.covers(b"d/f")
    assert not coverage.covers(b"e/f")
    assert coverage.after(Policy(paths=("e",))).covers(b"e/f")
    assert NOTHING.after(Policy()).after(Policy(paths=("d",))).covers(b"e/f")


def test_nothing_covers_nothing():
    assert not NOTHING.covers(b"f")
    assert not parse_coverage("").covers(b"f")
    assert not parse_coverage('{"ignore": 1}').covers(b"f")


def test_the_text_gives_the_coverage_back():
    coverage = Coverage(("Name *.tmp",), ("d", "e"))
    assert parse_coverage(coverage.text()) == coverage
