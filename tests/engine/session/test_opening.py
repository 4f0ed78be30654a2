# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How two bases are settled: what both have is promoted, anything else is never a deletion."""

from __future__ import annotations

import itertools

import pytest

from pairsync.model.coverage import Coverage
from pairsync.replica.interface import BaseState
from pairsync.session.opening import pair_id, settle_bases


def base(current="", pending="", *, sound=True):
    return BaseState(current, pending, 7, sound)


TABLE = [
    # a, b, verbs, commit, state
    (base(), base(), ("keep", "keep"), "", "first"),
    (base("1"), base("1"), ("keep", "keep"), "1", "ok"),
    # Stopped before the second host had written it: both go back.
    (base("1", "2"), base("1"), ("drop", "keep"), "1", "ok"),
    (base("1"), base("1", "2"), ("keep", "drop"), "1", "ok"),
    # Both have written it: both go on.
    (base("1", "2"), base("1", "2"), ("promote", "promote"), "2", "ok"),
    # One had promoted already.
    (base("1", "2"), base("2"), ("promote", "keep"), "2", "ok"),
    (base("2"), base("1", "2"), ("keep", "promote"), "2", "ok"),
    # The same for the first commit of all.
    (base("", "1"), base("", "1"), ("promote", "promote"), "1", "ok"),
    (base("", "1"), base(""), ("drop", "keep"), "", "first"),
    (base("", "1"), base("1"), ("promote", "keep"), "1", "ok"),
    # Two sessions that died, each with its own commit.
    (base("1", "2"), base("1", "3"), ("drop", "drop"), "1", "ok"),
    # One side was restored from a backup, or lost.
    (base("1"), base("2"), ("reset", "reset"), "", "degraded"),
    (base("2"), base(""), ("reset", "reset"), "", "degraded"),
    (base("1", "2"), base("3"), ("reset", "reset"), "", "degraded"),
    # Damaged.
    (base("1", sound=False), base("1"), ("reset", "reset"), "", "degraded"),
    (base("", sound=False), base("", sound=False), ("reset", "reset"), "", "degraded"),
]


@pytest.mark.parametrize("a, b, verbs, commit, state", TABLE)
def test_settling(a, b, verbs, commit, state):
    assert settle_bases(a, b)[:4] == (*verbs, commit, state)


def test_one_id_with_other_rows_is_not_the_same_commit():
    a = BaseState("1", "2", 7, current_sum="x", pending_sum="y")
    b = BaseState("1", "2", 7, current_sum="x", pending_sum="z")
    assert settle_bases(a, b)[:4] == ("drop", "drop", "1", "ok")
    assert settle_bases(a._replace(pending=""), b._replace(pending="", current_sum="w")).state == (
        "degraded"
    )


def test_coverage_is_that_of_the_commit_that_is_current_then():
    then, now = Coverage(paths=("sub",)), Coverage()
    a = BaseState("1", "2", 7, coverage=then.text(), pending_coverage=now.text())
    b = BaseState("2", "", 7, coverage=now.text())
    assert settle_bases(a, b).coverage == now
    assert settle_bases(a, BaseState("1", coverage=then.text())).coverage == then


def test_settling_is_symmetric_and_agrees_on_one_commit():
    states = [base(*ids) for ids in itertools.product(["", "1", "2"], ["", "1", "2", "3"])]

    def becomes(one, verb):
        return {"keep": one.current, "drop": one.current, "promote": one.pending, "reset": ""}[verb]

    for a, b in itertools.product(states, states):
        settled, back = settle_bases(a, b), settle_bases(b, a)
        assert (settled.verb_a, settled.verb_b) == (back.verb_b, back.verb_a)
        assert becomes(a, settled.verb_a) == becomes(b, settled.verb_b) == settled.commit


def test_the_pair_s_id_knows_no_order():
    assert pair_id("x", "y") == pair_id("y", "x") != pair_id("x", "z")
    assert pair_id("x", "") == ""
