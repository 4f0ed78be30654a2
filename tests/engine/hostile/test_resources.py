# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are full, read-only or gone, and processes held short: real ones, by the kernel."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct

import pytest

from pairsync.replica import fsops
from pairsync.replica.base import Base
from tests.engine.trees import (
    STATE,
    Pair,
    both_local,
    contents,
    quiet,
    read_tree,
    write_tree,
    written,
)
from tests.mounts import mount, unmount

pytestmark = pytest.mark.root

SHUTDOWN = 0x8004587D  # the ioctl after which a file system fails every call, as a dead disk does
TREE = {"f": "1", "d/g": "2", "doomed": "3"}
BLOCK = b"x" * 4096


def fill(root, leave=0):
    """Take all the room there is, but for some bytes."""
    with (root / STATE / "filler").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(BLOCK)
        except OSError:
            stream.truncate(max(0, stream.tell() - leave))


def relieve(root):
    (root / STATE / "filler").unlink()


def staged(root):
    return [path for path in (root / STATE / "stage").rglob("*") if not path.is_dir()]


@pytest.fixture
def small(local, mounted):
    """A pair in step, with b on 3 MB."""
    mounted("-t", "tmpfs", "-o", "size=3m,nr_inodes=200", "none", local.b)
    write_tree(local.a, TREE)
    assert local.sync().exit == 0
    return local


def ended(pair, result, was):
    """Nothing was replaced or deleted to make room, and nothing of ours is left over."""
    assert result.error in ("space", "backup_full")
    assert result.report["error"]["next"]
    assert read_tree(pair.b) == was
    assert staged(pair.b) == []


def test_too_little_room_is_seen_before_anything_is_touched(small):
    was = read_tree(small.b)
    write_tree(small.a, {"f": "changed", "large": BLOCK * 1024})
    (small.a / "doomed").unlink()
    ended(small, small.sync(), was)
    (small.a / "large").unlink()
    assert small.sync().exit == 0
    assert read_tree(small.a) == read_tree(small.b)


def test_too_few_inodes_are_seen_before_anything_is_touched(small):
    was = read_tree(small.b)
    write_tree(small.a, {f"many/{number}": "" for number in range(300)})
    (small.a / "doomed").unlink()
    ended(small, small.sync(), was)


@pytest.mark.parametrize("call", ["create_file", "write"])
def test_a_disk_that_fills_up_meanwhile(small, before, call):
    was = read_tree(small.b)
    write_tree(small.a, {"f": BLOCK * 30, "d/g": "changed"})
    (small.a / "doomed").unlink()
    stage = os.fsencode(small.b / STATE / "stage")

    def on_b(*arguments):
        if call == "write":
            return len(arguments[1]) == 30 * 4096
        return fsops.real_path(arguments[0]).startswith(stage)

    before(call, lambda: fill(small.b), when=on_b)
    ended(small, small.sync(), was)
    relieve(small.b)
    assert small.sync().exit == 0
    assert read_tree(small.a) == read_tree(small.b)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_disk_that_is_full_when_what_was_agreed_on_is_written(local, mounted, monkeypatch, side):
    root = local.a if side == "a" else local.b
    mounted("-t", "tmpfs", "-o", "size=3m", "none", root)
    write_tree(local.a, TREE)
    assert local.sync().exit == 0
    commit = local.commit(root)
    write_tree(local.a, {f"new {number}": "x" * 50 for number in range(400)})
    (local.a / "doomed").unlink()
    write_pending = Base.write_pending

    def filled(*arguments):
        if not (root / STATE / "filler").exists():
            fill(root, leave=2 * 4096)
        return write_pending(*arguments)

    monkeypatch.setattr(Base, "write_pending", filled)
    result = local.sync()
    assert result.error == "space", result.report["error"]
    assert local.commit(root) == commit
    monkeypatch.undo()
    relieve(root)
    assert local.sync().exit == 0
    assert read_tree(local.a) == read_tree(local.b)
    assert "doomed" not in read_tree(local.a)


def test_a_limit_on_the_size_of_files_fails_the_large_one_alone(tmp_path, confined):
    pair = Pair(
        tmp_path / "pair", lambda: (both_local()[0], confined("prlimit", "--fsize=1000000"))
    )
    write_tree(pair.a, {"large": BLOCK * 600, "small": "1", "d/large": BLOCK * 300, "d/small": "2"})
    result = pair.sync()
    assert result.exit == 2
    failed = {path for path, (__, became) in result.items.items() if became == "failed"}
    assert failed == {"large", "d/large"}
    assert read_tree(pair.b) == {"d": None, "d/small": b"2", "small": b"1"}
    pair.connect = both_local
    assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)


def test_too_few_descriptors_hide_what_is_deep_and_delete_nothing(tmp_path, confined):
    deep = "/".join(["d"] * 100)
    pair = Pair(tmp_path / "pair")
    write_tree(pair.a, {f"{deep}/f": "1", "beside": "2"})
    assert pair.sync().exit == 0
    (pair.b / deep / "f").unlink()
    write_tree(pair.a, {"beside": "changed"})
    pair.connect = lambda: (both_local()[0], confined("prlimit", "--nofile=64"))
    result = pair.sync()
    assert result.exit == 2, result.report["error"]
    assert (pair.a / deep / "f").read_text() == "1"
    assert (pair.b / "beside").read_text() == "changed"
    pair.connect = both_local
    assert pair.sync().exit == 0
    assert not (pair.a / deep / "f").exists()


@pytest.mark.needs("mkfs.ext4")
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_read_only_file_system(local, disk, side):
    root, other = local.roots if side == "a" else local.roots[::-1]
    disk(root)
    (root / "lost+found").rmdir()
    write_tree(local.a, TREE)
    assert local.sync().exit == 0
    write_tree(other, {"f": "changed", "new": "4"})
    was = [read_tree(one) for one in local.roots]
    mount("-o", "remount,ro", root)
    result = local.sync()
    assert result.exit == 3
    assert "read-only" in result.report["error"]["message"], result.report["error"]
    assert [read_tree(one) for one in local.roots] == was
    mount("-o", "remount,rw", root)
    assert local.sync().exit == 0
    assert read_tree(local.a) == read_tree(local.b)


@pytest.mark.needs("mkfs.ext4")
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("call", ["create_file", "rename_exchange", "sync_file"])
def test_a_disk_that_dies_on_the_way(local, disk, before, side, call):
    """Its end of the session knows nothing any more, so nothing is recorded at either."""
    root = local.a if side == "a" else local.b
    image = disk(root)
    (root / "lost+found").rmdir()
    write_tree(local.a, TREE)
    assert local.sync().exit == 0
    alive = local.b if side == "a" else local.a
    commit = local.commit(alive)
    write_tree(local.a, {"f": "changed on a", "new": "4"})
    write_tree(local.b, {"d/g": "changed on b", "also": "5"})
    had = written(alive)
    os.sync()

    def die():
        fd = os.open(root, os.O_RDONLY)
        fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", 2))  # nothing more is written out
        os.close(fd)

    before(call, die)
    result = local.sync()
    assert result.exit == 3
    assert result.report["error"]["code"] in ("space", "root_missing"), result.report["error"]
    assert contents(alive) >= had
    assert local.commit(alive) == commit
    unmount(root)
    # Of what was written out; the dead file system itself lives as long as anybody holds it.
    mount("-o", "loop", shutil.copy(image, image.with_name("again.img")), root)
    local.sync()
    assert quiet(local.sync())
    assert read_tree(local.a) == read_tree(local.b)
    assert written(local.a) == {b"changed on a", b"changed on b", b"3", b"4", b"5"}
