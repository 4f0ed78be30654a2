# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection that breaks at any byte, in either direction: one sentence, and nothing is lost.

Each trial makes every kind of change on both sides, syncs over a link that breaks, and once more
over one that does not. The trials of a test go on from where the one before ended.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pairsync.wire import frames, handshake
from tests.engine.hostile.links import TO_AGENT, TO_SESSION, Fault, behind
from tests.engine.trees import Pair, Result, read_tree, written

DIRECTIONS = {"to the agent": TO_AGENT, "to the session": TO_SESSION}
STEP = 19  # prime, so that trials do not keep hitting the same field of frames


class Trials:
    """One pair, and what a person did to it."""

    def __init__(self, home: Path) -> None:
        self.pair = Pair(home)
        self.round = 0
        self.lost: set[bytes] = set()
        self.edit()
        self.run(Fault())

    def edit(self) -> None:
        """Every kind of change, on both sides; all contents are unlike any before."""
        self.round += 1
        a, b, now, before = self.pair.a, self.pair.b, self.round, self.round - 1
        for side, root in (("a", a), ("b", b)):
            (root / f"new-{side}-{now}").write_text(f"new on {side} {now}\n")
            (root / f"replaced-{side}").write_text(f"replaced on {side} {now}\n")
            (root / f"dir-{side}-{now}").mkdir()
            (root / f"dir-{side}-{now}/inner").write_text(f"inner of {side} {now}\n")
            if before:
                (root / f"new-{side}-{before}").unlink()
                shutil.rmtree(root / f"dir-{side}-{before}")
        (b / "both").write_text(f"both, on b {now}, loses\n")
        (a / "both").write_text(f"both, on a {now}\n")

    def run(self, fault: Fault) -> tuple[Result, list[int]]:
        """A session; also, how many bytes went each way."""
        with behind(fault) as (link, connect):
            self.pair.connect = connect
            result = self.pair.sync(prefer="a")
            assert link.agent_ends(20), (fault, "the agent waits for a session that has ended")
            return result, link.passed

    def trial(self, fault: Fault) -> Result:
        self.edit()
        everything = written(self.pair.a) | written(self.pair.b)
        first, __ = self.run(fault)
        kept = written(self.pair.a) | written(self.pair.b) | self.pair.backups()
        assert everything <= kept, (fault, everything - kept)
        if first.error:
            check_sentence(first)
        else:
            assert first.exit == 0, fault
        again, __ = self.run(Fault())
        assert again.exit == 0, (fault, again.report["error"])
        # Not degraded: the bases match whenever the connection broke.
        assert again.report["base"] == "ok", fault
        self.check_end(fault)
        return first

    def check_end(self, fault: Fault) -> None:
        now = self.round
        tree = read_tree(self.pair.a)
        assert tree == read_tree(self.pair.b), fault
        for side in "ab":
            assert tree[f"new-{side}-{now}"] == f"new on {side} {now}\n".encode()
            assert tree[f"replaced-{side}"] == f"replaced on {side} {now}\n".encode()
            assert tree[f"dir-{side}-{now}/inner"] == f"inner of {side} {now}\n".encode()
        assert tree["both"] == f"both, on a {now}\n".encode()
        assert len(tree) == 9, (fault, sorted(tree))
        assert self.pair.commit(self.pair.a) == self.pair.commit(self.pair.b)
        assert self.pair.base(self.pair.a) == self.pair.base(self.pair.b)
        for root in self.pair.roots:
            assert not list((root / ".pairsync/stage").iterdir()), "something staged is left"
        assert f"both, on b {now}, loses\n".encode() in self.pair.backups(), fault
        for root in self.pair.roots:  # of trials without number, only ten would be kept
            shutil.rmtree(root / ".pairsync/backup")


def check_sentence(result: Result) -> None:
    """The session ended with 3, and says which host, what and what to do in one sentence."""
    error = result.run.error
    assert result.exit == 3
    assert error.code in ("protocol", "unreachable", "noise"), error
    assert "gpu2" in error.sentence()
    assert error.next
    assert "\n" not in error.sentence()


@pytest.fixture
def trials() -> Iterator[Trials]:
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pairsync-", dir=place) as home:
        yield Trials(Path(home))


def offsets(trials: Trials, direction: int, step: int) -> Iterator[int]:
    """Places to break a session of these trials at, to the last byte and beyond."""
    trials.edit()
    __, passed = trials.run(Fault())
    yield from range(0, passed[direction] + step, step)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_link_cut_after_any_byte(trials, direction, figure):
    ends = [trials.trial(Fault(direction, at)).error for at in offsets(trials, direction, STEP)]
    assert {*ends} >= {"", "protocol"}
    figure("links cut after some byte of a session", len(ends))


@pytest.mark.nightly
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_link_cut_after_every_byte(trials, direction, figure):
    ends = [trials.trial(Fault(direction, at)).error for at in offsets(trials, direction, 1)]
    figure("links cut after every byte of a session", len(ends))


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_noise_in_the_stream(trials, direction, figure):
    """A shell that prints at its end, a broken multiplexer: what is no frame ends the session."""
    places = offsets(trials, direction, 101)
    mail = b"You have new mail.\r\n"
    codes = [trials.trial(Fault(direction, at, mail)).error for at in places]
    assert {*codes} >= {"", "protocol"}
    figure("sessions with noise in the stream", len(codes))


def test_noise_before_the_first_answer_is_named(trials):
    error = trials.trial(Fault(TO_SESSION, 0, b"Welcome to gpu2!\n")).run.error
    assert error.code == "noise"
    assert "Welcome to gpu2!" in error.message


@pytest.fixture
def impatient(monkeypatch):
    """Ends that give each other up after half a second of silence."""
    monkeypatch.setattr(frames, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(frames, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(frames, "CLOSE_SECONDS", 0.5)
    monkeypatch.setattr(handshake, "HANDSHAKE_SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_link_that_loses_everything_from_some_byte_on(trials, direction, figure):
    """Half-open: nobody is told, and both ends give up by themselves."""
    places = [*offsets(trials, direction, 499)]
    for at in places:
        trials.trial(Fault(direction, at, "hang"))
    figure("links that go dead at some byte of a session", len(places))
