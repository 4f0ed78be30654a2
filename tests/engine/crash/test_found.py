# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the sweeps have found, each as a small test of its own."""

from __future__ import annotations

import json

import pytest

from tests.engine.trees import STATE, Pair, quiet, write_tree


@pytest.fixture
def pair(tmp_path):
    made = Pair(tmp_path)
    write_tree(made.a, {"f": "f", "d/g": "g"})
    assert made.sync().exit == 0
    return made


def test_staged_files_of_a_dead_session_go_with_the_next_one(pair):
    """Also when that one has nothing to stage."""
    (inner,) = (pair.b / STATE / "pairs").iterdir()
    write_tree(pair.b / STATE / "stage" / inner.name, {"f0": "half a fi", "u3/e/h": "h"})
    (pair.b / STATE / "stage" / inner.name / "u3/e").chmod(0o555)
    assert quiet(pair.sync())
    assert not list((pair.b / STATE / "stage").iterdir())


@pytest.mark.parametrize("dry_run", [False, True])
def test_staged_files_of_other_pairs_stay_and_a_dry_run_removes_nothing(pair, dry_run):
    (inner,) = (pair.b / STATE / "pairs").iterdir()
    stage = write_tree(pair.b / STATE / "stage", {"other/f0": "x", f"{inner.name}/f0": "y"})
    assert pair.sync(dry_run=dry_run).exit == 0
    left = {"other", inner.name} if dry_run else {"other"}
    assert {path.name for path in stage.iterdir()} == left


def test_both_ends_are_remembered_although_the_session_died_right_after_its_commit(pair):
    """Else nothing would tell an unmounted root, or a copy of one, from one that is new."""
    for root in pair.roots:
        for name in ("peer", "place"):
            for file in (root / STATE / "pairs").glob(f"*/{name}.json"):
                file.unlink()
    assert quiet(pair.sync())
    assert all(list((root / STATE / "pairs").glob("*/place.json")) for root in pair.roots)
    for root, other in (pair.roots, pair.roots[::-1]):
        (file,) = (root / STATE / "pairs").glob("*/peer.json")
        assert json.loads(file.read_text())["path"] == str(other)
    (pair.b / STATE).rename(pair.home / "unmounted")
    assert pair.sync().error == "root_identity"
