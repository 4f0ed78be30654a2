# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session that runs detached on this host, so that it outlives the connection that started it.

A job is three files in one directory, named after the pair, so that whoever asks for the same pair
again finds it:

    NAME.lock            locked (flock) by the session itself for as long as it lives
    NAME.events.jsonl    the session's events, one JSON object a line; the last one is the report
    NAME.stderr          what it wrote beside them

The lock is inherited by the session and by nothing else: no process id that could be reused is
ever looked at, and a dead session never looks alive.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from .pairsync.model.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

# Shell scripts, the launcher for one, take the low descriptors for their own use.
_OUT_OF_THE_WAY = 64

# How long a line of stderr may be that is passed on as the reason of a failure, in bytes.
_LAST_WORDS = 2000


# Where installations put the binary; what is run never depends on PATH.
_BINARIES = ("/usr/bin/pairsync", "/usr/local/bin/pairsync", "~/.local/bin/pairsync")


@dataclass(frozen=True)
class Job:
    """The session of one pair on this host: the directory (absolute) and the name of its files."""

    directory: str
    name: str

    def file(self, suffix: str) -> str:
        """Return the path of one of the job's files."""
        return os.path.join(self.directory, f"{self.name}.{suffix}")

    @property
    def events(self) -> str:
        """Return the path of the file with the session's events."""
        return self.file("events.jsonl")


def binaries() -> list[str]:
    """Return the places on this host in which the binary may be installed."""
    return [os.path.expanduser(place) for place in _BINARIES]


def state_home() -> str:
    """Return the directory on this host for what belongs to no replica, as the binary does."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.environ.get("PAIRSYNC_STATE") or os.path.join(base, "pairsync")


def report_path(spec: Mapping[str, Any], run: str, job: Job) -> str:
    """Return where a run's whole report is: in the replica on this host, else among its events."""
    for replica in spec["replicas"].values():
        if replica.get("local"):
            log = os.path.join(os.path.expanduser(replica["path"]), ".pairsync/log")
            path = os.path.join(log, f"{run}.json")
            if os.path.exists(path):
                return path
    return job.events


def job_of(spec: dict[str, Any], *, dry_run: bool, state_home: str) -> Job:
    """Return the job of a pair: the running one if there is, else the one that would be started.

    Its files lie in `.pairsync/log` of the replica on this host once that exists, and below
    state_home before the first sync, or when the session only relays.
    """
    identity = json.dumps([spec.get("tree", ""), spec["replicas"], dry_run], sort_keys=True)
    name = "reconcile-" + hashlib.sha256(identity.encode()).hexdigest()[:16]
    jobs = [Job(directory, name) for directory in _directories(spec, state_home)]
    for job in jobs:
        if is_running(job):
            return job
    return jobs[0]


def _directories(spec: dict[str, Any], state_home: str) -> list[str]:
    """Return the places a job of this pair can be in, the preferred one first."""
    places = []
    for replica in spec["replicas"].values():
        if isinstance(replica, dict) and replica.get("local"):
            state = os.path.join(os.path.expanduser(replica["path"]), ".pairsync")
            # A link, or somebody else's directory, is no place to write to.
            if (
                os.path.isdir(state)
                and not os.path.islink(state)
                and os.stat(state).st_uid == os.geteuid()
            ):
                places.append(os.path.join(state, "log"))
            break
    return [*places, os.path.join(state_home, "jobs")]


def is_running(job: Job) -> bool:
    """Say whether a session holds the job's lock."""
    try:
        lock = os.open(job.file("lock"), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who ask do not take each other for a session.
        return not _taken(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def _taken(lock: int, how: int) -> bool:
    """Take the lock without waiting, and say whether that succeeded."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start(job: Job, argv: list[str], spec: dict[str, Any]) -> bool:
    """Start argv with spec on its standard input; return False when the job is running already.

    Errors: OSError when the files cannot be written or argv cannot be started.
    """
    os.makedirs(job.directory, mode=0o700, exist_ok=True)
    lock = os.open(job.file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while not _taken(lock, fcntl.LOCK_EX):
            if not _taken(lock, fcntl.LOCK_SH):
                return False
            # Only somebody who asked: gone in a moment.
            fcntl.flock(lock, fcntl.LOCK_UN)
            time.sleep(0.01)
        with (
            tempfile.TemporaryFile() as asked,
            _fresh(job.events) as events,
            _fresh(job.file("stderr")) as errors,
        ):
            asked.write(json.dumps(spec).encode() + b"\n")
            asked.seek(0)
            inherited = fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
            try:
                subprocess.Popen(
                    argv,
                    stdin=asked,
                    stdout=events,
                    stderr=errors,
                    cwd="/",
                    start_new_session=True,
                    pass_fds=(inherited,),
                )
            finally:
                os.close(inherited)
    finally:
        os.close(lock)
    return True


def _fresh(path: str) -> Any:
    """Open a new file under path; whoever still reads the old one keeps it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def wait(job: Job, seconds: float) -> bool:
    """Wait for the session to end, at most so many seconds; say whether it has."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while is_running(job):
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)
    return True


def report_of(job: Job) -> Optional[dict[str, Any]]:
    """Return the report of a session that has ended, or None when it ended without one."""
    report = None
    with open(job.events, "rb") as stream:
        for line in stream:
            if b'"report"' not in line:
                continue
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the line in which a killed session stopped
            if isinstance(event, dict) and event.get("event") == "report":
                report = event.get("report")
    return report


def last_words(job: Job) -> str:
    """Return the last line that the session wrote to stderr, made printable, or an empty text."""
    try:
        with open(job.file("stderr"), "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _LAST_WORDS))
            lines = stream.read().decode("utf-8", "replace").strip().splitlines()
    except FileNotFoundError:
        return ""
    return printable(lines[-1]) if lines else ""
