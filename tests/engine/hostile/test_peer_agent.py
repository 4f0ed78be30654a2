# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent that lies in one field: the session says so, and nothing of it happens on its own host.

Where a field is the peer's own to say (what its tree holds), what it can do with a lie is shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import time
import tracemalloc

import pytest

from tests.engine.hostile import peer
from tests.engine.hostile.meetings import commits, meet_agent, tree_of
from tests.engine.hostile.peer import (
    ABSENT,
    BEAT,
    BULK,
    CALL,
    CONTENTS,
    DIR,
    FAIL,
    FILE,
    HELLO,
    LINK,
    NO_MODE,
    PROBLEM,
    REPLY,
    SPECIAL,
    File,
)  # fmt: skip
from tests.engine.trees import fingerprints, write_tree

TREE = {b"theirs": File(b"of b\n"), b"dir": None, b"dir/inner": File(b"inner\n")}
MINE = {"mine": "of a\n", "sub/other": "of a too\n"}
SECONDS = 30  # a session with a liar takes a tenth of one; a hang would take for ever


def meet(tmp_path, knobs, tree=None, **policy):
    """A session with a liar; what was on a before it is there afterwards, as it was."""
    a = tmp_path / "a"
    if not a.exists():
        write_tree(a, MINE)
        write_tree(tmp_path / "outside", {"canary": "outside\n"})
    outside = fingerprints(tmp_path / "outside")
    met = meet_agent(a, dict(TREE if tree is None else tree), knobs, **policy)
    assert fingerprints(tmp_path / "outside") == outside
    assert sorted(os.listdir(tmp_path)) == ["a", "outside"]
    assert {name: (a / name).read_text() for name in MINE} == MINE
    assert not list(a.glob(".pairsync/stage/*/*"))
    return met


def refused(tmp_path, knobs, tree=None, **policy):
    """The session ends with one sentence about the peer, and leaves nothing behind."""
    met = meet(tmp_path, knobs, tree, **policy)
    error = met.run.error
    assert error is not None, "the lie was believed"
    assert (error.code, met.report["exit"]) == ("protocol", 3), error
    assert "gpu2" in error.sentence()
    assert error.sentence().isprintable()
    assert len(error.sentence()) < 500
    assert commits(tmp_path / "a") == []
    assert not met.agent.promoted
    return met


TEXT = [None, 1, [], {}, "x" * 9000, ABSENT]
FLAG = [None, 1, "true", [], ABSENT]
COUNT = [None, "1", -1, 2**63, 10**30, 1.5, True, [], ABSENT]
IDENT = [*TEXT, "../../x", "A" * 32, "g" * 32, "f" * 31, "f" * 33, "f" * 32 + "\n", "\u0660" * 32]
FIELDS = {
    "hello.version": TEXT,
    "hello.protocol": COUNT,
    "hello.build": [*TEXT, "no digest", "\x1b[31m"],
    "open.host": TEXT,
    "open.path": [*TEXT, "", "a\0b", "\ud800"],
    "open.user": TEXT,
    "open.version": TEXT,
    "open.build": [*TEXT, "no digest"],
    "open.replica_id": [*TEXT, "../../x", "f" * 65, "f f"],
    "open.missing": FLAG,
    "open.parent": FLAG,
    "open.identity": [None, 1, [], "x" * 9000, ABSENT],
    "open.ancestors": [None, "x", [1], ["x" * 300], ["x"] * 5000, {}, ABSENT],
    "open.peers": [None, "x", [1], ["x"], [{}] * 20_000, {}, ABSENT],
    "open.former": [None, "x", [1], ["x" * 300], ["f" * 32] * 20_000, ABSENT],
    "open.clock_ns": COUNT,
    "begin.current": IDENT,
    "begin.pending": IDENT,
    "begin.current_sum": IDENT,
    "begin.pending_sum": IDENT,
    "begin.rows": COUNT,
    "begin.sound": FLAG,
    "begin.coverage": [None, 1, "[", "[" * 100_000, "{}" * 2, "x" * (2 << 20), ABSENT],
    "begin.pending_coverage": [None, '{"a":NaN}', '{"a":' * 40 + "1" + "}" * 40, ABSENT],
    "scan.entries": COUNT,
    "scan.dropped": [*COUNT, 5],
    "details.entries": [*COUNT, 5],
    "finish.weak": FLAG,
    "record.checksum": IDENT,
}


@pytest.mark.parametrize(
    "name,value",
    [(name, value) for name, values in FIELDS.items() for value in values],
    ids=lambda value: repr(value)[:40],
)
def test_a_field_that_is_wrong_ends_the_session(tmp_path, name, value):
    # A file on both sides makes the session ask for details.
    refused(tmp_path, {name: value}, {**TREE, b"mine": File(b"or b\n")}, prefer="a")
    if not name.startswith(("finish", "record")):
        assert tree_of(tmp_path / "a").keys() == {"mine", "sub", "sub/other"}


def change(name=None, before=b"\0", after=None, flag=0, raw=None):
    where = peer.path(name) if raw is None else raw
    if after is None:
        after = peer.write_entry(peer.entry_of(File(b"of b\n")))
    return where + struct.pack("!B", flag) + before + after


def only(*changes, count=None):
    return {"scan.changes": list(changes), "scan.count": count}


BAD_PATHS = {
    "absolute": [b"", b"etc"], "one string": [b"a/b"], "up": [b"..", b"x"],
    "up below": [b"x", b".."], "here": [b"."], "empty": [b""], "no component": [], "NUL": [b"a\0b"],
    "state": [b".pairsync"], "state below": [b"x", b".pairsync", b"base.sqlite"],
    "STATE": [b".PAIRSYNC", b"x"], "State": [b".PairSync"],
    "state, long s": [".pair\u017fync".encode()], "state, invisible": [".pair\u200csync".encode()],
    "state, soft hyphen": [".pairsync\u00ad".encode()],
    "300 bytes": [b"n" * 300], "60 000 components": [b"d"] * 60_000,
    "1025 components": [b"d"] * 1025,
}  # fmt: skip


@pytest.mark.parametrize("parts", BAD_PATHS.values(), ids=BAD_PATHS)
def test_a_path_that_could_lead_elsewhere_ends_the_session(tmp_path, parts):
    refused(tmp_path, only(change(raw=peer.raw_path(parts))))
    refused(tmp_path, {"scan.dropped_list": peer.listed([peer.raw_path(parts)])})


BAD_ENTRIES = {
    "kind 0x80": (128, 0o644, 1, 0, None, b""),
    "kind 6": (6, NO_MODE, 0, 0, None, b"x"),
    "set-user-id": (FILE, 0o4755, 1, 0, None, b""),
    "sticky": (DIR, 0o1777, 0, 0, None, b""),
    "no permissions at all": (FILE, NO_MODE - 1, 1, 0, None, b""),
    "huge": (FILE, 0o644, 2**63, 0, None, b""),
    "wrapping": (FILE, 0o644, 2**64 - 1, 0, None, b""),
    "a directory with a size": (DIR, 0o755, 1, 0, None, b""),
    "a directory with a digest": (DIR, 0o755, 0, 0, bytes(32), b""),
    "a link with a mode": (LINK, 0o777, 0, 0, None, b"x"),
    "a link to nothing": (LINK, NO_MODE, 0, 0, None, b""),
    "a link with a NUL": (LINK, NO_MODE, 0, 0, None, b"a\0b"),
    "a link that is too long": (LINK, NO_MODE, 0, 0, None, b"x" * 4097),
    "a file with a target": (FILE, 0o644, 1, 0, None, b"x"),
    "a problem with a mode": (PROBLEM, 0o644, 0, 0, None, b"x"),
    "a device with a size": (SPECIAL, NO_MODE, 1, 0, None, b"x"),
}


@pytest.mark.parametrize("fields", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_an_entry_that_cannot_be_ends_the_session(tmp_path, fields):
    bad = peer.raw_entry(*fields)
    refused(tmp_path, only(change(b"x", after=bad)))
    refused(tmp_path, only(change(b"x", before=bad)))
    refused(
        tmp_path, {"details.rows": peer.listed([peer.path(b"mine") + bad])},
        {b"mine": File(b"or b\n")},
    )  # fmt: skip


LISTS = {
    "twice": only(change(b"x"), change(b"x")),
    "out of order": only(change(b"y"), change(b"x")),
    "a child first": only(change(b"d/x"), change(b"d", after=peer.entry(DIR, 0o755))),
    "a file that is a directory": only(change(b"f"), change(b"f/x")),
    "below what is gone": only(change(b"f", before=b"\0", after=b"\0"), change(b"f/x")),
    "below a link": only(
        change(b"l", after=peer.entry(LINK, target=b"/etc")), change(b"l/x")
    ),
    "two levels below a file": only(
        change(b"f"), change(b"f/x", after=b"\0"), change(b"f/x/y")
    ),
    "more than there are": only(change(b"x"), count=2),
    "fewer than there are": only(change(b"x"), count=0),
    "as many as a number can say": only(change(b"x"), count=2**32 - 1),
    "ten million and one": only(change(b"x"), count=10_000_001),
    "a flag that is none": only(change(b"x", flag=2)),
    "a shared prefix of nothing": only(change(raw=peer.raw_path([b"x"], shared=3))),
    "a component longer than the list": only(
        change(raw=struct.pack("!HHH", 0, 1, 200) + b"x")
    ),
    "more components than there are": only(change(raw=peer.raw_path([b"x"], more=60_000))),
}  # fmt: skip


@pytest.mark.parametrize("knobs", LISTS.values(), ids=LISTS)
def test_a_list_that_no_scan_gives_ends_the_session(tmp_path, knobs):
    refused(tmp_path, knobs)


@pytest.mark.parametrize(
    "policy,name",
    [
        ({"paths": ["sub"]}, b"beside"),
        ({"paths": ["sub"]}, b"subway/x"),
        ({"paths": ["sub/deep"]}, b"sub/other2"),
        ({"ignore": ["Name *.tmp"]}, b"x.tmp"),
        ({"ignore": ["Path keep/out"]}, b"keep/out"),
    ],
    ids=str,
)
def test_a_change_that_the_session_is_not_about_ends_it(tmp_path, policy, name):
    refused(tmp_path, only(change(name)), **policy)


def test_a_few_bytes_that_unfold_to_many_are_not_unfolded(tmp_path):
    """Each path shares all but one of a thousand long components: 7 bytes for 250 000."""
    deep = [b"d" * 255] * 1000
    first = change(raw=peer.raw_path(deep))
    more = change(raw=peer.raw_path([b"x"], shared=1000))
    tracemalloc.start()
    refused(tmp_path, only(first, *[more] * 20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 << 20


def reply(value):
    return lambda number: peer.frame(REPLY, number, value)


FRAMES = {
    "another call's": lambda number: peer.frame(REPLY, number + 1, b"{}"),
    "call 0": lambda __: peer.frame(REPLY, 0, b"{}"),
    "the last call": lambda __: peer.frame(REPLY, 2**32 - 1, b"{}"),
    "an earlier call's": lambda __: peer.frame(REPLY, 1, b"{}"),
    "twice": lambda number: peer.frame(REPLY, number, b"{}") * 2,
    "a thousand times": lambda number: peer.frame(REPLY, number, b"{}") * 1000,
    "a session's": lambda number: peer.frame(CALL, number, b"{}"),
    "another hello": lambda number: peer.frame(HELLO, number, b"{}"),
    "contents for no file": lambda number: peer.frame(CONTENTS, number, b"x"),
    "data for nobody": lambda number: peer.frame(BULK, number + 1, b"x"),
    "a beat with a load": lambda __: peer.frame(BEAT, 0, b"x"),
    "no type": lambda number: peer.frame(0, number),
    "an unknown type": lambda number: peer.frame(8, number),
    "too long": lambda number: peer.frame(REPLY, number, b"", length=(2 << 20) + 1),
    "4 GiB": lambda number: peer.frame(BULK, number, b"", length=2**32 - 1),
    "a hello that is too long": lambda number: peer.frame(HELLO, number, b"x" * 5000),
    "a login shell": lambda __: b"Connection to gpu2 closed by remote host.\r\n",
    "empty": reply(b""),
    "no object": reply(b"[]"),
    "not UTF-8": reply(b'{"a":"\xff\xfe"}'),
    "deep": reply(b"[" * 1_000_000),
    "deep object": reply(b'{"a":' * 100 + b"1" + b"}" * 100),
    "NaN": reply(b'{"entries":NaN}'),
    "infinite": reply(b'{"entries":1e999}'),
    "-infinite": reply(b'{"entries":-Infinity}'),
    "a key twice": reply(b'{"entries":1,"dropped":0,"entries":2}'),
    "a million digits": reply(b'{"entries":' + b"9" * 1_000_000 + b"}"),
    "a failure without words": lambda number: peer.frame(FAIL, number, b"{}"),
    "a failure of another call": lambda number: peer.frame(FAIL, number + 7, b"{}"),
}


@pytest.mark.parametrize("instead", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("op", ["open", "begin", "scan"])
def test_a_frame_that_does_not_belong_there_ends_the_session(tmp_path, op, instead):
    started = time.monotonic()
    refused(tmp_path, {f"{op}.instead": lambda __: instead})
    assert time.monotonic() - started < SECONDS
    assert not (tmp_path / "a/theirs").exists()


@pytest.mark.parametrize("op", ["record", "finish"])
def test_nothing_is_recorded_when_the_peer_ends_in_the_middle(tmp_path, op):
    refused(tmp_path, {f"{op}.instead": lambda __: b"\0\0\0\5", f"{op}.hang_up": True})


def test_a_flood_of_beats_costs_nothing(tmp_path):
    def flood(__):
        return lambda number: peer.frame(BEAT, 0) * 200_000 + peer.frame(REPLY, number, b"{}")

    refused(tmp_path, {"begin.instead": flood})


def test_what_a_peer_says_reaches_people_as_one_plain_line(tmp_path):
    said = {"code": "locked", "message": "held\n\x1b]0;x\x07\u202e" + "y" * 5000, "next": "\r\n"}

    def fail(__):
        return lambda number: peer.frame(FAIL, number, json.dumps(said).encode())

    met = meet(tmp_path, {"begin.instead": fail})
    assert met.run.error.code == "locked"
    assert str(met.run.error).isprintable()
    assert len(str(met.run.error)) < 2100


# -- contents --------------------------------------------------------------------------------------


DATA = b"of b\n"
SURE = peer.proof(len(DATA), 0, peer.digest_of(DATA))


def stream(*parts):
    """In place of the records of a file: kind and body of each, perhaps another length."""

    def of(right):
        [number] = struct.unpack_from("!I", right[0], 1)
        return [peer.record(kind, number, body, *more) for kind, body, *more in parts]

    return {"send.records": of}


def size(value):
    return struct.pack("!Q", value)


BROKEN_STREAMS = {
    "twice": {"send.records": lambda right: right * 2},
    "without a beginning": stream((2, DATA)),
    "only an end": stream((3, SURE)),
    "begun twice": stream((1, size(5)), (1, size(5))),
    "whole inside itself": stream((1, size(5)), (0, SURE + DATA)),
    "longer than announced": stream((1, size(4)), (2, DATA)),
    "longer in two pieces": stream((1, size(5)), (2, DATA), (2, b"x")),
    "empty pieces": stream((1, size(5)), (2, b"")),
    "an action that nobody asked for": {"contents.number": 4_000_000},
    "kind 9": stream((9, DATA)),
    "longer than its frame": stream((1, size(5)), (2, DATA, 2**32 - 1)),
    "shorter than a proof": stream((0, b"x" * 20)),
    "a proof that is none": {"contents.grew": 2},
    "a size of 2**63": stream((1, size(2**63))),
    "no end": stream((1, size(5)), (2, DATA)),
    "begun, and not sent, and sent": stream((1, size(5)), (4, b"\0x"), (2, DATA)),
    "an error without a flag": stream((4, b"")),
    "an error with a flag of 2": stream((4, b"\2x")),
    "an error of 5000 bytes": stream((4, b"\0" + b"x" * 5000)),
    "half a header": {"send.records": [b"\0\0\0"]},
}


@pytest.mark.parametrize("knobs", BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
def test_a_stream_that_is_broken_ends_the_session(tmp_path, knobs):
    refused(tmp_path, knobs, {b"theirs": File(DATA)})
    assert not (tmp_path / "a/theirs").exists()


@pytest.mark.parametrize(
    "knobs,reason",
    [
        ({"contents.digest": b"w" * 32}, "changed since it was compared"),
        ({"contents.size": 4}, "arrived damaged"),
        ({"contents.size": 2**62}, "arrived damaged"),
        ({"contents.data": b"or b\n"}, "arrived damaged"),
        ({"contents.data": b""}, "arrived damaged"),
        ({"contents.data": b"of b\n and more"}, "arrived damaged"),
        ({"contents.large": True, "contents.data": b"of b!"}, "arrived damaged"),
        ({"contents.large": True, "begin.size": 500}, "arrived damaged"),
        ({"send.records": []}, "its contents did not arrive"),
        pytest.param(stream((4, b"\1no\x1b[2J")), "no?[2J", id="unsent"),
    ],
    ids=str,
)
def test_contents_that_are_not_what_was_promised_get_no_name(tmp_path, knobs, reason):
    met = meet(tmp_path, knobs, {b"theirs": File(DATA)})
    assert met.run.error is None, met.run.error
    assert met.items["theirs"] in ("failed", "skipped")
    [item] = [one for one in met.report["items"] if one["path"] == "theirs"]
    assert item["reason"] == reason
    assert not (tmp_path / "a/theirs").exists()


def test_a_file_that_is_announced_as_larger_than_the_disk_is_not_begun(tmp_path):
    met = meet(tmp_path, stream((1, size(2**62)), (2, b"x")), {b"theirs": File(DATA)})
    assert met.run.error.code == "space"
    assert not (tmp_path / "a/theirs").exists()


def test_a_plan_that_is_larger_than_the_disk_is_refused_before_anything_is_staged(tmp_path):
    huge = peer.raw_entry(FILE, 0o644, 2**62, 0, None, b"")
    met = meet(tmp_path, only(change(b"theirs", after=huge)))
    assert met.run.error.code == "space"
    assert tree_of(tmp_path / "a").keys() == {"mine", "sub", "sub/other"}


# -- lies that are well formed ---------------------------------------------------------------------


@pytest.fixture
def synced(tmp_path):
    """Replica a after a sync with an honest agent; the right answers to `begin` are returned."""
    write_tree(tmp_path / "a", MINE)
    write_tree(tmp_path / "outside", {"canary": "outside\n"})
    met = meet_agent(tmp_path / "a", dict(TREE))
    assert met.report["exit"] == 0
    commit, total = met.agent.promoted, peer.checksum(met.agent.rows)
    return {"begin.current": commit, "begin.current_sum": total, "begin.rows": 5}


def base_coverage(tmp_path):
    [base] = (tmp_path / "a").glob(".pairsync/pairs/*/base.sqlite")
    with contextlib.closing(sqlite3.connect(base)) as database:
        return dict(database.execute("SELECT key, value FROM meta"))["coverage"]


def old(one):
    return peer.write_entry(peer.entry_of(one))


def test_a_directory_that_is_called_a_deleted_file_stays(tmp_path, synced):
    """One deletion in the plan must not move a whole directory, past the brake, into the backup."""
    knobs = {**synced, "begin.coverage": base_coverage(tmp_path)}
    lie = change(b"sub", before=old(File(b"x")), after=b"\0")
    met = meet(tmp_path, {**knobs, **only(lie)})
    assert met.run.error is None, met.run.error
    assert met.items["sub"] == "skipped"
    assert (tmp_path / "a/sub/other").read_text() == MINE["sub/other"]


def test_a_deletion_of_everything_is_stopped_by_the_brake(tmp_path):
    a = write_tree(tmp_path / "a", {f"f{n:03}": "text\n" for n in range(100)})
    first = meet_agent(a, {})
    assert first.report["exit"] == 0
    gone = [
        change(name, before=peer.write_entry(one), after=b"\0")
        for name, one in sorted(first.agent.rows.items())
    ]
    knobs = {
        "begin.current": first.agent.promoted, "begin.current_sum": peer.checksum(first.agent.rows),
        "begin.coverage": base_coverage(tmp_path), "begin.rows": 2**40, **only(*gone),
        "scan.entries": 2**40,
    }  # fmt: skip
    met = meet_agent(a, {}, knobs)
    assert met.run.base == "ok"
    assert met.run.error.code == "mass_change"
    assert len(list(a.glob("f*"))) == 100


@pytest.mark.parametrize("before", [None, File(b"another\n"), File(b"of a\n", 0o600)])
def test_a_base_that_a_peer_makes_up_moves_nothing_that_it_does_not_know(tmp_path, synced, before):
    (tmp_path / "a/mine").write_text("edited since\n")
    knobs = {**synced, "begin.coverage": base_coverage(tmp_path)}
    was = b"\0" if before is None else old(before)
    mine = (tmp_path / "a/mine").read_text()
    lie = only(change(b"mine", before=was, after=b"\0"))
    met = meet_agent(tmp_path / "a", {}, {**knobs, "scan.entries": 5, **lie})
    assert met.run.base == "ok"
    assert met.run.error is None, met.run.error
    assert (tmp_path / "a/mine").read_text() == mine


@pytest.mark.parametrize(
    "state",
    [
        {"begin.current": "0" * 32, "begin.current_sum": "0" * 64},
        {"begin.current": "", "begin.current_sum": "", "begin.rows": 0},
        {"begin.current_sum": "0" * 64},
        {"begin.sound": False},
        {"begin.coverage": '{"ignore":["Regex (a+)+$"],"paths":[]}'},
    ],
    ids=str,
)
def test_a_base_state_that_is_made_up_makes_a_first_sync_that_deletes_nothing(
    tmp_path, synced, state
):
    before = tree_of(tmp_path / "a")
    gone = [
        change(b"mine", before=old(File(b"of a\n")), after=b"\0"),
        change(b"theirs", before=old(File(b"of b\n")), after=b"\0"),
    ]
    knobs = {**synced, "begin.coverage": base_coverage(tmp_path), **only(*gone), **state}
    met = meet(tmp_path, knobs)
    assert met.run.base == "degraded"
    after = tree_of(tmp_path / "a")
    assert {name: after.get(name) for name in before} == before, met.run.error


@pytest.mark.parametrize("missing", [{"open.missing": True}, {"open.replica_id": ""}], ids=str)
def test_a_replica_that_claims_to_be_gone_deletes_nothing(tmp_path, synced, missing):
    before = tree_of(tmp_path / "a")
    met = meet(tmp_path, {"open.replica_id": "", **missing}, {})
    assert met.run.error.code in ("root_missing", "root_identity")
    assert tree_of(tmp_path / "a") == before


def test_a_peer_that_says_it_is_this_very_directory_is_not_believed(tmp_path, synced):
    [marker] = (tmp_path / "a").glob(".pairsync/replica.json")
    mine = json.loads(marker.read_text())["id"]
    met = meet(tmp_path, {"open.replica_id": mine, "create.replica_id": mine, "shares.found": True})
    assert not met.run.collapsed
    assert met.run.error.code == "replica_cloned"
    assert not list((tmp_path / "a/.pairsync").glob("nonce*"))


@pytest.mark.parametrize(
    "knobs",
    [
        {"details.rows": peer.listed([])},
        {"details.rows": peer.listed([peer.path(b"other") + b"\0"])},
        {"details.rows": peer.listed([peer.path(b"mine") + old(None)])},
        {"details.rows": peer.listed([peer.path(b"mine") + peer.entry(LINK, target=b"/etc")])},
        {"details.hidden": peer.listed([peer.path(b"sub")])},
    ],
    ids=["none", "another", "a directory", "a link", "hidden where nobody asked"],
)
def test_details_that_nobody_asked_for_end_the_session(tmp_path, knobs):
    refused(tmp_path, knobs, {b"mine": File(b"or b\n")})


def done(number, result=0, reason=b""):
    return struct.pack("!IB", number, result) + struct.pack("!H", len(reason)) + reason


@pytest.mark.parametrize(
    "results",
    [
        peer.listed([done(4_000_000)]),
        peer.listed([done(0, 7)]),
        peer.listed([done(0, 1), done(0, 2)]),
        peer.listed([done(0, 1, b"x" * 5000)]),
        peer.listed([done(0, 1)], count=9),
        peer.listed([done(0, 1)]) + b"x",
    ],
    ids=["never told", "unknown", "twice", "a long reason", "cut", "more"],
)
def test_results_that_make_no_sense_end_the_session(tmp_path, results):
    refused(tmp_path, {"finish.results": results})


def test_a_checksum_that_differs_records_nothing(tmp_path):
    met = meet(tmp_path, {"record.checksum": "0" * 64})
    assert met.run.error.code == "internal"
    assert commits(tmp_path / "a") == []
