# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power loss on real file systems: two hosts over ssh, one of which goes off at a chosen call.

The replica of the host that loses power lies on a disk of its own, a loop-mounted ext4 or xfs. The
power goes with the shutdown ioctl of these file systems: what was not made durable is gone when
the disk is mounted again. The other host's replica is a plain directory.

As a program, `python -m tests.engine.crash.power NUMBER COUNT ROOT ARGUMENTS…` is pairsync on a
host whose power goes right before its NUMBER-th changing call (0: never). How many such calls
there were is in the file COUNT when it ended by itself.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from pairsync import cli
from tests.engine.crash import seam
from tests.engine.trees import ENGINE_HOME, STATE, contents, read_tree, write_tree
from tests.mounts import mount

ROOT = Path(__file__).resolve().parents[3]
MKFS = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}
SIZE = "320M"  # sparse; xfs wants no less
POWER_GONE = 99

# FS_IOC_SHUTDOWN, and its flag for "do not even flush the journal": include/uapi/linux/fs.h
_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = struct.pack("I", 2)


def cut_power(directory: Path | str) -> None:
    """Take the power from the disk on which a directory lies."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, _NO_LOG_FLUSH)
    finally:
        os.close(fd)


class Disk:
    """A loop-mounted file system."""

    def __init__(self, work: Path, kind: str) -> None:
        """work: an empty directory. kind: ext4 or xfs."""
        self.kind, self._image, self.path = kind, work / "image", work / "disk"
        self.path.mkdir(parents=True)
        subprocess.run(["truncate", "--size", SIZE, self._image], check=True)
        subprocess.run([*MKFS[kind], self._image], check=True, stdout=subprocess.DEVNULL)
        self.start()

    def start(self) -> None:
        """Mount it, which replays its journal."""
        mount("-t", self.kind, "-o", "loop", self._image, self.path)

    def stop(self) -> None:
        """Unmount it; every process that used it has ended."""
        subprocess.run(["umount", self.path], check=True)

    def lose_power(self) -> None:
        """Take its power, unless it is gone already, and give it back."""
        try:
            cut_power(self.path)
        except OSError as error:
            if error.errno != errno.EIO:  # what a disk without power says to everything
                raise
        self.stop()
        self.start()


class Fleet(NamedTuple):
    """Host `a`, where sessions run, and host `b` behind ssh; the victim's replica is on `disk`."""

    work: Path
    disk: Disk
    victim: str
    ssh: Path  # the client's configuration

    @property
    def roots(self) -> dict[str, Path]:
        places = {"a": self.work / "plain", "b": self.work / "plain", self.victim: self.disk.path}
        return {side: place / "replica" for side, place in places.items()}

    @property
    def survivor(self) -> str:
        return "b" if self.victim == "a" else "a"

    def sync(self, number: int = 0) -> dict[str, Any] | None:
        """One session: its report, or None when the power went at the victim's number-th call."""
        agent = self.work / "agent"
        agent.write_text(f'#!/bin/sh\n{shlex.join(self._pairsync("b", number))} "$@"\n')
        agent.chmod(0o755)
        there = {"path": str(self.roots["b"]), "address": "bench", "binary": str(agent)}
        spec = {
            "schema": "pairsync.spec/1",
            "replicas": {
                "a": {"path": str(self.roots["a"]), "local": True},
                "b": {**there, "ssh_args": ["-F", str(self.ssh)]},
            },
        }
        done = subprocess.run(
            [*self._pairsync("a", number), "sync", "--spec", "-", "--batch", "--json"],
            input=json.dumps(spec),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1, 2, 3, POWER_GONE), done
        return None if done.returncode == POWER_GONE else json.loads(done.stdout)

    def calls(self) -> int:
        """How many changing calls the victim made in the last session."""
        return int(self._count(self.victim).read_text())

    def _count(self, side: str) -> Path:
        return self.work / f"calls-{side}"

    def _pairsync(self, side: str, number: int) -> list[str]:
        words = [str(number if side == self.victim else 0), str(self._count(side))]
        return [
            *("env", "-C", str(ROOT), f"PYTHONPATH={ROOT}:{ENGINE_HOME}", "PAIRSYNC_STATE="),
            *(sys.executable, "-m", "tests.engine.crash.power", *words, str(self.roots[side])),
        ]


def _text(name: str) -> str:
    return f"{name}\n" * 500


# What both hosts have at first, and what their users do before the power goes.
BEFORE = {
    name: _text(name)
    for name in ("keep", "gone-a", "gone-b", "edited-a", "edited-b", "sub/keep", "sub/edited-a")
}
EDITS: dict[str, dict[str, str]] = {
    "a": {
        "edited-a": _text("edited-a, second"), "sub/edited-a": _text("sub/edited-a, second"),
        "new-a": _text("new-a"), "made-a/one": _text("made-a/one"),
        "made-a/deep/two": _text("made-a/deep/two"), "checkpoint": _text("points to new-a"),
    },
    "b": {
        "edited-b": _text("edited-b, second"), "new-b": _text("new-b"),
        "made-b/one": _text("made-b/one"), "sub/new-b": _text("sub/new-b"),
    },
}  # fmt: skip


def prepare(fleet: Fleet) -> None:
    """Sync once, durably; then let the users work, and leave that in the page cache."""
    write_tree(fleet.roots["a"], BEFORE)
    fleet.roots["b"].mkdir(parents=True)
    report = fleet.sync()
    assert report is not None
    assert report["exit"] == 0, report
    subprocess.run(["sync", "-f", fleet.disk.path], check=True)
    for side, edits in EDITS.items():
        write_tree(fleet.roots[side], edits)
        (fleet.roots[side] / f"gone-{side}").unlink()


def everything(fleet: Fleet) -> set[bytes]:
    """All contents that are anywhere: replicas, and what is kept in their backups."""
    found = set()
    for root in fleet.roots.values():
        found |= {data for data in read_tree(root).values() if isinstance(data, bytes)}
        found |= contents(root / STATE / "backup")
    return found


def main() -> int:
    """Be pairsync on a host whose power goes at a call."""
    number, count, root, *arguments = sys.argv[1:]
    lock = threading.Lock()
    calls = 0

    def hook(call: seam.Call) -> Any:
        nonlocal calls
        if call.changing:
            with lock:
                calls += 1
                if calls == int(number):
                    cut_power(root)
                    os._exit(POWER_GONE)
        return call.run()

    seam.install()
    seam.set_hook(hook)
    code = cli.main(arguments)
    Path(count).write_text(str(calls), encoding="ascii")
    return code


if __name__ == "__main__":
    sys.exit(main())
