# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems that are small, full, read-only, or particular about names; real mounts, all."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pairsync.wire.frames import FrameReader, FrameWriter
from pairsync.wire.handshake import await_agent, greet
from pairsync.wire.remote import RemoteReplica
from tests.engine.trees import ENGINE_HOME, Pair
from tests.mounts import mount, unmount

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 20


@pytest.fixture
def local(tmp_path):
    return Pair(tmp_path / "pair")


@pytest.fixture
def mounted():
    """`mounted("-t", "tmpfs", "-o", "size=1m", "none", path)`: as mount(8), until the test ends."""
    points = []

    def make(*arguments):
        point = Path(arguments[-1])
        point.mkdir(parents=True, exist_ok=True)
        mount(*arguments)
        points.append(point)
        return point

    yield make
    for point in reversed(points):
        with contextlib.suppress(subprocess.CalledProcessError):  # the test did that
            unmount(point)


@pytest.fixture
def disk(tmp_path, mounted):
    """`disk(path)`: mount a small ext4 there, and return the file that it is in."""

    def make(point, megabytes=16):
        image = tmp_path / "disk.img"
        with image.open("wb") as stream:
            stream.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True)
        mounted("-o", "loop", image, point)
        return image

    return make


@pytest.fixture
def lossy(tmp_path):
    """`lossy(path, "case", "dots")`: mount a file system with these rules (see lossyfs.py)."""
    running = []

    def make(point, *rules):
        backing = tmp_path / f"backing{len(running)}"
        backing.mkdir()
        point.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.hostile.lossyfs", backing, point, *rules],
            stdin=subprocess.PIPE,
            cwd=ROOT,
        )
        running.append((process, point))
        deadline = time.monotonic() + START_SECONDS
        while not os.path.ismount(point):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return backing

    yield make
    for process, point in running:
        unmount(point)
        process.stdin.close()
        process.wait(START_SECONDS)


# Root without what lets it pass over permissions.
BOUND = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


@pytest.fixture
def confined():
    """`confined()`, `confined("prlimit", "--fsize=65536")`: an agent in a process held short."""

    def start(*wrapper):
        process = subprocess.Popen(
            [*(wrapper or BOUND), sys.executable, "-m", "pairsync", "agent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": str(ENGINE_HOME), "PAIRSYNC_STATE": "/nonexistent"},
        )
        reader = FrameReader(process.stdout.fileno(), "b")
        writer = FrameWriter(process.stdin.fileno())

        def hang_up():
            process.stdin.close()
            process.wait(20)
            return ""

        nonce = secrets.token_hex(16)
        greet(writer, nonce, "source")
        await_agent(process.stdout.fileno(), reader, nonce, "b", "source")
        return RemoteReplica(reader, writer, "b", hang_up)

    return start
