# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Path specifications mean what they mean to Unison."""

from __future__ import annotations

import os
import subprocess

import pytest

from pairsync.model.errors import UsageError
from pairsync.model.pathspec import PathSet
from tests.engine.trees import read_tree, write_tree

TABLE = [
    ("Name a", ["a", "d/a", "d/e/a"], ["ab", "a/b", "A"]),
    ("Name *.tmp", ["x.tmp", "d/x.tmp"], [".tmp", "x.tmp/y", "xtmp"]),
    ("Name .*.swp", [".x.swp"], ["x.swp"]),
    ("Name ?", ["a", "d/b"], ["ab", "."]),
    ("Name [ab]c", ["ac", "d/bc"], ["cc", "c"]),
    ("Name [^ab]c", ["cc"], ["ac", "bc"]),
    ("Name {x,y}.o", ["x.o", "d/y.o"], ["z.o"]),
    ("Name a{b{c,d},e}", ["abc", "abd", "ae"], ["ab", "a"]),
    ("Name a\\*", ["a*"], ["ab"]),
    ("Path a", ["a"], ["d/a", "a/b"]),
    ("Path d/*.o", ["d/x.o"], ["d/e/x.o", "x.o", "d/.o"]),
    ("Path d/*/f", ["d/e/f"], ["d/f", "d/e/e/f"]),
    ("BelowPath d", ["d", "d/e", "d/e/f"], ["dd", "x/d"]),
    ("Regex .*/cache/.*", ["d/cache/x"], ["cache/x", "d/cache"]),
    ("Regex x|y", ["x", "y"], ["xy", "x/y"]),
]


@pytest.mark.parametrize("spec, inside, outside", TABLE)
def test_globbing(spec, inside, outside):
    paths = PathSet([spec])
    assert [path for path in inside if not paths.matches(path.encode())] == []
    assert [path for path in outside if paths.matches(path.encode())] == []


@pytest.mark.needs("unison")
@pytest.mark.parametrize("spec", [spec for spec, __, __ in TABLE])
def test_unison_ignores_the_same(spec, tmp_path):
    names = ["a", "ab", "d/a", "d/x.o", "d/e/x.o", "d/e/f", "d/.o", "x.tmp", ".tmp", ".x.swp"]
    names += ["ac", "bc", "cc", "c", "abc", "abd", "ae", "x.o", "d/y.o", "z.o", "a*", "dd"]
    names += ["d/cache/x", "cache/x", "q/x.tmp", "q/.hidden/y"]
    write_tree(tmp_path / "a", dict.fromkeys(names, "text"))
    (tmp_path / "b").mkdir()
    subprocess.run(
        ["unison", tmp_path / "a", tmp_path / "b", "-batch", "-ui", "text", "-ignore", spec],
        env={**os.environ, "UNISON": str(tmp_path / "archive"), "HOME": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    paths = PathSet([spec])

    def ignored(path):
        parts = path.split("/")
        return any(paths.matches("/".join(parts[:n]).encode()) for n in range(1, len(parts) + 1))

    ours = {path for path in read_tree(tmp_path / "a") if not ignored(path)}
    assert ours == set(read_tree(tmp_path / "b"))


def test_names_are_bytes():
    assert PathSet(["Name *.tmp"]).matches(b"d/\xff\n.tmp")
    assert PathSet([os.fsdecode(b"Name \xff")]).matches(b"d/\xff")


def test_a_set_matches_what_any_of_its_rules_matches():
    paths = PathSet(["Name a", "Path d/*", "Regex x+"])
    assert all(paths.matches(path) for path in (b"a", b"d/e", b"xxx"))
    assert not paths.matches(b"e")
    assert not PathSet()
    assert not PathSet().matches(b"a")


def test_flags_and_groups_of_a_regex_are_its_own():
    paths = PathSet(["Name a", "Path b", "Regex (?i).*\\.tmp", r"Regex (x)\1", r"Regex (y)\1"])
    assert all(paths.matches(path) for path in (b"d/x.TMP", b"xx", b"yy"))
    assert not any(paths.matches(path) for path in (b"A", b"B", b"xy", b"XX", b"x.tmp/y"))


@pytest.mark.parametrize(
    "spec",
    ["", "a", "Regex a{99999999999}", "Name", "Name  ", "name a", "Regex (", "Name [a", "Nam x"],
)
def test_a_malformed_rule_is_named(spec):
    with pytest.raises(UsageError, match=r"malformed|unclosed") as caught:
        PathSet([spec])
    assert caught.value.next


def test_alternatives_are_bounded():
    with pytest.raises(UsageError, match="too many alternatives"):
        PathSet(["Name " + "{a,b}" * 20])
