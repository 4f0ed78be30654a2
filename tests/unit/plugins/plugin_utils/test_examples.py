# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's two directories."""

from __future__ import annotations

from ansible_collections.pairsync.fleet.plugins.plugin_utils.examples import fill


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_each_has_what_the_other_has_not_and_nothing_conflicts(tmp_path):
    assert fill(tmp_path / "left", tmp_path / "right")
    left, right = contents(tmp_path / "left"), contents(tmp_path / "right")
    assert left.keys() - right.keys()
    assert right.keys() - left.keys()
    both = left.keys() & right.keys()
    assert both == {"config.json"}
    assert left["config.json"] == right["config.json"]
    assert "checkpoint" in left


def test_it_is_the_same_every_time(tmp_path):
    fill(tmp_path / "1/left", tmp_path / "1/right")
    fill(tmp_path / "2/left", tmp_path / "2/right")
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "right").mkdir()
    assert not fill(tmp_path / "left", tmp_path / "right")
    assert not (tmp_path / "left").exists()
