# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks: one holder at a time, and none that a dead owner keeps (P36)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from pairsync.model.errors import PairsyncError
from pairsync.replica import fsops, lock
from pairsync.replica.lock import PairLock, root_lock
from tests.engine.trees import ENGINE_HOME, STATE, Pair, write_tree

HOLDER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from pairsync.replica.lock import PairLock
lock = PairLock(os.open(sys.argv[2], os.O_RDONLY), "a and b", 0, "20300101T000000Z-ab")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a pair."""
    command = [sys.executable, "-c", HOLDER, str(ENGINE_HOME), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_session_is_told_who_holds_the_pair(holder, held, tmp_path):
    with pytest.raises(PairsyncError) as caught:
        PairLock(held(tmp_path), "a and b", 0)
    assert caught.value.code == "locked"
    assert "run 20300101T000000Z-ab, " in caught.value.message
    assert f"process {holder.pid} on {socket.gethostname()} since " in caught.value.message
    assert "a dead session holds no lock" in caught.value.next


def test_a_killed_owner_holds_nothing(holder, held, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    PairLock(held(tmp_path), "a and b", 0).close()


def test_a_stopped_owner_keeps_its_lock_and_its_waiters_are_told(holder, held, tmp_path):
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(PairsyncError, match="has made no progress for 1 seconds") as caught:
        PairLock(held(tmp_path), "a and b", 1)
    assert caught.value.code == "locked"
    assert f"process {holder.pid} " in caught.value.message
    holder.send_signal(signal.SIGCONT)
    with pytest.raises(PairsyncError, match="in use"):
        PairLock(held(tmp_path), "a and b", 0)


def test_a_waiter_gets_the_lock_when_it_is_released(held, tmp_path):
    directory = held(tmp_path)
    first = PairLock(directory, "a and b", 0)
    timer = threading.Timer(0.2, first.close)
    timer.start()
    PairLock(directory, "a and b", 5).close()
    timer.join()


def test_a_waiter_is_patient_while_the_holder_makes_progress(held, tmp_path):
    directory = held(tmp_path)
    first = PairLock(directory, "a and b", 0)
    stop = time.monotonic() + 2.5

    def work():
        while time.monotonic() < stop:
            first.sign.beat()
            time.sleep(0.05)
        first.close()

    thread = threading.Thread(target=work)
    thread.start()
    PairLock(directory, "a and b", 2).close()
    assert time.monotonic() >= stop
    thread.join()


def test_the_root_lock_excludes_and_ends_with_its_block(held, tmp_path):
    root, state = held(tmp_path), held(tmp_path / "state")
    with root_lock(root, state, "gpu1:/data", 0):
        second = root_lock(root, state, "gpu1:/data", 0)
        with pytest.raises(PairsyncError, match="gpu1:/data is in use"):
            second.__enter__()
    with root_lock(root, state, "gpu1:/data", 0):
        pass


def test_a_lock_leaves_no_descriptor_behind(held, tmp_path):
    root, state = held(tmp_path), held(tmp_path / "state")
    before = len(os.listdir("/proc/self/fd"))
    with root_lock(root, state, "r", 0), pytest.raises(PairsyncError):
        root_lock(root, state, "r", 0).__enter__()
    PairLock(root, "a and b", 0).close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_who_holds_the_root_shows_progress_there(tmp_path, monkeypatch):
    """For another thread, the descriptor of the lock may be that of a file an instant later."""
    pair = Pair(tmp_path)
    write_tree(pair.a, {f"to-b-{number}": "text" for number in range(8)})
    write_tree(pair.b, {"to-a": "text"})
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.0)
    root_of_a = os.fsencode(pair.a / STATE / "lock")
    landing, sent = threading.Event(), threading.Semaphore(0)
    touch, create, opened = fsops.touch, fsops.rename_noreplace, fsops.open_file
    by = set()

    def notes(fd):
        if fsops.real_path(fd) == root_of_a:
            by.add(threading.current_thread().name)
        return touch(fd)

    def lands(*arguments):
        if arguments[3] == b"to-a":
            landing.set()
            for __ in range(4):
                assert sent.acquire(timeout=20)
        return create(*arguments)

    def opens(parent, name):
        if name.startswith(b"to-b-") and threading.current_thread().name == "a":
            assert landing.wait(20)
            sent.release()
        return opened(parent, name)

    monkeypatch.setattr(fsops, "touch", notes)
    monkeypatch.setattr(fsops, "rename_noreplace", lands)
    monkeypatch.setattr(fsops, "open_file", opens)
    assert pair.sync().exit == 0
    assert by == {"b"}  # who takes from b what lands on a
