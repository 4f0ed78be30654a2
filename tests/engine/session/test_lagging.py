# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a long session while it runs: true at any moment, and good to go on from."""

from __future__ import annotations

import errno
import os
import time

import pytest

from pairsync.model.entry import DIR
from pairsync.replica import fsops, receive, units
from pairsync.replica.local import LocalReplica
from pairsync.session import lagging
from tests.engine.session.served import Served
from tests.engine.trees import Pair, entries, read_tree, write_tree

FILES = {f"d{number % 3}/f{number:02}": f"text {number}" for number in range(60)}


class Slow(LocalReplica):
    """Sends file by file, waits for a commit in the middle, and may die after that."""

    def __init__(self, pair, dies=None):
        super().__init__()
        self.pair, self.dies = pair, dies

    def send(self, wanted):
        for number, record in enumerate(super().send(wanted)):
            if number == 45:
                self.await_commit()
                if self.dies is not None:
                    self.dies()
            yield record

    def await_commit(self):
        deadline = time.monotonic() + 20
        while min(self.pair.files.values()) < 10:
            assert time.monotonic() < deadline, "nothing was recorded"
            time.sleep(0.01)


def power_cut():
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A first sync in batches of a few.

    commits: those that were made current on a. files: how many were recorded early, by side.
    """
    monkeypatch.setattr(receive, "BATCH_FILES", 10)
    monkeypatch.setattr(units, "MOST_ENTRIES", 1)
    monkeypatch.setattr(lagging, "LAG_SECONDS", 0.05)
    pair = Pair(tmp_path / "pair")
    pair.commits, pair.files, pending = [], {"a": 0, "b": 0}, {}
    promote, record = LocalReplica.promote, LocalReplica.record_so_far

    def recording(self, commit, rows, coverage):
        pending[commit] = sum(entry.kind != DIR for __, entry in rows)
        return record(self, commit, rows, coverage)

    def noted(self, commit):
        promote(self, commit)
        side = self._in_session().side
        pair.files[side] += pending.get(commit, 0)
        if side == "a":
            pair.commits.append(commit)

    monkeypatch.setattr(LocalReplica, "record_so_far", recording)
    monkeypatch.setattr(LocalReplica, "promote", noted)
    write_tree(pair.a, FILES)
    return pair


def recorded(pair):
    """What both bases say, checked against what is there."""
    a, b = pair.base(pair.a), pair.base(pair.b)
    assert a == b
    assert pair.commit(pair.a) == pair.commit(pair.b)
    there = entries(pair.a), entries(pair.b)
    for path, entry in a.items():
        for tree in there:
            if entry.kind == DIR:
                assert tree[path].kind == DIR
                assert entry.mode in (None, tree[path].mode)
            else:
                assert tree[path] == entry
        parent = path.rpartition("/")[0]
        assert not parent or parent in a
    return a


def test_what_is_done_is_recorded_before_the_session_ends(pair):
    pair.connect = lambda: (Slow(pair, power_cut), LocalReplica())
    assert pair.sync().error == "space"
    rows = recorded(pair)
    assert 10 <= sum(entry.kind != DIR for entry in rows.values()) < 60
    assert {entry.mode for entry in rows.values() if entry.kind == DIR} == {None}, "set last"
    pair.connect = lambda: (LocalReplica(), LocalReplica())
    # A base from now on: what is deleted stays deleted, and nothing else goes.
    gone = next(path for path, entry in sorted(rows.items()) if entry.kind != DIR)
    new = next(path for path in sorted(FILES) if path not in rows)
    (pair.a / gone).unlink()
    result = pair.sync()
    assert (result.exit, result.report["base"]) == (0, "ok")
    assert result.items[gone] == ("a->b", "done")
    assert read_tree(pair.a) == read_tree(pair.b)
    assert set(read_tree(pair.b)) == set(FILES) - {gone} | {"d0", "d1", "d2"}
    assert new in read_tree(pair.b)
    assert entries(pair.a) == entries(pair.b)


def test_what_the_other_side_has_beyond_it_is_no_deletion(pair):
    """The base covers what it did before, which is nothing."""
    write_tree(pair.b, {"own/x": "of b", "d1/own": "of b"})
    pair.connect = lambda: (Slow(pair, power_cut), LocalReplica())
    assert pair.sync(mode="mirror").error == "space"
    recorded(pair)
    pair.connect = lambda: (LocalReplica(), LocalReplica())
    result = pair.sync(mode="mirror")
    assert result.items["own/x"] == ("skip", "skipped")
    assert (pair.b / "own/x").exists()
    assert (pair.b / "d1/own").exists()


def test_a_session_that_is_killed(pair):
    pair.connect = lambda: (Slow(pair, lambda: os._exit(7)), LocalReplica())
    child = os.fork()
    if not child:
        pair.sync()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert recorded(pair)
    pair.connect = lambda: (LocalReplica(), LocalReplica())
    assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)


@pytest.mark.parametrize("turned", [False, True], ids=["to agent", "from agent"])
def test_an_agent_takes_part(pair, turned):
    large = bytes(range(256)) * 300  # several of these fill a frame
    write_tree(pair.a, dict.fromkeys(FILES, large))

    class Source(Slow, Served):
        """A source that is an agent."""

        def __init__(self, pair):
            Served.__init__(self)
            self.pair, self.dies = pair, None

    if turned:
        pair.connect = lambda: (Source(pair).connected(), LocalReplica())
    else:
        pair.connect = lambda: (Slow(pair), Served().connected())
    result = pair.sync()
    assert result.exit == 0, result.report["error"]
    assert len(pair.commits) >= 2
    assert read_tree(pair.a) == read_tree(pair.b)
    assert pair.base(pair.a) == pair.base(pair.b) == entries(pair.a)
    pair.connect = lambda: (LocalReplica(), LocalReplica())
    assert pair.sync().report["counts"] == {}


def test_the_last_commit_says_all(pair):
    write_tree(pair.b, {"d0/f00": FILES["d0/f00"], "d1/f01": "another", "other": "of b"})
    (pair.a / "d2").chmod(0o555)
    pair.connect = lambda: (Slow(pair), LocalReplica())
    result = pair.sync(prefer="a")
    assert result.exit == 0
    assert len(pair.commits) >= 2
    assert pair.base(pair.a) == pair.base(pair.b) == entries(pair.a) == entries(pair.b)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_disk_that_fails_in_the_record_ends_the_session(pair, failing, monkeypatch, side):
    pair.sync(paths=("nothing",))  # each has its marker from now on
    pair.commits.clear()
    root = os.fsencode(pair.a if side == "a" else pair.b)

    def of_root(fd):
        path = fsops.real_path(fd)
        return path.startswith(root) and b".pairsync" not in path

    failing("sync_file_system", errno.EIO, of_root)
    failing("sync_file", errno.EIO, of_root)
    monkeypatch.setattr(Slow, "await_commit", lambda __: time.sleep(0.5))
    pair.connect = lambda: (Slow(pair), LocalReplica())
    result = pair.sync()
    assert result.error == "space"
    assert "durable" in result.report["error"]["message"]
    assert result.report["counts"]["a->b"]["skipped"], "it did not go on to the end"
    assert not pair.commits


def test_a_crash_between_the_two_promotions(pair, monkeypatch):
    noted, made = LocalReplica.promote, []

    def once(self, commit):
        made.append(commit)
        if len(made) > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        noted(self, commit)

    with monkeypatch.context() as patch:
        patch.setattr(LocalReplica, "promote", once)
        patch.setattr(Slow, "await_commit", lambda __: time.sleep(0.5))
        pair.connect = lambda: (Slow(pair), LocalReplica())
        assert pair.sync().exit == 3
    assert len(set(made)) == 1
    pair.connect = lambda: (LocalReplica(), LocalReplica())
    result = pair.sync()
    assert (result.exit, result.report["base"]) == (0, "ok")
    assert read_tree(pair.a) == read_tree(pair.b)
