# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What arrives belongs where it lands: owner, group, ACL and attributes (P39)."""

from __future__ import annotations

import contextlib
import errno
import os
import struct

import pytest

from pairsync.replica.attributes import ACCESS_ACL, DEFAULT_ACL, Owner, of_new
from tests.engine.trees import Pair, write_tree

OURS, THEIRS = 54321, 54322
NOBODY = 0xFFFFFFFF
LARGE = bytes(3 << 20)


def acl(user):
    """An ACL that lets one more user write, as the kernel stores it."""
    rows = [(1, 7, NOBODY), (2, 7, user), (4, 5, NOBODY), (0x10, 7, NOBODY), (0x20, 5, NOBODY)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


@contextlib.contextmanager
def plain_user(group):
    """Not root for a moment, but in a group."""
    groups = os.getgroups()
    os.setgroups([group])
    os.seteuid(54320)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setgroups(groups)


@pytest.fixture
def local(tmp_path):
    return Pair(tmp_path / "pair")


@pytest.mark.root
@pytest.mark.parametrize("group, owner", [(OURS, OURS), (THEIRS, -1)])
def test_a_plain_user_follows_a_directory_s_group_when_in_it(tmp_path, held, group, owner):
    os.chown(tmp_path, -1, group)
    tmp_path.chmod(0o2775)
    fd = held(tmp_path)
    with plain_user(OURS):
        assert of_new(fd) == Owner(-1, owner, set_gid=True)


def test_what_is_new_gets_the_acl_that_its_directory_hands_down(local):
    write_tree(local.a, {"f": "1", "large": LARGE, "d/inner/f": "2"})
    os.setxattr(local.b, DEFAULT_ACL, acl(OURS))
    assert local.sync().exit == 0
    made_here = local.b / "made here"
    made_here.mkdir()
    for path in ["f", "large", "d/inner/f"]:
        got = struct.unpack_from("<HHI", os.getxattr(local.b / path, ACCESS_ACL), 4 + 8)
        assert got == (2, 7, OURS)
    for path in ["d", "d/inner"]:
        assert os.getxattr(local.b / path, DEFAULT_ACL) == os.getxattr(made_here, DEFAULT_ACL)
    made_here.rmdir()
    assert {(local.b / path).stat().st_mode & 0o777 for path in ["f", "large"]} == {0o644}
    assert local.sync().items == {}


@pytest.mark.parametrize("old, new", [("1", "2 and more"), (LARGE, LARGE + b"1")])
def test_what_replaces_a_file_keeps_its_acl_and_attributes(local, old, new):
    write_tree(local.a, {"f": old})
    (local.a / "f").chmod(0o664)
    assert local.sync().exit == 0
    os.setxattr(local.b / "f", ACCESS_ACL, acl(OURS))
    os.setxattr(local.b / "f", "user.note", b"mine")
    (local.b / "f").chmod(0o664)
    before = os.getxattr(local.b / "f", ACCESS_ACL)
    write_tree(local.a, {"f": new})
    result = local.sync()
    assert result.exit == 0
    assert (local.b / "f").stat().st_size == len(new)
    assert os.getxattr(local.b / "f", ACCESS_ACL) == before
    assert os.getxattr(local.b / "f", "user.note") == b"mine"
    assert (local.b / "f").stat().st_mode & 0o777 == 0o664
    assert [item["reason"] for item in result.report["items"]] == [None]


@pytest.mark.root
def test_what_replaces_a_file_keeps_its_owner(local):
    write_tree(local.a, {"f": "1"})
    assert local.sync().exit == 0
    os.chown(local.b / "f", OURS, THEIRS)
    write_tree(local.a, {"f": "2"})
    assert local.sync().exit == 0
    status = (local.b / "f").stat()
    assert (status.st_uid, status.st_gid) == (OURS, THEIRS)


def test_what_cannot_be_kept_is_said(local, failing):
    write_tree(local.a, {"f": "1"})
    assert local.sync().exit == 0
    os.setxattr(local.b / "f", "user.note", b"mine")
    os.setxattr(local.b / "f", ACCESS_ACL, acl(OURS))
    (local.b / "f").chmod(0o644)
    write_tree(local.a, {"f": "2"})
    failing("set_attribute", errno.EPERM)
    result = local.sync()
    assert result.exit == 0
    assert (local.b / "f").read_text() == "2"
    (item,) = result.report["items"]
    assert item["result"] == "done"
    assert item["reason"] in (
        "could not keep user.note and ACL",
        "could not keep ACL and user.note",
    )
