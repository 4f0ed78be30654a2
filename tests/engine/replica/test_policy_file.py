# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A policy counts only where nobody else can have written it."""

from __future__ import annotations

import json
import os

import pytest

from pairsync.model.agent_policy import SCHEMA
from pairsync.model.errors import PairsyncError
from pairsync.replica.policy_file import read_policy


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "etc/pairs/p.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema": SCHEMA, "label": "x", "roots": ["/data"]}))
    path.chmod(0o644)
    return path


def refusal(path):
    with pytest.raises(PairsyncError) as caught:
        read_policy(os.fsencode(path))
    assert caught.value.code == "policy"
    assert caught.value.next
    return caught.value.message


def test_a_file_of_one_s_own_is_read(file):
    assert read_policy(os.fsencode(file)).roots == ("/data",)


def test_a_directory_that_cannot_be_listed_is_no_obstacle(file):
    file.parent.chmod(0o111)
    assert read_policy(os.fsencode(file)).label == "x"


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_may_write(file, mode):
    file.chmod(mode)
    assert "others may write to it" in refusal(file)


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_directory_above_it_that_others_may_write(file, mode):
    file.parent.parent.chmod(mode)
    assert f"others may write to {file.parent.parent}" in refusal(file)


def test_a_directory_like_tmp_may_be_above_it(file):
    file.parent.parent.chmod(0o1777)
    assert read_policy(os.fsencode(file)).label == "x"


@pytest.mark.root
@pytest.mark.parametrize("place", ["file", "directory"])
def test_what_belongs_to_somebody_else(file, place):
    os.chown(file if place == "file" else file.parent, 1234, 1234)
    assert "others may write" in refusal(file)


def test_a_symlink_anywhere(file, tmp_path):
    (tmp_path / "link.json").symlink_to(file)
    assert "cannot be opened" in refusal(tmp_path / "link.json")
    (tmp_path / "way").symlink_to(file.parent)
    assert "cannot be opened" in refusal(tmp_path / "way/p.json")


def test_what_is_no_file(file, tmp_path):
    assert "cannot be opened" in refusal(file.parent)
    assert "cannot be opened" in refusal(tmp_path / "missing/p.json")
    os.mkfifo(tmp_path / "pipe")
    assert "cannot be opened" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["etc/p.json", "/etc/../etc/p.json", "/etc//p.json", "/", ""])
def test_a_path_that_could_mean_another(path):
    assert "its path must be absolute" in refusal(path)


def test_a_file_without_end(file):
    file.write_bytes(b" " * (65 << 10))
    assert "it is too long" in refusal(file)
