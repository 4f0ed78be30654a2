# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times say nothing: what is old, in the future, put back or before 1970 is synced all the same."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import time

import pytest

from tests.engine.trees import Link, Pair, local_and_agent, quiet, read_tree, write_tree

SECOND = 10**9
TIMES = {
    "epoch": 0,
    "future": 4_000_000_000 * SECOND + 7,
    "far": 9_000_000_000 * SECOND,
    "before 1970": -5 * SECOND - 3,
    "before 1901": -3_000_000_000 * SECOND,
}


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path / "pair", local_and_agent)


@pytest.fixture
def synced(pair):
    write_tree(pair.a, {"f": "text", "d/g": "deep"})
    assert pair.sync().exit == 0
    return pair


def test_any_time_is_carried_and_nothing_goes_back_and_forth(pair):
    for name, when in TIMES.items():
        write_tree(pair.a, {name: name, f"link {name}": Link(name)})
        os.utime(pair.a / name, ns=(when, when))
        os.utime(pair.a / f"link {name}", ns=(when, when), follow_symlinks=False)
    assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)
    for name in TIMES:
        assert (pair.b / name).stat().st_mtime_ns == (pair.a / name).stat().st_mtime_ns
    for __ in range(2):
        assert pair.sync().report["items_total"] == 0


@pytest.mark.root
def test_a_time_that_cannot_be_carried_stops_that_file_alone(pair, mounted):
    mounted("-t", "tmpfs", "none", pair.a)
    write_tree(pair.a, {"f": "1", "g": "2", "l": Link("f")})
    assert pair.sync().exit == 0
    (pair.a / "f").write_text("changed")
    (pair.b / "g").write_text("changed")
    for name in ("f", "g", "l"):
        os.utime(pair.a / name, (1 << 34, 1 << 34), follow_symlinks=False)
    write_tree(pair.a, {"fine": "3"})
    result = pair.sync()
    assert result.exit == 2
    decided = {path: decision for path, (decision, __) in result.items.items()}
    assert decided == {"f": "error", "g": "error", "l": "error", "fine": "a->b"}
    assert "modification time" in result.report["items"][0]["reason"]
    (pair.a / "f").touch()
    (pair.a / "g").touch()
    os.utime(pair.a / "l", (1, 1), follow_symlinks=False)
    assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)


@pytest.mark.root
@pytest.mark.needs("mkfs.ext4")
def test_a_file_system_with_coarse_and_few_times(pair, tmp_path, mounted):
    """Inodes of 128 bytes hold whole seconds, from 1901 to 2038."""
    image = tmp_path / "disk.img"
    with image.open("wb") as stream:
        stream.truncate(16 << 20)
    mkfs = ["mkfs.ext4", "-q", "-F", "-I", "128", image]
    subprocess.run(mkfs, check=True, capture_output=True)
    mounted("-o", "loop", image, pair.b)
    for name, when in TIMES.items():
        write_tree(pair.a, {name: name})
        os.utime(pair.a / name, ns=(when, when))
    assert pair.sync().exit == 0
    for __ in range(2):
        assert pair.sync().report["items_total"] == 0
    for number in range(3):  # within one of its ticks
        (pair.b / "epoch").write_text(f"edit{number}")
        assert pair.sync().exit == 0
        assert (pair.a / "epoch").read_text() == f"edit{number}"


def test_an_older_file_put_back_is_a_change(synced):
    (synced.a / "f").write_text("newer")
    assert synced.sync().exit == 0
    (synced.a / "f").write_text("older")
    os.utime(synced.a / "f", (1_000_000_000, 1_000_000_000))
    assert synced.sync().exit == 0
    assert (synced.b / "f").read_text() == "older"


def test_the_same_size_and_time_do_not_hide_other_contents(synced):
    assert synced.sync().exit == 0
    before = (synced.a / "f").stat()
    (synced.a / "f").write_text("TEXT")
    os.utime(synced.a / "f", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert synced.sync().exit == 0
    assert (synced.b / "f").read_text() == "TEXT"


def test_nor_does_the_same_inode(synced):
    assert synced.sync().exit == 0
    before = (synced.a / "f").stat()
    for attempt in range(50):  # until the file system gives the number again
        (synced.a / "f").unlink()
        (synced.a / "f").write_text("TEXT")
        os.utime(synced.a / "f", ns=(before.st_atime_ns, before.st_mtime_ns))
        if (synced.a / "f").stat().st_ino == before.st_ino:
            break
        (synced.a / f"filler{attempt}").touch()
    assert synced.sync().exit == 0
    assert (synced.b / "f").read_text() == "TEXT"


def test_reading_a_file_is_no_change(synced):
    before = (synced.a / "f").stat()
    os.utime(synced.a / "f", ns=(time.time_ns(), before.st_mtime_ns))
    assert synced.sync().report["items_total"] == 0


def test_what_a_program_writes_through_its_memory_follows(synced):
    (synced.a / "f").write_bytes(bytes(8192))
    with (
        (synced.a / "f").open("r+b") as stream,
        mmap.mmap(stream.fileno(), 0) as memory,
    ):
        for text in (b"one", b"two", b"three"):
            memory[: len(text)] = text
            assert synced.sync().exit == 0
            assert (synced.b / "f").read_bytes() == bytes(memory)


def test_runs_are_named_in_utc(synced, monkeypatch):
    for zone in ("Pacific/Kiritimati", "America/Los_Angeles", ""):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            earliest = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            (synced.a / "f").write_text(f"in {zone}")
            run = synced.sync().report["run"]
            latest = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        finally:
            monkeypatch.undo()
            time.tzset()
        assert earliest <= run.partition("-")[0] <= latest
        assert len(list((synced.b / ".pairsync/backup").glob(f"{run}*"))) == 1


def test_an_executable_that_runs_is_replaced(synced):
    shutil.copy("/bin/sleep", synced.a / "f")
    assert synced.sync().exit == 0
    with subprocess.Popen([synced.b / "f", "60"]) as running:
        try:
            (synced.a / "f").write_text("#!/bin/sh\n")
            assert synced.sync().exit == 0
            assert (synced.b / "f").read_text() == "#!/bin/sh\n"
            assert running.poll() is None
        finally:
            running.kill()


def test_an_edit_while_a_person_looks_at_the_plan_stays(tmp_path):
    pair = Pair(tmp_path / "pair")
    write_tree(pair.a, {"f": "1", "g": "1", "doomed": "1", "same": "1"})
    assert pair.sync().exit == 0
    write_tree(pair.a, {"f": "2", "g": "2", "new": "2", "same": "2"})
    (pair.a / "doomed").unlink()

    def ask(__):
        write_tree(pair.b, {"f": "late", "new": "late", "doomed": "late"})
        (pair.a / "g").write_text("late!")
        return "y"

    result = pair.sync(ask=ask)
    assert result.exit == 1
    done = {path for path, (__, became) in result.items.items() if became == "done"}
    assert done == {"same"}
    assert {read_tree(pair.b)[name] for name in ("f", "new", "doomed")} == {b"late"}
    assert (pair.a / "g").read_text() == "late!"
    assert (pair.b / "g").read_text() == "1"


def test_a_directory_that_moves_away_meanwhile_takes_what_lands_with_it(tmp_path, before):
    pair = Pair(tmp_path / "pair")
    write_tree(pair.a, {"d/f": "1", "d/g": "2"})
    assert pair.sync().exit == 0
    write_tree(pair.a, {"d/f": "changed", "d/new": "3"})
    before("rename_exchange", lambda: (pair.b / "d").rename(pair.b / "moved"))
    pair.sync()
    for __ in range(3):
        last = pair.sync()
    assert quiet(last)
    seen = set(read_tree(pair.a).values()) | pair.backups()
    assert seen >= {b"1", b"2", b"changed", b"3"}
    assert read_tree(pair.a) == read_tree(pair.b)
