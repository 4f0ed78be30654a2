# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session leaves behind for the next one: bases that are true, and say what they cover."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest

from pairsync.replica import fsops
from pairsync.replica.base import Base
from pairsync.replica.local import LocalReplica
from tests.engine.trees import Pair, read_tree, write_tree


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path / "pair")


def test_a_session_over_a_subtree_hides_no_change_beside_it(pair):
    write_tree(pair.a, {"f": "1", "g": "2"})
    pair.sync()
    (pair.a / "f").unlink()
    write_tree(pair.a, {"sub/x": "3"})
    assert pair.sync(paths=("sub",)).exit == 0
    assert (pair.b / "f").exists()
    assert pair.sync().items["f"] == ("a->b", "done")


def test_a_mirror_of_the_rest_after_a_subtree_deletes_nothing_unasked(pair):
    write_tree(pair.a, {"sub/x": "1"})
    write_tree(pair.b, {"mine": "2"})
    assert pair.sync(paths=("sub",), mode="mirror").exit == 0
    result = pair.sync(mode="mirror")
    assert result.items["mine"] == ("skip", "skipped")
    assert result.exit == 1
    assert pair.sync(mode="mirror", confirm=result.report["plan_digest"]).exit == 0
    assert not (pair.b / "mine").exists()


def test_what_is_no_longer_ignored_is_not_deleted_by_a_mirror(pair):
    write_tree(pair.a, {"f": "1"})
    pair.sync(mode="mirror", ignore=("Name *.tmp",))
    write_tree(pair.b, {"x.tmp": "2", "surplus": "3"})
    pair.sync(mode="mirror", ignore=("Name *.tmp",))
    assert not (pair.b / "surplus").exists()
    assert pair.sync(mode="mirror").items == {"x.tmp": ("skip", "skipped")}


def test_bases_that_would_differ_are_recorded_by_no_later_session(pair, monkeypatch):
    write_tree(pair.a, {"f": "1", "g": "2"})
    pair.sync()
    write_tree(pair.a, {"f": "3", "g": "4"})
    write = Base.write_pending
    calls = iter((True, False))

    def one_row_less(self, commit, rows, coverage=""):
        rows = list(rows)
        return write(self, commit, rows[1:] if next(calls) else rows, coverage)

    with monkeypatch.context() as patch:
        patch.setattr(Base, "write_pending", one_row_less)
        assert pair.sync().error == "internal"
    result = pair.sync()
    assert (result.exit, result.report["base"]) == (0, "ok")
    assert read_tree(pair.a) == read_tree(pair.b)
    assert result.report["counts"] == {"equal": {"done": 2}}


def test_a_new_rule_below_what_one_side_cannot_read(pair, failing):
    write_tree(pair.a, {"d/x.tmp": "1", "d/y": "2", "f": "3"})
    pair.sync()
    failing("open_dir", 13, when=lambda __, name: name == b"d")
    result = pair.sync(ignore=("Name *.tmp",))
    assert not result.error


def test_a_plan_after_a_crash_between_the_two_promotions(pair, monkeypatch):
    write_tree(pair.a, {"f": "1", "g": "2"})
    pair.sync()
    write_tree(pair.a, {"f": "3"})
    (pair.a / "g").unlink()
    promote = LocalReplica.promote
    crashed = threading.Event()

    def only_one(self, commit):
        if crashed.is_set():
            raise OSError(5, "crash")
        crashed.set()
        promote(self, commit)

    with monkeypatch.context() as patch:
        patch.setattr(LocalReplica, "promote", only_one)
        assert pair.sync().exit == 3
    assert pair.sync(dry_run=True).exit == 0
    assert pair.sync().exit == 0


def test_a_confirmed_digest_holds_whether_or_not_somebody_is_asked(pair):
    write_tree(pair.a, {"same": "1", "f": "2"})
    write_tree(pair.b, {"same": "1"})
    (pair.b / "same").chmod(0o600)
    digest = pair.sync(dry_run=True).report["plan_digest"]
    assert pair.sync(confirm=digest, ask=lambda __: "y").error == ""


def test_an_interrupt_waits_for_the_swap_at_hand(pair, monkeypatch):
    replicas = []
    connect = pair.connect

    def connected():
        replicas.extend(connect())
        return replicas[-2], replicas[-1]

    pair.connect = connected
    write_tree(pair.a, {f"f{number}": f"a{number}" for number in range(60)})
    pair.sync()
    write_tree(pair.a, {f"f{number}": f"new{number}" for number in range(60)})
    exchange = fsops.rename_exchange
    swaps = []

    def slow(*names):
        swaps.append(names)
        if len(swaps) == 3:
            replicas[-1].interrupt()
        time.sleep(0.01)
        return exchange(*names)

    with monkeypatch.context() as patch:
        patch.setattr(fsops, "rename_exchange", slow)
        assert pair.sync().error == "interrupted"
    assert len(swaps) < 60
    for number in range(60):
        text = (pair.b / f"f{number}").read_text()
        kept = list(pair.b.glob(f".pairsync/backup/*/f{number}"))
        assert text == f"a{number}" or [one.read_text() for one in kept] == [f"a{number}"]
    assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)


def test_what_a_new_rule_hides_below_a_deleted_directory_is_let_alone(pair):
    write_tree(pair.a, {"d/cache/x": "1", "d/y": "2", "f": "3"})
    pair.sync()
    shutil.rmtree(pair.a / "d")
    result = pair.sync(ignore=("Name cache",))
    assert result.exit == 0
    assert "d/cache/x" not in result.items
    assert (pair.b / "d/cache/x").read_text() == "1"
    assert not (pair.b / "d/y").exists()


def test_a_crash_right_after_an_exchange_loses_nothing(pair, monkeypatch):
    write_tree(pair.a, {"f": "from a"})
    pair.sync()
    write_tree(pair.a, {"f": "new from a"})
    write_tree(pair.b, {"f": "new from b"})
    exchange = fsops.rename_exchange

    def crash(*names):
        exchange(*names)
        os._exit(1)

    child = os.fork()
    if not child:
        fsops.rename_exchange = crash
        pair.sync(prefer="a")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    write_tree(pair.a, {"other": "so that the stage is emptied"})
    assert pair.sync().exit == 0
    assert b"new from b" in pair.backups()


@pytest.mark.root
def test_a_read_only_directory_arrives_and_blocks_nothing():
    # Below a directory that a plain user can reach.
    pair = Pair(Path(tempfile.mkdtemp(dir="/var/tmp")) / "pair")
    write_tree(pair.a, {"ro/f": "1", "ro/in/g": "2"})
    (pair.a / "ro/in").chmod(0o555)
    (pair.a / "ro").chmod(0o555)
    for root in pair.roots:
        os.chown(root, 12345, 12345)
    for path in [*pair.a.rglob("*")]:
        os.chown(path, 12345, 12345)
    pair.home.parent.chmod(0o755)
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(12345)
            os.setuid(12345)
            os._exit(pair.sync().exit)
        except BaseException:
            os._exit(9)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert read_tree(pair.b) == read_tree(pair.a)
        assert (pair.b / "ro").stat().st_mode & 0o777 == 0o555
    finally:
        shutil.rmtree(pair.home.parent)
