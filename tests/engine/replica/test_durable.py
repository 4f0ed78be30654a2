# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Durable before recorded: each thing where errors are told, and everything where it is cheaper."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from pairsync.model.entry import FILE, Entry
from pairsync.model.errors import PairsyncError
from pairsync.replica import durable, fsops
from pairsync.replica.base import Base
from pairsync.replica.tree import Tree
from tests.engine.trees import STATE, Link, Pair, write_tree

MANY = durable.FEW + 4


@pytest.fixture
def local(tmp_path):
    return Pair(tmp_path / "pair")


class Flushed:
    """What was made durable since the last commit was written, by root."""

    def __init__(self, pair, monkeypatch):
        self.pair = pair
        self.now = {}
        self.seen = {}
        sync_file, sync_all, write = fsops.sync_file, fsops.sync_file_system, Base.write_pending

        def one(fd):
            sync_file(fd)
            self._note(fd, one=True)

        def everything(fd):
            self._note(fd, one=False)
            return sync_all(fd)

        def recorded(base, commit, rows, coverage=""):
            checksum = write(base, commit, rows, coverage)
            self.seen = {root: set(paths) for root, paths in self.now.items()}
            return checksum

        monkeypatch.setattr(fsops, "sync_file", one)
        monkeypatch.setattr(fsops, "sync_file_system", everything)
        monkeypatch.setattr(Base, "write_pending", recorded)

    def _note(self, fd, *, one):
        path = os.fsdecode(fsops.real_path(fd))
        for root in self.pair.roots:
            if path == str(root) or path.startswith(f"{root}/"):
                inner = os.path.relpath(path, root)
                if not inner.startswith(STATE) or not one:
                    self.now.setdefault(root.name, set()).add(inner if one else "everything")

    def during(self, **policy):
        """What was flushed before the bases were written, on a and on b."""
        self.now, self.seen = {}, {}
        result = self.pair.sync(**policy)
        assert result.exit == 0, result.report
        return self.seen.get("a", set()), self.seen.get("b", set())


@pytest.fixture
def flushed(local, monkeypatch):
    return Flushed(local, monkeypatch)


def test_sent_and_received_files_with_their_directories(local, flushed):
    write_tree(local.a, {"d/e/f": "text", "l": Link("d"), "empty": None})
    on_a, on_b = flushed.during()
    assert on_a == {"d/e/f", "d/e", "d", "empty", "."}
    assert on_b >= on_a


def test_what_both_sides_had_already(local, flushed):
    for root in local.roots:
        write_tree(root, {"d/f": "text"})
    assert flushed.during() == ({"d/f", "d", "."}, {"d/f", "d", "."})


def test_large_equal_trees_take_one_flush_each(local, flushed):
    for root in local.roots:
        write_tree(root, {f"d{number % 3}/f{number}": str(number) for number in range(MANY)})
    assert flushed.during() == ({".", "everything"}, {".", "everything"})  # "." with its marker


def test_links_are_as_durable_as_their_directory(local, flushed):
    write_tree(local.a, {"d/f": "text"})
    local.sync()
    write_tree(local.a, {"d/l": Link("f")})
    assert flushed.during() == ({"d"}, {"d"})


def test_a_deletion_is_durable_on_both_sides(local, flushed):
    write_tree(local.a, {"d/f": "text", "d/g": "more", "gone/e/f": "text"})
    local.sync()
    (local.a / "d/f").unlink()
    (local.a / "gone/e/f").unlink()
    (local.a / "gone/e").rmdir()
    (local.a / "gone").rmdir()
    assert flushed.during() == ({"d", "."}, {"d", "."})


def test_permissions_are_durable_on_both_sides(local, flushed):
    write_tree(local.a, {"d/f": "text", "e": None})
    local.sync()
    (local.a / "d/f").chmod(0o600)
    (local.a / "e").chmod(0o700)
    expected = {"d/f", "d", "e", "."}
    assert flushed.during() == (expected, expected)


def test_a_type_change_is_durable(local, flushed):
    write_tree(local.a, {"x/f": "text"})
    local.sync()
    (local.a / "x/f").unlink()
    (local.a / "x").rmdir()
    write_tree(local.a, {"x": "a file now"})
    on_a, on_b = flushed.during()
    assert on_a == {"x", "."}
    assert on_b >= on_a


def test_what_was_moved_after_it_was_sent_is_durable_under_its_new_name(local, flushed, before):
    write_tree(local.a, {"f": "text", "d/g": "other"})
    before("rename_noreplace", lambda: (local.a / "f").rename(local.a / "moved"))
    on_a, __ = flushed.during()
    assert "everything" in on_a


@pytest.mark.root
def test_what_may_not_be_opened_is_durable_with_everything(local, flushed, failing):
    write_tree(local.a, {"f": "text"})
    local.sync()
    write_tree(local.a, {"f": "more"})
    (local.a / "f").chmod(0o200)
    here = (local.b.stat().st_dev, local.b.stat().st_ino)

    def on_b(parent, name):
        status = os.fstat(parent)
        return name == b"f" and (status.st_dev, status.st_ino) == here

    failing("open_file", errno.EACCES, on_b)
    assert "everything" in flushed.during()[1]


@pytest.mark.parametrize("number", [1, MANY])
def test_a_failure_on_either_side_records_nothing(local, failing, number):
    write_tree(local.a, {"first": "text"})
    local.sync()
    for root in local.roots:
        write_tree(root, {f"f{one}": "text" for one in range(number)})
    for root in local.roots:
        with pytest.MonkeyPatch.context() as patch:
            call = "sync_file" if number == 1 else "sync_file_system"
            real = getattr(fsops, call)

            def fails(fd, real=real, root=root):
                path = fsops.real_path(fd)
                if path.startswith(os.fsencode(root)) and STATE.encode() not in path:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return real(fd)

            patch.setattr(fsops, call, fails)
            result = local.sync()
        assert result.exit == 3
        assert "durable" in result.report["error"]["message"]
        # One may have its pending commit by then; the next session sees that the other has not.
        for other in local.roots:
            assert set(local.base(other)) == {"first"}


@pytest.mark.parametrize("release", ["5.7.19", "4.18.0-553.el8.x86_64", "unknown"])
def test_an_old_kernel_hides_the_errors_of_syncfs(held, tmp_path, monkeypatch, release):
    called = []
    monkeypatch.setattr(fsops, "sync_file_system", called.append)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "", release, "", "")))
    assert durable.sync_all(held(tmp_path)) is False
    assert not called


@pytest.mark.parametrize("kind", ["nfs4 host:/x", "fuse.sshfs x", "overlay", "cifs //x", "9p"])
def test_some_file_systems_hide_the_errors_of_syncfs(held, tmp_path, monkeypatch, kind):
    called = []
    monkeypatch.setattr(fsops, "sync_file_system", called.append)
    monkeypatch.setattr(durable.guard, "file_system", lambda __: kind)
    assert durable.sync_all(held(tmp_path)) is False
    assert not called


def test_where_errors_are_hidden_many_are_made_durable_one_by_one(local, flushed, monkeypatch):
    monkeypatch.setattr(durable, "_TELLING", frozenset())
    names = {f"d/f{number}" for number in range(MANY)}
    for root in local.roots:
        write_tree(root, dict.fromkeys(names, "text"))
    assert flushed.during() == (names | {"d", "."}, names | {"d", "."})


def test_where_errors_are_hidden_a_missing_file_hides_none(held, tmp_path, failing, monkeypatch):
    """What is left to syncfs then could be lost without a word."""
    monkeypatch.setattr(durable, "_TELLING", frozenset())
    write_tree(tmp_path, {"d/f": "text"})
    directory = (tmp_path / "d").stat().st_ino
    failing("sync_file", errno.EIO, lambda fd: os.fstat(fd).st_ino == directory)
    tree = Tree(os.dup(held(tmp_path)))
    rows = {b"d/f": Entry(FILE), b"d/gone since": Entry(FILE)}
    with pytest.raises(PairsyncError, match="durable"):
        durable.make_durable(tree, rows)
    tree.close()


def test_directories_that_know_no_fsync_are_as_durable_as_they_can_be(local, failing):
    failing("sync_file", errno.EINVAL, lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode))
    write_tree(local.a, {"f": "text", "d/g": "text"})
    assert local.sync().exit == 0
    (local.b / "f").write_text("another")
    assert local.sync().exit == 0


def test_any_other_failure_is_fatal(held, tmp_path, failing):
    failing("sync_file", errno.ENOSPC)
    with pytest.raises(PairsyncError, match="durable"):
        durable.sync_one(held(tmp_path))
