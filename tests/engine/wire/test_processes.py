# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Agents and sessions as processes, and what is left when one of them dies."""

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
from pairsync.replica.contents import Begin, Piece
from pairsync.wire import codec, messages
from pairsync.wire.frames import BULK, CALL, CONTENTS, FAIL
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
