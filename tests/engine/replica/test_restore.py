# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring gives back what was there, and is as safe as a sync (P32)."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
import threading
import time

import pytest

from pairsync.model.errors import PairsyncError
from pairsync.replica import fsops, history
from pairsync.replica.history import choose, opened
from pairsync.replica.lock import root_lock
from pairsync.replica.restore import restore, restore_to
from tests.engine.trees import STATE, Link, Pair, contents, read_tree, walk, write_tree

TREE = {
    "f": "old",
    "d/one": "1",
    "d/inner/two": "2" * 300_000,
    "d/inner/link": Link("two"),
    "d/empty": None,
    "run.sh": "#!/bin/sh\n",
}


def brought(root, path="", run="", to=None, wait=1):
    """Restore; return the restoration."""
    with opened(os.fsencode(root)) as held:
        versions = choose(held, path.encode(), run)
        if to is None:
            return restore(held, versions, wait)
        return restore_to(held, versions, os.fsencode(to), wait)


def results(restoration):
    return {item.version.path.decode(): item.result for item in restoration.items}


def looks(root):
    """What a restore has to give back: contents, permissions, and times of files and links."""
    times = {
        name: status.st_mtime_ns
        for name, path, status in walk(root)
        if path.is_symlink() or not path.is_dir()
    }
    modes = {
        name: status.st_mode & 0o777 for name, path, status in walk(root) if not path.is_symlink()
    }
    return read_tree(root), times, modes


@pytest.fixture
def pair(tmp_path):
    pair = Pair(tmp_path / "pair")
    write_tree(pair.a, TREE)
    (pair.a / "run.sh").chmod(0o750)
    (pair.a / "d/inner").chmod(0o711)
    (pair.a / "d/empty").chmod(0o500)
    (pair.a / "d/inner/two").chmod(0o640)
    os.utime(pair.a / "f", (1_000_000, 1_000_000))
    os.utime(pair.a / "d/inner/link", (2_000_000, 2_000_000), follow_symlinks=False)
    assert pair.sync().exit == 0
    return pair


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def replaced_by_file(path):
    remove(path)
    path.write_text("a file now")


def replaced_by_dir(path):
    remove(path)
    write_tree(path, {"x/y": "a directory now", "z": "z"})


def replaced_by_link(path):
    remove(path)
    path.symlink_to("/etc")


@pytest.mark.parametrize(
    "name,edit",
    [
        ("f", lambda path: path.write_text("new")),
        ("f", remove),
        ("f", replaced_by_dir),
        ("f", replaced_by_link),
        ("d", remove),
        ("d", replaced_by_file),
        ("d", replaced_by_link),
        ("d/inner", replaced_by_dir),
        ("d/inner/link", remove),
        ("d/inner/link", replaced_by_file),
        ("d/empty", remove),
        ("d/empty", replaced_by_file),
    ],
)
def test_what_a_sync_took_comes_back_as_it_was_and_travels(pair, name, edit):
    before = looks(pair.b)
    edit(pair.a / name)
    assert pair.sync().exit == 0
    after = looks(pair.b)
    assert after != before
    # A directory that a sync merged something into has more in it than it had.
    more = edit is replaced_by_dir and name == "d/inner"
    done = brought(pair.b, name)
    assert set(results(done).values()) == {"done"}
    if not more:
        assert looks(pair.b) == before
    assert before[0].items() <= looks(pair.b)[0].items()
    assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)
    assert before[0].items() <= read_tree(pair.a).items()


def test_a_whole_run_and_back_again(pair):
    before = looks(pair.b)
    (pair.a / "f").write_text("new")
    shutil.rmtree(pair.a / "d")
    replaced_by_dir(pair.a / "run.sh")
    run = pair.sync().report["run"]
    done = brought(pair.b, run=run)
    assert looks(pair.b) == before
    brought(pair.b, run=done.undo)
    assert (pair.b / "f").read_text() == "new"
    assert (pair.b / "run.sh/x/y").read_text() == "a directory now"


def test_the_newest_run_that_kept_any_unless_another_is_named(pair):
    runs = []
    for text in ("2", "3"):
        (pair.a / "f").write_text(text)
        runs.append(pair.sync().report["run"])
    brought(pair.b, "f")
    assert (pair.b / "f").read_text() == "2"
    brought(pair.b, "f", run=runs[0])
    assert (pair.b / "f").read_text() == "old"


def trace(path):
    status = path.stat()
    return status.st_mode, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def test_what_is_there_already_is_left_alone(pair):
    (pair.a / "f").write_text("new")
    assert pair.sync().exit == 0
    assert results(brought(pair.b, "f")) == {"f": "done"}
    before = trace(pair.b / "f")
    with opened(os.fsencode(pair.b)) as held:
        run = history.runs(held.backup)[0].name
    done = brought(pair.b, "f", run)
    assert (results(done), done.undo) == ({"f": "unchanged"}, "")
    assert trace(pair.b / "f") == before
    (pair.b / "f").chmod(0o600)
    assert results(brought(pair.b, "f", run)) == {"f": "done"}
    assert (pair.b / "f").stat().st_mode == before[0]


# -- safety ---------------------------------------------------------------------------------------


@pytest.fixture
def emptied(pair):
    """b after a sync that replaced `f` and deleted `d`."""
    (pair.a / "f").write_text("new")
    shutil.rmtree(pair.a / "d")
    assert pair.sync().exit == 0
    return pair.b


def test_an_edit_made_meanwhile_is_not_replaced(emptied, before):
    before("rename_exchange", lambda: (emptied / "f").write_text("mine"))
    assert results(brought(emptied, "f")) == {"f": "skipped"}
    assert (emptied / "f").read_text() == "mine"


def test_a_version_that_somebody_writes_into_is_not_mixed(emptied, before):
    [version] = (emptied / STATE / "backup").glob("*/d/inner/two")

    def late():
        with version.open("ab") as stream:
            stream.write(b"late")

    before("read", late, when=lambda fd, __: os.fstat(fd).st_ino == version.stat().st_ino)
    done = brought(emptied, "d")
    assert results(done)["d/inner/two"] == "skipped"
    assert not (emptied / "d/inner/two").exists()
    assert (emptied / "d/one").read_text() == "1"


def test_nothing_is_written_through_a_link(emptied, tmp_path):
    outside = write_tree(tmp_path / "outside", {"one": "theirs"})
    (emptied / "d").symlink_to(outside)
    brought(emptied, "d/one")
    assert read_tree(outside) == {"one": read_tree(outside)["one"]}
    assert (outside / "one").read_text() == "theirs"
    assert (emptied / "d/one").read_text() == "1"
    assert not (emptied / "d").is_symlink()


def test_a_directory_that_turns_into_a_link_leads_nowhere(emptied, tmp_path, before):
    outside = write_tree(tmp_path / "outside", {})
    write_tree(emptied, {"d/inner/x": "x"})

    def flip():
        (emptied / "d/inner").rename(emptied / "d/aside")
        (emptied / "d/inner").symlink_to(outside)

    before("rename_noreplace", flip)
    brought(emptied, "d")
    assert not read_tree(outside)


@pytest.mark.parametrize("what", ["socket", "replica"])
def test_what_cannot_be_kept_is_not_replaced(emptied, what):
    (emptied / "f").unlink()
    if what == "socket":
        (emptied / "f").mkdir()
        os.mknod(emptied / "f/s", stat.S_IFSOCK | 0o600)
    else:
        write_tree(emptied / "f", {f"{STATE}/replica.json": "{}", "x": "x"})
    before = contents(emptied / "f")
    done = brought(emptied, "f")
    assert results(done) == {"f": "failed"}
    assert done.items[0].reason
    assert contents(emptied / "f") == before


def test_ignored_or_not_what_a_file_displaces_is_kept(emptied):
    (emptied / "f").unlink()
    write_tree(emptied / "f", {"x.tmp": "ignored by some pair"})
    done = brought(emptied, "f")
    assert (emptied / "f").read_text() == "old"
    brought(emptied, run=done.undo)
    assert (emptied / "f/x.tmp").read_text() == "ignored by some pair"


def test_it_waits_for_the_root_and_gives_up(emptied, held):
    root_fd, state_fd = held(emptied), held(emptied / STATE)
    with root_lock(root_fd, state_fd, "the root", 1), pytest.raises(PairsyncError) as caught:
        brought(emptied, "f", wait=0)
    assert caught.value.code == "locked"
    assert (emptied / "f").read_text() == "new"
    held_for = threading.Event()

    def hold():
        with root_lock(root_fd, state_fd, "the root", 1):
            held_for.set()
            time.sleep(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    held_for.wait()
    brought(emptied, "f", wait=30)
    holder.join()
    assert (emptied / "f").read_text() == "old"


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_copies_leave_the_replica_and_its_backup_alone(emptied, tmp_path, where):
    before = read_tree(emptied)
    to = {"outside": tmp_path / "out", "inside": emptied / "copies"}[where]
    brought(emptied, "d", to=to)
    assert (to / "d/inner/two").read_text() == "2" * 300_000
    assert (to / "d/inner").stat().st_mode & 0o777 == 0o711
    assert os.listdir(to) == ["d"]
    if where == "inside":
        shutil.rmtree(to)
    assert read_tree(emptied) == before


def test_without_space_nothing_is_touched(emptied, failing):
    failing("write", errno.ENOSPC)
    with pytest.raises((PairsyncError, OSError)):
        brought(emptied, "f")
    assert (emptied / "f").read_text() == "new"


class Crash(BaseException):
    """The process ends here: nothing that comes after is run."""


CHANGING = [
    *("rename_exchange", "rename_noreplace", "move_aside", "unlink", "remove_dir", "make_dir"),
    *("create_file", "write", "sync_file", "make_link", "set_mode", "set_mtime"),
]


def dying_at(monkeypatch, point):
    """Let the n-th call, and all after it, end the process; a function tells if it was not made."""
    left = point

    def dying(real):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left <= 0:
                raise Crash
            return real(*arguments, **options)

        return call

    for name in CHANGING:
        monkeypatch.setattr(fsops, name, dying(getattr(fsops, name)))
    return lambda: left > 0


def test_cut_short_anywhere_it_has_the_old_or_the_new_and_can_be_run_again(
    pair, tmp_path, monkeypatch
):
    """Every call that changes something in turn: no cleanup runs after it, as with kill -9."""
    replaced_by_dir(pair.a / "run.sh")
    (pair.a / "f").write_text("new")
    shutil.rmtree(pair.a / "d")
    run = pair.sync().report["run"]
    start = tmp_path / "start"
    shutil.copytree(pair.b, start, symlinks=True)
    complete = tmp_path / "complete"
    shutil.copytree(start, complete, symlinks=True)
    brought(complete, run=run)
    before, after = read_tree(start), read_tree(complete)
    kept = contents(start / STATE / "backup")
    for point in itertools.count(1):
        root = tmp_path / str(point)
        shutil.copytree(start, root, symlinks=True)
        with monkeypatch.context() as patched:
            left = dying_at(patched, point)
            with contextlib.suppress(Crash):
                brought(root, run=run)
        if left():
            break
        there = read_tree(root)
        for name in before.keys() & after.keys():
            if not (root / name).is_dir():
                assert there.get(name) in (before[name], after[name]), (point, name)
        assert kept <= contents(root), point
        brought(root, run=run)
        assert read_tree(root) == after, point
        assert not (root / STATE / "stage/restore").exists(), point
        shutil.rmtree(root)
    assert point > 40
