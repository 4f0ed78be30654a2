# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends that are stopped, not dead: bounded waits, nobody's lock is broken, and none needs a person.

Every process here gives up after a second of silence instead of a minute.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from pairsync.replica.local import LocalReplica
from pairsync.wire import frames
from pairsync.wire.frames import FrameReader, FrameWriter
from pairsync.wire.handshake import await_agent, greet
from pairsync.wire.remote import RemoteReplica
from tests.engine.trees import ENGINE_HOME, STATE, Pair, read_tree, write_tree

IMPATIENT = f"""
import os, sys
sys.path.insert(0, {str(ENGINE_HOME)!r})
from pairsync.wire import frames
frames.SILENCE_SECONDS, frames.BEAT_SECONDS, frames.CLOSE_SECONDS = 1.0, 0.2, 0.5
from pairsync.cli import main
sys.exit(main(sys.argv[1:]))
"""
NONCE = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(frames, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(frames, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(frames, "CLOSE_SECONDS", 0.5)


@pytest.fixture
def start(tmp_path):
    """`start("agent")`: a pairsync of its own."""
    running = []

    def run(*arguments, **options):
        process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env={**os.environ, "PAIRSYNC_STATE": str(tmp_path / "state")}, **options,
        )  # fmt: skip
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def agent(start):
    """`agent()`: a process, and the replica behind it."""

    def make():
        process = start("agent")
        reader = FrameReader(process.stdout.fileno(), "gpu2")
        writer = FrameWriter(process.stdin.fileno(), "gpu2")

        def hang_up():
            process.stdin.close()
            return ""

        greet(writer, NONCE, "source")
        await_agent(process.stdout.fileno(), reader, NONCE, "gpu2", "source")
        return process, RemoteReplica(reader, writer, "gpu2", hang_up)

    return make


@pytest.fixture
def pair(tmp_path):
    pair = Pair(tmp_path / "pair")
    write_tree(pair.a, {"f": "1", "d/g": "2"})
    assert pair.sync().exit == 0
    write_tree(pair.a, {"f": "changed", "new": "from a"})
    write_tree(pair.b, {"d/g": "changed too"})
    return pair


@pytest.mark.parametrize(
    "operation", ["open", "begin", "scan", "receive", "finish", "record", "promote", "end"]
)
def test_an_agent_that_is_stopped(pair, agent, operation):
    """The session ends and names it; its lock stays its own until it goes on, and it then ends."""
    process, replica = agent()
    real = getattr(replica, operation)

    def stopped(*arguments):
        process.send_signal(signal.SIGSTOP)
        return real(*arguments)

    setattr(replica, operation, stopped)
    pair.connect = lambda: (LocalReplica(), replica)
    result = pair.sync()
    if operation != "end":
        assert result.exit == 3
        assert result.error == "protocol", result.report["error"]
        assert "gpu2 " in result.report["error"]["message"]
        assert result.report["error"]["next"]
    locked = operation not in ("open", "begin")
    if locked:
        pair.connect = lambda: (LocalReplica(), LocalReplica())
        second = pair.sync(lock_wait=1)
        assert second.error == "locked"
        assert f"process {process.pid} on " in second.report["error"]["message"]
        assert f"run {result.run.run}, " in second.report["error"]["message"]
    process.send_signal(signal.SIGCONT)
    process.wait(20)
    pair.connect = lambda: (LocalReplica(), LocalReplica())
    result = pair.sync()
    assert result.exit == 0, result.report["error"]
    assert result.report["base"] == "ok"
    assert read_tree(pair.a) == read_tree(pair.b)
    assert read_tree(pair.a) == {
        "f": b"changed", "new": b"from a", "d": None, "d/g": b"changed too"
    }  # fmt: skip
    for root in pair.roots:
        assert not list((root / STATE / "stage").iterdir())


def listening(start, pair):
    """A session in a process of its own that waits for an answer, with both locks in its hands."""
    session = start("sync", "--events", pair.a, pair.b)
    for line in iter(session.stdout.readline, b""):
        if b'"question"' in line:
            return session
    raise AssertionError("it ended without a question")


def test_a_session_that_is_stopped_keeps_its_locks(pair, start):
    """No takeover of a live lock: whoever waits is told by whom, and both ends are consistent."""
    session = listening(start, pair)
    session.send_signal(signal.SIGSTOP)
    result = pair.sync(lock_wait=1)
    assert result.error == "locked"
    assert f"process {session.pid} on " in result.report["error"]["message"]
    assert "which has made no progress for 1 seconds" in result.report["error"]["message"]
    assert " and  is " not in result.report["error"]["message"]
    session.send_signal(signal.SIGCONT)
    session.stdin.write(b'{"id": 1, "answer": "y"}\n')
    report = json.loads(session.stdout.readlines()[-1])["report"]
    assert (report["exit"], report["error"]) == (0, None)
    result = pair.sync()
    assert (result.exit, result.report["items_total"]) == (0, 0)
    assert read_tree(pair.a) == read_tree(pair.b)


def test_a_session_that_is_killed_leaves_no_lock(pair, start):
    session = listening(start, pair)
    session.kill()
    session.wait()
    assert pair.sync(lock_wait=0).exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)


def test_an_agent_does_not_wait_for_a_session_that_is_stopped(pair, agent):
    """Half-open from the agent's side: it gives its lock back by itself."""
    process, replica = agent()
    pair.connect = lambda: (LocalReplica(), replica)
    real = replica.scan

    def silent(base):
        found = real(base)
        replica._writer.close()  # no more beats, as from a process that is stopped
        process.wait(20)
        return found

    replica.scan = silent
    result = pair.sync()
    assert result.exit == 3
    pair.connect = lambda: (LocalReplica(), LocalReplica())
    assert pair.sync(lock_wait=0).exit == 0


def test_sessions_of_many_pairs_that_share_a_root_all_finish(tmp_path, start):
    """A star: every spoke brings something, and the hub is in all sessions at once."""
    hub = tmp_path / "hub"
    write_tree(hub, {f"from-hub/{number}": str(number) for number in range(30)})
    spokes = [tmp_path / f"spoke{number}" for number in range(4)]
    for spoke in spokes:
        write_tree(spoke, {f"from-{spoke.name}/{number}": spoke.name for number in range(30)})
    for __ in range(2):  # what the others brought comes with the second round
        running = [start("sync", "--batch", "--json", hub, spoke) for spoke in spokes]
        reports = [json.loads(process.stdout.read()) for process in running]
        assert [report["error"] for report in reports] == [None] * 4
        assert [report["exit"] for report in reports] == [0] * 4
    for spoke in spokes:
        assert read_tree(spoke) == read_tree(hub)
    assert len(read_tree(hub)) == 5 * 31


def test_sessions_of_one_pair_that_start_together_all_finish(pair, start):
    running = [start("sync", "--batch", "--json", pair.a, pair.b) for __ in range(4)]
    reports = [json.loads(process.stdout.read()) for process in running]
    assert [(report["exit"], report["error"]) for report in reports] == [(0, None)] * 4
    assert sum(report["bytes"]["contents"] > 0 for report in reports) == 1
    assert read_tree(pair.a) == read_tree(pair.b)
