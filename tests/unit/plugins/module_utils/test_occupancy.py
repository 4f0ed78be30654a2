# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else is at an installation."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils import occupancy

READY = "import sys; print('ready', flush=True); sys.stdin.read()"


@contextlib.contextmanager
def running(*words, **options):
    """Run a program that says `ready` and then waits for the end of its input."""
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.stdin.close()


def test_a_directory_that_nobody_uses_has_no_holders(tmp_path):
    assert occupancy.holders(tmp_path) == []


def test_an_open_file_holds_its_directory(tmp_path):
    with (
        (tmp_path / "file").open("w") as stream,
        running(sys.executable, "-c", READY, stderr=stream) as pid,
    ):
        assert occupancy.holders(tmp_path) == [pid]


def test_a_path_on_the_command_line_holds_its_directory(tmp_path):
    (tmp_path / "program.py").write_text(READY)
    with running(sys.executable, str(tmp_path / "program.py")) as pid:
        assert occupancy.holders(tmp_path) == [pid]
        assert occupancy.holders(tmp_path.with_name(tmp_path.name[:-1])) == []


def test_a_working_directory_holds_itself(tmp_path):
    with running(sys.executable, "-c", READY, cwd=tmp_path) as pid:
        assert occupancy.holders(tmp_path) == [pid]


def test_a_running_program_holds_its_directory(tmp_path):
    program = tmp_path / "python"
    shutil.copy2(os.path.realpath(sys.executable), program)
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    with running("python", "-c", READY, executable=program, env=environment) as pid:
        assert occupancy.holders(tmp_path) == [pid]


HOLD = """
import fcntl, os, sys
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
print('ready', flush=True)
sys.stdin.read()
"""


def test_another_installation_is_waited_for_only_so_long(tmp_path):
    lock = tmp_path / "lock"
    with running(sys.executable, "-c", HOLD, str(lock)):
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="run this again"), occupancy.locked(lock, 0.3):
            pass
        assert time.monotonic() - started < 5
    with occupancy.locked(lock, 0.3):
        pass


def test_a_lock_whose_file_was_removed_is_not_a_lock(tmp_path):
    lock = tmp_path / "lock"
    with occupancy.locked(lock, 1):
        lock.unlink()
        # The holder's file has no name any more; a newcomer makes and locks another one.
        with occupancy.locked(lock, 1):
            assert lock.exists()
