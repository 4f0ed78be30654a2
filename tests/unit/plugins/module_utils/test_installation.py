# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout of versions and links on a host."""

from __future__ import annotations

import hashlib
import os

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils import installation
from ansible_collections.pairsync.fleet.plugins.module_utils.installation import Place


@pytest.fixture
def place(tmp_path):
    """An empty place for a tool called `tool`."""
    place = Place(name="tool", prefix=tmp_path / "opt", bin_dir=tmp_path / "bin")
    place.home.mkdir(parents=True)
    place.bin_dir.mkdir()
    return place


def put(place, version, contents):
    """Put a version with CONTENTS there, and return its directory's name."""
    digest = hashlib.sha256(contents).hexdigest()
    directory = installation.directory_name(version, digest)
    place.binary(directory).parent.mkdir()
    place.binary(directory).write_bytes(contents)
    return directory


def test_versions_come_in_the_order_in_which_they_were_linked(place):
    old, new = put(place, "1.10", b"a"), put(place, "1.9", b"b")
    installation.write_order(place, [old, new])
    assert installation.installed(place) == [old, new]


def test_a_version_that_was_never_recorded_is_the_oldest(place):
    new, lost = put(place, "2.0", b"a"), put(place, "3.0", b"b")
    installation.write_order(place, ["1.0-00000000", new])
    assert installation.installed(place) == [lost, new]


def test_a_damaged_version_does_not_count(place):
    directory = put(place, "1.0", b"whole")
    place.binary(directory).write_bytes(b"half")
    assert installation.installed(place) == []


def test_nothing_is_installed_where_nothing_is(tmp_path):
    place = Place(name="tool", prefix=tmp_path / "no", bin_dir=tmp_path / "where")
    assert installation.installed(place) == []
    assert installation.links_of(place) == {}


def test_only_links_into_the_tools_own_home_are_ours(place, tmp_path):
    directory = put(place, "1.0", b"x")
    ours = {name: place.bin_dir / name for name in ("tool", "relative", "gone")}
    ours["tool"].symlink_to(place.binary(directory))
    ours["relative"].symlink_to(f"../opt/tool/{directory}/tool")
    ours["gone"].symlink_to(place.home / "0.9-00000000" / "tool")
    (place.bin_dir / "file").write_text("")
    (place.bin_dir / "folder").mkdir()
    (place.bin_dir / "other").symlink_to(tmp_path / "opt" / "another" / "1.0-00000000" / "tool")
    (place.bin_dir / "home").symlink_to(place.home)
    assert installation.links_of(place) == {
        ours["tool"]: directory,
        ours["relative"]: directory,
        ours["gone"]: "0.9-00000000",
    }


def test_a_link_is_never_missing_while_it_is_switched(place):
    first, second = put(place, "1.0", b"a"), put(place, "2.0", b"b")
    link = place.bin_dir / "tool"
    installation.switch_link(link, place.binary(first))
    inode = link.lstat().st_ino
    installation.switch_link(link, place.binary(second))
    assert link.lstat().st_ino != inode  # a new link took its name, the old one was not emptied
    assert link.read_bytes() == b"b"
    assert [path.name for path in place.bin_dir.iterdir()] == ["tool"]


def test_what_an_interrupted_installation_left_is_swept_away(place):
    directory = put(place, "1.0", b"x")
    (place.home / ".new-abc" / "new-00000000").mkdir(parents=True)
    (place.home / ".gone-0.9-00000000-12").mkdir()
    installation.sweep(place)
    assert [path.name for path in place.home.iterdir()] == [directory]


def test_directories_are_usable_by_everybody_from_the_prefix_on(tmp_path):
    previous = os.umask(0o077)
    try:
        installation.make_directory(tmp_path / "a" / "b" / "c", tmp_path / "a" / "b")
    finally:
        os.umask(previous)
    modes = [(tmp_path / path).stat().st_mode & 0o777 for path in ("a", "a/b", "a/b/c")]
    assert modes == [0o700, 0o755, 0o755]


def test_nothing_is_left_of_a_tool_but_its_neighbours(place):
    put(place, "1.0", b"x")
    (place.prefix / "neighbour").mkdir()
    installation.remove_everything(place)
    assert [path.name for path in place.prefix.iterdir()] == ["neighbour"]
    (place.prefix / "neighbour").rmdir()
    place.home.mkdir()
    installation.remove_everything(place)
    assert not place.prefix.exists()
