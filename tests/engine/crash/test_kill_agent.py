# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""P14, P15: the agent, which holds replica b, is killed at every call it makes there.

The session ends with exit code 3 and one sentence. A sync that is simply run again leaves trees,
bases and backups as one that nothing disturbed, and nothing of ours beside them.
"""

from __future__ import annotations

import pytest

from tests.engine.crash.scenes import ALWAYS, OTHERS


@pytest.mark.slow
@pytest.mark.parametrize("scene", ALWAYS)
def test_killed_at_every_call(scene, program, figure):
    result = program("sweep", scene, "b")
    assert not result["failures"]
    figure("crash points, agent killed", result["points"])


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("scene", OTHERS)
def test_killed_at_every_call_of_other_scenes(scene, program, figure):
    result = program("sweep", scene, "b")
    assert not result["failures"]
    figure("crash points, agent killed", result["points"])
