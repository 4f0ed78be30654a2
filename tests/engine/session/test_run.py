# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole sessions over real trees: what is done, in which order, and what stops one."""

from __future__ import annotations

import errno
import os
import shutil
import time

import pytest

from pairsync.model.entry import DIR, FILE, LINK
from pairsync.replica import fsops
from tests.engine.trees import (
    STATE,
    Link,
    Pair,
    entries,
    fingerprints,
    local_and_agent,
    quiet,
    read_tree,
    write_tree,
    written,
)

TREE = {"f": "text", "d/g": "deep", "d/e/h": "deeper", "l": Link("f"), "empty": None}


@pytest.fixture(params=["local", "agent"])
def pair(request, tmp_path):
    """Both replicas in this process, and one of them behind a pipe."""
    pair = Pair(tmp_path / "pair")
    if request.param == "agent":
        pair.connect = local_and_agent
    return pair


@pytest.fixture
def local(tmp_path):
    """For faults, which are injected in this process."""
    return Pair(tmp_path / "pair")


@pytest.fixture
def synced(local):
    write_tree(local.a, TREE)
    assert local.sync().exit == 0
    return local


# -- what is done ---------------------------------------------------------------------------------


def test_the_first_sync_is_a_union(pair):
    write_tree(pair.a, {"only a": "1", "same": "2", "other": "from a"})
    write_tree(pair.b, {"only b/x": "3", "same": "2", "other": "from b"})
    result = pair.sync()
    assert result.exit == 1
    assert result.report["base"] == "first"
    assert result.items["other"] == ("conflict", "skipped")
    union = {"only a": b"1", "same": b"2", "only b": None, "only b/x": b"3"}
    assert read_tree(pair.a) == {**union, "other": b"from a"}
    assert read_tree(pair.b) == {**union, "other": b"from b"}


def test_every_kind_of_change_goes_over(pair):
    write_tree(pair.a, {**TREE, "gone": "x", "old/x": "y", "type": "file", "mode": "m"})
    pair.sync()
    (pair.a / "f").write_text("changed")
    (pair.b / "gone").unlink()
    shutil.rmtree(pair.a / "old")
    (pair.b / "type").unlink()
    write_tree(pair.b, {"type/inner": "now a directory", "new/dir/file": "new"})
    (pair.a / "mode").chmod(0o700)
    (pair.b / "l").unlink()
    (pair.b / "l").symlink_to("elsewhere")
    result = pair.sync()
    assert result.exit == 0, result.report["items"]
    tree = read_tree(pair.a)
    assert tree == read_tree(pair.b)
    assert tree["f"] == b"changed"
    assert tree["type/inner"] == b"now a directory"
    assert tree["l"] == Link("elsewhere")
    assert "gone" not in tree
    assert "old" not in tree
    assert (pair.b / "mode").stat().st_mode & 0o777 == 0o700
    assert quiet(pair.sync())


def test_names_are_bytes(pair):
    names = [
        b"new\nline",
        b"\xff\xfe",
        b" ",
        b"-rf",
        b"x" * 255,
        "ümlaut".encode(),
        b"a\\b",
        b"'$(x)",
    ]
    for name in names:
        with open(os.path.join(os.fsencode(pair.a), name), "wb") as stream:
            stream.write(name)
    assert pair.sync().exit == 0
    assert sorted(set(os.listdir(os.fsencode(pair.b))) - {STATE.encode()}) == sorted(names)


@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 4 << 20, (4 << 20) + 1, (9 << 20) + 5])
def test_sizes(pair, size):
    data = os.urandom(1024) * (size // 1024 + 1)
    write_tree(pair.a, {"f": data[:size]})
    assert pair.sync().exit == 0
    assert (pair.b / "f").read_bytes() == data[:size]
    assert (pair.b / "f").stat().st_mtime_ns == (pair.a / "f").stat().st_mtime_ns
    (pair.b / "f").write_bytes(data[:size] + b"!")
    assert pair.sync().exit == 0
    assert (pair.a / "f").read_bytes() == data[:size] + b"!"


def test_a_touched_file_is_no_change(synced):
    os.utime(synced.a / "f", (1, 1))
    was = fingerprints(synced.b)
    result = synced.sync()
    assert result.exit == 0
    assert result.report["items_total"] == 0
    assert fingerprints(synced.b) == was


def test_the_newer_one_wins_and_the_other_is_kept(synced):
    (synced.a / "f").write_text("earlier")
    (synced.b / "f").write_text("later")
    os.utime(synced.a / "f", (1_600_000_000, 1_600_000_000))
    assert synced.sync().exit == 1
    assert synced.sync(prefer="newer").exit == 0
    assert (synced.a / "f").read_text() == "later"
    assert b"earlier" in synced.backups()


def test_hard_links_are_files_of_their_own(synced):
    os.link(synced.b / "f", synced.b / "second")
    synced.sync()
    assert read_tree(synced.a)["second"] == b"text"
    (synced.a / "f").write_text("changed")
    synced.sync()
    synced.sync()
    assert read_tree(synced.b)["f"] == b"changed"
    assert read_tree(synced.b)["second"] == b"text"


def test_ignored_content_stays_and_holds_its_directory(synced):
    write_tree(synced.b, {"d/local.tmp": "mine"})
    shutil.rmtree(synced.a / "d")
    result = synced.sync(ignore=("Name *.tmp",))
    assert result.exit == 0, result.report["items"]
    tree = read_tree(synced.b)
    assert tree["d/local.tmp"] == b"mine"
    assert "d/g" not in tree
    assert "d" not in read_tree(synced.a)


def test_ignoring_is_never_a_deletion_and_unignoring_is_a_first_sync(synced):
    rule = ("Path d",)
    assert synced.sync(ignore=rule).exit == 0
    assert read_tree(synced.a) == read_tree(synced.b)
    shutil.rmtree(synced.a / "d")
    assert synced.sync(ignore=rule).exit == 0
    assert "d/g" in read_tree(synced.b)
    assert synced.sync().exit == 0
    assert read_tree(synced.a)["d/g"] == b"deep"


def test_paths_limit_a_session(synced):
    (synced.a / "f").write_text("changed")
    (synced.a / "d/g").write_text("changed too")
    assert synced.sync(paths=("d",)).exit == 0
    assert read_tree(synced.b)["d/g"] == b"changed too"
    assert read_tree(synced.b)["f"] == b"text"
    assert synced.sync().exit == 0
    assert read_tree(synced.b)["f"] == b"changed"


def test_a_plan_writes_nothing(synced):
    (synced.a / "f").write_text("changed")
    (synced.b / "d/g").unlink()
    was = [fingerprints(root) for root in synced.roots], synced.commit(synced.a)
    result = synced.sync(dry_run=True)
    assert result.exit == 1
    assert result.items == {"f": ("a->b", "planned"), "d/g": ("b->a", "planned")}
    assert was == ([fingerprints(root) for root in synced.roots], synced.commit(synced.a))


def test_a_plan_before_the_first_sync_leaves_no_trace(local):
    write_tree(local.a, TREE)
    assert local.sync(dry_run=True).exit == 1
    assert not (local.a / STATE).exists()
    assert not (local.b / STATE).exists()


# -- modes ----------------------------------------------------------------------------------------


def test_a_mirror_makes_b_a_copy_of_a(synced):
    (synced.b / "f").write_text("edited on b")
    (synced.b / "d/g").unlink()
    assert synced.sync(mode="mirror").exit == 0
    assert read_tree(synced.b) == read_tree(synced.a)
    assert b"edited on b" in synced.backups()


def test_a_first_mirror_deletes_only_what_was_confirmed(local):
    write_tree(local.a, {"f": "1"})
    write_tree(local.b, {"f": "1", "surplus": "2"})
    result = local.sync(mode="mirror")
    assert result.exit == 1
    assert result.items["surplus"] == ("skip", "skipped")
    assert "surplus" in read_tree(local.b)


def test_a_push_leaves_what_b_did(synced):
    (synced.a / "f").write_text("pushed")
    (synced.b / "d/g").write_text("b's own")
    assert synced.sync(mode="push").exit == 0
    assert read_tree(synced.b)["f"] == b"pushed"
    assert read_tree(synced.b)["d/g"] == b"b's own"
    assert read_tree(synced.a)["d/g"] == b"deep"


# -- problems -------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["open_dir", "list_dir"])
def test_an_unreadable_directory_is_not_an_empty_one(synced, failing, call):
    """P20: neither it nor what it holds is deleted on the other side."""
    inode = (synced.b / "d").stat().st_ino

    def of_d(fd, *name):
        return name == (b"d",) or (call == "list_dir" and os.fstat(fd).st_ino == inode)

    failing(call, errno.EACCES, of_d)
    result = synced.sync()
    assert result.exit == 2
    assert result.items["d"] == ("error", "failed")
    for root in synced.roots:
        assert (root / "d/e/h").read_text() == "deeper"


def test_an_unreadable_file_is_not_overwritten(synced, failing):
    (synced.b / "f").write_text("TEXT")  # the same size: it has to be read
    (synced.a / "f").write_text("other contents")
    inode = (synced.b / "f").stat().st_ino
    failing("read", errno.EIO, lambda fd, __: os.fstat(fd).st_ino == inode)
    result = synced.sync()
    assert result.exit >= 2
    assert (synced.b / "f").read_text() == "TEXT"


def test_pipes_are_notes_and_keep_their_directory(synced):
    os.mkfifo(synced.b / "d/pipe")
    result = synced.sync()
    assert result.exit == 0
    assert any("d/pipe" in note for note in result.report["notes"])
    assert not os.path.lexists(synced.a / "d/pipe")
    shutil.rmtree(synced.a / "d")
    result = synced.sync()
    assert result.exit != 0
    assert os.path.lexists(synced.b / "d/pipe")
    assert (synced.b / "d/g").read_text() == "deep"


# -- guards ---------------------------------------------------------------------------------------


def untouched(pair, result, code):
    assert result.exit == 3
    assert result.error == code, result.report["error"]
    assert result.report["error"]["next"]


def test_an_emptied_root_does_not_empty_the_other(synced):
    for path in synced.a.iterdir():
        if path.name != STATE:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    result = synced.sync()
    untouched(synced, result, "root_emptied")
    assert len(read_tree(synced.b)) == 7
    assert synced.sync(confirm=result.report["plan_digest"]).exit == 0
    assert read_tree(synced.b) == {}


def test_a_root_that_vanished_is_not_made_again(synced):
    shutil.rmtree(synced.b)
    untouched(synced, synced.sync(), "root_missing")
    assert not synced.b.exists()
    assert len(read_tree(synced.a)) == 7


def test_a_root_that_lost_its_marker_is_another_root(synced):
    shutil.rmtree(synced.b)
    write_tree(synced.b, {"something": "else"})
    untouched(synced, synced.sync(), "root_identity")
    assert read_tree(synced.b) == {"something": b"else"}


def test_a_copied_marker_is_refused(synced):
    shutil.rmtree(synced.b)
    shutil.copytree(synced.a, synced.b, symlinks=True)
    untouched(synced, synced.sync(), "replica_cloned")


def test_a_missing_root_is_made_on_the_first_sync(local):
    write_tree(local.a, TREE)
    local.b.rmdir()
    assert local.sync().exit == 0
    assert read_tree(local.a) == read_tree(local.b)


def test_mass_deletion_needs_the_plan_s_digest(local):
    """P24"""
    write_tree(local.a, {f"f{number}": str(number) for number in range(50)})
    local.sync()
    for number in range(30):
        (local.b / f"f{number}").unlink()
    result = local.sync()
    untouched(local, result, "mass_change")
    assert len(read_tree(local.a)) == 50
    assert local.sync(confirm="0" * 64).error == "mass_change"
    assert local.sync(confirm=result.report["plan_digest"]).exit == 0
    assert len(read_tree(local.a)) == 20


def test_one_directory_cannot_be_synced_with_itself(local):
    local.b.rmdir()
    local.b.symlink_to(local.a)
    untouched(local, local.sync(), "root_overlap")


def test_a_root_inside_the_other_is_refused(local):
    local.b = local.a / "inside"
    local.b.mkdir()
    untouched(local, local.sync(), "root_overlap")
    assert not (local.a / STATE).exists()


def test_a_file_is_no_root(local):
    local.b.rmdir()
    local.b.write_text("file")
    untouched(local, local.sync(), "root_not_dir")


@pytest.mark.parametrize("sides", ["a", "b", "ab"])
def test_a_lost_base_deletes_nothing(synced, sides):
    """P21, P22"""
    (synced.a / "f").unlink()
    (synced.b / "d/g").write_text("edited")
    for side in sides:
        for path in synced.base_files(synced.a if side == "a" else synced.b):
            path.write_bytes(b"damaged" * 1000)
    result = synced.sync()
    assert result.report["base"] == "degraded"
    assert result.report["warnings"]
    assert read_tree(synced.a)["f"] == b"text"
    assert result.items["d/g"][0] == "conflict"
    assert read_tree(synced.a)["d/g"] == b"deep"
    assert synced.sync().report["base"] == "ok"


def test_a_full_disk_stops_the_session_and_loses_nothing(synced, failing):
    (synced.a / "f").write_text("changed")
    was = read_tree(synced.b)
    failing("create_file", errno.ENOSPC, lambda *call: call[1].startswith(b"f"))
    untouched(synced, synced.sync(), "space")
    assert read_tree(synced.b) == was


# -- late edits -----------------------------------------------------------------------------------


def test_a_late_edit_of_the_target_stays(synced, before):
    (synced.a / "f").write_text("from a")
    before("rename_exchange", lambda: (synced.b / "f").write_text("late"))
    result = synced.sync()
    assert result.exit == 1
    assert (synced.b / "f").read_text() == "late"
    assert synced.sync().items["f"][0] == "conflict"


def test_a_late_file_is_not_replaced_by_a_new_one(synced, before):
    (synced.a / "new").write_text("from a")
    before("rename_noreplace", lambda: (synced.b / "new").write_text("late"))
    assert synced.sync().exit == 1
    assert (synced.b / "new").read_text() == "late"


def test_a_late_file_keeps_the_directory_that_was_to_go(synced, before):
    shutil.rmtree(synced.a / "d")
    before("remove_dir", lambda: (synced.b / "d/late").write_text("late"), 2)
    result = synced.sync()
    assert result.exit == 1
    assert (synced.b / "d/late").read_text() == "late"
    assert written(synced.b) | synced.backups() >= {b"late", b"deep", b"deeper"}


def test_contents_and_permissions_that_cross_are_no_late_edit(synced, before):
    """The session's own chmod of a file that is still to be sent is not the user's."""
    (synced.a / "f").write_text("changed on a")
    (synced.b / "f").chmod(0o600)
    before("open_file", lambda: time.sleep(0.2), when=lambda __, name: name == b"f")
    assert synced.sync().exit == 0
    assert entries(synced.a) == entries(synced.b)
    assert (synced.b / "f").read_text() == "changed on a"
    assert (synced.a / "f").stat().st_mode & 0o777 == 0o600


# -- order ----------------------------------------------------------------------------------------


@pytest.fixture
def landings(monkeypatch):
    """The names in the order in which they appear, are replaced, or go."""
    seen = []

    def note(name, which):
        real = getattr(fsops, name)

        def wrapped(*arguments):
            result = real(*arguments)
            seen.append(arguments[which])
            return result

        monkeypatch.setattr(fsops, name, wrapped)

    note("rename_noreplace", 3)
    note("rename_exchange", 3)
    note("move_aside", 3)
    return seen


def test_pointers_come_after_what_they_point_to_and_deletions_last(synced, landings):
    write_tree(synced.a, {"checkpoint": "1", "model.ckpt-1": "old", "config": "1"})
    synced.sync()
    landings.clear()
    write_tree(synced.a, {"checkpoint": "2", "model.ckpt-2": "new", "config": "2"})
    (synced.a / "model.ckpt-1").unlink()
    assert synced.sync().exit == 0
    order = [name for name in landings if name in (b"model.ckpt-2", b"config", b"checkpoint")]
    assert list(dict.fromkeys(order)) == [b"model.ckpt-2", b"config", b"checkpoint"]
    assert landings.index(b"checkpoint") < len(landings) - 1
    assert landings[-1] == b"model.ckpt-1"  # into the backup


def test_a_pointer_waits_for_its_directory_and_deletions_wait_with_it(synced, before):
    write_tree(synced.a, {"run/checkpoint": "1", "run/model-1": "old"})
    synced.sync()
    write_tree(synced.a, {"run/checkpoint": "2", "run/model-2": "half a model"})
    (synced.a / "run/model-1").unlink()
    before(
        "open_file",
        lambda: (synced.a / "run/model-2").write_text("a whole model"),
        when=lambda __, name: name == b"model-2",
    )
    result = synced.sync()
    assert result.exit == 1
    assert result.items["run/checkpoint"][1] == "held"
    assert result.items["run/model-1"][1] == "held"
    assert (synced.b / "run/checkpoint").read_text() == "1"
    assert (synced.b / "run/model-1").read_text() == "old"
    assert synced.sync().exit == 0
    assert (synced.b / "run/checkpoint").read_text() == "2"
    assert not (synced.b / "run/model-1").exists()


def test_a_log_travels_while_it_grows(synced, before):
    write_tree(synced.a, {"train.log": "one\n"})
    synced.sync()
    (synced.a / "train.log").write_text("one\ntwo\n")

    def grow():
        with (synced.a / "train.log").open("a") as stream:
            stream.write("three\n")

    before("open_file", grow, when=lambda __, name: name == b"train.log")
    assert synced.sync().exit == 0
    assert (synced.b / "train.log").read_text().startswith("one\ntwo\n")
    assert synced.sync().exit == 0
    assert (synced.b / "train.log").read_text() == "one\ntwo\nthree\n"


def test_the_state_is_never_sent(synced):
    write_tree(synced.a, {"d/.pairsync/secret": "x", ".pairsync/own": "y"})
    assert synced.sync().exit == 0
    assert not (synced.b / "d/.pairsync").exists()
    assert not (synced.b / ".pairsync/own").exists()


def test_what_arrives_has_its_mode_whatever_the_umask(pair):
    write_tree(pair.a, TREE)
    (pair.a / "f").chmod(0o666)
    (pair.a / "d").chmod(0o777)
    old = os.umask(0o077)
    try:
        assert pair.sync().exit == 0
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(old)
    assert entries(pair.a) == entries(pair.b)
    kinds = {entry.kind for entry in entries(pair.b).values()}
    assert kinds == {FILE, DIR, LINK}
