# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Detached sessions: they outlive who started them, and whoever asks again finds them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils import jobs

# Stands for a session: reads the specification, waits until a file appears, and reports.
SESSION = """
import json, os, sys, time
spec = json.loads(sys.stdin.readline())
print(json.dumps({"event": "hello"}), flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
print("done waiting", file=sys.stderr)
if len(sys.argv) == 2:
    print(json.dumps({"event": "report", "report": {"exit": 0, "tree": spec["tree"]}}), flush=True)
"""


@pytest.fixture
def spec(tmp_path):
    replicas = {"a": {"path": str(tmp_path / "root"), "local": True}, "b": {"path": "/data"}}
    return {"schema": "pairsync.spec/1", "tree": "model_dir", "replicas": replicas}


def job_of(spec, tmp_path):
    return jobs.job_of(spec, dry_run=False, state_home=str(tmp_path / "state"))


def session(tmp_path, *more):
    """A session behind a shell that uses descriptors itself, as the launcher does."""
    shell = ["/bin/sh", "-c", 'read -r _ 3<&0 </dev/null; exec "$@" 3<&- 4<&- 5<&-', "launcher"]
    return [*shell, sys.executable, "-c", SESSION, str(tmp_path / "go"), *more]


def test_a_session_is_found_by_its_pair_and_ends_with_its_report(spec, tmp_path):
    job = job_of(spec, tmp_path)
    assert not jobs.is_running(job)
    assert jobs.start(job, session(tmp_path), spec)
    assert jobs.is_running(job_of(spec, tmp_path))
    assert not jobs.start(job, session(tmp_path), spec), "a second one was started"
    assert not jobs.wait(job, 0.1)
    (tmp_path / "go").touch()
    assert jobs.wait(job, 10)
    assert jobs.report_of(job) == {"exit": 0, "tree": "model_dir"}
    assert jobs.last_words(job) == "done waiting"


def test_a_session_goes_on_when_its_starter_is_killed(spec, tmp_path):
    job = job_of(spec, tmp_path)
    starter = (
        "import json, sys, time;"
        "from ansible_collections.pairsync.fleet.plugins.module_utils import jobs;"
        "directory, name, argv, spec = json.load(sys.stdin);"
        "jobs.start(jobs.Job(directory, name), argv, spec);"
        "print('started', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", starter],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    process.stdin.write(json.dumps([job.directory, job.name, session(tmp_path), spec]).encode())
    process.stdin.close()
    assert process.stdout.readline() == b"started\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert jobs.is_running(job)
    (tmp_path / "go").touch()
    assert jobs.wait(job, 10)
    assert jobs.report_of(job)["exit"] == 0


def test_a_killed_session_is_not_running_and_has_no_report(spec, tmp_path):
    job = job_of(spec, tmp_path)
    (tmp_path / "go").touch()
    assert jobs.start(job, session(tmp_path, "silent"), spec)
    assert jobs.wait(job, 10)
    assert jobs.report_of(job) is None


def test_another_pair_and_a_plan_are_other_jobs(spec, tmp_path):
    job = job_of(spec, tmp_path)
    plan = jobs.job_of(spec, dry_run=True, state_home=str(tmp_path / "state"))
    other = job_of({**spec, "tree": "logs"}, tmp_path)
    assert len({job.name, plan.name, other.name}) == 3


def test_files_lie_in_the_replica_once_it_has_a_place_for_them(spec, tmp_path):
    assert job_of(spec, tmp_path).directory == str(tmp_path / "state/jobs")
    (tmp_path / "root/.pairsync").mkdir(parents=True)
    assert job_of(spec, tmp_path).directory == str(tmp_path / "root/.pairsync/log")


def test_a_running_session_is_found_where_it_was_started(spec, tmp_path):
    job = job_of(spec, tmp_path)
    jobs.start(job, session(tmp_path), spec)
    (tmp_path / "root/.pairsync").mkdir(parents=True)
    assert job_of(spec, tmp_path) == job
    (tmp_path / "go").touch()
    assert jobs.wait(job, 10)


def test_a_linked_state_directory_is_not_written_to(spec, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root/.pairsync").symlink_to(tmp_path / "elsewhere")
    assert job_of(spec, tmp_path).directory == str(tmp_path / "state/jobs")


def test_asking_does_not_keep_a_session_from_starting(spec, tmp_path):
    job = job_of(spec, tmp_path)
    os.makedirs(job.directory)
    asking = os.open(job.file("lock"), os.O_RDWR | os.O_CREAT)
    jobs.fcntl.flock(asking, jobs.fcntl.LOCK_SH)
    child = os.fork()
    if child == 0:
        time.sleep(0.2)
        os._exit(0)
    os.close(asking)
    (tmp_path / "go").touch()
    assert jobs.start(job, session(tmp_path), spec)
    os.waitpid(child, 0)
    assert jobs.wait(job, 10)
