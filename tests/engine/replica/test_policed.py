# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A peer that speaks the protocol well and wants more than its policy allows."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from pairsync.model.agent_policy import AgentPolicy
from pairsync.model.entry import FILE, Entry
from pairsync.model.errors import PairsyncError
from pairsync.model.plan import DONE
from pairsync.model.policy import Policy, Retention
from pairsync.model.spec import PairSpec, ReplicaSpec
from pairsync.reconcile.actions import Action
from pairsync.replica.contents import Proof, Whole
from pairsync.replica.digest import digest_bytes
from pairsync.replica.interface import Beginning, Peer
from pairsync.replica.journal import KEPT_ASIDE
from pairsync.replica.local import LocalReplica
from pairsync.replica.policed import PolicedReplica
from pairsync.session.run import Options, run_session
from tests.engine.trees import STATE, contents

DIGEST = bytes(32)
WHOLE = Entry(FILE, 0o644, 1, 0, DIGEST, b"")


@pytest.fixture
def replica(tmp_path):
    """`replica(receive=False)`: the replica tmp_path/b behind a policy, closed after the test."""
    (tmp_path / "b").mkdir(exist_ok=True)
    opened = []

    def make(**allowed):
        policy = AgentPolicy("gpu1+gpu2@t", (str(tmp_path / "b"),), **allowed)
        found = PolicedReplica(LocalReplica(), policy)
        opened.append(found)
        return found

    yield make
    for one in opened:
        one.close()


def refused(call, *arguments, **named):
    with pytest.raises(PairsyncError) as caught:
        call(*arguments, **named)
    return caught.value.code, caught.value.message


def beginning(**fields):
    run = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-00000000"
    values = {
        "pair_id": "1a", "side": "b", "label": "b", "peer": Peer("2b", "a", "a", "/a"),
        "policy": Policy(), "run": run, "dry_run": False,
    }  # fmt: skip
    return Beginning(**{**values, **fields})


def started(found, tmp_path, **fields):
    found.open(str(tmp_path / "b"))
    found.create()
    found.begin(beginning(**fields))
    found.scan("keep")
    return found


# -- other roots ---------------------------------------------------------------------------------


def test_its_own_root_opens_by_any_name(replica, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to("b")
    for path in ("b", "b/", "b/.", "link", "../" + tmp_path.name + "/b"):
        assert replica().open(str(tmp_path / path)).path == str(tmp_path / "b")
    assert replica().open("~/b").path == str(tmp_path / "b")


def test_no_other_root_opens(replica, tmp_path):
    (tmp_path / "c/deep").mkdir(parents=True)
    (tmp_path / "b/inner").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "b/out").symlink_to("../c")
    (tmp_path / "out").symlink_to("c")
    others = ["c", "b/..", "b/../c", "b/inner", "b/out", "out", "missing", "b/missing"]
    others += ["file", "missing/deep", "b\0", "b/missing/..", ""]
    for path in [*(f"{tmp_path}/{one}" for one in others), "/", "/etc", "", "~", ".."]:
        code, message = refused(replica().open, path)
        assert code == "policy", path
        assert "does not open" in message


def test_a_refusal_does_not_tell_what_is_there(replica, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    said = {
        refused(replica().open, str(tmp_path / name))[1].replace(name, "NAME")
        for name in ("there", "file", "nothing")
    }
    assert len(said) == 1


def test_a_root_that_was_exchanged_for_a_symlink(replica, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "b").rmdir()
    (tmp_path / "b").symlink_to("c")
    assert refused(replica().open, str(tmp_path / "b"))[0] == "policy"


def test_a_root_that_becomes_a_symlink_after_the_check(replica, tmp_path, before):
    (tmp_path / "c").mkdir()

    def exchange():
        (tmp_path / "b").rmdir()
        (tmp_path / "b").symlink_to("c")

    before("open_root", exchange, call=2)
    code, message = refused(replica().open, str(tmp_path / "b"))
    assert code == "policy"
    assert "leads somewhere else now" in message


def test_a_root_that_is_not_there_yet_can_be_made(replica, tmp_path):
    (tmp_path / "b").rmdir()
    found = replica()
    assert found.open(str(tmp_path / "b")).missing
    assert found.create().path == str(tmp_path / "b")


# -- what may be done ----------------------------------------------------------------------------


def test_who_may_only_read_changes_nothing(replica, tmp_path):
    started(replica(), tmp_path).close()
    reader = replica(receive=False)
    reader.open(str(tmp_path / "b"))
    assert refused(reader.create)[0] == "policy"
    reader.begin(beginning())
    reader.scan("keep")
    assert refused(reader.receive, [Action(0, b"x", WHOLE, None, 0)], [])[0] == "policy"


def test_who_may_only_write_gets_no_contents(replica, tmp_path):
    (tmp_path / "b/x").write_text("x")
    found = started(replica(send=False), tmp_path)
    assert refused(found.send, [(0, b"x")])[0] == "policy"
    found.close()
    assert list(started(replica(), tmp_path).send([(0, b"x")]))


def test_a_base_cannot_be_dropped(replica, tmp_path):
    assert refused(started(replica(), tmp_path).forget, "1a")[0] == "policy"


@pytest.mark.parametrize("known", [{"pair": "ff"}, {"replica": "ff"}])
def test_the_key_of_one_pair_is_no_key_for_another(replica, tmp_path, known):
    found = replica(**known)
    found.open(str(tmp_path / "b"))
    code, message = refused(found.begin, beginning())
    assert code == "policy"
    assert "another pair of replicas" in message


def test_other_pairs_of_the_root_are_not_shown(replica, tmp_path):
    for name in ("1a", "ff"):
        known = tmp_path / "b/.pairsync/pairs" / name
        started(replica(), tmp_path, pair_id=name).close()
        (known / "peer.json").write_text('{"id": "2b", "host": "secret"}')
    shown = replica(pair="1a").open(str(tmp_path / "b")).peers
    assert [peer["pair"] for peer in shown] == ["1a"]
    assert len(replica().open(str(tmp_path / "b")).peers) == 2


def test_one_session_brings_no_more_than_it_may(replica, tmp_path):
    many = [Action(number, b"n%02d" % number, WHOLE, None, 0) for number in range(3)]
    found = started(replica(entries=4), tmp_path)
    found.receive(many, [])
    code, message = refused(found.receive, many, [])
    assert (code, "4 changes" in message) == ("policy", True)


def test_one_session_deletes_no_more_than_it_may(replica, tmp_path):
    gone = [Action(number, b"n%02d" % number, None, WHOLE, 0) for number in range(21)]
    for allowed, wanted in (({"max_delete": 50}, gone[:20]), ({}, gone)):
        found = started(replica(**allowed), tmp_path)
        found.receive(wanted, [])
        found.close()
    found = started(replica(max_delete=50), tmp_path)
    assert refused(found.receive, gone, [])[0] == "mass_change"


def test_a_peer_cannot_fill_the_disk_with_bases_that_were_set_aside(replica, tmp_path):
    peer = started(replica(), tmp_path)
    for __ in range(3 * KEPT_ASIDE):
        peer.scan("reset")
    (pair,) = (tmp_path / "b" / STATE / "pairs").iterdir()
    assert sum(".aside-" in path.name for path in pair.iterdir()) == KEPT_ASIDE


# -- backups -------------------------------------------------------------------------------------


def attack(tmp_path, guarded):
    """Let a peer do all it can to what was in b: switch backups off, replace, delete, repeat."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    for name in ("thesis", "data"):
        (a / name).write_text("the original\n")
    sync(a, b, guarded, Policy())
    for number in range(14):
        retention = (Retention(False), Retention(True, 1, 0, "40"))[number % 2]
        (a / "thesis").write_text(f"rubbish {number}\n")
        (a / "data").unlink(missing_ok=True)
        if number % 3 == 1:
            (a / "data").write_text(f"rubbish {number}\n")
        sync(a, b, guarded, Policy(backup=retention, max_delete=100))
    kept = [path.read_text() for path in (b / ".pairsync/backup").rglob("*") if path.is_file()]
    return kept.count("the original\n")


def sync(a, b, replica_b, policy):
    spec = PairSpec(ReplicaSpec("", str(a), local=True), ReplicaSpec("gpu2", str(b)), "", policy)
    run = run_session(spec, lambda: (LocalReplica(), replica_b()), Options(), lambda __: None)
    assert run.error is None, run.error


def test_backups_survive_a_peer_that_wants_them_gone(replica, tmp_path):
    assert attack(tmp_path, replica) == 2


def test_without_a_policy_they_do_not(tmp_path):
    (tmp_path / "b").mkdir()
    assert attack(tmp_path, LocalReplica) == 0


def test_a_peer_cannot_say_that_it_only_continues_a_file(replica, tmp_path):
    """What replaces a file and begins with all of it needs no lasting backup: by whose account?"""
    (tmp_path / "b/thesis").write_text("ten years of work")
    data = b"junk"
    proof = Proof(len(data), 0, digest_bytes(data))
    want = Entry(FILE, 0o644, len(data), 0, proof.digest)
    nothing = Entry(FILE, 0o644, 0, 0, digest_bytes(b""))  # anything begins with that
    peer = started(replica(), tmp_path)
    peer.receive([Action(0, b"thesis", want, nothing, 0)], [])
    peer.feed(Whole(0, proof, data))
    assert [done.result for done in peer.finish()] == [DONE]
    peer.close()
    started(replica(), tmp_path).close()
    assert contents(tmp_path / "b" / STATE / "backup") == {b"ten years of work"}


@pytest.mark.parametrize("run", ["19700101T000000Z-aa", "99991231T000000Z-aa", "x", "aa-20261121T"])
def test_a_run_cannot_be_dated_so_that_its_backup_is_old(replica, tmp_path, run):
    found = replica()
    found.open(str(tmp_path / "b"))
    found.create()
    assert refused(found.begin, beginning(run=run))[0] == "policy"


def test_a_session_may_keep_more(replica, tmp_path):
    seen = []

    class Spy(LocalReplica):
        def begin(self, beginning):
            seen.append(beginning.policy.backup)
            return super().begin(beginning)

    for days in (0, 30):
        policy = AgentPolicy("x", (str(tmp_path / "b"),), keep=5, days=0)
        spy = PolicedReplica(Spy(), policy)
        spy.open(str(tmp_path / "b"))
        spy.begin(beginning(policy=replace(Policy(), backup=Retention(False, 99, days))))
        spy.close()
    assert [(one.enabled, one.keep, one.days) for one in seen] == [(True, 99, 1), (True, 99, 31)]
