# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`history` and `restore`: what a person types, and what programs read."""

from __future__ import annotations

import base64
import os
import shutil

import pytest

from tests.cli.running import InProcess
from tests.cli.trees import STATE, contents, traces


@pytest.fixture
def pairsync(tmp_path):
    """In this process: what differs in the binary is shown once, in the test that names it."""
    return InProcess(tmp_path / "state")


@pytest.fixture
def displaced(pairsync, synced):
    """The pair after a sync that replaced `file` and deleted `sub` on b."""
    a, b = synced
    (a / "file").write_text("three\n")
    shutil.rmtree(a / "sub")
    assert pairsync("sync", "--batch", a, b).code == 0
    return a, b


def test_a_replaced_file_comes_back_and_travels_to_the_peer(pairsync, displaced):
    a, b = displaced
    ran = pairsync("restore", b, "file")
    assert (ran.code, ran.err) == (0, "")
    assert (b / "file").read_text() == "one\n"
    assert pairsync("sync", "--batch", a, b).code == 0
    assert (a / "file").read_text() == "one\n"


def test_the_binary_does_the_same(binary, displaced):
    _a, b = displaced
    [run] = binary("history", b, "--json").report["runs"]
    assert binary("restore", b, "--run", run["run"], "--json").report["exit"] == 0
    assert (b / "file").read_text() == "one\n"
    assert (b / "sub/inner").read_text() == "two\n"


def test_what_a_restore_replaced_comes_back_the_same_way(pairsync, displaced):
    _a, b = displaced
    undo = pairsync("restore", b, "file", "--json").report["undo"]
    assert pairsync("restore", b, "--run", undo).code == 0
    assert (b / "file").read_text() == "three\n"


def test_history_lists_runs_then_versions(pairsync, displaced):
    _a, b = displaced
    runs = pairsync("history", b, "--json").report
    assert (runs["schema"], runs["root"], runs["exit"]) == ("pairsync.history/1", str(b), 0)
    [run] = runs["runs"]
    # `file`, `sub/inner`, and the empty directory `sub/empty`.
    assert (run["brief"], run["versions"]) == (False, 3)
    shown = pairsync("history", b)
    assert shown.out.startswith(run["run"])
    answer = pairsync("history", b, "file", "--json").report
    [version] = answer["versions"]
    assert (version["path"], version["run"], version["kind"]) == ("file", run["run"], "file")
    assert (version["bytes"], version["mode"]) == (4, "0644")
    assert pairsync("history", b, "file").out.endswith("  file\n")


@pytest.mark.parametrize("typed", ["file", "./file", "file/", "absolute"])
def test_a_path_as_people_type_it(pairsync, displaced, typed):
    _a, b = displaced
    path = str(b / "file") if typed == "absolute" else typed
    assert pairsync("restore", b, path).code == 0
    assert (b / "file").read_text() == "one\n"


@pytest.mark.parametrize(
    "words,said",
    [
        (["file", "--run", "2001"], "the newest of 1 are"),
        (["flie"], "it has versions of"),
        (["../x"], "write it without"),
        ([".pairsync/backup"], "write it without"),
        (["/etc/passwd"], "does not lie in"),
        ([], "name a path"),
    ],
)
def test_what_is_not_there_is_one_sentence_with_what_there_is(pairsync, displaced, words, said):
    _a, b = displaced
    before = traces(b)
    ran = pairsync("restore", b, *words)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.count("\n") == 1
    assert said in ran.err
    assert traces(b) == before
    answer = pairsync("restore", b, *words, "--json").report
    assert (answer["schema"], answer["exit"]) == ("pairsync.restore/1", 3)
    assert answer["error"]["code"] == "usage"


def test_a_root_that_has_no_backup(pairsync, tmp_path):
    for root, code in ((tmp_path / "no", "root_missing"), (tmp_path, "root_identity")):
        assert pairsync("history", root, "--json").report["error"]["code"] == code
        assert pairsync("restore", root, "f").code == 3


def test_copies_elsewhere_overwrite_nothing(pairsync, displaced, tmp_path):
    _a, b = displaced
    before = contents(b)
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").write_text("mine\n")
    ran = pairsync("restore", b, ".", "--to", out)
    assert ran.code == 1
    assert "nothing is overwritten" in ran.out
    assert (out / "file").read_text() == "mine\n"
    assert (out / "sub/inner").read_text() == "two\n"
    assert contents(b) == before
    assert sorted(os.listdir(out)) == ["file", "sub"]


def test_no_copies_among_our_own_state(pairsync, displaced):
    _a, b = displaced
    before = traces(b, state=True)
    for inside in (b"backup", b"new"):
        ran = pairsync("restore", b, "file", "--to", os.path.join(os.fsencode(b), STATE, inside))
        assert (ran.code, ran.out) == (3, "")
    assert traces(b, state=True) == before


def test_names_reach_no_terminal_raw(pairsync, synced):
    a, b = synced
    name = b"\x1b]0;owned\x07\xff"
    path = os.path.join(os.fsencode(a), name)
    for text in (b"1", b"2"):
        with open(path, "wb") as stream:
            stream.write(text)
        assert pairsync("sync", "--batch", a, b).code == 0
    shown = pairsync("history", b, ".").out + pairsync("restore", b, ".").out
    assert "\\x1b]0;owned\\x07\\xff" in shown
    assert "\x1b" not in shown
    [version] = pairsync("history", b, ".", "--json").report["versions"][-1:]
    assert base64.b64decode(version["path_b64"]) == name


def test_status_shows_what_is_kept_and_for_how_long(pairsync, displaced):
    a, b = displaced
    [one] = pairsync("status", b, "--json").report["pairs"]
    assert (one["backup"]["versions"], one["backup"]["bytes"]) == (3, 8)
    assert one["backup"]["retention"]["keep"] == 10
    assert (
        "backup 8 B in 3 versions (at most 10 of a path, 30 days, 10%)" in pairsync("status", b).out
    )
    assert "backup 0 B in 0 versions" in pairsync("status", a).out
