# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Peers that break the protocol, and peers that die: nothing of theirs appears in a tree."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pairsync.model.entry import FILE, Entry
from pairsync.reconcile.actions import Action
from pairsync.replica.contents import Begin, End, Piece, Proof, Whole
from pairsync.wire import codec, messages
from pairsync.wire.frames import BULK, CALL, CONTENTS, FAIL, HELLO, REPLY
from tests.engine.wire.peers import Wire, agent, remote, sync

SECRET = b"what nobody asked for"
SIZE = len(SECRET)
DIGEST = hashlib.sha256(SECRET).digest()


@pytest.fixture
def roots(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    (a / "kept").write_text("kept\n")
    return a, b


def names(root):
    return {
        str(path.relative_to(root)) for path in root.rglob("*") if ".pairsync" not in path.parts
    }


def staged(root):
    return set(root.glob(".pairsync/stage/*/*"))


# -- a session that misbehaves, and a real agent -------------------------------------------------


class Client(Wire):
    """A client of an agent that has come as far as waiting for contents of one new file."""

    number = 0

    def call(self, operation, data=b"", **arguments):
        self.number += 1
        self.writer.put_bulk(self.number, data)
        self.writer.put(CALL, self.number, messages.encode({**arguments, "op": operation}))
        return self.number

    def data(self):
        """The next frame that is not about what became of actions so far."""
        while True:
            frame = self.read()
            if frame is None or frame.type != CONTENTS:
                return frame

    def answer(self):
        bulk = b""
        while True:
            frame = self.data()
            if frame is None or frame.type != BULK:
                break
            bulk += frame.payload
        assert frame is not None, "the agent ended"
        reply = json.loads(frame.payload)
        assert (frame.type == FAIL) == ("code" in reply)
        return reply

    def begin(self, root):
        self.call("open", path=str(root))
        self.answer()
        self.call("create")
        replica = self.answer()
        policy = {"mode": "two-way", "lock_wait": 0}
        peer = {"replica_id": "f" * 32, "label": "x", "host": "x", "path": "/x"}
        self.call(
            "begin", pair_id="e" * 32, side="b", label="b", peer=peer, policy=policy, run="r",
            dry_run=False,
        )  # fmt: skip
        assert "current" in self.answer()
        self.call("scan", base="keep")
        self.answer()
        return replica

    def receive(self, *actions):
        listed = codec.write_list(actions, codec.write_action)
        paths = codec.write_list([], codec.write_path)
        number = self.call("receive", listed + paths, actions=len(listed))
        assert self.answer() == {}
        return number

    def send(self, number, *records):
        self.writer.put(CONTENTS, number, b"".join(map(codec.encode_record, records)))


@pytest.fixture
def client(roots, tmp_path):
    with agent(tmp_path / "state") as process:
        client = Client(process)
        client.process = process
        client.begin(roots[1])
        yield client


def new_file(number=1, path=b"new", digest=None, size=SIZE):
    return Action(number, path, Entry(FILE, 0o644, size, 0, digest), None, 0)


@pytest.mark.parametrize(
    "records",
    [
        [Whole(2, Proof(SIZE, 0, DIGEST), SECRET)],
        [Begin(2, 10)],
        [Piece(1, SECRET)],
        [End(1, Proof(SIZE, 0, DIGEST))],
        [Begin(1, 10), Piece(1, SECRET)],
        [Begin(1, 100), Begin(1, 100)],
        [Whole(1, Proof(SIZE, 0, DIGEST), SECRET)] * 2,
    ],
    ids=["not asked for", "not asked for, large", "not begun", "only its end", "too long",
         "begun twice", "twice"],
)  # fmt: skip
def test_contents_that_break_the_protocol_end_the_transfer(client, roots, records):
    number = client.receive(new_file())
    client.send(number, *records)
    assert client.answer()["code"] == "protocol"
    client.call("finish")
    assert client.answer()["code"] == "protocol"
    client.process.stdin.close()
    client.process.wait(10)
    assert names(roots[1]) == set()
    assert staged(roots[1]) == set()


@pytest.mark.parametrize(
    "records,reason",
    [
        ([Whole(1, Proof(SIZE, 0, b"w" * 32), SECRET)], "arrived damaged"),
        ([Whole(1, Proof(5, 0, DIGEST), SECRET)], "arrived damaged"),
        ([Begin(1, 50), Piece(1, SECRET), End(1, Proof(50, 0, DIGEST))], "arrived damaged"),
        ([Begin(1, 21), Piece(1, SECRET), End(1, Proof(21, 0, b"w" * 32))], "arrived damaged"),
        ([], "its contents did not arrive"),
    ],
    ids=["wrong digest", "wrong size", "too short", "wrong digest, large", "nothing"],
)
def test_contents_that_are_not_what_was_vouched_for_get_no_name(client, roots, records, reason):
    number = client.receive(new_file())
    client.send(number, *records)
    client.call("finish")
    bulk = client.data()
    [done] = codec.read_list(bulk.payload, "b", codec.read_done)
    assert done.result != "done"
    assert done.reason == reason
    assert names(roots[1]) == set()


def test_contents_other_than_the_plan_s_get_no_name(client, roots):
    number = client.receive(new_file(digest=hashlib.sha256(b"as planned").digest()))
    client.send(number, Whole(1, Proof(SIZE, 0, DIGEST), SECRET))
    client.call("finish")
    [done] = codec.read_list(client.data().payload, "b", codec.read_done)
    assert done.result == "skipped"
    assert names(roots[1]) == set()


def test_nothing_is_written_through_a_symlink(client, roots, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (roots[1] / "way").symlink_to(outside)
    number = client.receive(new_file(path=b"way/out"))
    client.send(number, Whole(1, Proof(SIZE, 0, DIGEST), SECRET))
    client.call("finish")
    [done] = codec.read_list(client.data().payload, "b", codec.read_done)
    assert done.result != "done"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "operation,arguments",
    [
        ("open", {}), ("open", {"path": 1}), ("open", {"path": "p" * 9000}),
        ("shares", {"nonce": "../x", "write": True}), ("shares", {"nonce": "abc", "write": 1}),
        ("begin", {}), ("begin", {"pair_id": "../../x"}),
        ("scan", {}), ("scan", {"base": "destroy"}),
        ("details", {"files": -1}), ("details", {"files": 99}), ("details", {"files": "0"}),
        ("receive", {"actions": True}), ("receive", {"actions": 10**30}),
        ("record", {"commit": "c", "rows": 0}), ("record", {"commit": 5, "rows": 0, "leave": []}),
        ("record", {"commit": "c", "rows": 4, "leave": ["1"]}),
        ("promote", {}), ("end", {"status": []}), ("forget", {"pair_id": ".."}),
        ("forget", {}), ("forget", {"pair_id": "é"}),
        ("remove everything", {}), ("", {}), (None, {}), ("__init__", {}),
    ],
)  # fmt: skip
def test_every_wrong_argument_of_a_call_is_a_protocol_error(client, roots, operation, arguments):
    client.call(operation, **arguments)
    assert client.answer()["code"] == "protocol"
    client.call("scan", base="keep")
    assert "entries" in client.answer(), "the agent still answers"
    assert names(roots[1]) == set()


def test_calls_in_the_wrong_order_are_refused(roots, tmp_path):
    for operation, arguments, data in (
        ("create", {}, b""),
        ("scan", {"base": "keep"}, b""),
        ("finish", {}, b""),
        ("promote", {"commit": "c"}, b""),
        ("receive", {"actions": 4}, bytes(8)),
        ("record", {"commit": "c", "rows": 4, "leave": []}, bytes(8)),
        ("shares", {"nonce": "abc", "write": True}, b""),
        ("end", {"status": {}}, b""),
    ):
        with agent(tmp_path / "state") as process:
            client = Client(process)
            client.call(operation, data, **arguments)
            answer = client.answer()
            assert answer.get("code", "protocol") in ("protocol", "root_missing"), operation
    assert not (roots[1] / ".pairsync").exists()


@pytest.mark.parametrize("kind", [HELLO, REPLY, FAIL])
def test_an_agent_ends_when_it_gets_what_only_agents_send(client, kind):
    client.writer.put(kind, 1, b"{}")
    assert client.process.wait(10) == 3


def test_an_agent_keeps_data_of_a_few_calls_only(client):
    for number in range(100, 120):
        client.writer.put(BULK, number, b"x")
    assert client.process.wait(10) == 3


def test_an_agent_ends_with_its_session(client, roots):
    number = client.receive(new_file(size=10 << 20))
    client.send(number, Begin(1, 10 << 20), Piece(1, b"x" * 1000))
    deadline = time.monotonic() + 10
    while not staged(roots[1]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert staged(roots[1])
    client.process.stdin.close()
    client.process.wait(10)
    assert staged(roots[1]) == set()
    assert names(roots[1]) == set()


# -- an agent that misbehaves or dies, and a real session ----------------------------------------


def test_a_real_agent_serves_a_session(roots, tmp_path):
    a, b = roots
    (a / "big").write_bytes(os.urandom(3 << 20))
    (a / "sub").mkdir()
    (b / "other").write_text("from b\n")
    with agent(tmp_path / "state") as process:
        run = sync(a, b, remote(process), tmp_path / "state")
    assert run.error is None
    assert names(a) == names(b) == {"kept", "big", "sub", "other"}
    assert (b / "big").read_bytes() == (a / "big").read_bytes()
    assert run.wire_bytes > 3 << 20


def test_an_error_of_a_peer_is_shown_as_one_printable_line():
    said = {"code": "no such code", "message": "a\n\x1b[31mb" + "c" * 5000, "next": "\u202e"}
    error = messages.read_error(said, "gpu2")
    assert error.code == "internal"
    assert error.message.startswith("a??[31mb")
    assert len(error.message) == 1024
    assert str(error).isprintable()


def test_a_session_says_so_when_its_agent_is_killed(roots, tmp_path):
    a, b = roots
    (a / "big").write_bytes(os.urandom(40 << 20))
    with agent(tmp_path / "state") as process:
        replica = remote(process)

        def kill():
            while not staged(b):
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        run = sync(a, b, replica, tmp_path / "state")
        killer.join(10)
    assert run.error is not None
    assert run.error.code == "protocol"
    assert "gpu2" in run.error.message
    assert "big" not in names(b)
    with agent(tmp_path / "state") as process:
        assert sync(a, b, remote(process), tmp_path / "state").error is None
    assert (b / "big").read_bytes() == (a / "big").read_bytes()
    assert staged(b) == set()


SESSION = """
import sys
from pathlib import Path
from tests.engine.wire.peers import agent, remote, sync
a, b, state = map(Path, sys.argv[1:])
with agent(state) as process:
    print(process.pid, flush=True)
    sync(a, b, remote(process), state)
"""


def test_an_agent_ends_when_its_session_is_killed(roots, tmp_path):
    a, b = roots
    (a / "big").write_bytes(os.urandom(40 << 20))
    with subprocess.Popen(
        [sys.executable, "-c", SESSION, a, b, tmp_path / "state"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as session:  # fmt: skip
        pid = int(session.stdout.readline())
        while not staged(b):
            time.sleep(0.002)
        session.kill()
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}"), "the agent is still there"
    assert "big" not in names(b)
    assert staged(b) == set()
    with agent(tmp_path / "state") as process:
        assert sync(a, b, remote(process), tmp_path / "state").error is None
    assert names(b) == names(a) == {"kept", "big"}


def test_a_report_longer_than_a_frame_reaches_the_agent(roots, tmp_path):
    report = {"items": ["x" * 100] * 30_000}
    with agent(tmp_path / "state") as process:
        client = Client(process)
        client.begin(roots[1])
        client.call("end", messages.encode(report), status={"exit": 0})
        assert client.answer() == {}
    [log] = (roots[1] / ".pairsync/log").iterdir()
    assert json.loads(log.read_text()) == report
