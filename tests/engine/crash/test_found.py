# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the sweeps have found, each as a small test of its own."""

from __future__ import annotations

import errno
import json
import os

import pytest

from pairsync.replica import send
from tests.engine.trees import STATE, Link, Pair, entries, quiet, read_tree, write_tree


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


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "call, when",
    [
        ("write", lambda __, data: bytes(data) == b"half of it cannot be written"),
        ("set_mtime", lambda __, mtime_ns: mtime_ns == 10**18),
        ("set_link_mtime", lambda __, name, ___: name == b"l"),
    ],
)
def test_what_could_not_be_staged_does_not_land_with_its_directory(
    pair, failing, monkeypatch, call, when, whole
):
    """Half a file must never have a name. The rest comes, and the next run brings it."""
    if not whole:
        monkeypatch.setattr(send, "WHOLE_LIMIT", 4)
    write_tree(
        pair.a, {"n/bad": "half of it cannot be written", "n/good": "good", "n/l": Link("x")}
    )
    os.utime(pair.a / "n/bad", ns=(10**18, 10**18))
    failing(call, errno.EFBIG, when)
    result = pair.sync()
    name = "n/l" if call == "set_link_mtime" else "n/bad"
    assert result.exit == 2
    assert result.items[name] == ("a->b", "failed")
    assert read_tree(pair.b).keys() == read_tree(pair.a).keys() - {name}
    monkeypatch.undo()
    assert pair.sync().exit == 0
    assert entries(pair.b) == entries(pair.a)
    assert (pair.b / name).lstat().st_mtime_ns == (pair.a / name).lstat().st_mtime_ns


def test_a_directory_that_cannot_be_given_its_mode_fails_alone(pair, failing, monkeypatch):
    write_tree(pair.a, {"n/f": "f", "n/e/g": "g", "other/h": "h"})
    (pair.a / "n/e").chmod(0o750)
    failing("set_mode", errno.EPERM, lambda __, mode: mode & 0o777 == 0o750)
    result = pair.sync()
    assert result.exit == 2
    assert {path for path, (__, what) in result.items.items() if what == "failed"} == {
        "n", "n/e", "n/e/g", "n/f"
    }  # fmt: skip
    assert "n" not in read_tree(pair.b)
    assert "other/h" in read_tree(pair.b)
    monkeypatch.undo()
    assert pair.sync().exit == 0
    assert entries(pair.b) == entries(pair.a)
