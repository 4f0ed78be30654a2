# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Odd objects in a replica: links that lead anywhere, devices, holes, what may not be touched."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import struct
import subprocess

import pytest

from tests.engine.trees import STATE, Link, Pair, both_local, quiet, read_tree, write_tree

FS_IOC_ADD_ENCRYPTION_KEY = 0xC0506617
FS_IOC_SET_ENCRYPTION_POLICY = 0x800C6613

LINKS = {
    "absolute": "/etc/passwd",
    "outside": "../../../etc",
    "dangling": "nowhere",
    "itself": "itself",
    "round": "round/round",
    "longest": "x/" * 2047 + "x",
    "spaces ": " \t\n",
    "bytes": os.fsdecode(b"\xff\xfe"),
}


def test_links_are_text_wherever_they_lead(local):
    write_tree(local.a, {name: Link(target) for name, target in LINKS.items()})
    assert local.sync().exit == 0
    assert read_tree(local.b) == {name: Link(LINKS[name]) for name in sorted(LINKS)}
    assert quiet(local.sync())


def test_a_link_that_replaces_a_directory_takes_nothing_from_where_it_leads(local, tmp_path):
    write_tree(tmp_path / "outside", {"d/f": "not ours"})
    write_tree(local.a, {"d/f": "ours"})
    assert local.sync().exit == 0
    shutil.rmtree(local.a / "d")
    (local.a / "d").symlink_to(tmp_path / "outside/d")
    assert local.sync().exit == 0
    assert read_tree(local.b) == {"d": Link(str(tmp_path / "outside/d"))}
    (local.a / "d").unlink()
    assert local.sync().exit == 0
    assert read_tree(tmp_path / "outside") == {"d": None, "d/f": b"not ours"}


def test_a_root_may_be_a_link_but_not_to_another_directory_later(local, tmp_path):
    write_tree(local.a, {"f": "1", "d/g": "2"})
    real, other = tmp_path / "real", tmp_path / "other"
    real.mkdir()
    other.mkdir()
    local.b.rmdir()
    local.b.symlink_to(real)
    assert local.sync().exit == 0
    assert read_tree(real) == read_tree(local.a)
    local.b.unlink()
    local.b.symlink_to(other)
    result = local.sync()
    assert result.report["base"] == "first"
    assert len(read_tree(local.a)) == 3
    assert read_tree(local.a) == read_tree(real) == read_tree(other)


def device(path):
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


def block_device(path):
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 200))


def unix_socket(path):
    os.mknod(path, stat.S_IFSOCK | 0o600)  # bind() knows short paths only


@pytest.mark.root
@pytest.mark.parametrize("make", [device, block_device, unix_socket, os.mkfifo])
def test_special_files_stay_where_they_are(local, make):
    write_tree(local.a, {"d/g": "1", "f": "2"})
    assert local.sync().exit == 0
    make(local.b / "d/odd")
    result = local.sync()
    assert result.exit == 0
    assert len(result.report["notes"]) == 1
    assert not (local.a / "d/odd").exists()
    # One that takes a file's place blocks that file on both sides, and nothing else.
    (local.b / "f").unlink()
    make(local.b / "f")
    write_tree(local.a, {"f": "changed", "new": "3"})
    result = local.sync()
    assert result.exit == 2
    assert result.items == {"f": ("error", "failed"), "new": ("a->b", "done")}
    assert (local.a / "f").read_text() == "changed"
    # And a directory with one in it does not go.
    shutil.rmtree(local.a / "d")
    assert local.sync().exit == 2
    assert (local.b / "d/odd").lstat()
    assert (local.b / "d/g").read_text() == "1"


def test_a_file_that_is_linked_from_outside_is_not_written_into(local, tmp_path):
    write_tree(local.a, {"f": "before"})
    assert local.sync().exit == 0
    os.link(local.b / "f", tmp_path / "elsewhere")
    os.link(local.b / "f", local.b / "twin")
    (local.a / "f").write_text("after")
    assert local.sync().exit == 0
    assert (tmp_path / "elsewhere").read_text() == "before"
    assert (local.b / "twin").read_text() == "before"
    assert (local.b / "f").read_text() == "after"


def test_a_hole_of_a_terabyte_is_refused_before_it_is_read(local):
    write_tree(local.a, {"f": "1"})
    with (local.a / "disk.img").open("wb") as stream:
        stream.truncate(1 << 40)
        stream.write(b"x" * 4096)
    result = local.sync()
    assert result.error == "space"
    assert read_tree(local.b) == {}
    assert local.sync(ignore=("Name *.img",)).exit == 0
    assert read_tree(local.b) == {"f": b"1"}


def test_set_id_and_sticky_bits_are_not_taken_over(local):
    write_tree(local.a, {"run": "#!/bin/sh", "d/f": "1"})
    (local.a / "run").chmod(0o6755)
    (local.a / "d").chmod(0o1777)
    assert local.sync().exit == 0
    assert stat.S_IMODE((local.b / "run").stat().st_mode) == 0o755
    assert stat.S_IMODE((local.b / "d").stat().st_mode) == 0o777
    (local.a / "run").write_text("#!/bin/bash")
    (local.a / "run").chmod(0o6755)
    assert local.sync().exit == 0
    assert stat.S_IMODE((local.b / "run").stat().st_mode) == 0o755


@pytest.mark.root
def test_owners_are_those_of_the_directory_where_it_lands(local):
    write_tree(local.a, {"mine": "1", "d/foreign": "2"})
    os.chown(local.a / "d/foreign", 54_321, 54_321)
    os.chown(local.b, 12_345, 23_456)
    assert local.sync().exit == 0
    for name in ("mine", "d", "d/foreign"):
        status = (local.b / name).stat()
        assert (status.st_uid, status.st_gid) == (12_345, 23_456), name


# -- what may not be read or written ---------------------------------------------------------------


@pytest.fixture
def bound(tmp_path, confined):
    """A pair whose b is served by a process that permissions apply to."""
    return Pair(tmp_path / "pair", lambda: (both_local()[0], confined()))


@pytest.mark.root
@pytest.mark.parametrize(
    "path, mode, blocked",
    [("f", 0o000, {"f"}), ("d", 0o000, {"d"}), ("d", 0o311, {"d"}), ("d", 0o444, {"d/e", "d/g"})],
)
def test_what_cannot_be_read_blocks_itself_alone(bound, path, mode, blocked):
    write_tree(bound.a, {"f": "1", "d/g": "2", "d/e/h": "3", "z": "4"})
    assert bound.sync().exit == 0
    for root in bound.roots:
        (root / "f").write_text(f"9{root.name}")  # a conflict that has to be read
    (bound.b / "z").unlink()
    (bound.b / path).chmod(mode)
    try:
        result = bound.sync()
    finally:
        (bound.b / path).chmod(0o755)
    assert result.exit == 2
    failed = {one for one, (decision, __) in result.items.items() if decision == "error"}
    assert failed == blocked
    assert not (bound.a / "z").exists()
    assert read_tree(bound.a)["d/e/h"] == read_tree(bound.b)["d/e/h"] == b"3"
    assert (bound.a / "d/g").read_text() == "2"


@pytest.mark.root
def test_what_cannot_be_written_fails_alone_and_arrives_later(bound):
    write_tree(bound.a, {"locked/old": "1", "locked/doomed": "2", "f": "3"})
    assert bound.sync().exit == 0
    write_tree(bound.a, {"locked/old": "changed", "locked/new": "4", "f": "5"})
    (bound.a / "locked/doomed").unlink()
    was = read_tree(bound.b / "locked")
    (bound.b / "locked").chmod(0o555)
    for __ in range(2):
        result = bound.sync()
        assert result.exit == 2
        failed = {path for path, (___, became) in result.items.items() if became == "failed"}
        assert failed == {"locked/old", "locked/new", "locked/doomed"}
        reasons = {item["reason"] for item in result.report["items"] if item["path"] in failed}
        assert reasons == {"permission denied"}
        assert read_tree(bound.b / "locked") == was
        assert (bound.b / "f").read_text() == "5"
    (bound.b / "locked").chmod(0o755)
    assert bound.sync().exit == 0
    assert read_tree(bound.a) == read_tree(bound.b)


@pytest.mark.root
def test_a_read_only_file_is_replaced_and_stays_read_only(bound):
    write_tree(bound.a, {"f": "1"})
    (bound.a / "f").chmod(0o444)
    assert bound.sync().exit == 0
    (bound.a / "f").write_text("2")
    assert bound.sync().exit == 0
    assert (bound.b / "f").read_text() == "2"
    assert (bound.b / "f").stat().st_mode & 0o777 == 0o444


@pytest.mark.root
@pytest.mark.needs("mkfs.ext4", "chattr")
@pytest.mark.parametrize("flag", ["i", "a"])
def test_what_is_immutable_stays_and_the_rest_goes_on(local, disk, flag):
    disk(local.b)
    write_tree(local.a, {"f": "1", "d/g": "2", "z": "3", "doomed": "4"})
    assert local.sync().exit == 0
    was = read_tree(local.b)
    write_tree(local.a, {"f": "changed", "d/g": "changed", "d/new": "5", "z": "changed"})
    (local.a / "doomed").unlink()
    held = [local.b / "f", local.b / "d", local.b / "doomed"]
    subprocess.run(["chattr", f"+{flag}", *held], check=True)
    try:
        result = local.sync()
        stage = [path for path in (local.b / STATE / "stage").rglob("*") if path.is_file()]
        after = read_tree(local.b)
    finally:
        subprocess.run(["chattr", f"-{flag}", *held], check=True)
    assert result.exit == 2
    failed = {path for path, (__, became) in result.items.items() if became == "failed"}
    # In a directory that may only grow, something new can be made.
    new = set() if flag == "a" else {"d/new"}
    assert failed == {"f", "doomed", "d/g"} | new
    assert {name: after[name] for name in ("f", "d/g", "doomed")} == {
        name: was[name] for name in ("f", "d/g", "doomed")
    }
    assert after["z"] == b"changed"
    assert stage == []
    assert local.sync().exit == 0
    assert read_tree(local.a) == read_tree(local.b)


@pytest.mark.root
@pytest.mark.needs("mkfs.ext4")
def test_a_directory_into_which_nothing_can_be_renamed_fails_alone(local, tmp_path, mounted):
    """It is encrypted on its own: EXDEV within one file system."""
    image = tmp_path / "disk.img"
    with image.open("wb") as stream:
        stream.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "encrypt", image], check=True)
    mounted("-o", "loop", image, local.b)
    (local.b / "lost+found").rmdir()
    write_tree(local.b, {"d": None})
    encrypt(local.b / "d")
    write_tree(local.a, {"d/g": "1", "f": "2"})
    result = local.sync()
    assert result.exit == 2
    assert result.items["d/g"][1] == "failed"
    assert read_tree(local.b) == {"d": None, "f": b"2"}
    assert read_tree(local.a)["d/g"] == b"1"
    write_tree(local.b, {"d/own": "3"})
    assert local.sync().exit == 2
    assert read_tree(local.a) == {"d": None, "d/g": b"1", "d/own": b"3", "f": b"2"}


def encrypt(directory):
    """As `fscrypt encrypt` does, with a key that the file system gets from us."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        by_identifier = 2
        key = bytearray(struct.pack("=II32xIII28x64s", by_identifier, 0, 64, 0, 0, b"k" * 64))
        fcntl.ioctl(fd, FS_IOC_ADD_ENCRYPTION_KEY, key)
        aes_xts, aes_cts = 1, 4
        policy = struct.pack("=BBBB4x16s", 2, aes_xts, aes_cts, 0, bytes(key[8:24]))
        fcntl.ioctl(fd, FS_IOC_SET_ENCRYPTION_POLICY, policy)
    finally:
        os.close(fd)
