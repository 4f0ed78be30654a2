# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session that lies, or has a stolen key: an agent does nothing that its own scan contradicts."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time

import pytest

from pairsync.wire import frames, handshake
from tests.engine.hostile import peer
from tests.engine.hostile.meetings import commits, meet_session, tree_of
from tests.engine.hostile.peer import (
    BEAT,
    BULK,
    CALL,
    CONTENTS,
    DIR,
    FAIL,
    FILE,
    HELLO,
    LINK,
    PROBLEM,
    REPLY,
    SPECIAL,
    File,
    HungUpError,
)  # fmt: skip
from tests.engine.hostile.test_peer_agent import BAD_ENTRIES, BAD_PATHS, COUNT, FLAG, IDENT, TEXT
from tests.engine.trees import Link, fingerprints, write_tree

MINE = {
    "kept": "kept\n", "dir/inner": "inner\n", "x.tmp": "left out\n", "dir/y.tmp": "left out\n",
    "link": Link("../outside"), "dir/empty/z.tmp": "left out\n", "script": "#!/bin/sh\n",
}  # fmt: skip
POLICY = {"ignore": ["Name *.tmp"]}
DATA = b"new\n"


@pytest.fixture
def root(tmp_path):
    """A replica, and something outside of it; both are looked at again afterwards."""
    b = write_tree(tmp_path / "b", MINE)
    outside = write_tree(tmp_path / "outside", {"canary": "outside\n", "sub/canary": "outside\n"})
    before = fingerprints(outside)
    yield b
    assert fingerprints(outside) == before
    assert sorted(os.listdir(tmp_path)) == ["b", "outside"]
    assert not list(b.glob(".pairsync/stage/*/*"))
    assert not list(b.rglob(".pairsync/**/.pairsync"))


@contextlib.contextmanager
def met(root, knobs=None, **policy):
    """A session that has come as far as a scan, if it is let."""
    with meet_session(knobs) as (session, ends):
        session.ends = ends
        session.scanned = session.begin(str(root), **{**POLICY, **policy})
        yield session


def untouched(root, before):
    assert tree_of(root) == before
    assert commits(root) == []


def refused(answer):
    assert answer.failed, answer
    assert answer.value["code"] == "protocol", answer.value
    assert len(answer.value["message"]) < 500
    assert answer.value["message"].isprintable()


# -- fields ----------------------------------------------------------------------------------------

CALLS = {
    "open.path": [*TEXT, "a\0b", "\ud800", ""],
    "begin.pair_id": [*TEXT, "../../x", "", "f" * 65, "é" * 3],
    "begin.side": [*TEXT, "c", "both"],
    "begin.label": TEXT,
    "begin.peer": [None, 1, [], {}],
    "peer.replica_id": TEXT,
    "peer.path": TEXT,
    "begin.policy": [
        None, 1, {"ignore": ["nonsense"]}, {"paths": ["../x"]}, {"paths": ["/etc"]},
        {"paths": ["a/../.."]}, {"paths": ["\ud800"]}, {"lock_wait": -1}, {"lock_wait": 10**9},
        {"backup": {"keep": 0}}, {"max_delete": 101}, {"mode": "destroy"},
    ],
    "begin.run": [*TEXT, "../x", "a/b", ".brief", "x.y", "r" * 65, ""],
    "begin.dry_run": FLAG,
    "scan.base": [*TEXT, "destroy", "promote!"],
}  # fmt: skip


@pytest.mark.parametrize(
    "name,value",
    [(name, value) for name, values in CALLS.items() for value in values],
    ids=lambda value: repr(value)[:40],
)
def test_a_field_on_the_way_to_a_scan_is_checked(root, name, value):
    before = tree_of(root)
    with met(root, {name: value}) as session:
        refused(session.scanned)
    untouched(root, before)


LATER = {
    "details.files": COUNT,
    "receive.actions": COUNT,
    "record.commit": IDENT,
    "record.rows": COUNT,
    "record.keep": COUNT,
    "record.coverage": [None, 1, "[", "x" * 1_100_000, '{"a":1,"a":2}'],
    "end.status": [None, 1, "x", []],
}


@pytest.mark.parametrize(
    "name,value",
    [(name, value) for name, values in LATER.items() for value in values],
    ids=lambda value: repr(value)[:40],
)
def test_a_field_after_the_scan_is_checked(root, name, value):
    before = tree_of(root)
    with met(root, {name: value}) as session:
        op = name.split(".")[0]
        if op == "details":
            refused(session.call("details", peer.listed([]) * 2, files=4))
        elif op == "receive":
            refused(session.bring({b"new": File(DATA)}))
        elif op == "record":
            refused(session.record())
        else:
            refused(session.call("end", status={}))
    untouched(root, before)


@pytest.mark.parametrize("commit", ["d" * 32, "", "../x", "c" * 31])
def test_a_commit_that_is_not_pending_is_not_promoted(root, commit):
    with met(root, {"promote.commit": commit}, paths=["dir/empty"]) as session:
        refused(session.record())
    assert commits(root) == []


PAYLOADS = {
    "empty": b"", "no object": b"[]", "no JSON": b"\xff", "deep": b"[" * 1_000_000,
    "deep object": b'{"op":' * 60 + b"1" + b"}" * 60, "NaN": b'{"op":"scan","base":NaN}',
    "infinite": b'{"op":"scan","base":1e999}', "a key twice": b'{"op":"scan","op":"forget"}',
    "digits": b'{"op":' + b"9" * 1_000_000 + b"}", "no operation": b"{}",
    "unknown": b'{"op":"remove"}', "an attribute": b'{"op":"__init__"}', "a number": b'{"op":1}',
    "a method": b'{"op":"close"}',
}  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_a_call_that_is_none_is_refused_and_the_agent_goes_on(root, payload):
    with met(root) as session:
        session.knobs["x.payload"] = payload
        refused(session.call("x"))
        assert not session.call("scan", base="keep").failed


FRAMES = {
    "a hello": peer.frame(HELLO, 0, b"{}"), "a reply": peer.frame(REPLY, 1, b"{}"),
    "a failure": peer.frame(FAIL, 1, b"{}"), "no type": peer.frame(0, 1),
    "an unknown type": peer.frame(8, 1), "too long": peer.frame(CALL, 1, b"", (2 << 20) + 1),
    "4 GiB": peer.frame(BULK, 1, b"", 2**32 - 1), "a beat with a load": peer.frame(BEAT, 0, b"x"),
    "contents for nobody": peer.frame(CONTENTS, 7, b"x"), "a shell": b"exit\n\n\n\n\n\n",
    "data of many calls": b"".join(peer.frame(BULK, number, b"x") for number in range(100, 120)),
}  # fmt: skip


@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES)
def test_a_frame_that_does_not_belong_there_ends_the_agent(root, data):
    before = tree_of(root)
    with met(root) as session:
        session.write(data)
        with pytest.raises(HungUpError):
            session.read_to_the_end()
    [end] = session.ends
    assert end.code == "protocol"
    assert "the session" in end.sentence()
    untouched(root, before)


def test_operations_come_in_their_order_and_once(root):
    calls = {
        "create": {}, "shares": {"nonce": "abc", "write": True}, "forget": {"pair_id": "e" * 32},
        "finish": {}, "promote": {"commit": "c" * 32}, "open": {"path": "/etc"},
        "begin": {"pair_id": "d" * 32},
    }  # fmt: skip
    for op, arguments in calls.items():
        with met(root) as session:
            assert not session.scanned.failed
            refused(session.call(op, **arguments))
    for op in ("scan", "details", "receive", "finish", "record", "promote", "end", "send", "begin"):
        with meet_session() as (session, __):
            refused(session.call(op))
    with met(root) as session:
        assert not session.bring({b"new": File(DATA)}).failed
        refused(session.receive([]))
        refused(session.call("finish"))


def test_a_session_leaves_a_few_files_of_its_own_at_most(root):
    with meet_session() as (session, __):
        session.call("open", path=str(root))
        session.call("create")
        answers = [session.call("shares", nonce=f"n{at}", write=True) for at in range(50)]
    assert sum(not answer.failed for answer in answers) <= 4
    assert len(list((root / ".pairsync").glob("nonce*"))) <= 4


def test_a_session_cannot_make_an_agent_run_many_threads(root):
    (root / "large").write_bytes(b"x" * (64 << 20))
    with met(root) as session:
        before = threading.active_count()
        many = peer.listed([struct.pack("!I", 1) + peer.path(b"large")])
        for number in range(50, 80):
            session.number = number
            session.start("send", many)
        time.sleep(0.2)
        assert threading.active_count() <= before + 2


def test_a_dry_run_writes_nothing(root):
    before = tree_of(root)
    with met(root, {"begin.dry_run": True}) as session:
        assert session.receive(session.actions({b"new": File(DATA)})).failed
        assert session.record().failed
    untouched(root, before)


# -- actions ---------------------------------------------------------------------------------------


def old(name):
    data = MINE[name].encode()
    return peer.write_entry(peer.entry_of(File(data)))


NEW = peer.write_entry(peer.entry_of(File(DATA)))
A_DIR = peer.write_entry(peer.entry_of(None))
GONE = b"\0"
EVIL_LINK = peer.entry(LINK, target=b"/etc/passwd")


@pytest.mark.parametrize("parts", BAD_PATHS.values(), ids=BAD_PATHS)
def test_an_action_on_a_path_that_could_lead_elsewhere_is_refused(root, parts):
    before = tree_of(root)
    with met(root) as session:
        head = struct.pack("!IIB", 1, 0, 2)
        refused(session.receive([head + peer.raw_path(parts) + NEW + GONE]))
        refused(session.record([peer.raw_path(parts) + GONE]))
    untouched(root, before)


@pytest.mark.parametrize("fields", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_an_action_that_wants_what_cannot_be_is_refused(root, fields):
    before = tree_of(root)
    with met(root) as session:
        refused(session.receive([session.action(1, b"new", peer.raw_entry(*fields))]))
    untouched(root, before)


@pytest.mark.parametrize("kind", [PROBLEM, SPECIAL])
def test_nobody_makes_a_device(root, kind):
    with met(root) as session:
        refused(session.receive([session.action(1, b"new", peer.entry(kind, target=b"x"))]))


def listing(*actions):
    """number, path, want, have, flags."""

    def of(session):
        return [session.action(*one) for one in actions]

    return of


BAD_LISTS = {
    "one path twice": listing((1, b"n", NEW), (2, b"n", NEW)),
    "one number twice": listing((1, b"m", NEW), (1, b"n", NEW)),
    "out of order": listing((1, b"n", NEW), (2, b"m", NEW)),
    "a child first": listing((1, b"n/x", NEW), (2, b"n", A_DIR)),
    "below a file": listing((1, b"n", NEW), (2, b"n/x", NEW)),
    "below a link": listing((1, b"n", EVIL_LINK), (2, b"n/canary", NEW)),
    "below what is deleted": listing((1, b"dir", GONE, A_DIR), (2, b"dir/x", NEW)),
    "an ignored path": listing((1, b"x.tmp", NEW)),
    "an ignored path, deleted": listing((1, b"x.tmp", GONE, NEW)),
    "an ignored path, its mode": listing((1, b"x.tmp", NEW, NEW, 1)),
    "an ignored new path": listing((1, b"n", A_DIR), (2, b"n/n.tmp", NEW)),
    "flags": listing((1, b"n", NEW, GONE, 4)),
}


@pytest.mark.parametrize("of", BAD_LISTS.values(), ids=BAD_LISTS)
def test_a_list_of_actions_that_no_session_makes_is_refused_as_a_whole(root, of):
    before = tree_of(root)
    with met(root) as session:
        actions = of(session)
        refused(session.receive([session.action(0, b"a", NEW), *actions]))
        refused(session.call("finish"))
    untouched(root, before)


def test_a_path_outside_of_the_subtrees_is_refused(root):
    before = tree_of(root)
    for name in (b"kept", b"new", b"directory", b"dir2/x"):
        with met(root, paths=["dir"]) as session:
            refused(session.receive([session.action(1, name, NEW)]))
    untouched(root, before)


NOT_DONE = {
    # What the session says is there is not what the agent has seen.
    "a directory as a deleted file": listing((1, b"dir", GONE, old("kept"))),
    "a directory as a replaced file": listing((1, b"dir", NEW, old("kept"))),
    "a file as a deleted directory": listing((1, b"kept", GONE, A_DIR)),
    "a file as a link": listing((1, b"kept", GONE, EVIL_LINK)),
    "a link as a file": listing((1, b"link", GONE, old("kept"))),
    "a link's mode": listing((1, b"link", NEW, NEW, 1)),
    "what is not there": listing((1, b"nothing", GONE, old("kept"))),
    "a mode of nothing": listing((1, b"new", NEW, GONE, 1)),
    "another mode than there is": listing((1, b"kept", NEW, peer.entry(FILE, 0o600), 1)),
    "created where something is": listing((1, b"kept", NEW)),
    "a directory where a file is": listing((1, b"kept", A_DIR)),
    "a link where a directory is": listing((1, b"dir", EVIL_LINK)),
    "a full directory": listing((1, b"dir", GONE, A_DIR)),
    "a directory of ignored content": listing((1, b"dir/empty", GONE, A_DIR)),
    "through a link": listing((1, b"link/new", NEW)),
    "through a link, deleted": listing((1, b"link/canary", GONE, NEW)),
    "through a link, its mode": listing((1, b"link/canary", NEW, NEW, 1)),
    "below a file that is there": listing((1, b"kept/new", NEW)),
    "below nothing": listing((1, b"nowhere/new", NEW)),
    "a directory below a link": listing((1, b"link/d", A_DIR), (2, b"link/d/x", NEW)),
}


@pytest.mark.parametrize("of", NOT_DONE.values(), ids=NOT_DONE)
def test_an_action_that_the_agent_s_own_scan_contradicts_is_not_done(root, of):
    before, looks = tree_of(root), {name: (root / name).lstat().st_mode for name in MINE}
    with met(root) as session:
        actions = of(session)
        assert not session.receive(actions).failed
        number = session.number
        for at in range(1, len(actions) + 1):
            for part in session.contents(at, DATA, 0):
                if at == len(actions) and NEW in actions[at - 1]:
                    session.write(peer.frame(CONTENTS, number, part))
        done = session.call("finish")
        assert done.failed or done.data != peer.listed([]), "it says it was done"
    untouched(root, before)
    assert {name: (root / name).lstat().st_mode for name in MINE} == looks


def test_what_is_replaced_and_deleted_is_kept(root):
    with met(root) as session:
        actions = [
            session.action(1, b"dir/inner", GONE, old("dir/inner")),
            session.action(2, b"kept", NEW, old("kept")),
        ]
        assert not session.receive(actions).failed
        for part in session.contents(2, DATA, 0):
            session.write(peer.frame(CONTENTS, session.number, part))
        assert session.call("finish").data == peer.listed([])
    kept = {path.read_bytes() for path in (root / ".pairsync/backup").rglob("*") if path.is_file()}
    assert {b"inner\n", b"kept\n"} <= kept


# -- contents --------------------------------------------------------------------------------------

SURE = peer.proof(len(DATA), 0, peer.digest_of(DATA))


def size(value):
    return struct.pack("!Q", value)


STREAMS = {
    "not asked for": [(0, 2, SURE + DATA)],
    "not asked for, large": [(1, 2, size(10))],
    "not begun": [(2, 1, DATA)],
    "only its end": [(3, 1, SURE)],
    "too long": [(1, 1, size(2)), (2, 1, DATA)],
    "begun twice": [(1, 1, size(9)), (1, 1, size(9))],
    "twice": [(0, 1, SURE + DATA), (0, 1, SURE + DATA)],
    "an empty piece": [(1, 1, size(9)), (2, 1, b"")],
    "kind 9": [(9, 1, DATA)],
    "for a directory": [(0, 0, SURE + DATA)],
}


@pytest.mark.parametrize("records", STREAMS.values(), ids=STREAMS)
def test_contents_that_break_the_protocol_end_the_transfer(root, records):
    before = tree_of(root)
    with met(root) as session:
        actions = [session.action(0, b"a", A_DIR), session.action(1, b"new", NEW)]
        assert not session.receive(actions).failed
        number = session.number
        for kind, action, body in records:
            session.write(peer.frame(CONTENTS, number, peer.record(kind, action, body)))
        refused(session.wait())
        refused(session.call("finish"))
        # More is passed over, and costs nothing.
        session.write(peer.frame(CONTENTS, number, b"x" * 1000))
        assert session.record().failed
    assert {name for name in tree_of(root) if name not in before} <= {"a"}


WRONG = {
    "wrong digest": ([(0, 1, peer.proof(4, 0, b"w" * 32) + DATA)], b"changed since"),
    "wrong size": ([(0, 1, peer.proof(5, 0, peer.digest_of(DATA)) + DATA)], b"arrived damaged"),
    "too short": ([(1, 1, size(50)), (2, 1, DATA), (3, 1, SURE)], b"arrived damaged"),
    "other bytes": ([(1, 1, size(4)), (2, 1, b"bad\n"), (3, 1, SURE)], b"arrived damaged"),
    "nothing": ([], b"its contents did not arrive"),
}


@pytest.mark.parametrize("records,reason", WRONG.values(), ids=WRONG)
def test_contents_that_are_not_what_was_promised_get_no_name(root, records, reason):
    before = tree_of(root)
    with met(root) as session:
        assert not session.receive([session.action(1, b"new", NEW)]).failed
        for kind, action, body in records:
            record = peer.record(kind, action, body)
            session.write(peer.frame(CONTENTS, session.number, record))
        assert reason in session.call("finish").data
    untouched(root, before)


def test_a_file_larger_than_the_disk_is_not_begun(root):
    before = tree_of(root)
    with met(root) as session:
        assert not session.receive([session.action(1, b"new", NEW)]).failed
        record = peer.record(1, 1, size(2**62))
        session.write(peer.frame(CONTENTS, session.number, record))
        assert session.wait().value["code"] == "space"
    with met(root) as session:
        huge = peer.raw_entry(FILE, 0o644, 2**62, 0, None, b"")
        assert session.receive([session.action(1, b"new", huge)]).value["code"] == "space"
    untouched(root, before)


@pytest.mark.parametrize("name", [b"x.tmp", b".pairsync/replica.json", b"link", b"dir", b"nothing"])
def test_contents_are_given_of_scanned_files_only(root, name):
    with met(root) as session:
        parts = name.split(b"/")
        answer = session.call("send", peer.listed([struct.pack("!I", 1) + peer.raw_path(parts)]))
        refused(answer)


# -- what is recorded ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        peer.path(b"nothing") + NEW,
        peer.path(b"nothing") + GONE,
        peer.path(b"outside/of/it") + A_DIR,
        peer.path(b"kept") + peer.entry(PROBLEM, target=b"x"),
        peer.path(b"kept") + peer.entry(SPECIAL, target=b"x"),
        peer.path(b"kept") + peer.entry(FILE, size=5),
        peer.path(b"kept") + peer.entry(DIR, size=5),
    ],
    ids=["never seen", "never seen, gone", "elsewhere", "a problem", "a device", "no digest",
         "a directory with a size"],
)  # fmt: skip
def test_a_row_that_the_session_was_not_about_is_not_recorded(root, row):
    with met(root) as session:
        refused(session.record([row]))
    assert commits(root) == []


def test_a_report_is_kept_up_to_a_size(root):
    with met(root) as session:
        refused(session.call("end", b'{"items":"' + b"x" * (16 << 20) + b'"}', status={}))
    with met(root) as session:
        refused(session.call("end", b'{"a":' * 60 + b"1" + b"}" * 60, status={}))


# -- time ------------------------------------------------------------------------------------------


def pass_slowly(session, data):
    """A byte at a time, much more often than any silence; until the agent has had enough."""
    for byte in data:
        if session.ends:
            return
        session.write(bytes((byte,)))
        time.sleep(0.02)


def test_a_hello_that_drips_does_not_keep_an_agent(root, monkeypatch):
    monkeypatch.setattr(handshake, "HANDSHAKE_SECONDS", 0.5)
    with meet_session(greeted=False) as (session, ends):
        session.ends = ends
        pass_slowly(session, peer.frame(HELLO, 0, b"x" * 4000))
    assert "took too long to introduce itself" in ends[0].message


@pytest.mark.parametrize(
    "data",
    [peer.frame(CALL, 9, b"{" * 4000), peer.frame(BULK, 9, b"x" * 4000)],
    ids=["a call", "data"],
)
def test_a_frame_that_drips_does_not_keep_an_agent(root, monkeypatch, data):
    with met(root) as session:
        monkeypatch.setattr(frames, "SILENCE_SECONDS", 0.5)
        monkeypatch.setattr(frames, "SLOWEST", 1 << 20)
        pass_slowly(session, data)
    assert "sends too slowly" in session.ends[0].message


def test_a_session_that_falls_silent_does_not_keep_an_agent(root, monkeypatch):
    monkeypatch.setattr(frames, "SILENCE_SECONDS", 0.5)
    with met(root) as session:
        session.write(b"\0\0")
        with pytest.raises(HungUpError):
            session.read_to_the_end()
    assert "has said nothing" in session.ends[0].message or "slowly" in session.ends[0].message
