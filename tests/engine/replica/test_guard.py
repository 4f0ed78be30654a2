# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which identities of a file system are those of one."""

from __future__ import annotations

import os
import subprocess

import pytest

from pairsync.replica import guard
from pairsync.replica.lock import PairLock
from tests.mounts import mount, unmount


@pytest.mark.parametrize(
    "now, then, same",
    [
        ("ext4 0123", "ext4 0123", True),
        ("ext4 0123", "ext4 4567", False),
        ("ext4 0123", "xfs 0123", False),
        ("xfs", "xfs 1-2", True),
        ("xfs 1-2", "xfs", True),
        ("xfs 1-2", "", True),
        ("tmpfs", "xfs 1-2", False),
        ("nfs4 host:/a b", "nfs4 host:/a b", True),
        ("nfs4 host:/a b", "nfs4 host:/a c", False),
    ],
)
def test_one_file_system(now, then, same):
    assert guard.same_file_system(now, then) is same


def test_a_disk_is_the_same_with_and_without_names_of_disks(tmp_path, monkeypatch):
    fd = os.open(tmp_path, os.O_RDONLY)
    before = guard.file_system(fd)
    monkeypatch.setattr(guard, "_UUIDS", str(tmp_path / "nothing"))
    now = guard.file_system(fd)
    os.close(fd)
    assert guard.same_file_system(now, before)
    assert before.partition(" ")[0] not in guard._FSID_IS_UUID or now == before


@pytest.mark.parametrize(
    "options, reaches",
    [
        (b"rw,vers=4.2,local_lock=none", True),
        (b"rw,vers=3,nolock,local_lock=all", False),
        (b"rw,vers=3,local_lock=flock", False),
        (b"rw,flock,lazystatfs", True),
        (b"rw,localflock,lazystatfs", False),
    ],
)
def test_mounts_tell_whether_flock_reaches_other_hosts(
    options, reaches, tmp_path, held, monkeypatch
):
    """Such a mount needs a server; its line in the table of mounts does not."""
    line = b"36 35 0:98 / %s rw shared:1 - nfs4 host:/x %s\n" % (os.fsencode(tmp_path), options)
    table = tmp_path / "mountinfo"
    table.write_bytes(line)
    monkeypatch.setattr(guard, "_MOUNTS", str(table))
    monkeypatch.setattr(guard, "_flock", {})
    fd = held(tmp_path / "pair")
    assert guard.flock_reaches_all(fd) is reaches
    PairLock(fd, "a and b", 0).close()
    assert [name.startswith("lease.") for name in sorted(os.listdir(fd))] == (
        [False] if reaches else [True, False]
    )


@pytest.mark.root
@pytest.mark.needs("mkfs.xfs")
def test_a_disk_has_an_identity_where_there_are_no_names_of_disks(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "_UUIDS", str(tmp_path / "nothing"))
    found = []
    for name in ("one", "other"):
        image, point = tmp_path / f"{name}.img", tmp_path / "point"
        point.mkdir(exist_ok=True)
        with image.open("wb") as stream:
            stream.truncate(320 << 20)
        subprocess.run(["mkfs.xfs", "-q", image], check=True)
        for __ in range(2):
            mount("-o", "loop", image, point)
            fd = os.open(point, os.O_RDONLY)
            found.append(guard.file_system(fd))
            os.close(fd)
            unmount(point)
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert not guard.same_file_system(found[0], found[2])
