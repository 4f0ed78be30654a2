# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas that are not what they were: zero actions on both sides, and the way on that is named.

What mounts have to do with it is in tests/engine/hostile/test_topology.py.
"""

from __future__ import annotations

import os
import shutil
import socket

import pytest

from pairsync.model.spec import PairSpec, ReplicaSpec
from pairsync.replica import fsops, state
from pairsync.replica.local import LocalReplica
from pairsync.session.forget import forget_pair
from tests.engine.trees import STATE, Pair, agent, fingerprints, read_tree, write_tree

TREE = {"f": "1", "d/g": "2", "d/h": "3", "e/i": "4"}


@pytest.fixture
def pair(tmp_path):
    """Two roots on a host that notes where its replicas are."""
    home = str(tmp_path / "state")
    pair = Pair(tmp_path / "pair", lambda: (LocalReplica("source", home), LocalReplica("", home)))
    write_tree(pair.a, TREE)
    return pair


@pytest.fixture
def synced(pair):
    assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)
    return pair


def third(pair, name="c", **tree):
    """A pair of the same host: a is new, b is nobody's yet."""
    other = Pair(pair.home / f"with-{name}", pair.connect)
    write_tree(other.a, tree)
    return other


def refused(pair, code, *words, **options):
    """The session ends with this error and what to do; not one inode, base or log is touched."""

    def everything():
        return [
            (fingerprints(root), [path.read_bytes() for path in pair.base_files(root)])
            for root in pair.roots
            if root.exists()
        ]

    was = everything()
    error = pair.sync(**options).report["error"]
    assert error, "it was not refused"
    assert error["code"] == code, error
    assert error["next"]
    for word in words:
        assert word in f"{error['message']}; {error['next']}"
    assert everything() == was
    return error


def forget(pair):
    spec = PairSpec(*(ReplicaSpec(x.name, str(x), local=True) for x in pair.roots))
    return forget_pair(spec, *pair.connect())


def renew(root):
    fd = os.open(root, os.O_RDONLY)
    state.renew(fd, "")
    os.close(fd)


def nothing_deleted(pair, *trees):
    """A first sync: everything that was on either side is on both."""
    result = pair.sync()
    assert result.exit == 0, result.report["error"]
    for tree in trees:
        assert tree.items() <= read_tree(pair.a).items()
    assert read_tree(pair.a) == read_tree(pair.b)
    again = pair.sync()
    assert (again.exit, again.report["base"], again.report["items_total"]) == (0, "ok", 0)


# -- another replica, or none ----------------------------------------------------------------------


def test_another_replica_in_its_place(synced):
    other = third(synced, x="theirs")
    assert other.sync().exit == 0
    synced.b.rename(synced.home / "away")
    other.b.rename(synced.b)
    was = [read_tree(root) for root in synced.roots]
    refused(synced, "root_identity", "is another replica now", "pairsync forget")
    assert forget(synced)
    nothing_deleted(synced, *was)


@pytest.mark.parametrize("moved", ["a", "b"])
def test_a_replica_that_moved_is_the_same(synced, moved):
    new = synced.home / "moved"
    getattr(synced, moved).rename(new)
    setattr(synced, moved, new)
    (synced.a / "f").unlink()
    result = synced.sync()
    assert (result.exit, result.report["base"]) == (0, "ok")
    assert not (synced.b / "f").exists()


def test_a_new_id_is_a_first_sync_with_every_peer(synced):
    other = third(synced, x="theirs")
    other.b = synced.b
    assert other.sync().exit == 0
    assert synced.sync().exit == 0
    renew(synced.b)
    (synced.b / "f").unlink()
    for pair in (synced, other):
        result = pair.sync()
        assert (result.exit, result.report["base"]) == (0, "first")
    assert (synced.b / "f").exists()


# -- copies ----------------------------------------------------------------------------------------


def copied(source, target):
    shutil.copytree(source, target, symlinks=True)
    return target


def test_a_copy_used_with_the_same_peer(synced):
    original, synced.a = synced.a, copied(synced.a, synced.home / "copy")
    (synced.a / "f").unlink()
    error = refused(synced, "replica_cloned", str(original), "forget --new-id")
    assert str(synced.a) in error["message"]
    renew(synced.a)
    nothing_deleted(synced, read_tree(original))


@pytest.mark.parametrize("mode", ["two-way", "mirror", "push"])
def test_a_copy_used_with_a_third_party(synced, mode):
    other = third(synced)
    assert other.sync().exit == 0
    original, other.a = synced.a, copied(synced.a, synced.home / "copy")
    was = read_tree(other.a)
    refused(other, "replica_cloned", str(original), "forget --new-id", mode=mode)
    renew(other.a)
    assert other.sync(mode=mode).exit == 0
    assert read_tree(other.b) == was
    assert synced.sync().report["base"] == "ok", "the original is what it was"


def test_a_copy_whose_original_is_gone_deletes_nothing(synced):
    copied(synced.b, synced.home / "copy")
    shutil.rmtree(synced.b)
    (synced.home / "copy").rename(synced.b)
    (synced.b / "f").unlink()  # which a backup may never have had
    assert synced.sync(dry_run=True).report["base"] == "degraded"
    result = synced.sync()
    assert (result.exit, result.report["base"]) == (0, "degraded")
    assert result.report["warnings"]
    assert result.items["f"] == ("a->b", "done"), "what comes back is listed"
    nothing_deleted(synced, {"f": b"1"})


def test_two_copies_in_one_session(synced):
    shutil.rmtree(synced.b)
    copied(synced.a, synced.b)
    refused(synced, "replica_cloned")
    renew(synced.b)
    # It still is another one than the one that was there.
    refused(synced, "root_identity", "pairsync forget")
    assert forget(synced)
    nothing_deleted(synced, read_tree(synced.a))


# -- states that were restored, or lost ------------------------------------------------------------


def restore(root, snapshot):
    """In place, as from a backup: all of it, our state included, and nothing else."""
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(snapshot, root, symlinks=True, dirs_exist_ok=True)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_replica_restored_from_an_old_backup(synced, side):
    root, other = synced.roots if side == "a" else synced.roots[::-1]
    snapshot = copied(root, synced.home / "snapshot")
    (other / "f").unlink()
    (other / "d/g").write_text("newer")
    (other / "new").write_text("new")
    assert synced.sync().exit == 0
    restore(root, snapshot)
    shutil.rmtree(snapshot)
    plan = synced.sync(dry_run=True)
    assert plan.report["base"] == "degraded"
    result = synced.sync()
    assert (result.exit, result.report["base"]) == (1, "degraded")
    to_other, to_root = ("a->b", "b->a") if side == "a" else ("b->a", "a->b")
    assert result.items == {
        "f": (to_other, "done"),  # deleted since: back again, and listed
        "new": (to_root, "done"),
        "d/g": ("conflict", "skipped"),
    }
    assert {"f": b"1", "new": b"new"}.items() <= read_tree(root).items()
    assert (root / "d/g").read_text() == "2"
    assert (other / "d/g").read_text() == "newer"
    result = synced.sync(prefer="b" if side == "a" else "a")
    assert (result.exit, result.report["base"]) == (0, "ok")
    assert read_tree(root) == read_tree(other)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_restored_mirror_deletes_nothing(synced, side):
    root, other = synced.roots if side == "a" else synced.roots[::-1]
    snapshot = copied(root, synced.home / "snapshot")
    (synced.a / "new").write_text("new")
    assert synced.sync(mode="mirror").exit == 0
    restore(root, snapshot)
    shutil.rmtree(snapshot)
    result = synced.sync(mode="mirror")
    assert result.report["base"] == "degraded"
    assert (other / "new").exists()


# -- the state directory ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_state_that_others_may_write(synced, mode):
    (synced.b / STATE).chmod(mode)
    refused(synced, "root_identity", "can be written by other users", f"chmod 700 {synced.b}")
    (synced.b / STATE).chmod(0o700)
    assert synced.sync().report["base"] == "ok"


@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_a_state_that_is_no_directory(pair, kind):
    planted = pair.b / STATE
    elsewhere = pair.home / "elsewhere"
    if kind == "link":
        elsewhere.mkdir()
    planted.write_text("") if kind == "file" else planted.symlink_to(elsewhere)
    refused(pair, "root_identity", str(pair.b), "make it a directory")
    assert not elsewhere.exists() or not list(elsewhere.iterdir())
    planted.unlink()
    assert pair.sync().exit == 0


@pytest.mark.parametrize("name", ["pairs", "stage", "backup", "log", "index.sqlite", "pairs/*"])
def test_a_part_of_the_state_that_leads_elsewhere(synced, name):
    [planted] = (synced.b / STATE).glob(name)
    elsewhere = synced.home / "elsewhere"
    planted.rename(elsewhere)
    planted.symlink_to(elsewhere)
    was = fingerprints(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    (synced.a / "f").write_text("changed")
    refused(synced, "root_identity", "is not what pairsync made there", "remove it")
    assert (fingerprints(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()) == was
    planted.unlink()
    elsewhere.rename(planted)
    assert synced.sync().report["base"] == "ok"


def test_a_base_that_leads_elsewhere_is_a_lost_one(synced):
    [base] = synced.base_files(synced.b)
    base.rename(synced.home / "elsewhere")
    base.symlink_to(synced.home / "elsewhere")
    was = (synced.home / "elsewhere").read_bytes()
    (synced.a / "f").unlink()
    assert synced.sync().report["base"] == "degraded"
    assert (synced.a / "f").exists()
    assert (synced.home / "elsewhere").read_bytes() == was


@pytest.mark.root
def test_a_state_of_another_user(synced):
    os.chown(synced.b / STATE, 65534, -1)
    refused(synced, "root_identity", "synced by user nobody", "this is user root", "run as nobody")
    os.chown(synced.b / STATE, 0, -1)
    assert synced.sync().report["base"] == "ok"


# -- what needs a person's word --------------------------------------------------------------------


def test_only_the_plan_that_was_looked_at_is_confirmed(pair):
    write_tree(pair.a, {f"many/{number}": str(number) for number in range(60)})
    assert pair.sync().exit == 0
    shutil.rmtree(pair.a / "many")
    error = refused(pair, "mass_change", "61 of 67 entries would be deleted")
    plan = pair.sync(dry_run=True)
    assert plan.report["plan_digest"] in error["next"]
    (pair.b / "d/h").unlink()  # the plan is another one now
    refused(pair, "mass_change", "something changed since", confirm=plan.report["plan_digest"])
    digest = pair.sync(dry_run=True).report["plan_digest"]
    assert pair.sync(confirm=digest).exit == 0
    assert not (pair.b / "many").exists()
    assert not (pair.a / "d/h").exists()


def test_an_emptied_root_is_confirmed_or_filled_again(synced):
    for name in ("f", "d", "e"):
        path = synced.b / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(synced, "root_emptied", "held 6 entries", "--confirm")
    refused(synced, "root_emptied", mode="mirror")
    write_tree(synced.b, TREE)
    assert synced.sync().exit == 0


# -- two hosts that see one file system ------------------------------------------------------------


@pytest.fixture
def hosts(pair, tmp_path):
    """The pair, its b seen by another host: same disk, other kernel and name."""
    boot = tmp_path / "boot_id"
    boot.write_text("00000000-0000-0000-0000-000000000002\n")
    script = f'hostname login2; mount --bind {boot} /proc/sys/kernel/random/boot_id; exec "$@"'
    command = ("unshare", "--mount", "--uts", "sh", "-c", script, "sh")
    pair.connect = lambda: (LocalReplica(), agent(*command))
    return pair


@pytest.mark.root
@pytest.mark.needs("unshare")
def test_a_shared_home_is_collapsed(hosts):
    hosts.b.rmdir()
    hosts.b = hosts.a
    was = fingerprints(hosts.a)
    for __ in range(2):
        result = hosts.sync()
        assert (result.exit, result.error) == (0, "")
        assert result.report["collapsed"] is True
        assert result.report["items_total"] == 0
        assert fingerprints(hosts.a) == was
    assert not list((hosts.a / STATE).glob("nonce-*"))


@pytest.mark.root
@pytest.mark.needs("unshare")
def test_two_hosts_with_disks_of_their_own_are_synced(hosts):
    result = hosts.sync()
    assert (result.exit, result.report["collapsed"]) == (0, False)
    assert read_tree(hosts.b) == read_tree(hosts.a)
    (ready_a, ready_b) = [event for event in result.events if hasattr(event, "host")][:2]
    assert (ready_a.host, ready_b.host) == (socket.gethostname(), "login2")


@pytest.mark.root
@pytest.mark.needs("unshare")
@pytest.mark.parametrize("inner", ["a", "b"])
@pytest.mark.parametrize("before", ["never", "outer", "inner"])
def test_a_directory_inside_the_other_on_another_host(hosts, inner, before):
    outer = hosts.b if inner == "a" else hosts.a
    write_tree(outer, TREE)
    hosts.b.mkdir(exist_ok=True)
    setattr(hosts, inner, outer / "d")
    if before != "never":
        fd = os.open(outer if before == "outer" else outer / "d", os.O_RDONLY)
        state.create(fd, "").close()
        fsops.close(fd)
    result = hosts.sync()  # both may have got an id by then, which is no change of theirs
    assert result.error == "root_overlap"
    assert "lies inside" in result.report["error"]["message"]
    assert not hosts.base_files(hosts.a) + hosts.base_files(hosts.b)
    assert read_tree(outer) == read_tree(write_tree(hosts.home / "as-was", TREE))
