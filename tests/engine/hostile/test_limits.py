# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and trees at the limits of the kernel and of ours; names that look like our own."""

from __future__ import annotations

import os

import pytest

from pairsync.replica.walk import MOST_LEVELS
from pairsync.wire.limits import MOST_DEPTH
from tests.engine.trees import STATE, Pair, local_and_agent, quiet, read_tree, write_tree

LONGEST = "n" * 251 + ".txt"


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path / "pair", local_and_agent)


def deep(root, levels, name, edit):
    """Make a chain of directories too long for any path, and edit what is at its end."""
    fd = os.open(root, os.O_RDONLY)
    for __ in range(levels):
        try:
            os.mkdir(name, dir_fd=fd)
        except FileExistsError:
            pass
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    try:
        return edit(fd)
    finally:
        os.close(fd)


def write_at(name, text):
    def edit(fd):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=fd)
        os.write(file, text)
        os.close(file)

    return edit


def read_at(name):
    def edit(fd):
        file = os.open(name, os.O_RDONLY, dir_fd=fd)
        try:
            return os.read(file, 100)
        finally:
            os.close(file)

    return edit


def test_the_longest_names_come_go_and_are_kept(pair):
    write_tree(pair.a, {LONGEST: "1", f"{'d' * 255}/{LONGEST}": "2"})
    assert pair.sync().exit == 0
    assert read_tree(pair.a) == read_tree(pair.b)
    for text in ("changed", "once more"):
        write_tree(pair.a, {LONGEST: text, f"{'d' * 255}/{LONGEST}": text})
        assert pair.sync().exit == 0
        assert read_tree(pair.a) == read_tree(pair.b)
    (pair.a / LONGEST).unlink()
    (pair.a / ("d" * 255) / LONGEST).unlink()
    assert pair.sync().exit == 0
    assert pair.backups() >= {b"1", b"2", b"changed", b"once more"}


def test_a_path_that_is_longer_than_a_path_may_be(pair):
    """12 000 bytes: no path is ever handed to the kernel whole."""
    deep(pair.a, 60, "d" * 200, write_at("f", b"deep"))
    assert pair.sync().exit == 0
    assert deep(pair.b, 60, "d" * 200, read_at("f")) == b"deep"
    deep(pair.b, 60, "d" * 200, write_at("f", b"changed"))
    assert pair.sync().exit == 0
    assert deep(pair.a, 60, "d" * 200, read_at("f")) == b"changed"
    deep(pair.a, 60, "d" * 200, lambda fd: os.unlink("f", dir_fd=fd))
    result = pair.sync()
    assert result.exit == 0, result.report["items"][:1]
    assert quiet(pair.sync())


def test_a_tree_that_is_deeper_than_we_go_stops_there_and_not_beside(pair):
    assert MOST_LEVELS < MOST_DEPTH
    write_tree(pair.a, {"beside": "1"})
    deep(pair.a, MOST_LEVELS, "d", write_at("f", b"deep"))
    assert pair.sync().exit == 0
    assert deep(pair.b, MOST_LEVELS, "d", read_at("f")) == b"deep"
    write_tree(pair.a, {"beside": "changed"})
    deep(pair.a, MOST_LEVELS + 2, "d", write_at("f", b"too deep"))
    result = pair.sync()
    assert result.exit == 2
    assert [item["decision"] for item in result.report["items"]].count("error") == 1
    assert (pair.b / "beside").read_text() == "changed"
    assert deep(pair.a, MOST_LEVELS + 2, "d", read_at("f")) == b"too deep"


OURS = (
    *("f1", "u0", "names", "stage", "backup", "lock"),
    *("replica.json", "base.sqlite", "index.sqlite"),
)


def test_names_that_we_use_ourselves_are_anybody_s(pair):
    tree = {name: name for name in OURS}
    tree.update({f"pairs/{name}.new": "x" for name in OURS})
    tree.update({f"f.conflict-gpu1-{number:08x}.txt": "y" for number in range(3)})
    write_tree(pair.a, tree)
    assert pair.sync().exit == 0
    assert read_tree(pair.b) == read_tree(pair.a)
    for name in OURS:
        (pair.b / name).write_text("changed")
    assert pair.sync().exit == 0
    assert {(pair.a / name).read_text() for name in OURS} == {"changed"}


def test_our_own_name_at_any_depth_is_nobody_s(pair):
    write_tree(pair.a, {f"d/{STATE}/x": "1", "d/f": "2"})
    assert pair.sync().exit == 0
    assert not (pair.b / "d" / STATE).exists()
    write_tree(pair.b, {f"d/{STATE}": "a file of that name"})
    assert pair.sync().exit == 0
    assert (pair.a / "d" / STATE / "x").read_text() == "1"
    assert (pair.b / "d" / STATE).read_text() == "a file of that name"


def test_a_session_leaves_no_descriptor_behind(tmp_path, before):
    pair = Pair(tmp_path / "pair")
    write_tree(pair.a, {"d/e/f": "1", "g": "2"})
    write_tree(pair.b, {"h/i": "3"})
    counts = []
    for number in range(4):
        write_tree(pair.a, {"d/e/f": f"{number} from a", f"new{number}/x": "4"})
        write_tree(pair.b, {"h/i": f"{number} from b"})
        write_tree(pair.a, {"large": os.urandom(3 << 20)})
        if number % 2:
            before("write", interrupt, when=lambda __, data: len(data) == 1 << 20)
        assert pair.sync().exit == (3 if number % 2 else 0)
        counts.append(len(os.listdir("/proc/self/fd")))
    assert max(counts) <= counts[0], counts


def interrupt():
    raise KeyboardInterrupt
