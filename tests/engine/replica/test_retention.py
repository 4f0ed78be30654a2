# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which versions go from the backup, and which never do."""

from __future__ import annotations

import time

from pairsync.model.policy import Retention
from pairsync.replica.retention import prune
from tests.engine.trees import contents


def test_pruning_beside_another_session_that_prunes(root, before):
    for number in range(3):
        root.keep(f"2020010{number}T000000Z-x", {"d/f": str(number)}).close()
    first = root.kept_in / "20200100T000000Z-x"

    def other():
        (first / "d/f").unlink()

    before("unlink", other, when=lambda __, name: name == b"f")
    prune(root.state, Retention(keep=1), time.time())
    assert contents(root.kept_in) == {b"2"}
