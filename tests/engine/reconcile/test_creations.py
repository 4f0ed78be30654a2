# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The short way that reconcile takes for what is only new ends where the long one does."""

from __future__ import annotations

import pytest

from pairsync.model.entry import DIR, FILE, LINK, Change, Entry
from pairsync.reconcile import tree

ENTRIES = [
    Entry(FILE, 0o640, 5, 1),
    Entry(FILE, 0o640, 5, 1, b"d" * 32),
    Entry(DIR, 0o755),
    Entry(LINK, target=b"there"),
]


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("unsettled", [False, True])
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_creation_is_what_the_comparison_of_all_columns_says(entry, unsettled, side):
    change = Change(b"new", None, entry, unsettled)
    a, b = (change, None) if side == "a" else (None, change)

    items, notes = tree.reconcile({b"new": a} if a else {}, {b"new": b} if b else {})

    assert items == tree._decide(b"new", a, b, frozenset())
    assert not notes
