# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every history of a few operations on two paths and two sides, with crashes in the sync after it.

Nearly all crash bugs of storage systems show with three operations or fewer.
"""

from __future__ import annotations

import pytest

PARTS = 83  # of one history each


def check(result, figure):
    assert not result["failures"]
    figure("short histories, each with all its crashes", result["histories"])
    figure("crash points, in short histories", result["crashes"])


@pytest.mark.slow
def test_two_operations_and_a_crash_after_every_step(program, figure):
    check(program("histories", "2", "steps"), figure)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("part", range(PARTS))
def test_three_operations_and_a_crash_at_every_call(part, program, figure):
    check(program("histories", "3", "all", str(part), str(PARTS)), figure)
