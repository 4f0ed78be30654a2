# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Edits add lines and change none."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import (
    UsageError,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils.pairs_edit import add_ignore, add_pair
from ansible_collections.pairsync.fleet.plugins.plugin_utils.pairs_file import read_pairs_file

CHECKOUT = Path(__file__).parents[4]

COMMENTED = """\
# Ours.
plugin: pairsync.fleet.pairs
defaults: {prefer: newer}   # wins
trees:
   # Four columns, on purpose.
   block:
      replicas:
         gpu1: /d   # the first
         gpu2: "/e"
      ignore:
      - Name x   # why
      # about what follows

   # about flow
   flow: {replicas: {gpu1: /f, gpu2: /f}, ignore: ['Name y']}
   empty:
      replicas: {gpu1: /g, gpu2: /g}
      ignore: []

   # about none
   none:
      replicas: {gpu1: /h, gpu2: /h}   # last

   # about short
   short: {replicas: {gpu1: /i, gpu2: /i}}
# The end.
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.yml"
    path.write_text(COMMENTED)
    return path


def changes(before: str, after: str) -> list[str]:
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line.rstrip() for line in lines if line[0] in "+-"]


@pytest.mark.parametrize(
    "tree,expected",
    [
        ("block", ["+       - Path a b"]),
        (
            "flow",
            [
                "-    flow: {replicas: {gpu1: /f, gpu2: /f}, ignore: ['Name y']}",
                "+    flow: {replicas: {gpu1: /f, gpu2: /f}, ignore: ['Name y', Path a b]}",
            ],
        ),
        ("empty", ["-       ignore: []", "+       ignore: [Path a b]"]),
        ("none", ["+       ignore:", "+         - Path a b"]),
        (
            "short",
            [
                "-    short: {replicas: {gpu1: /i, gpu2: /i}}",
                "+    short: {replicas: {gpu1: /i, gpu2: /i}, ignore: [Path a b]}",
            ],
        ),
    ],
)
def test_a_rule_is_one_more_line(file, tree, expected):
    assert add_ignore(file, tree, "Path a b")
    assert changes(COMMENTED, file.read_text()) == expected
    (found,) = (one for one in read_pairs_file(file).trees if one.name == tree)
    assert found.policy["ignore"][-1] == "Path a b"
    assert not add_ignore(file, tree, "Path a b")


@pytest.mark.parametrize("rule", ["Regex x{1,2}: #.*", "Name [ab]*", "Name 'q\"", "Name {a,b}"])
@pytest.mark.parametrize("tree", ["block", "flow", "none"])
def test_any_rule_comes_back_as_it_was(file, tree, rule):
    add_ignore(file, tree, rule)
    (found,) = (one for one in read_pairs_file(file).trees if one.name == tree)
    assert found.policy["ignore"][-1] == rule


def test_a_rule_stands_before_the_comments_of_what_follows(file):
    add_ignore(file, "none", "Name z")
    text = file.read_text()
    assert text.index("Name z") < text.index("# about short")
    assert text.index("Name z") > text.index("# last")


@pytest.mark.parametrize(
    "tree,rule,expected",
    [
        ("blokc", "Name x", "there is no tree blokc; did you mean block?"),
        ("block", "Nmae x", "the path specification 'Nmae x' is malformed"),
    ],
)
def test_a_rule_that_cannot_be_added_changes_nothing(file, tree, rule, expected):
    with pytest.raises(UsageError, match=expected.replace("?", r"\?")):
        add_ignore(file, tree, rule)
    assert file.read_text() == COMMENTED


def test_a_form_without_a_place_is_said(file):
    text = COMMENTED.replace("ignore: []", "ignore: *rules").replace(
        "['Name y']", "&rules ['Name y']"
    )
    file.write_text(text)
    with pytest.raises(
        UsageError, match=r"leaves no place for trees\.empty\.ignore; add it by hand"
    ):
        add_ignore(file, "empty", "Name z")
    assert file.read_text() == text


def test_the_mode_of_the_file_stays_and_a_link_is_followed(file):
    file.chmod(0o640)
    link = file.with_name("link.yml")
    link.symlink_to(file)
    add_ignore(link, "block", "Name z")
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(file.parent)) == ["link.yml", "pairs.yml"]


def test_the_first_pair_makes_both_files(tmp_path):
    file = tmp_path / "site" / "pairs.yml"
    added = add_pair(file, "gpu1:/data/model", "ssh://me@gpu2:2222//data/model")
    assert (added.name, added.hosts, added.changed) == (
        "gpu1+gpu2@model",
        ("gpu1", "gpu2"),
        True,
    )
    assert file.read_text().endswith(
        "plugin: pairsync.fleet.pairs\n"
        "trees:\n"
        "  model:\n"
        "    replicas:\n"
        "      gpu1: /data/model\n"
        "      gpu2: /data/model\n"
    )
    assert (
        (file.parent / "hosts.yml")
        .read_text()
        .endswith("    gpu1:\n    gpu2:\n      ansible_user: me\n      ansible_port: 2222\n")
    )


def test_adding_twice_is_adding_once(tmp_path):
    file = tmp_path / "pairs.yml"
    locations = ("/data/a", "me@gpu2:/data/a")
    first = add_pair(file, *locations)
    text = file.read_text()
    again = add_pair(file, *locations)
    assert first.name == again.name == "localhost+gpu2@a"
    assert not again.changed
    assert file.read_text() == text
    assert "ansible_connection: local" in (tmp_path / "hosts.yml").read_text()


def test_a_pair_joins_a_commented_file(file):
    add_pair(file, "gpu1:/x", "gpu3:/x", "more", known=["gpu1"])
    assert changes(COMMENTED, file.read_text()) == [
        "+    more:",
        "+      replicas:",
        "+        gpu1: /x",
        "+        gpu3: /x",
    ]
    assert (file.parent / "hosts.yml").read_text().endswith("all:\n  hosts:\n    gpu3:\n")


def test_a_known_host_is_not_entered_again(tmp_path):
    hosts = tmp_path / "hosts.yml"
    hosts.write_text("all:\n  children:\n    gpu:\n      hosts: {gpu1: {ansible_user: me}}\n")
    added = add_pair(tmp_path / "pairs.yml", "me@gpu1:/d", "you@gpu2:/d", known=["gpu2"])
    assert added.hosts == ()
    a, b = read_pairs_file(tmp_path / "pairs.yml").trees[0].replicas
    # What hosts.yml says already is not repeated, what it does not say belongs to the pair.
    assert (a.user, b.user) == ("", "you")


def test_a_taken_name_gets_a_number_and_a_wanted_one_is_refused(file):
    assert add_pair(file, "gpu1:/flow", "gpu2:/x", known=["gpu1", "gpu2"]).tree == "flow_2"
    text = file.read_text()
    with pytest.raises(
        UsageError, match=r"pairs\.yml:15: there is a tree flow with other replicas"
    ):
        add_pair(file, "gpu1:/1", "gpu2:/2", "flow", known=["gpu1", "gpu2"])
    assert file.read_text() == text


def test_two_directories_of_one_host_are_refused(file):
    with pytest.raises(UsageError, match="run `invoke sync PATH PATH`"):
        add_pair(file, "/a", "/b")


def test_a_file_that_is_wrong_is_not_edited(file):
    file.write_text(COMMENTED.replace("prefer", "prefre"))
    with pytest.raises(UsageError, match=r"pairs\.yml:3: defaults\.prefre: unknown key"):
        add_pair(file, "gpu1:/x", "gpu3:/x")
    assert not (file.parent / "hosts.yml").exists()


def test_the_example_can_be_copied_and_added_to(tmp_path):
    for name in ("hosts.yml", "pairs.yml"):
        (tmp_path / name).write_text((CHECKOUT / "inventories" / "example" / name).read_text())
    before = (tmp_path / "hosts.yml").read_text()
    assert add_pair(tmp_path / "pairs.yml", "gpu1:/new", "gpu9:/new").hosts == ("gpu9",)
    assert changes(before, (tmp_path / "hosts.yml").read_text()) == ["+   hosts:", "+     gpu9:"]
