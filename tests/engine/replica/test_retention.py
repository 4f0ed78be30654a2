# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which versions go from the backup, and which never do."""

from __future__ import annotations

import calendar
import contextlib
import json
import shutil
from dataclasses import replace

import pytest

from pairsync.model.policy import Retention, amount_of
from pairsync.replica import fsops, late, retention
from pairsync.replica.local import LocalReplica
from pairsync.replica.retention import keep_within
from tests.engine.trees import STATE, Pair, contents, write_tree

NOW = calendar.timegm((2020, 1, 20, 0, 0, 0))
LONG = Retention(keep=100, days=1000, max_size="100%")


def day(number):
    return f"202001{number:02d}T000000Z-00000000"


@pytest.fixture
def kept(root):
    """A root whose backup holds five versions of `f`, and one of `once`."""
    (root.path / STATE / "pairs/p").mkdir(parents=True)
    root.keep(day(1), {"once": "once"}).close()
    for number in range(1, 6):
        root.keep(day(number), {"f": str(number) * 100}).close()
    return root


def versions(root):
    """Days of which a version of `f` is there."""
    return {int(run.name[6:8]) for run in root.kept_in.iterdir() if (run / "f").exists()}


def prune(root, wanted, now=NOW):
    keep_within(root.state, "p", wanted, day(5), now)
    assert (root.kept_in / day(1) / "once").read_text() == "once"  # the newest of its path


@pytest.mark.parametrize(
    "limits,left",
    [
        ({"keep": 2}, {4, 5}),
        ({"keep": 1}, {5}),
        ({"days": 17}, {3, 4, 5}),
        ({"days": 0}, {5}),
        ({"max_size": "310"}, {3, 4, 5}),
        ({"max_size": "1"}, {5}),
        ({}, {1, 2, 3, 4, 5}),
    ],
)
def test_the_limits_drop_the_oldest_and_never_the_newest(kept, limits, left):
    prune(kept, replace(LONG, **limits))
    assert versions(kept) == left


def test_space_that_others_want_is_made(kept, monkeypatch):
    def free_bytes(__):
        return 1000 - 100 * len(versions(kept))

    monkeypatch.setattr(fsops, "free_bytes", free_bytes)
    prune(kept, replace(LONG, min_free="750"))
    assert versions(kept) == {4, 5}


def test_what_is_pinned_stays(kept):
    late.pin(kept.state, day(2).encode(), [b"f"])
    prune(kept, replace(LONG, keep=1, days=0, max_size="1"))
    assert versions(kept) == {2, 5}


def test_no_pair_loses_what_another_one_of_the_root_keeps(kept):
    (kept.path / STATE / "pairs/q").mkdir()
    retention.note_retention(kept.state, "q", replace(LONG, keep=3), contextlib.nullcontext)
    prune(kept, replace(LONG, keep=1))
    assert versions(kept) == {3, 4, 5}
    (kept.path / STATE / "pairs/q").rmdir()
    prune(kept, replace(LONG, keep=1))
    assert versions(kept) == {5}


def test_layers_of_one_run_are_versions_of_their_own(root):
    for text in "123":
        root.keep(day(1), {"f": text}).close()
    keep_within(root.state, "p", replace(LONG, keep=1), day(1), NOW)
    assert contents(root.kept_in) == {b"3"}


def test_a_large_backup_is_not_looked_through_again_at_once(kept, monkeypatch):
    monkeypatch.setattr(retention, "_MANY", 3)
    prune(kept, LONG)
    kept.keep(day(6), {"f": "6"}).close()
    keep_within(kept.state, "p", replace(LONG, keep=1), day(6), NOW + 1)
    assert versions(kept) == {1, 2, 3, 4, 5, 6}
    note = json.loads((kept.path / STATE / "backup.json").read_text())
    assert (note["versions"], note["bytes"]) == (7, 505)
    keep_within(kept.state, "p", replace(LONG, keep=1), day(6), NOW + 100)
    assert versions(kept) == {6}


def test_pruning_beside_another_session_that_prunes(root, before):
    for number in range(1, 4):
        root.keep(day(number), {"d/f": str(number)}).close()

    def other():
        shutil.rmtree(root.kept_in / day(1))

    before("unlink", other, when=lambda __, name: name == b"f")
    keep_within(root.state, "p", replace(LONG, keep=1), day(3), NOW)
    assert contents(root.kept_in) == {b"3"}


# -- in sessions ----------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    pair = Pair(tmp_path / "pair")
    write_tree(pair.a, {"f": "1" * 1000})
    assert pair.sync().exit == 0
    return pair


def test_what_cannot_be_kept_is_not_replaced(pair):
    for edit in (lambda: (pair.a / "f").write_text("2"), (pair.a / "f").unlink):
        edit()
        result = pair.sync(backup=Retention(max_size="999"))
        assert (result.exit, result.report["error"]["code"]) == (3, "backup_full")
        assert "max_size" in result.report["error"]["next"]
        assert (pair.b / "f").read_text() == "1" * 1000
        assert not pair.backups()
    assert pair.sync(backup=Retention(max_size="1000")).exit == 0
    assert pair.backups() == {b"1" * 1000}


def test_limits_hold_where_nothing_can_be_noted(tmp_path):
    """Not in the user's home, and not in the status: the disk may be full of what is to go."""
    (tmp_path / "home").write_text("no directory")
    pair = Pair(tmp_path, lambda: (LocalReplica(), LocalReplica(state_home=f"{tmp_path}/home/x")))
    for number in range(4):
        write_tree(pair.a, {"f": f"version {number}"})
        assert pair.sync(backup=Retention(keep=1)).exit == 0
        shutil.rmtree(pair.b / STATE / "log", ignore_errors=True)
        (pair.b / STATE / "log").write_text("no directory either")
    assert contents(pair.b / STATE / "backup") == {b"version 2"}


def test_what_is_kept_only_briefly_has_no_limit(pair):
    (pair.a / "f").write_text("2")
    assert pair.sync(backup=Retention(enabled=False, max_size="1")).exit == 0


def test_a_newer_version_makes_room_for_itself(pair):
    """The limit holds one version: the older one goes once the newer is there, not before."""
    for text in "234":
        (pair.a / "f").write_text(text * 1000)
        assert pair.sync(backup=Retention(max_size="1500")).exit == 0
    assert pair.backups() == {b"3" * 1000}


def test_space_that_must_stay_free(pair):
    (pair.a / "f").write_text("2")
    result = pair.sync(backup=Retention(min_free="100%"))
    assert result.report["error"]["code"] == "backup_full"
    assert "min_free" in result.report["error"]["next"]
    assert (pair.b / "f").read_text() == "1" * 1000


def test_new_files_are_no_matter_of_the_backup(pair):
    (pair.a / "new").write_text("new")
    assert pair.sync(backup=Retention(max_size="0", min_free="100%")).exit == 0


@pytest.mark.parametrize(
    "text,amount", [("10%", 100), ("0.5%", 5), ("1.5K", 1536), ("7", 7), ("2G", 2 << 30)]
)
def test_amounts(text, amount):
    assert amount_of(text, 1000) == amount


@pytest.mark.parametrize("text", ["", "-1", "101%", "1X", "G", "1e3", "٣", "10 %"])
def test_no_amounts(text):
    with pytest.raises(ValueError, match=r".*"):
        amount_of(text, 1000)
