# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The base: commits in two steps, and damage that is never taken for what was agreed on (P22)."""

from __future__ import annotations

import hashlib
import sqlite3
import sys

import pytest

from pairsync.model.entry import DIR, FILE, LINK, Entry
from pairsync.replica.base import NAME, Base

DIRECTORY = Entry(DIR, 0o755)


def file(text: str) -> Entry:
    return Entry(FILE, 0o644, len(text), 0, hashlib.sha256(text.encode()).digest())


ROWS = (
    (b"d", DIRECTORY),
    (b"d/e", DIRECTORY),
    (b"d/e/f", file("deep")),
    (b"f", file("text")),
    (b"l", Entry(LINK, None, 0, 0, None, b"tar\xffget")),
    (b"no mode", Entry(FILE, None, 1, 0, bytes(32))),
)


@pytest.fixture
def opened(held, tmp_path):
    """Open the base again, as the next session does."""
    bases = []

    def open_it(pair="pair", name="state"):
        while bases:
            bases.pop().close()
        bases.append(Base(held(tmp_path / name), pair))
        return bases[-1]

    yield open_it
    while bases:
        bases.pop().close()


def committed(opened, rows=ROWS, commit="one"):
    base = opened()
    base.write_pending(commit, rows)
    base.promote()
    return opened()


def test_a_new_base_is_empty_and_sound(opened):
    commits = opened().commits
    assert (commits.current, commits.pending, commits.rows, commits.sound) == ("", "", 0, True)


def test_what_is_promoted_is_there_for_the_next_session(opened):
    base = committed(opened)
    assert base.commits.current == "one"
    assert base.commits.rows == len(ROWS)
    assert base.commits.sound
    assert dict(base.below(b"")) == dict(ROWS)
    assert base.entry(b"d/e/f") == file("deep")
    assert base.entry(b"d/nothing") is None


def test_a_pending_commit_is_not_valid_yet(opened):
    committed(opened).write_pending("two", [(b"f", None)])
    base = opened()
    assert (base.commits.current, base.commits.pending) == ("one", "two")
    assert base.commits.sound
    assert base.entry(b"f") == file("text")
    base.drop_pending()
    base = opened()
    assert base.commits.pending == ""
    assert base.entry(b"f") == file("text")


def test_a_pending_commit_of_the_session_before_can_be_promoted(opened):
    committed(opened).write_pending("two", [(b"f", None), (b"g", file("new"))])
    base = opened()
    base.promote()
    assert base.commits.current == "two"
    base = opened()
    assert base.commits.sound
    assert base.entry(b"f") is None
    assert base.entry(b"g") == file("new")


def test_both_hosts_give_one_commit_one_checksum(opened):
    one, other = opened(), None
    sums = [one.write_pending("c", ROWS)]
    other = opened(name="other")
    half = len(ROWS) // 2
    other.write_pending("first half", ROWS[:half])
    other.promote()
    sums.append(other.write_pending("c", ROWS[half:]))
    assert sums[0] == sums[1]
    assert other.write_pending("c", [*ROWS[half:], (b"more", DIRECTORY)]) != sums[0]


def test_what_was_below_a_directory_goes_with_it(opened):
    base = committed(opened)
    base.write_pending("two", [(b"d", file("now a file"))])
    base.promote()
    base = opened()
    assert base.entry(b"d/e") is None
    assert base.commits.rows == len(ROWS) - 2
    assert base.commits.sound


def test_a_tree_may_be_deeper_than_python_recurses(opened):
    paths = [b"/".join([b"d"] * depth) for depth in range(1, sys.getrecursionlimit() + 2)]
    rows = [*((path, DIRECTORY) for path in paths), (b"e", file("beside"))]
    base = committed(opened, rows)
    assert list(base.below(b"")) == rows
    base.write_pending("two", [(b"d", None)])
    base.promote()
    assert list(base.below(b"")) == rows[-1:]


def test_a_base_of_another_pair_is_not_sound(opened):
    committed(opened)
    assert not opened(pair="another").commits.sound


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE directories SET data = CAST(data || 'x' AS BLOB) WHERE path = x''",
        "DELETE FROM directories WHERE path = x''",
        "INSERT INTO directories VALUES (x'61', x'')",
        "UPDATE meta SET value = 'x' WHERE key = 'checksum'",
        "DELETE FROM meta WHERE key = 'checksum'",
    ],
)
def test_damaged_rows_are_found_out(opened, tmp_path, damage):
    committed(opened).close()
    with sqlite3.connect(tmp_path / "state" / NAME) as database:
        database.execute(damage)
    database.close()
    assert not opened().commits.sound


@pytest.mark.parametrize("page", range(1, 10))
def test_a_damaged_file_is_an_error_or_not_sound_or_unharmed(opened, tmp_path, page):
    committed(opened, [*ROWS, *((b"d/%d" % n, file(str(n))) for n in range(500))]).close()
    path = tmp_path / "state" / NAME
    data = bytearray(path.read_bytes())
    place = (page * 4096 + 100) % len(data)
    data[place : place + 300] = bytes(byte ^ 0xFF for byte in data[place : place + 300])
    path.write_bytes(data)
    try:
        base = opened()
    except sqlite3.DatabaseError:
        return
    if base.commits.sound:
        assert dict(base.below(b"d/e")) == {b"d/e/f": file("deep")}
        assert base.entry(b"d/17") == file("17")


def test_a_truncated_file_is_an_error_or_not_sound(opened, tmp_path):
    committed(opened).close()
    path = tmp_path / "state" / NAME
    path.write_bytes(path.read_bytes()[:5000])
    try:
        assert not opened().commits.sound
    except sqlite3.DatabaseError:
        pass
