# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roots that do not belong together, and replicas that the other side knows by their place."""

from __future__ import annotations

import shutil

import pytest

from pairsync.model.errors import PairsyncError
from pairsync.model.spec import PairSpec, ReplicaSpec
from pairsync.replica.local import LocalReplica
from pairsync.session.forget import forget_pair
from pairsync.session.opening import check_roots, remembered
from pairsync.session.run import Options, run_session
from tests.engine.trees import read_tree, write_tree


def place(label, path, *, local=True):
    return ReplicaSpec(label, str(path), local=local)


def sync(a, b):
    def connect():
        return LocalReplica(), LocalReplica()

    return run_session(PairSpec(a, b), connect, Options(), lambda __: None)


def forget(a, b):
    return forget_pair(PairSpec(a, b), LocalReplica(), LocalReplica())


@pytest.fixture
def opened(tmp_path):
    """How a directory with nothing in it opens, missing or not."""
    replica = LocalReplica()
    yield replica.open(str(write_tree(tmp_path / "d", {})))
    replica.close()


@pytest.mark.parametrize("inner", ["a/sub", "a/sub/", "link/sub", "a/deep/sub"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_missing_root_does_not_hide_inside_the_other(tmp_path, inner, turned):
    write_tree(tmp_path / "a", {"f": "text", "deep": None})
    (tmp_path / "link").symlink_to("a")
    roots = place("", tmp_path / "a"), place("", f"{tmp_path}/{inner}")
    run = sync(*(roots[::-1] if turned else roots))
    assert run.error is not None
    assert run.error.code == "root_overlap"
    assert set(read_tree(tmp_path / "a")) == {"f", "deep"}
    assert not (tmp_path / "a/.pairsync").exists()


def test_a_missing_root_beside_the_other_is_made(tmp_path):
    write_tree(tmp_path / "a", {"f": "text"})
    assert sync(place("", tmp_path / "a"), place("", tmp_path / "b")).error is None
    assert read_tree(tmp_path / "b") == {"f": b"text"}


def peer(label, host, path="/d", pair="0"):
    return {"pair": pair, "label": label, "host": host, "path": path}


KNOWN = [
    # label and host now, what the other side remembers, and the pair that is found
    (("h1", "n1"), [peer("h1", "n1", pair="1")], "1"),
    (("h1", "n1"), [peer("h2", "n1"), peer("h1", "n1", pair="1"), peer("h1", "n2")], "1"),
    (("h1", "n1"), [peer("h1", "old", pair="1")], "1"),  # renamed
    (("h1", "n1"), [peer("alias", "n1", pair="1")], "1"),
    (("h3", "n1"), [peer("h1", "n1"), peer("h2", "n1")], None),  # hosts that share a name
    (("h1", "n1"), [peer("h2", "n2")], None),
    (("h1", "n1"), [peer("h1", "n1", path="/e")], None),
    (("", "n1"), [peer("h1", "n1", pair="1")], "1"),  # on the machine of the session
    (("h1", "n1"), [peer("", "n1", pair="1")], "1"),
    (("", "n1"), [peer("", "n2")], None),  # on that of another session
]


@pytest.mark.parametrize("now, peers, found", KNOWN)
def test_what_is_remembered_of_a_place(opened, now, peers, found):
    label, host = now
    one = opened._replace(host=host, path="/d")
    other = opened._replace(host="far", peers=tuple(peers))
    known = remembered(place(label, "/d"), one, other)
    assert (known["pair"] if known else None) == found


def test_a_renamed_host_still_knows_its_own_pairs(opened):
    one = opened._replace(host="new", path="/d")
    other = opened._replace(host="new", peers=(peer("", "old"),))
    assert remembered(place("", "/d"), one, other)


def test_the_alarm_names_what_is_remembered(opened, tmp_path):
    one = opened._replace(host="n1", path="/d", missing=True)
    other = opened._replace(host="far", identity="x", peers=(peer("alias", "n1"),))
    spec = PairSpec(place("h1", "/d", local=False), place("h2", "/d", local=False))
    with pytest.raises(PairsyncError, match=r"h1:/d was synced before \(as alias:/d\)") as caught:
        check_roots(spec, one, other)
    assert caught.value.code == "root_missing"


def test_forgetting_drops_the_named_pair_alone(tmp_path):
    hub, far = write_tree(tmp_path / "hub", {"f": "text"}), tmp_path / "far"
    a, b = place("hub", hub), place("h1", far)
    assert sync(a, b).error is None
    shutil.rmtree(far)
    far.mkdir()
    assert sync(a, b).error.code == "root_identity"
    assert forget(a, place("h2", far)) is False
    assert sync(a, b).error.code == "root_identity", "still known"
    assert forget(a, b) is True
    assert sync(a, b).error is None
    assert read_tree(far) == read_tree(hub) == {"f": b"text"}
