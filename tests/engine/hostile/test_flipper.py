# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory that keeps turning into a symlink, while a replica works in it.

Another process exchanges a directory of the root with a symlink to a directory outside, as often
as it can. What lies outside is never changed, and never read into the other replica: no file,
name or permission of it, whatever the kind of operation. Ten seconds each at night.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pairsync.cli import main
from pairsync.replica import fsops
from tests.engine.trees import ENGINE_HOME, Pair, fingerprints, write_tree

SECRET = b"canary: what lies outside\n"
FLIPPER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pairsync.replica import fsops
fd = os.open(sys.argv[2], os.O_RDONLY | os.O_DIRECTORY)
print(flush=True)
while True:
    try:
        fsops.rename_exchange(fd, b"d", fd, b".way-out-d")
    except FileNotFoundError:
        pass
"""
# What a session does in the directory that flips: on the sending side, and on the receiving one.
SENDING = ("scan", "hash", "send")
RECEIVING = ("create", "make", "replace", "delete", "remove", "mode", "restore")
FILES = [f"f{n}" for n in range(6)]


@pytest.fixture
def seconds(request):
    return 10.0 if request.config.getoption("nightly") else 0.6


class Yard:
    """Two replicas, a directory `d` that flips on one of them, and what it leads to.

    Only a's changes are brought over, so that a link that was met in passing does not come back.
    """

    def __init__(self, home: Path, step: str) -> None:
        self.pair = Pair(home / "pair")
        self.a, self.b = self.pair.roots
        self.outside = home / "outside"
        self.step = step
        self.flips = self.a if step in SENDING else self.b
        self.round = 0
        self.done = 0
        inner = {**dict.fromkeys(FILES, "inside, first\n"), "sub/deep": "inside\n"}
        self.tree = {**inner, "gone/x": "inside\n", "empty": None}
        # What exists inside has its like outside.
        like = {name: None if one is None else SECRET for name, one in self.tree.items()}
        write_tree(self.outside, like)
        write_tree(self.a / "d", self.tree)
        write_tree(self.b / "d", self.tree)
        (self.flips / ".way-out-d").symlink_to(self.outside)

    def sync(self):
        result = self.pair.sync(
            mode="push", ignore=("Name .way-out-*",), lock_wait=0, max_delete=100
        )
        self.done += result.report["counts"].get("a->b", {}).get("done", 0)
        return result

    def edit(self) -> None:
        """Something for the session to do in `d`."""
        self.round += 1
        d, now = self.a / "d", self.round
        if self.step == "hash":
            # As long as before, so that it has to be read to be told from it.
            self._write_inside(FILES, f"inside, {now:05}\n".encode())
        elif self.step == "send":
            self._write_inside([f"new{now}", *FILES[:3]], f"inside, as of {now}\n".encode())
        elif self.step == "create":
            write_tree(d, {f"new{now}": "from a\n", f"sub/new{now}": "from a\n"})
        elif self.step == "make":
            write_tree(d, {f"dir{now}/x": "from a\n", f"dir{now}/y/z": "from a\n"})
        elif self.step in ("replace", "restore"):
            write_tree(d, dict.fromkeys(FILES, f"from a {now}\n"))
        elif self.step == "delete":
            for name in FILES:
                self._there(name, now) or (d / name).unlink(missing_ok=True)
        elif self.step == "remove":
            for name in ("gone", "empty", "sub"):
                self._there(name, now) or shutil.rmtree(d / name, ignore_errors=True)
        elif self.step == "mode":
            for name in FILES:
                (d / name).chmod(0o600 if now % 2 else 0o644)
            (d / "sub").chmod(0o700 if now % 2 else 0o755)

    def _there(self, name: str, now: int) -> bool:
        """In every other round, what was deleted is made again."""
        if now % 2:
            return False
        again = {one: text for one, text in self.tree.items() if one.partition("/")[0] == name}
        write_tree(self.a / "d", again)
        return True

    def _write_inside(self, names: list[str], data: bytes) -> None:
        """On the side that flips, so without following it."""
        with contextlib.suppress(OSError):
            fd = os.open(self.flips / "d", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            for name in names:
                file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, dir_fd=fd)
                os.write(file, data)
                os.close(file)
            os.close(fd)


@contextlib.contextmanager
def flipping(root: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", FLIPPER, str(ENGINE_HOME), str(root)],
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("step", SENDING + RECEIVING)
def test_what_lies_outside_stays_there(tmp_path, step, seconds, figure):
    yard = Yard(tmp_path, step)
    assert yard.sync().exit == 0
    yard.done = 0
    before = fingerprints(yard.outside)
    ends = []
    end = time.monotonic() + seconds
    with flipping(yard.flips) as process:
        while time.monotonic() < end or (not yard.done and time.monotonic() < end + 20):
            yard.edit()
            result = yard.sync()
            if step == "restore" and yard.done:
                main(["restore", str(yard.flips), "d"])
                main(["restore", str(yard.flips), "d/f1"])
            ends.append(result.error)
            assert fingerprints(yard.outside) == before, (step, result.report["items"])
            assert process.poll() is None
    for root in yard.pair.roots:
        for place, __, names in os.walk(root):  # follows no symlink
            for name in names:
                path = Path(place, name)
                assert path.is_symlink() or path.read_bytes() != SECRET, f"{path} is from outside"
    assert not any(ends)
    assert yard.done, "nothing of it was ever done"
    straighten(yard)
    assert yard.sync().run.error is None
    assert fingerprints(yard.outside) == before
    figure("sessions beside a directory that flips with a symlink", len(ends))


def straighten(yard: Yard) -> None:
    """Let `d` be the directory again, wherever the flipper left it."""
    if (yard.flips / "d").is_symlink():
        fd = os.open(yard.flips, os.O_RDONLY | os.O_DIRECTORY)
        fsops.rename_exchange(fd, b"d", fd, b".way-out-d")
        os.close(fd)


def test_the_flipper_leads_astray_who_does_not_look(tmp_path, seconds):
    """The control: plain paths do get outside, so the tests above would notice."""
    yard = Yard(tmp_path, "replace")
    end = time.monotonic() + seconds + 5
    with flipping(yard.b):
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError):
                if (yard.b / "d/f1").read_bytes() == SECRET:
                    return
    pytest.fail("it was never led outside")
