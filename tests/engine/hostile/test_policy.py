# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The holder of a pair's key speaks to the confined agent itself, in an order no session has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from pairsync.model.entry import FILE, Entry
from pairsync.model.errors import PairsyncError
from pairsync.model.policy import Policy
from pairsync.model.spec import PairSpec, ReplicaSpec
from pairsync.reconcile.actions import Action
from pairsync.replica.interface import Beginning, Peer
from pairsync.replica.local import LocalReplica
from pairsync.session.run import Options, run_session
from tests.engine.wire.peers import remote


@pytest.fixture
def confined(tmp_path):
    """`confined(limits={…})`: an agent for tmp_path/b alone, as a session sees it."""
    for name in ("b", "c", "etc"):
        (tmp_path / name).mkdir()
    (tmp_path / "c/secret").write_text("secret\n")
    file = tmp_path / "etc/policy.json"
    running = []

    def start(**allowed):
        data = {"schema": "pairsync.policy/1", "label": "x", "roots": [str(tmp_path / "b")]}
        file.write_text(json.dumps({**data, **allowed}))
        file.chmod(0o644)
        process = subprocess.Popen(
            [sys.executable, "-m", "pairsync", "agent", "--policy", file],
            env={**os.environ, "SSH_ORIGINAL_COMMAND": "pairsync agent"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        process.writers = []
        running.append((process, remote(process)))
        return running[-1][1]

    yield start
    for process, replica in running:
        replica.close()
        process.wait(10)
        for stream in (process.stdout, process.stderr):
            stream.close()


def ask(agent, call, *arguments):
    """Make a call and wait for its end."""
    answer = getattr(agent, call)(*arguments)
    if call == "receive":
        agent.finish()
    return list(answer or [])


def code_of(call, *arguments):
    with pytest.raises(PairsyncError) as caught:
        call(*arguments)
    return caught.value.code


def beginning(**fields):
    run = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-00000000"
    values = {
        "pair_id": "1a", "side": "b", "label": "b", "peer": Peer("2b", "a", "a", "/a"),
        "policy": Policy(), "run": run, "dry_run": False,
    }  # fmt: skip
    return Beginning(**{**values, **fields})


def test_a_session_of_the_pair_works(confined, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("x")
    spec = PairSpec(
        ReplicaSpec("", str(tmp_path / "a"), local=True), ReplicaSpec("gpu2", str(tmp_path / "b"))
    )
    run = run_session(spec, lambda: (LocalReplica(), confined()), Options(), lambda __: None)
    assert run.error is None
    assert (tmp_path / "b/file").read_text() == "x"


def test_another_root_after_the_right_one(confined, tmp_path):
    agent = confined()
    agent.open(str(tmp_path / "b"))
    agent.create()
    with pytest.raises(PairsyncError):
        agent.open(str(tmp_path / "c"))
    assert not (tmp_path / "c/.pairsync").exists()


def test_nothing_happens_before_a_root_is_open(confined, tmp_path):
    wanted = [Action(0, b"x", Entry(FILE, 0o644, 1, 0, bytes(32), b""), None, 0)]
    for call in ("create", "begin", "scan", "receive", "send"):
        agent = confined()
        arguments = {
            "begin": (beginning(),), "scan": ("keep",), "receive": (wanted, []),
            "send": ([(0, b"secret")],),
        }.get(call, ())  # fmt: skip
        with pytest.raises(PairsyncError):
            ask(agent, call, *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c", "etc"]
    assert list((tmp_path / "b").iterdir()) == []


def test_forgetting_is_refused(confined, tmp_path):
    agent = confined()
    agent.open(str(tmp_path / "b"))
    assert code_of(agent.forget, "1a") == "policy"


def test_more_changes_than_one_session_may_bring(confined, tmp_path):
    agent = confined(limits={"entries": 3})
    agent.open(str(tmp_path / "b"))
    agent.create()
    agent.begin(beginning())
    agent.scan("keep")
    gone = Entry(FILE, 0o644, 1, 0, bytes(32), b"")
    agent.receive([Action(number, b"x%d" % number, None, gone, 0) for number in range(4)], [])
    assert code_of(agent.finish) == "policy"
