# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scan: what it sees, what it reads, and what it says of that which it cannot see."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from pairsync.model.entry import DIR, FILE, LINK, PROBLEM, SPECIAL, status
from pairsync.model.pathspec import PathSet
from pairsync.replica import fsops, walk
from pairsync.replica.base import Base
from pairsync.replica.digest import digest_bytes
from pairsync.replica.index import Index
from pairsync.replica.walk import Rules, scan
from tests.engine.trees import STATE, Link, entries, write_tree

TREE = {"f": "text", "d/g": "deep", "d/e/h": "deeper", "l": Link("f"), "empty": None}


class Root:
    def __init__(self, tmp_path, held):
        self.path = write_tree(tmp_path / "root", TREE)
        self.fd = held(self.path)
        self.base = Base(held(tmp_path / "state"), "pair")
        self.index = Index()

    def agree(self):
        """The base becomes what is there now."""
        rows = [(path.encode(), entry) for path, entry in entries(self.path).items()]
        self.base.write_pending("commit", rows)
        self.base.promote()

    def scan(self, *, ignore=(), last=(), paths=(), mounts=(), base=True):
        rules = Rules(
            PathSet(ignore),
            PathSet(last),
            tuple(path.encode() for path in paths),
            frozenset(path.encode() for path in mounts),
        )
        found = scan(self.fd, rules, self.base if base else None, self.index)
        self.index.listings = found.listings
        return found

    def told(self, **rules):
        """Path to status of every change."""
        changes = self.scan(**rules).changes
        return {path.decode(): status(change) for path, change in changes.items()}


@pytest.fixture
def root(tmp_path, held):
    root = Root(tmp_path, held)
    yield root
    root.base.close()


def test_without_a_base_everything_is_new_and_nothing_is_read(root, failing):
    failing("read", errno.EIO)
    found = root.scan(base=False)
    assert found.entries == 7
    kinds = {path.decode(): change.after.kind for path, change in found.changes.items()}
    assert kinds == {
        "d": DIR, "d/e": DIR, "d/e/h": FILE, "d/g": FILE, "empty": DIR, "f": FILE, "l": LINK,
    }  # fmt: skip
    assert found.changes[b"f"].after.digest is None
    assert found.changes[b"l"].after.target == b"f"


def test_changes_come_in_path_order(root):
    write_tree(root.path, {"d-": "sorts after what is in d", "d.x": "as does this"})
    assert list(root.told(base=False)) == [
        "d",
        "d/e",
        "d/e/h",
        "d/g",
        "d-",
        "d.x",
        "empty",
        "f",
        "l",
    ]


def test_what_agrees_with_the_base_is_no_change(root):
    root.agree()
    assert root.told() == {}


def test_every_kind_of_change(root):
    root.agree()
    (root.path / "f").write_text("other contents")
    (root.path / "d/g").chmod(0o600)
    (root.path / "d/e/h").unlink()
    (root.path / "l").unlink()
    (root.path / "l").mkdir()
    write_tree(root.path, {"new": "x"})
    assert root.told() == {
        "d/e/h": "deleted", "d/g": "props", "f": "changed", "l": "changed", "new": "new",
    }  # fmt: skip


def test_what_was_in_a_directory_that_is_gone_is_deleted(root):
    root.agree()
    for name in ("d/e/h", "d/g"):
        (root.path / name).unlink()
    (root.path / "d/e").rmdir()
    (root.path / "d").rmdir()
    (root.path / "d").write_text("a file now")
    told = {"d": "changed", "d/e": "deleted", "d/e/h": "deleted", "d/g": "deleted"}
    assert root.told() == told


def test_a_file_of_the_same_size_is_read_once(root, monkeypatch):
    root.agree()
    (root.path / "f").write_text("TEXT")
    found = root.scan()
    assert found.changes[b"f"].after.digest == digest_bytes(b"TEXT")
    monkeypatch.setattr(walk, "digest_file", lambda *__: pytest.fail("read again"))
    assert root.scan().changes == found.changes


def test_a_file_of_another_size_stays_lazy(root, monkeypatch):
    root.agree()
    root.scan()
    (root.path / "f").write_text("another size")
    monkeypatch.setattr(walk, "digest_file", lambda *__: pytest.fail("read"))
    assert root.scan().changes[b"f"].after.digest is None


def test_a_rewrite_with_the_time_put_back_is_seen(root):
    root.agree()
    root.scan()
    before = (root.path / "f").stat()
    (root.path / "f").write_text("TEXT")
    os.utime(root.path / "f", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert root.told() == {"f": "changed"}


def test_a_file_that_changes_while_it_is_hashed_stays_lazy(root, before):
    root.agree()
    (root.path / "f").write_text("TEXT")

    def edit():
        (root.path / "f").write_text("late")

    before("read", edit, when=lambda fd, __: os.readlink(f"/proc/self/fd/{fd}").endswith("/f"))
    change = root.scan().changes[b"f"]
    assert change.after.digest is None
    assert status(change) == "changed"


def test_nothing_of_our_own_is_seen(root):
    write_tree(root.path, {f"{STATE}/x": "state", f"d/{STATE}/y": "a replica below"})
    found = root.scan(base=False)
    assert not any(STATE.encode() in path for path in found.changes)
    assert found.hidden == {b"d"}


def test_ignored_content_is_hidden_and_its_rows_are_dropped(root):
    root.agree()
    (root.path / "d/e/h").unlink()
    found = root.scan(ignore=["Path d/e", "Name f"])
    assert found.changes == {}
    assert found.hidden == {b"", b"d"}
    assert sorted(found.dropped) == [b"d/e", b"f"]


def test_paths_restrict_a_scan(root):
    root.agree()
    (root.path / "f").unlink()
    write_tree(root.path, {"d/g": "changed", "new/sub/x": "1", "new/other": "2"})
    assert root.told(paths=["d"]) == {"d/g": "changed"}
    assert root.told(paths=["new/sub"]) == {"new": "new", "new/sub": "new", "new/sub/x": "new"}


def test_links_are_never_followed(root):
    write_tree(root.path.parent, {"outside/secret": "x"})
    (root.path / "d/out").symlink_to("../../outside")
    (root.path / "loop").symlink_to(".")
    told = root.told(base=False)
    assert told["d/out"] == told["loop"] == "new"
    assert "d/out/secret" not in told


def test_a_directory_that_turns_into_a_link_is_a_problem(root, before):
    write_tree(root.path.parent, {"outside/secret": "x"})
    root.agree()

    def flip():
        (root.path / "d").rename(root.path.parent / "moved")
        (root.path / "d").symlink_to("../outside")

    before("open_dir", flip, when=lambda __, name: name == b"d")
    changes = root.scan().changes
    assert changes[b"d"].after.kind == PROBLEM
    assert not any(path.startswith(b"d/") for path in changes)


@pytest.mark.parametrize("call", ["open_dir", "list_dir"])
def test_what_cannot_be_listed_is_unknown_not_empty(root, failing, call):
    """P20"""
    root.agree()
    inode = (root.path / "d").stat().st_ino

    def of_d(fd, *name):
        return name == (b"d",) or (not name and os.fstat(fd).st_ino == inode)

    failing(call, errno.EACCES, of_d)
    changes = root.scan().changes
    assert list(changes) == [b"d"]
    assert changes[b"d"].after.kind == PROBLEM
    assert b"Permission denied" in changes[b"d"].after.target


def test_what_cannot_be_read_is_unknown(root, failing):
    root.agree()
    (root.path / "f").write_text("TEXT")
    failing("open_file", errno.EACCES)
    assert {p.decode(): status(c) for p, c in root.scan().changes.items() if p == b"f"} == {
        "f": "problem"
    }


def test_a_problem_is_seen_again_although_nothing_else_changed(root, failing, monkeypatch):
    root.agree()
    root.scan()
    root.scan()
    failing("open_dir", errno.EACCES, lambda __, name: name == b"d")
    assert root.told() == {"d": "problem"}


def test_special_files_and_mounts_are_special(root):
    os.mkfifo(root.path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{root.fd}/socket")  # a short name of a long path
    changes = root.scan(base=False, mounts=["d"]).changes
    kinds = {name: changes[name].after.kind for name in (b"pipe", b"socket", b"d")}
    assert set(kinds.values()) == {SPECIAL}
    assert not any(path.startswith(b"d/") for path in changes)


def test_below_a_certain_depth_there_is_a_problem_and_no_descriptor_is_left(root, monkeypatch):
    monkeypatch.setattr(walk, "MOST_LEVELS", 1)
    before = len(os.listdir("/proc/self/fd"))
    changes = root.scan(base=False).changes
    assert changes[b"d/e"].after.kind == PROBLEM
    assert b"1 levels deep" in changes[b"d/e"].after.target
    assert b"d/e/h" not in changes
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pointer_that_moves_during_the_scan_is_unsettled(root, before):
    write_tree(root.path, {"run/checkpoint": "1", "run/model": "x", "run/other": "y"})
    root.agree()
    (root.path / "run/checkpoint").write_text("22")

    def move():
        (root.path / "run/checkpoint").write_text("333")

    inode = (root.path / "run").stat().st_ino
    before("list_dir", move, 2, when=lambda fd: os.fstat(fd).st_ino == inode)
    changes = root.scan(last=["Name checkpoint"]).changes
    assert changes[b"run/checkpoint"].unsettled
    assert not root.scan(last=["Name checkpoint"]).changes[b"run/checkpoint"].unsettled


@pytest.mark.parametrize("marked", [False, True])
def test_deletions_around_a_pointer_that_moves_during_the_scan_are_unsettled(root, before, marked):
    """The pointer was looked at first, and was as it was agreed on."""
    files = {"run/checkpoint": "1", "run/model-1/x": "x", "else": "y", "apart/checkpoint": "1"}
    write_tree(root.path, files)
    root.agree()
    if marked:
        root.index.marks = root.scan().marks
        assert b"run" in root.index.marks
    (root.path / "run/model-1/x").unlink()
    (root.path / "else").unlink()
    inode = (root.path / "run/model-1").stat().st_ino
    before(
        "list_dir",
        lambda: (root.path / "run/checkpoint").write_text("22"),
        when=lambda fd: os.fstat(fd).st_ino == inode,
    )
    changes = root.scan(last=["Name checkpoint"]).changes
    assert changes[b"run/model-1/x"].unsettled
    assert not changes[b"else"].unsettled
    assert b"run/checkpoint" not in changes


def point(path, target):
    """Move a symlink as `ln -sfn` does."""
    path.with_name("new").symlink_to(target)
    path.with_name("new").rename(path)


@pytest.mark.parametrize("when", ["stat", "listing", "walk"])
def test_a_symlink_that_moves_during_the_scan_is_unsettled(root, before, when):
    """`latest` is as often a link: it is looked at before the listing, and again after it."""
    write_tree(root.path, {"run/latest": Link("model-1"), "run/model-1/x": "x"})
    root.agree()
    point(root.path / "run/latest", "model-2")
    inode = (root.path / ("run/model-1" if when == "walk" else "run")).stat().st_ino
    before(
        "list_dir",
        lambda: point(root.path / "run/latest", "model-3"),
        {"stat": 1, "listing": 2, "walk": 1}[when],
        when=lambda fd: os.fstat(fd).st_ino == inode,
    )
    changes = root.scan(last=["Name latest"]).changes
    assert changes[b"run/latest"].unsettled is (when != "stat")
    assert not root.scan(last=["Name latest"]).changes[b"run/latest"].unsettled


@pytest.mark.parametrize("marked", [False, True])
def test_deletions_around_a_symlink_that_moves_during_the_scan_are_unsettled(root, before, marked):
    write_tree(root.path, {"run/latest": Link("model-1"), "run/model-1/x": "x", "else": "y"})
    root.agree()
    if marked:
        root.index.marks = root.scan().marks
        assert b"run" in root.index.marks
    (root.path / "run/model-1/x").unlink()
    (root.path / "else").unlink()
    inode = (root.path / "run/model-1").stat().st_ino
    before(
        "list_dir",
        lambda: point(root.path / "run/latest", "model-2"),
        when=lambda fd: os.fstat(fd).st_ino == inode,
    )
    changes = root.scan(last=["Name latest"]).changes
    assert changes[b"run/model-1/x"].unsettled
    assert not changes[b"else"].unsettled


def test_an_error_of_one_entry_s_stat_is_a_problem_of_that_entry(root, monkeypatch):
    real = fsops.list_dir

    def listed(fd):
        error = OSError(errno.ESTALE, "Stale file handle")
        return [(name, error if name == b"g" else status) for name, status in real(fd)]

    root.agree()
    monkeypatch.setattr(fsops, "list_dir", listed)
    assert root.told() == {"d/g": "problem"}
