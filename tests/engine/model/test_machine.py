# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random histories of two people and one pair: properties P1 to P11 and P15 after every session."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.engine.model.machine import Machine
from tests.engine.trees import local_and_agent


class OverAPipe(Machine):
    """One replica is served by an agent of its own process."""

    connect = staticmethod(local_and_agent)


# The same histories every time, and no search for a smaller one: that is for the nightly run.
EVERY_TIME = settings(derandomize=True, database=None, deadline=None, phases=[Phase.generate])


def go(machine, figure, how) -> None:
    """Run histories, and count them."""
    lived = []

    class Counted(machine):
        def teardown(self):
            lived.append(self)
            super().teardown()

    run_state_machine_as_test(Counted, settings=how)
    figure("random histories of two people and one pair", len(lived))


def test_random_histories(figure):
    go(Machine, figure, settings(EVERY_TIME, max_examples=200, stateful_step_count=30))


def test_random_histories_with_an_agent(figure):
    go(OverAPipe, figure, settings(EVERY_TIME, max_examples=6, stateful_step_count=15))


# In parts, since no test may take longer than five minutes.
@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_many_random_histories(figure, part):
    go(Machine, figure, settings(max_examples=500, stateful_step_count=30, deadline=None))


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_many_random_histories_with_an_agent(figure, part):
    go(OverAPipe, figure, settings(max_examples=20, stateful_step_count=30, deadline=None))
