# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The peers of peer.py and the real engine, each in a thread of this process, over real pipes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pairsync import PROTOCOL
from pairsync.model.errors import PairsyncError
from pairsync.model.report import Run, report_json
from pairsync.model.spec import PairSpec, ReplicaSpec, parse_policy
from pairsync.replica.local import LocalReplica
from pairsync.session.run import Options, run_session
from pairsync.wire.frames import FrameReader, FrameWriter
from pairsync.wire.handshake import await_agent, greet
from pairsync.wire.remote import RemoteReplica
from pairsync.wire.serve import serve
from tests.engine.hostile.peer import Agent, Knobs, Session, Tree
from tests.engine.trees import read_tree

PATIENCE = 60  # seconds, after which a test that waits for a thread has failed


class Outcome:
    """A session against an agent of peer.py, and that agent."""

    def __init__(self, run: Run, agent: Agent) -> None:
        self.run, self.agent = run, agent
        self.report = report_json(run)
        self.items = {item["path"]: item["result"] for item in self.report["items"]}


def meet_agent(a: Path, tree: Tree, knobs: Knobs | None = None, **policy: object) -> Outcome:
    """Run a real session between a real replica and an agent that serves a tree of its own."""
    to_agent, from_agent = os.pipe(), os.pipe()
    agent = Agent(to_agent[0], from_agent[1], tree, knobs)

    def serve_tree() -> None:
        try:
            agent.serve()
        finally:
            os.close(from_agent[1])

    thread = threading.Thread(target=serve_tree, daemon=True)
    thread.start()
    writers = []
    closed: list[bool] = []

    def hang_up() -> str:
        if not closed:
            closed.append(True)
            os.close(to_agent[1])
        return ""

    def connect() -> tuple[LocalReplica, RemoteReplica]:
        reader = FrameReader(from_agent[0], "gpu2")
        writer = FrameWriter(to_agent[1], "gpu2")
        writers.append(writer)
        greet(writer, Session.NONCE, "source")
        await_agent(from_agent[0], reader, Session.NONCE, "gpu2", "source")
        return LocalReplica(), RemoteReplica(reader, writer, "gpu2", hang_up)

    spec = PairSpec(
        ReplicaSpec("", str(a), local=True), ReplicaSpec("gpu2", "/b"),
        policy=parse_policy({"lock_wait": 0, **policy}),
    )  # fmt: skip
    try:
        run = run_session(spec, connect, Options(), lambda __: None)
    finally:
        for writer in writers:
            writer.fail(EOFError())
            writer.close()
        hang_up()
        # What the peer still says, nobody hears; it must not wait for that.
        os.set_blocking(from_agent[0], False)
        until = time.monotonic() + PATIENCE
        while thread.is_alive() and time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                os.read(from_agent[0], 1 << 20)
            thread.join(0.001)
    assert not thread.is_alive(), "the peer was left hanging"
    os.close(to_agent[0])
    return Outcome(run, agent)


@contextlib.contextmanager
def meet_session(
    knobs: Knobs | None = None, *, greeted: bool = True, made: type[Session] = Session
) -> Iterator[tuple[Session, list[Exception]]]:
    """A session of peer.py, connected to a real agent; and how the agent ended, afterwards."""
    to_agent, from_agent = os.pipe(), os.pipe()
    ends: list[Exception] = []

    def serve_replica() -> None:
        try:
            serve(to_agent[0], from_agent[1], LocalReplica(), "source")
        except PairsyncError as error:
            ends.append(error)
        finally:
            os.close(from_agent[1])

    thread = threading.Thread(target=serve_replica, daemon=True)
    thread.start()
    session = made(from_agent[0], to_agent[1], knobs)
    try:
        if greeted:
            session.hello(PROTOCOL)
        yield session, ends
    finally:
        os.close(to_agent[1])
        # What the agent still says must not keep it from ending.
        with contextlib.suppress(OSError):
            while os.read(from_agent[0], 1 << 16):
                pass
        thread.join(PATIENCE)
        os.close(from_agent[0])
        assert not thread.is_alive(), "the agent is still there"
        os.close(to_agent[0])


def tree_of(root: Path) -> dict[str, object]:
    return read_tree(root) if root.exists() else {}


def commits(root: Path) -> list[str]:
    """The ids of the commits that are current in any base of a root."""
    found = []
    for base in root.glob(".pairsync/pairs/*/base.sqlite"):
        with contextlib.closing(sqlite3.connect(base)) as database:
            rows = dict(database.execute("SELECT key, value FROM meta"))
        found += [rows["current"]] if rows.get("current") else []
    return found
