# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one command and take its measurements, at both ends of its ssh connection."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Between two looks at the peak of memory, which the kernel keeps: only its last moments are missed.
LOOK_SECONDS = 0.1
REAPED_SECONDS = 10
TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A tool failed, or did not do what it was asked for; the text is for the user."""


@dataclass(frozen=True)
class Usage:
    """What one run took.

    seconds: until the command ended. durable: until what it wrote was on disk as well. cpu_here
    and cpu_there: seconds of all processes on the side of the command, and on that of sshd.
    peak_here and peak_there: bytes of the largest process of each side.
    """

    seconds: float
    durable: float
    cpu_here: float
    cpu_there: float
    peak_here: int
    peak_there: int


def run(
    argv: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    sshd: int,
    flush: Path | None,
    log: Path,
) -> Usage:
    """Run a command to its end; raise BenchError with the end of its output when it fails.

    sshd: process id of the sshd that serves it. flush: a directory whose file system has to be
    made durable by us afterwards; None when the command does that itself.
    """
    there = _cpu_of_children(sshd)
    here = _cpu_here()
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
        with _Watch(process.pid, sshd) as peaks:
            code = process.wait()
            seconds = time.monotonic() - started
    durable = seconds
    if code != 0:
        said = log.read_text(errors="replace")[-2000:].strip()
        raise BenchError(f"{argv[0]} ended with status {code}: {said or 'it said nothing'}")
    if flush is not None:
        subprocess.run(["sync", "-f", flush], check=True)
        durable = time.monotonic() - started
    _await_reaped(sshd)
    return Usage(
        seconds=seconds,
        durable=durable,
        cpu_here=_cpu_here() - here,
        cpu_there=_cpu_of_children(sshd) - there,
        peak_here=peaks.here,
        peak_there=peaks.there,
    )


class _Watch:
    """Looks at the peak of memory of two process trees, in a thread, until left."""

    def __init__(self, here: int, there: int) -> None:
        self.here = self.there = 0
        self._roots = here, there
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *__: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self.here = max(self.here, _peak(self._roots[0]))
            # Not sshd itself, which is no part of the run.
            self.there = max(self.there, *map(_peak, _children(self._roots[1])), 0)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _peak(pid: int) -> int:
    """Bytes of the largest process among one and those it started (by its first thread)."""
    peak = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak = int(line.split()[1]) * 1024
    return max([peak, *map(_peak, _children(pid))])


def _cpu_here() -> float:
    """CPU seconds of all children that have ended, with their own."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_of_children(pid: int) -> float:
    """The same of another process, to a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICKS


def _await_reaped(sshd: int) -> None:
    """Wait until sshd's sessions have ended; their time is sshd's only then."""
    end = time.monotonic() + REAPED_SECONDS
    while _children(sshd):
        if time.monotonic() > end:
            raise BenchError("a session of sshd does not end although its client has")
        time.sleep(0.01)
