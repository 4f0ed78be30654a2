# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state directory: an id that is never guessed, and files that are replaced in one step."""

from __future__ import annotations

import errno
import json
import os
import sys

import pytest

from pairsync.model.errors import PairsyncError
from pairsync.replica import guard, state
from tests.engine.trees import STATE, read_tree, write_tree
from tests.mounts import mount, unmount


def test_a_root_has_no_id_until_it_gets_one(tmp_path, held):
    fd = held(tmp_path)
    assert state.find(fd) is None
    made = state.create(fd, "ext4 1234")
    found = state.find(fd)
    assert (found.replica_id, found.file_system) == (made.replica_id, "ext4 1234")
    assert (tmp_path / STATE / ".gitignore").read_text() == "*\n"
    assert (tmp_path / STATE).stat().st_mode & 0o777 == 0o700
    made.close()
    found.close()


def test_ids_are_random(tmp_path, held):
    one, other = (state.create(held(tmp_path / name), "") for name in "xy")
    assert one.replica_id != other.replica_id
    one.close()
    other.close()


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"schema": "x", "id": "1"}', '{"id": ""}', "\xff",
        '{"schema": "pairsync.replica/1", "id": "../../../.bashrc"}',
        '{"schema": "pairsync.replica/1", "id": "/etc/passwd"}',
    ],
)  # fmt: skip
def test_a_damaged_marker_is_not_a_missing_one(tmp_path, held, text):
    fd = held(tmp_path)
    state.create(fd, "").close()
    (tmp_path / STATE / "replica.json").write_text(text, encoding="latin-1")
    with pytest.raises(PairsyncError) as caught:
        state.find(fd)
    assert caught.value.code == "root_identity"
    assert "forget --new-id" in caught.value.next


@pytest.mark.root
def test_a_state_of_another_user_is_refused_naming_both(tmp_path, held):
    fd = held(tmp_path)
    state.create(fd, "").close()
    os.chown(tmp_path / STATE, 65534, -1)
    with pytest.raises(PairsyncError, match="synced by user nobody, and this is user root"):
        state.find(fd)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_planted_state_is_refused(tmp_path, held, kind):
    write_tree(tmp_path, {"elsewhere/replica.json": "{}", "root/x": "1"})
    planted = tmp_path / "root" / STATE
    planted.symlink_to("../elsewhere") if kind == "link" else planted.write_text("")
    with pytest.raises(PairsyncError, match="cannot be opened"):
        state.find(held(tmp_path / "root"))


def test_a_new_id_forgets_every_pair(tmp_path, held):
    fd = held(tmp_path)
    made = state.create(fd, "")
    os.close(made.directory(b"pairs", b"one"))
    made.close()
    assert state.renew(fd, "") != made.replica_id
    assert not (tmp_path / STATE / "pairs").exists()


def test_json_is_replaced_in_one_step(tmp_path, held, failing):
    fd = held(tmp_path)
    state.write_json(fd, b"x.json", {"a": 1})
    failing("sync_file", errno.EIO)
    with pytest.raises(PairsyncError, match="durable: Input/output"):
        state.write_json(fd, b"x.json", {"a": 2})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert state.read_json(fd, b"x.json") == {"a": 1}
    assert state.read_json(fd, b"missing.json") is None


def test_our_own_trees_are_removed_without_following_links(tmp_path, held):
    write_tree(tmp_path, {"outside/keep": "1", "ours/d/e/f": "x", "ours/g": "y"})
    (tmp_path / "ours/d/link").symlink_to("../../outside")
    state.remove_tree(held(tmp_path), b"ours")
    state.remove_tree(held(tmp_path), b"not there")
    assert read_tree(tmp_path) == {"outside": None, "outside/keep": b"1"}


def test_our_own_trees_may_be_deeper_than_python_recurses(tmp_path, held):
    """What a session that died has staged, and what was kept briefly."""
    parent = held(tmp_path)
    levels = sys.getrecursionlimit() - 20
    inner = os.dup(parent)
    for __ in range(levels):
        os.mkdir(b"d", dir_fd=inner)
        outer, inner = inner, os.open(b"d", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    state.remove_tree(parent, b"d")
    assert not os.listdir(tmp_path)


def test_the_file_system_s_identity_is_no_device_number(tmp_path, held):
    fd = held(tmp_path)
    identity = guard.file_system(fd)
    assert identity == guard.file_system(fd)
    assert identity.split()[0] != "unknown"
    assert str(os.fstat(fd).st_dev) not in identity.split()


def test_lineage_names_the_directories_above(tmp_path, held):
    inner = tmp_path / "a/b"
    inner.mkdir(parents=True)
    name, above = guard.lineage(os.fsencode(inner))
    outer, __ = guard.lineage(os.fsencode(tmp_path))
    assert outer in above
    assert name not in above
    assert len(above) == len(inner.parts) - 1


@pytest.mark.root
def test_mounts_below_a_root_are_known(tmp_path, held):
    write_tree(tmp_path, {"d/with space": None})
    mount("-t", "tmpfs", "none", tmp_path / "d/with space")
    try:
        assert guard.mounts_below(held(tmp_path)) == {b"d/with space"}
        assert guard.mounts_below(held(tmp_path / "d/with space")) == frozenset()
    finally:
        unmount(tmp_path / "d/with space")


@pytest.mark.parametrize("kind", [b"vfat", b"cifs"])
def test_a_file_system_without_owners_shows_modes_that_mean_nothing(
    tmp_path, held, monkeypatch, kind
):
    fd = held(tmp_path / "root")
    made = state.create(fd, "")
    made.close()
    (tmp_path / "root" / STATE).chmod(0o777)
    table = tmp_path / "mountinfo"
    table.write_bytes(b"36 35 8:1 / %s rw - %s /dev/x rw\n" % (os.fsencode(tmp_path), kind))
    monkeypatch.setattr(guard, "_MOUNTS", str(table))
    found = state.find(fd)
    assert found.replica_id == made.replica_id
    found.close()
