# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two steps at once: whatever ends one of them, nobody touches what the other still works on."""

from __future__ import annotations

import signal
import threading

import pytest

from pairsync.session import both as module
from pairsync.session import lagging
from pairsync.session.both import both
from pairsync.session.lagging import Lagging


class Hanging:
    """A step that ends when it is told to, and what was asked of it."""

    def __init__(self, stops):
        self.stops = stops
        self.began, self.ends, self.ended = (threading.Event() for __ in range(3))
        self.abandoned = False

    def __call__(self, *__):
        self.began.set()
        self.ends.wait(20)
        self.ended.set()

    def stop(self):
        if self.stops:
            self.ends.set()

    def abandon(self):
        self.abandoned = not self.ended.is_set()


@pytest.fixture
def hanging():
    made = []

    def make(*, stops):
        made.append(Hanging(stops))
        return made[-1]

    yield make
    for one in made:
        one.ends.set()


def fails():
    raise OSError("the other one")


def test_both_results_come_in_their_places():
    assert both(lambda: "a", lambda: "b", fails, fails) == ("a", "b")


def test_the_error_of_one_ends_the_other(hanging):
    step = hanging(stops=True)
    with pytest.raises(OSError, match="the other one"):
        both(step, fails, step.stop, step.abandon)
    assert step.ended.is_set()
    assert not step.abandoned


def test_what_does_not_end_is_left_alone(hanging, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.2)
    step = hanging(stops=False)
    with pytest.raises(OSError, match="the other one"):
        both(fails, step, step.stop, step.abandon)
    assert step.abandoned


def test_who_interrupts_twice_leaves_it_alone(hanging):
    step = hanging(stops=False)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        both(fails, step, interrupted, step.abandon)
    assert step.abandoned


def recorded(step):
    """All is transferred at once, and then somebody interrupts."""
    with Lagging([], (), step, step.stop, step.abandon):
        assert step.began.wait(20)
        main = threading.main_thread().ident
        threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGUSR1)).start()


@pytest.mark.parametrize("stops", [True, False])
def test_who_interrupts_a_record_so_far_does_not_take_its_replicas_away(
    hanging, monkeypatch, stops
):
    """When all is transferred, nothing but the commit that is being written is waited for."""
    monkeypatch.setattr(lagging, "LAG_SECONDS", 0.0)
    monkeypatch.setattr(lagging, "PATIENCE_SECONDS", 20.0 if stops else 0.2)
    monkeypatch.setattr(lagging.SoFar, "rows", lambda __: [(b"path", None)])

    def interrupt(*__):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    step = hanging(stops=stops)
    try:
        with pytest.raises(KeyboardInterrupt):
            recorded(step)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert step.ended.is_set() == stops
    assert step.abandoned != stops
