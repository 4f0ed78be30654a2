# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks where flock fails or does not exclude other hosts: as good, but for a stopped holder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from pairsync.model.errors import PairsyncError
from pairsync.replica import lease
from pairsync.replica.lease import Lease
from pairsync.replica.lock import PairLock, root_lock
from tests.engine.trees import ENGINE_HOME, Pair, read_tree, write_tree

NO_FLOCK = f"""
import errno, os, sys, time
sys.path.insert(0, {str(ENGINE_HOME)!r})
from pairsync.replica import fsops, lease
from pairsync.replica.lock import PairLock

def no_lock(fd):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fsops.try_lock = no_lock
fd = os.open(sys.argv[1], os.O_RDONLY)
"""

HOLD = """
lease.BEAT_SECONDS = 0.05
lock = PairLock(fd, "a and b", 0, "20300101T000000Z-ab")
print("held", flush=True)
sys.stdin.readline()
time.sleep(1.1)
try:
    lock.sign.beat()
except Exception as error:
    print(error, flush=True)
else:
    print("still held", flush=True)
lock.close()
"""

# Adds one to a number in a file, again and again, in a way that only mutual exclusion makes right.
COUNT = """
for __ in range(int(sys.argv[2])):
    lock = PairLock(fd, "a and b", 60)
    with open(sys.argv[1] + "/number") as stream:
        number = int(stream.read())
    time.sleep(0.002)
    with open(sys.argv[1] + "/number", "w") as stream:
        stream.write(str(number + 1))
    lock.close()
"""


@pytest.fixture
def no_flock(failing):
    failing("try_lock", errno.ENOLCK)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lease of a pair."""
    command = [sys.executable, "-c", NO_FLOCK + HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.usefixtures("no_flock")
def test_a_second_session_is_told_who_holds_the_pair(holder, held, tmp_path):
    with pytest.raises(PairsyncError, match="run 20300101T000000Z-ab, process") as caught:
        PairLock(held(tmp_path), "a and b", 0)
    assert caught.value.code == "locked"
    assert f"process {holder.pid} on " in caught.value.message


@pytest.mark.usefixtures("no_flock")
def test_a_killed_owner_holds_nothing(holder, held, tmp_path):
    holder.kill()
    holder.wait()
    PairLock(held(tmp_path), "a and b", 0).close()


@pytest.mark.usefixtures("no_flock")
def test_it_is_given_back(held, tmp_path):
    root, state = held(tmp_path), held(tmp_path / "state")
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for __ in range(3):
        first, second = (root_lock(root, state, "gpu1:/data", 0) for __ in range(2))
        with first, pytest.raises(PairsyncError, match="gpu1:/data is in use"):
            second.__enter__()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
    # Its number stays, so that no slow waiter takes it again; nothing else does.
    assert sorted(os.listdir(tmp_path / "state")) == ["lease.3", "lock"]


@pytest.mark.usefixtures("no_flock")
def test_a_holder_that_stands_still_loses_it_and_learns_so(holder, held, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STANDSTILL_SECONDS", 0.5)
    with pytest.raises(PairsyncError, match="in use"):
        PairLock(held(tmp_path), "a and b", 2)  # it is alive: there is no time limit
    holder.send_signal(signal.SIGSTOP)
    second = PairLock(held(tmp_path), "a and b", 5)
    holder.send_signal(signal.SIGCONT)
    holder.stdin.write("\n")
    holder.stdin.flush()
    said = holder.stdout.readline()
    assert "was taken over by" in said
    assert f"process {os.getpid()} on" in said
    assert holder.wait(10) == 0
    second.sign.confirm()
    with pytest.raises(PairsyncError, match="in use"):
        PairLock(held(tmp_path), "a and b", 0)
    second.close()


@pytest.mark.usefixtures("no_flock")
def test_a_lease_of_another_host_is_over_when_it_stands_still(held, tmp_path, monkeypatch):
    """Its process cannot be seen from here, and it can die in the middle of a word."""
    for number, text in enumerate(
        [b'{"kernel": "other", "pid": 1, "started": "5"}', b"", b"[", b"7"]
    ):
        directory = tmp_path / str(number)
        fd = held(directory)
        (directory / "lease.41").write_bytes(text)
        monkeypatch.setattr(lease, "STANDSTILL_SECONDS", 30)
        with pytest.raises(PairsyncError, match="in use by another session"):
            PairLock(fd, "a and b", 0)
        monkeypatch.setattr(lease, "STANDSTILL_SECONDS", 0.3)
        PairLock(fd, "a and b", 5).close()
        assert sorted(os.listdir(directory)) == ["lease.42", "lock"]


def test_of_many_that_find_a_dead_holder_one_takes_over(held, tmp_path, monkeypatch):
    fd = held(tmp_path)
    for number in range(30):
        for path in tmp_path.glob("lease*"):
            path.unlink()
        (tmp_path / f"lease.{number}").write_bytes(b"{}")
        takers = [Lease(fd, str(one)) for one in range(8)]
        start = threading.Barrier(len(takers))
        taken = []

        def take(one, start, taken):
            start.wait()
            taken.append(one.try_take())

        threads = [threading.Thread(target=take, args=(one, start, taken)) for one in takers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert taken.count(True) == 1
        assert [one.held() for one in takers].count(True) == 1
        for one in takers:
            one.close()


def test_processes_exclude_each_other(tmp_path):
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", NO_FLOCK + COUNT, str(tmp_path), "15"]
    processes = [subprocess.Popen(command) for __ in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert (tmp_path / "number").read_text() == "60"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_sessions_work_without_flock(tmp_path, failing, code):
    failing("try_lock", code)
    pair = Pair(tmp_path)
    write_tree(pair.a, {"f": "1", "d/g": "2"})
    write_tree(pair.b, {"h": "3"})
    assert pair.sync().exit == 0
    for text in "234":  # the second time there is something displaced to be looked at
        (pair.a / "f").write_text(text)
        assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)
    assert read_tree(pair.b)["f"] == b"4"


def test_a_file_system_with_neither_is_said_to_have_neither(failing, tmp_path, held):
    failing("try_lock", errno.ENOSYS)
    failing("link", errno.EPERM)
    with pytest.raises(PairsyncError, match="neither locks nor hard links") as caught:
        PairLock(held(tmp_path), "a and b", 0)
    assert (caught.value.code, bool(caught.value.next)) == ("locked", True)
    assert os.listdir(tmp_path) == ["lock"]
