# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session that breaks off says what it has done until then (P37)."""

from __future__ import annotations

import errno
import os

import pytest

from pairsync.model.report import changed
from pairsync.replica import fsops, receive
from pairsync.replica.local import LocalReplica
from tests.engine.session.served import Served
from tests.engine.trees import Pair, both_local, read_tree, write_tree

NUMBER = 60
SIZE = 64 << 10  # so that a pipe carries them in many pieces


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """New files to go from a to b, in batches of a few."""
    monkeypatch.setattr(receive, "BATCH_FILES", 10)
    pair = Pair(tmp_path / "pair")
    write_tree(pair.a, {f"f{number:02}": bytes([number]) * SIZE for number in range(NUMBER)})
    return pair


def done_in(pair, result):
    """What the report calls done, checked against what is there."""
    done = {path for path, (__, became) in result.items.items() if became == "done"}
    assert done <= set(read_tree(pair.b))
    assert changed(result.run) == bool(done)
    assert set(result.items) == set(read_tree(pair.a))
    for item in result.report["items"]:
        assert item["result"] == "done" or item["reason"]
    return done


def goes_on(pair):
    assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)


class Dying(LocalReplica):
    """Sends so many files, then something happens."""

    def __init__(self, happens, after=45):
        super().__init__()
        self.happens, self.after = happens, after

    def send(self, wanted):
        for number, record in enumerate(super().send(wanted)):
            if number == self.after:
                self.happens()
            yield record


def disk_error():
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_the_disk_of_the_source_dies(pair):
    pair.connect = lambda: (Dying(disk_error), LocalReplica())
    result = pair.sync()
    assert result.error == "space"
    done = done_in(pair, result)
    assert done == set(read_tree(pair.b))
    assert 30 <= len(done) < NUMBER
    pair.connect = both_local
    goes_on(pair)


class Agent(Served):
    """Takes so many files, then something happens."""

    def __init__(self, happens, after=45):
        super().__init__()
        self.happens, self.left = happens, after

    def feed(self, record):
        self.left -= 1
        if not self.left:
            self.happens(self)
        super().feed(record)


def goes_silent(agent):
    """The host is gone: all that it says from now on reaches nobody."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, agent.says)
    os.close(nowhere)


@pytest.mark.parametrize("happens", [lambda __: disk_error(), goes_silent], ids=["disk", "host"])
def test_the_other_host_dies(pair, happens):
    pair.connect = lambda: (LocalReplica(), Agent(happens).connected())
    result = pair.sync()
    assert result.error == ("protocol" if happens is goes_silent else "space")
    # What it acknowledged before is known here.
    assert 20 <= len(done_in(pair, result)) < NUMBER
    pair.connect = both_local
    goes_on(pair)


def test_the_disk_of_the_target_dies_while_files_are_replaced(pair, monkeypatch):
    assert pair.sync().exit == 0
    for number in range(NUMBER):
        write_tree(pair.a, {f"f{number:02}": bytes([number + 1]) * SIZE})
    exchange, calls = fsops.rename_exchange, []

    def dying(*names):
        calls.append(names)
        if len(calls) > 7:
            disk_error()
        return exchange(*names)

    with monkeypatch.context() as patch:
        patch.setattr(fsops, "rename_exchange", dying)
        result = pair.sync()
    assert result.error == "space"
    assert result.report["counts"]["a->b"] == {"done": 7, "skipped": NUMBER - 7}
    now, new = read_tree(pair.b), read_tree(pair.a)
    assert done_in(pair, result) == {name for name in now if now[name] == new[name]}
    goes_on(pair)


def test_somebody_interrupts(pair):
    def interrupt():
        raise KeyboardInterrupt

    pair.connect = lambda: (Dying(interrupt), LocalReplica())
    write_tree(pair.b, {"f00": bytes(SIZE)})
    result = pair.sync()
    assert result.error == "interrupted"
    assert result.report["counts"]["a->b"]["done"] >= 30
    assert result.report["counts"]["equal"] == {"skipped": 1}, "nothing was agreed on"
    pair.connect = both_local
    goes_on(pair)
