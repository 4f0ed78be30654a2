# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which identities of a file system are those of one."""

from __future__ import annotations

import os

import pytest

from pairsync.replica import guard


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
