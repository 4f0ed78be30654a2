# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup: whose it is, how long it stays, and when it is durable."""

from __future__ import annotations

import os
import shutil

import pytest

from pairsync.model.policy import Retention
from pairsync.replica import fsops
from pairsync.replica.backup import drop_brief, run_name
from tests.engine.trees import STATE, Pair, contents, write_tree

BRIEF = Retention(enabled=False)


@pytest.fixture
def synced_inodes(monkeypatch):
    real = fsops.sync_file
    inodes = set()

    def sync_file(fd):
        inodes.add(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(fsops, "sync_file", sync_file)
    return inodes


def test_only_its_own_pair_drops_what_is_kept_briefly(root):
    for pair in ("one", "other"):
        root.keep(run_name("run", BRIEF, pair), {"f": pair}).close()
    root.keep(run_name("run", Retention(), "one"), {"f": "for long"}).close()
    drop_brief(root.state, "one")
    assert contents(root.kept_in) == {b"other", b"for long"}


def test_every_directory_that_got_a_name_is_made_durable(root, synced_inodes):
    backup = root.keep("run", {"d/e/f": "1", "d/g": "2"})
    synced_inodes.clear()
    backup.sync()
    names = ["", "run", "run/d", "run/d/e"]
    assert {(root.kept_in / name).stat().st_ino for name in names} <= synced_inodes
    synced_inodes.clear()
    backup.close()
    assert not synced_inodes


def test_what_a_session_that_was_cut_short_kept_is_durable(root, synced_inodes):
    backup = root.keep("run", {"f": "1"})
    synced_inodes.clear()
    backup.close()
    assert (root.kept_in / "run").stat().st_ino in synced_inodes


def test_everything_displaced_keeps_its_path_whatever_has_its_name(root):
    """Twice one path, a file under a directory's name and the other way round, long names."""
    long = "n" * 255
    for tree in ({"f": "1", long: "1"}, {"f": "2", long: "2"}, {"f/g": "3", "d/e": "3"}):
        root.keep("run", tree).close()
        shutil.rmtree(root.path / "f", ignore_errors=True)
        shutil.rmtree(root.path / "d", ignore_errors=True)
    root.keep("run", {"d": "4"}).close()
    kept = {
        path.relative_to(root.kept_in / "run").as_posix(): path.read_text()
        for path in (root.kept_in / "run").rglob("*")
        if path.is_file()
    }
    one, two = f"{STATE}/1", f"{STATE}/2"
    assert kept == {
        "f": "1", f"{one}/f": "2", f"{two}/f/g": "3", "d/e": "3", f"{one}/d": "4",
        long: "1", f"{one}/{long}": "2",
    }  # fmt: skip


def test_a_session_makes_what_it_keeps_durable_before_it_records(tmp_path, before, synced_inodes):
    pair = Pair(tmp_path / "pair")
    write_tree(pair.a, {"d/f": "1"})
    assert pair.sync().exit == 0
    (pair.a / "d/f").write_text("2")
    durable = []

    def look():
        (run,) = (pair.b / STATE / "backup").iterdir()
        durable.append((run / "d").stat().st_ino in synced_inodes)

    before("sync_file", look, when=lambda fd: os.fstat(fd).st_ino == (pair.b / "d").stat().st_ino)
    assert pair.sync().exit == 0
    assert durable == [True]
