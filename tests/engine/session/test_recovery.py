# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""State that is lost, damaged, old or foreign: never taken for deletions (P21, P22)."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import threading
import time

import pytest

from pairsync.replica import store
from pairsync.replica.local import LocalReplica
from tests.engine.trees import STATE, Pair, read_tree, write_tree

TREE = {"f": "1", "g": "2", "d/x": "3", "d/y": "4", "e/z": "5", "log": "line\n"}


def touched(pair):
    """What people did since: on each side an edit, a new file and a deletion."""
    write_tree(pair.a, {"f": "edited on a", "d/new on a": "6"})
    write_tree(pair.b, {"g": "edited on b", "e/new on b": "7"})
    (pair.a / "d/x").unlink()
    (pair.b / "e/z").unlink()


AS_AGREED = {
    "d": None, "d/new on a": b"6", "d/y": b"4", "e": None, "e/new on b": b"7",
    "f": b"edited on a", "g": b"edited on b", "log": b"line\n",
}  # fmt: skip
UNION = AS_AGREED | {"d/x": b"3", "e/z": b"5"}


@pytest.fixture
def pair(tmp_path):
    """A pair that was synced twice; `older` holds its state as it was after the first time."""
    pair = Pair(tmp_path / "pair")
    write_tree(pair.a, {"f": "0", "old": "gone by now"})
    assert pair.sync().exit == 0
    for root in pair.roots:
        shutil.copytree(root, tmp_path / "older" / root.name, symlinks=True)
    (pair.a / "old").unlink()
    write_tree(pair.a, TREE)
    assert pair.sync().exit == 0
    pair.older = tmp_path / "older"
    touched(pair)
    return pair


def is_union(pair):
    """After a run like a first sync: nothing is gone, and only true conflicts differ."""
    a, b = read_tree(pair.a), read_tree(pair.b)
    assert a.keys() == b.keys() == UNION.keys()
    for name, value in UNION.items():
        if name not in ("f", "g"):
            assert a[name] == b[name] == value
    assert (a["f"], b["f"]) == (b"edited on a", b"1")
    assert (a["g"], b["g"]) == (b"2", b"edited on b")


def settles(pair):
    """The next runs are ordinary ones again."""
    assert pair.sync(prefer="a").report["base"] == "ok"
    assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)
    pair.commit(pair.a)


def base_file(root):
    (found,) = root.glob(f"{STATE}/pairs/*/base.sqlite")
    return found


def cut(share):
    def act(pair, root):
        path = base_file(root)
        os.truncate(path, int(path.stat().st_size * share))

    return act


def remove(pair, root):
    base_file(root).unlink()


def older_base(pair, root):
    shutil.copy(base_file(pair.older / root.name), base_file(root))


def older_state(pair, root):
    shutil.rmtree(root / STATE)
    shutil.copytree(pair.older / root.name / STATE, root / STATE)


def garbage(pair, root):
    base_file(root).write_bytes(os.urandom(8192))


def of_another_pair(pair, root):
    other = Pair(pair.home.parent / "other")
    write_tree(other.a, {**TREE, "gone": "8"})
    other.sync()
    shutil.copy(base_file(other.a), base_file(root))


def of_the_peer(pair, root):
    """The one at the other end is as good: it holds the same rows of the same pair."""
    peer = pair.b if root == pair.a else pair.a
    shutil.copy(base_file(peer), base_file(root))


def torn(pair, root):
    """What a crash in the middle of a commit leaves once its journal is gone."""
    path, old = base_file(root), base_file(pair.older / root.name).read_bytes()
    new = bytearray(path.read_bytes())
    for start in range(4096, len(new), 8192):
        new[start : start + 4096] = old[start : start + 4096].ljust(4096, b"\0")
    path.write_bytes(new)


DAMAGES = [cut(0.5), remove, older_base, older_state, garbage, of_another_pair, torn]
NAMES = ["half", "removed", "older base", "older state", "garbage", "other pair", "torn"]


@pytest.mark.parametrize("damage", DAMAGES, ids=NAMES)
@pytest.mark.parametrize("side", ["a", "b"])
def test_one_lost_base_makes_the_run_a_first_sync(pair, side, damage):
    damage(pair, pair.a if side == "a" else pair.b)
    planned = pair.sync(dry_run=True)
    assert planned.report["base"] == "degraded"
    result = pair.sync()
    assert (result.error, result.report["base"]) == ("", "degraded")
    assert result.run.warnings
    is_union(pair)
    settles(pair)


@pytest.mark.parametrize("damage", [cut(0.5), older_state, garbage], ids=["half", "old", "garbage"])
def test_two_lost_bases_make_the_run_a_first_sync(pair, damage):
    for root in pair.roots:
        damage(pair, root)
    result = pair.sync()
    assert result.error == ""
    if damage is older_state:
        # Both agree on what was agreed on earlier: what came since is new on both.
        assert result.report["base"] == "ok"
        assert UNION.keys() == read_tree(pair.a).keys() == read_tree(pair.b).keys()
    else:
        assert result.report["base"] == "degraded"
        is_union(pair)
    settles(pair)


def test_two_removed_bases_make_the_run_a_first_sync(pair):
    for root in pair.roots:
        remove(pair, root)
    assert pair.sync().report["base"] == "first"
    is_union(pair)
    settles(pair)


@pytest.mark.parametrize("side", ["a", "b"])
def test_an_empty_base_file_makes_the_run_a_first_sync(pair, side):
    cut(0)(pair, pair.a if side == "a" else pair.b)
    assert pair.sync().report["base"] == "degraded"
    is_union(pair)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_base_copied_from_the_peer_is_as_good(pair, side):
    of_the_peer(pair, pair.a if side == "a" else pair.b)
    result = pair.sync()
    assert (result.exit, result.report["base"]) == (0, "ok")
    assert read_tree(pair.a) == read_tree(pair.b) == AS_AGREED


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_replica_restored_from_an_older_copy_deletes_nothing(pair, side):
    """Tree and state together, as from a snapshot."""
    root = pair.a if side == "a" else pair.b
    before = {path: value for one in pair.roots for path, value in read_tree(one).items()}
    shutil.rmtree(root)
    shutil.copytree(pair.older / side, root, symlinks=True)
    result = pair.sync()
    assert (result.error, result.report["base"]) == ("", "degraded")
    other = read_tree(pair.b if side == "a" else pair.a)
    for name in other:
        assert name in read_tree(root)
    assert "old" in other, "what the snapshot has is kept, and comes back"
    assert before["log"] == b"line\n" == other["log"]


def as_before(pair, snapshot):
    """Put back what both replicas held, state included, into the very same directories."""
    for root in pair.roots:
        for path in root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.copytree(snapshot / root.name, root, symlinks=True, dirs_exist_ok=True)


def flips(data, chosen, number):
    """Copies of some bytes, each with another bit that is not what it was, and where that is."""
    used = [offset for offset in range(100, len(data)) if data[offset]]
    for offset in chosen.sample(used, number):
        yield offset, flipped(data, offset, chosen)


def flipped(data, offset, chosen):
    changed = bytearray(data)
    changed[offset] ^= 1 << chosen.randrange(8)
    return changed


@pytest.mark.parametrize("side", ["a", "b"])
def test_any_flipped_bit_of_a_base_is_found_or_makes_no_difference(pair, tmp_path, side):
    snapshot = tmp_path / "snapshot"
    shutil.copytree(pair.home, snapshot, symlinks=True)
    path = base_file(pair.home / side)
    good = path.read_bytes()
    chosen = random.Random(1)
    # What SQLite reads first, and some of all others.
    header = [(offset, flipped(good, offset, chosen)) for offset in (16, *range(18, 24), 44, 47)]
    states = set()
    for offset, data in [*header, *flips(good, chosen, 12)]:
        as_before(pair, snapshot)
        path.write_bytes(data)
        result = pair.sync()
        if result.error:
            # It was read well, and could not be written: the next run is like a first one.
            assert "was set aside" in result.report["error"]["message"], offset
            assert pair.sync().report["base"] == "degraded", offset
        states.add(result.report["base"])
        if result.report["base"] == "ok":
            assert read_tree(pair.a) == read_tree(pair.b) == AS_AGREED, offset
        else:
            is_union(pair)
    assert states == {"ok", "degraded"}


def test_flipped_bits_of_an_index_only_cost_time(pair):
    for root in pair.roots:
        for path in root.rglob("*"):
            if STATE not in path.parts:
                os.utime(path, (1_000_000_000, 1_000_000_000))
    time.sleep(0.05)  # from now on the index may trust what it has seen
    for __ in range(2):
        expected = pair.sync(dry_run=True).items
    path = pair.a / STATE / "index.sqlite"
    good = path.read_bytes()
    for offset, data in flips(good, random.Random(2), 40):
        path.write_bytes(data)
        result = pair.sync(dry_run=True)
        assert result.items == expected, offset
        assert result.report["base"] == "ok"
    assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b) == AS_AGREED


def test_a_peer_stays_known_while_its_base_is_lost(pair, monkeypatch):
    """Else an unmounted root would be taken for a new one right after a degraded run."""
    remove(pair, pair.b)

    def crash(self, commit):
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(LocalReplica, "promote", crash)
        assert pair.sync().report["base"] == "degraded"
    shutil.rmtree(pair.b)
    pair.b.mkdir()
    before = read_tree(pair.a)
    assert pair.sync().error == "root_identity"
    assert read_tree(pair.a) == before


# -- a commit that one side has, and the other has not --------------------------------------------


class PowerCutError(Exception):
    """The power went."""


@pytest.mark.parametrize(
    "name, calls", [("record", 0), ("record", 1), ("promote", 0), ("promote", 1)]
)
def test_a_crash_between_the_steps_of_a_commit(pair, monkeypatch, name, calls):
    real = getattr(LocalReplica, name)
    lock, made = threading.Lock(), []

    def counted(self, argument):
        with lock:
            made.append(argument)
            if len(made) > calls:
                raise PowerCutError
            return real(self, argument)

    with monkeypatch.context() as patch:
        patch.setattr(LocalReplica, name, counted)
        assert pair.sync().exit == 3
    result = pair.sync()
    assert (result.exit, result.report["base"]) == (0, "ok")
    assert read_tree(pair.a) == read_tree(pair.b) == AS_AGREED
    settles(pair)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_damaged_pending_commit_is_not_promoted(pair, monkeypatch, side):
    def crash(self, commit):
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(LocalReplica, "promote", crash)
        assert pair.sync().exit == 3
    database = sqlite3.connect(base_file(pair.a if side == "a" else pair.b))
    database.execute("UPDATE pending SET data = substr(data, 1, 20) || x'00' || substr(data, 22)")
    database.commit()
    database.close()
    result = pair.sync()
    assert (result.error, result.report["base"]) == ("", "degraded")
    assert read_tree(pair.a) == read_tree(pair.b) == AS_AGREED


def test_an_error_of_the_system_is_no_damage():
    assert not store.is_damaged(sqlite3.OperationalError("disk I/O error"))
    assert not store.is_damaged(sqlite3.OperationalError("database or disk is full"))
    assert store.is_damaged(sqlite3.OperationalError("no such table: meta"))
    assert store.is_damaged(sqlite3.DatabaseError("database disk image is malformed"))
