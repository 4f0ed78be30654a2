# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup: whose it is, how long it stays, and when it is durable."""

from __future__ import annotations

import os
import time

import pytest

from pairsync.model.policy import Retention
from pairsync.replica import fsops, state
from pairsync.replica.backup import Backup, drop_brief, prune, run_name
from tests.engine.trees import STATE, Pair, contents, write_tree

BRIEF = Retention(enabled=False)


class Root:
    def __init__(self, path, held):
        self.path = write_tree(path, {})
        self.fd = held(path)
        self.state = state.create(self.fd, "")
        self.kept_in = path / STATE / "backup"

    def keep(self, run, tree):
        """Displace files in a run; return the run's backup, still open."""
        write_tree(self.path, tree)
        backup = Backup(self.state, run)
        for name in tree:
            parent = os.open((self.path / name).parent, os.O_RDONLY)
            backup.take(parent, os.path.basename(name).encode(), name.encode())
            os.close(parent)
        return backup


@pytest.fixture
def root(tmp_path, held):
    root = Root(tmp_path / "root", held)
    yield root
    root.state.close()


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


def test_pruning_beside_another_session_that_prunes(root, before):
    for number in range(3):
        root.keep(f"2020010{number}T000000Z-x", {"d/f": str(number)}).close()
    first = root.kept_in / "20200100T000000Z-x"

    def other():
        (first / "d/f").unlink()

    before("unlink", other, when=lambda __, name: name == b"f")
    prune(root.state, Retention(keep=1), time.time())
    assert contents(root.kept_in) == {b"2"}


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
