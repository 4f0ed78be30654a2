# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The peer of the hostile tests speaks our protocol: to the byte, and in real syncs."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from pairsync.model.entry import Entry
from pairsync.replica.contents import Begin, End, Piece, Proof, Whole
from pairsync.replica.digest import digest_bytes
from pairsync.wire import codec
from tests.engine.hostile import peer
from tests.engine.hostile.meetings import commits, meet_agent, meet_session, tree_of
from tests.engine.hostile.peer import File
from tests.engine.trees import write_tree
from tests.engine.wire.test_codec import DIGESTS, LISTS, NUMBERS, PROOFS

BIG = bytes(range(256)) * 20_000  # more than 4 MiB


def encoded(one: Entry | None) -> bytes:
    if one is None:
        return b"\0"
    mode = peer.NO_MODE if one.mode is None else one.mode
    return peer.raw_entry(one.kind, mode, one.size, one.mtime_ns, one.digest, one.target)


def paths(items: list[bytes]) -> list[bytes]:
    return [peer.path(name, before) for name, before in zip(items, [b"", *items], strict=False)]


@given(st.lists(LISTS["path"][2], max_size=4))
def test_paths_are_those_of_the_encoder(names):
    assert peer.listed(paths(names)) == codec.write_list(names, codec.write_path)


@given(st.lists(LISTS["change"][2], max_size=3))
def test_changes_are_those_of_the_encoder(changes):
    ours = [
        name + struct.pack("!B", one.unsettled) + encoded(one.before) + encoded(one.after)
        for name, one in zip(paths([one.path for one in changes]), changes, strict=True)
    ]
    assert peer.listed(ours) == codec.write_list(changes, codec.write_change)


@given(st.lists(LISTS["action"][2], max_size=3))
def test_actions_are_those_of_the_encoder(actions):
    ours = [
        struct.pack("!IIB", one.number, one.item, one.props_only | one.by_reference << 1)
        + name + encoded(one.want) + encoded(one.have)
        for name, one in zip(paths([one.path for one in actions]), actions, strict=True)
    ]  # fmt: skip
    listed = codec.write_list(actions, codec.write_action)
    assert peer.listed(ours) == listed
    cursor = peer.Cursor(listed)
    read = cursor.items(cursor.action)
    assert [(one.number, one.path) for one in read] == [(one.number, one.path) for one in actions]


@given(NUMBERS, PROOFS, DIGESTS, st.binary(min_size=1, max_size=100))
def test_contents_are_those_of_the_encoder(number, proof, digest, data):
    sure = peer.proof(proof.size, proof.mtime_ns, proof.digest, proof.grew)
    for ours, theirs in (
        (peer.record(0, number, sure + data), Whole(number, proof, data)),
        (peer.record(1, number, struct.pack("!Q", 7)), Begin(number, 7)),
        (peer.record(2, number, data), Piece(number, data)),
        (peer.record(3, number, sure), End(number, proof)),
    ):
        assert ours == codec.encode_record(theirs)


def test_digests_are_those_of_the_engine():
    for data in (b"", b"text", BIG[: 4 << 20], BIG, BIG + b"x"):
        assert peer.digest_of(data) == digest_bytes(data)


def test_a_file_travels_as_the_engine_sends_it():
    ours = list(peer.Peer(-1, -1).contents(3, b"text", 5))
    assert ours == [codec.encode_record(Whole(3, Proof(4, 5, digest_bytes(b"text")), b"text"))]


def test_a_real_session_syncs_with_the_agent_in_both_directions(tmp_path):
    a = write_tree(tmp_path / "a", {"sub/mine": "of a\n", "big": BIG})
    tree = {b"theirs": File(b"of b\n"), b"dir": None, b"dir/inner": File(BIG[:-1])}
    met = meet_agent(a, tree)
    assert met.run.error is None, met.run.error
    assert met.report["exit"] == 0
    wanted = {"sub": None, "sub/mine": b"of a\n", "big": BIG, "theirs": b"of b\n", "dir": None}
    wanted["dir/inner"] = BIG[:-1]
    assert tree_of(a) == wanted
    served = {name.decode(): one and one.data for name, one in met.agent.tree.items()}
    assert served == wanted
    assert commits(a) == [met.agent.promoted]


def test_a_real_agent_takes_what_the_session_brings(tmp_path):
    b = write_tree(tmp_path / "b", {"kept": "kept\n"})
    tree = {b"dir": None, b"dir/new": File(b"new\n"), b"large": File(BIG)}
    with meet_session() as (session, ends):
        scanned = session.begin(str(b))
        assert not scanned.failed, scanned
        done = session.bring(tree)
        assert (done.failed, done.data) == (False, peer.listed([]))
        kept = peer.path(b"kept") + peer.write_entry(peer.entry_of(File(b"kept\n")))
        assert not (recorded := session.record([kept])).failed, recorded
        assert not session.call("end", status={"exit": 0}).failed
    assert ends == []
    assert tree_of(b) == {"kept": b"kept\n", "dir": None, "dir/new": b"new\n", "large": BIG}
    assert commits(b) == ["c" * 32]
