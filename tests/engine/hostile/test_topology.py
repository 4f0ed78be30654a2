# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where roots lie: mounts at, above and inside them, one inside the other, copies of each other."""

from __future__ import annotations

import os
import shutil
import socket

import pytest

from tests.engine.trees import STATE, Pair, quiet, read_tree, write_tree
from tests.mounts import mount, unmount

TREE = {"f": "1", "d/g": "2", "d/m/h": "3"}


@pytest.fixture
def synced(local):
    write_tree(local.a, TREE)
    assert local.sync().exit == 0
    return local


def refused(pair, code):
    """The session ends with this error and its next step, and touches nothing."""
    was = [read_tree(root) for root in pair.roots]
    result = pair.sync()
    assert result.error == code, result.report["error"]
    assert result.report["error"]["next"]
    assert [read_tree(root) for root in pair.roots] == was


# -- roots that are not what they were -------------------------------------------------------------


@pytest.mark.root
def test_a_root_that_is_not_mounted_empties_nothing(local, mounted):
    mounted("-t", "tmpfs", "none", local.b)
    write_tree(local.a, TREE)
    assert local.sync().exit == 0
    unmount(local.b)
    refused(local, "root_identity")
    mount("-t", "tmpfs", "none", local.b)  # another one
    refused(local, "root_identity")
    unmount(local.b)


@pytest.mark.root
@pytest.mark.needs("mkfs.ext4")
def test_a_marker_on_another_file_system_is_not_believed(synced, disk):
    kept = synced.home / "kept"
    shutil.copytree(synced.b, kept, symlinks=True)
    disk(synced.b)
    (synced.b / "lost+found").rmdir()
    shutil.copytree(kept / STATE, synced.b / STATE)
    refused(synced, "root_identity")


@pytest.mark.root
def test_a_mount_that_comes_and_goes_with_another_device_number_is_the_same(local, disk, mounted):
    image = disk(local.b)
    (local.b / "lost+found").rmdir()
    write_tree(local.a, TREE)
    assert local.sync().exit == 0
    device = local.b.stat().st_dev
    os.sync()
    other = shutil.copy(image, local.home / "other.img")
    mounted("-o", "loop", other, local.home / "aside")  # while the first one has its number
    unmount(local.b)
    mount("--move", local.home / "aside", local.b)
    assert local.b.stat().st_dev != device
    write_tree(local.b, {"d/g": "changed"})
    assert local.sync().exit == 0
    assert (local.a / "d/g").read_text() == "changed"


@pytest.mark.root
def test_a_container_that_was_made_anew_empties_nothing(local, tmp_path, mounted):
    write_tree(tmp_path / "lower", {"image": "part of it", "dir/part": "too", "gone": "x"})

    def start(number):
        upper, work = tmp_path / f"upper{number}", tmp_path / f"work{number}"
        upper.mkdir()
        work.mkdir()
        options = f"lowerdir={tmp_path / 'lower'},upperdir={upper},workdir={work}"
        return mounted("-t", "overlay", "-o", options, "none", local.b)

    start(1)
    write_tree(local.a, TREE)
    assert local.sync().exit == 0
    write_tree(local.a, {"image": "changed", "dir/new": "4", "f": "changed"})
    (local.a / "gone").unlink()
    result = local.sync()
    assert result.exit == 0, result.report["items"]
    assert read_tree(local.a) == read_tree(local.b)
    assert quiet(local.sync())
    unmount(local.b)
    start(2)
    refused(local, "root_identity")


# -- mounts inside a root --------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("what", ["tmpfs", "bind"])
def test_what_is_mounted_over_is_unknown_and_not_deleted(synced, tmp_path, mounted, what):
    point = synced.b / "d/m"
    if what == "tmpfs":
        mounted("-t", "tmpfs", "none", point)
    else:
        mounted("--bind", write_tree(tmp_path / "elsewhere", {"foreign": "x"}), point)
    write_tree(synced.a, {"f": "changed", "d/m/new": "4"})
    (synced.a / "d/m/h").unlink()
    result = synced.sync()
    assert result.exit == 2
    assert result.items["d/m"] == ("error", "failed")
    assert (synced.b / "f").read_text() == "changed"
    assert not (point / "new").exists()
    assert not (synced.a / "d/m/foreign").exists()
    shutil.rmtree(synced.a / "d")
    assert synced.sync().items == {"d": ("conflict", "skipped")}
    assert (synced.b / "d/g").read_text() == "2"
    unmount(point)
    write_tree(synced.a, {"d/m/h": "3", "d/g": "2", "d/m/new": "4"})
    assert synced.sync().exit == 0
    assert read_tree(synced.a) == read_tree(synced.b)


@pytest.mark.root
def test_a_mount_without_counterpart_is_a_note(synced, mounted):
    mounted("-t", "tmpfs", "none", synced.b / "scratch")
    write_tree(synced.b, {"scratch/x": "not ours"})
    result = synced.sync()
    assert result.exit == 0
    assert len(result.report["notes"]) == 1
    assert not (synced.a / "scratch").exists()


@pytest.mark.root
@pytest.mark.parametrize("call", ["open_dir", "list_dir"])
def test_a_mount_that_appears_during_the_scan_deletes_nothing(synced, mounted, before, call):
    point = synced.b / "d/m"
    above = (synced.b / "d").stat().st_ino
    inside = point.stat().st_ino

    def there(fd, *name):
        if call == "open_dir":
            return os.fstat(fd).st_ino == above and name == (b"m",)
        return os.fstat(fd).st_ino == inside

    before(call, lambda: mounted("-t", "tmpfs", "none", point), when=there)
    write_tree(synced.a, {"f": "changed"})
    result = synced.sync()
    assert (synced.a / "d/m/h").read_text() == "3", result.report["items"]
    assert result.items == {"d/m": ("error", "failed"), "f": ("a->b", "done")}
    unmount(point)
    assert quiet(synced.sync())
    (synced.b / "d/m/h").unlink()
    assert synced.sync().exit == 0
    assert not (synced.a / "d/m/h").exists()


# -- roots and each other --------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("inner", ["", "d", "d/m"])
def test_one_root_inside_the_other_through_a_bind_mount(local, mounted, inner):
    write_tree(local.a, TREE)
    mounted("--bind", local.a / inner, local.b)
    refused(local, "root_overlap")
    local.a, local.b = local.b, local.a
    refused(local, "root_overlap")


def test_one_root_inside_the_other_through_a_link(local):
    write_tree(local.a, TREE)
    local.b.rmdir()
    for inner in ("", "d", "d/m"):
        local.b.symlink_to(local.a / inner)
        refused(local, "root_overlap")
        local.a, local.b = local.b, local.a
        refused(local, "root_overlap")
        local.a, local.b = local.b, local.a
        local.b.unlink()


@pytest.mark.root
def test_two_mounts_of_one_directory_are_one_lock(synced, tmp_path, mounted):
    """A second name for a root is the same root: its id, its lock, its base."""
    mounted("--bind", synced.b, tmp_path / "again")
    write_tree(synced.a, {"f": "changed"})
    again = Pair(synced.home)
    again.b = tmp_path / "again"
    result = again.sync()
    assert result.exit == 0
    assert result.report["base"] == "ok"
    assert (synced.b / "f").read_text() == "changed"


def test_a_root_of_another_pair_inside_a_root_keeps_its_state(local, tmp_path):
    write_tree(local.a, {"f": "1", "inner/x": "2", "inner/y": "3"})
    inner = Pair(tmp_path / "other")
    inner.a = local.a / "inner"
    assert inner.sync().exit == 0
    assert local.sync().exit == 0
    assert not (local.b / "inner" / STATE).exists()
    write_tree(inner.b, {"x": "changed"})
    assert inner.sync().exit == 0
    assert local.sync().exit == 0
    assert (local.b / "inner/x").read_text() == "changed"
    shutil.rmtree(local.b / "inner")
    assert local.sync().exit == 0
    assert (local.a / "inner" / STATE / "replica.json").exists()
    # Nor does that deletion go on to the third replica without its brake.
    assert inner.sync().error == "root_emptied"
    assert read_tree(inner.b) == {"x": b"changed", "y": b"3"}


def test_three_replicas_in_a_ring_agree(tmp_path):
    """Each root is in two pairs, with a base for each."""
    roots = [tmp_path / name for name in "xyz"]
    for root in roots:
        write_tree(root, {root.name: root.name})
    pairs = []
    for one, other in ((0, 1), (1, 2), (2, 0)):
        pair = Pair(tmp_path / f"{one}{other}")
        pair.a, pair.b = roots[one], roots[other]
        pairs.append(pair)
    for __ in range(2):
        assert [pair.sync().exit for pair in pairs] == [0, 0, 0]
    assert read_tree(roots[0]) == read_tree(roots[1]) == read_tree(roots[2])
    (roots[1] / "x").unlink()
    (roots[1] / "y").write_text("changed")
    for __ in range(2):
        assert [pair.sync().exit for pair in pairs] == [0, 0, 0]
    for root in roots:
        assert read_tree(root) == {"y": b"changed", "z": b"z"}


def test_a_host_with_another_name_keeps_its_pairs(synced, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    write_tree(synced.a, {"f": "changed"})
    result = synced.sync()
    assert result.exit == 0
    assert result.report["base"] == "ok"
    shutil.rmtree(synced.b)
    assert synced.sync().error == "root_missing"


@pytest.mark.root
@pytest.mark.needs("fusermount3")
def test_a_file_system_without_atomic_renames_is_named_once(local, lossy):
    lossy(local.b, "weak")
    write_tree(local.a, TREE)
    assert local.sync().exit == 0
    write_tree(local.a, {"f": "changed", "d/g": "changed", "new": "4"})
    (local.a / "d/m/h").unlink()
    result = local.sync()
    assert result.exit == 0
    assert len(result.report["warnings"]) == 1
    assert "no atomic exchange" in result.report["warnings"][0]
    assert read_tree(local.a) == read_tree(local.b)
    assert {b"1", b"2", b"3"} <= local.backups()
