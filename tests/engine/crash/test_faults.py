# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""P17: every call fails with every error that it can give, once and for good.

What is hit is reported and not recorded; nothing else is touched by it, and nothing is lost. When
the fault is gone, the next run comes to what an undisturbed one gives.
"""

from __future__ import annotations

import pytest

PARTS = 4
NIGHTLY_PARTS = 10


def check(result, figure):
    assert not result["failures"]
    figure("fault cases", result["cases"])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_call_fails_in_every_telling_way(part, program, figure):
    check(program("faults", "little", "telling", str(part), str(PARTS)), figure)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("part", range(NIGHTLY_PARTS))
def test_every_call_fails_in_every_way(part, program, figure):
    check(program("faults", "little", "all", str(part), str(NIGHTLY_PARTS)), figure)
