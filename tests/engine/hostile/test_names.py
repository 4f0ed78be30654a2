# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that the other replica cannot hold: the item says so, and the origin stays, also later."""

from __future__ import annotations

import pytest

from pairsync.replica import units
from tests.engine.trees import STATE, Link, quiet, read_tree, write_tree, written

pytestmark = [pytest.mark.root, pytest.mark.needs("fusermount3")]

NFC, NFD = "caf\u00e9", "cafe\u0301"
FAT = ("case", "dots", "strict", "plain")


def results(run):
    return {path: became for path, (__, became) in run.items.items()}


def settled(pair, first):
    """After some more sessions nothing moves, nothing is missing on a, and the exit code stays."""
    was = read_tree(pair.a)
    for __ in range(3):
        again = pair.sync()
        assert read_tree(pair.a) == was
        assert again.exit == first.exit
        assert not pair.base(pair.a).keys() - was.keys()
    assert quiet(again)


@pytest.mark.parametrize("top", ["", "new/"])
@pytest.mark.parametrize(
    "rule, twins",
    [("case", ("README", "readme")), ("nfc", (NFC, NFD)), ("dots", ("name", "name."))],
)
@pytest.mark.parametrize("contents", [("1", "1"), ("1", "other")])
def test_of_two_names_that_are_one_there_the_second_fails(local, lossy, rule, twins, contents, top):
    tree = {f"{top}{twin}": text for twin, text in zip(twins, contents, strict=True)}
    lossy(local.b, rule)
    write_tree(local.a, {**tree, f"{top}fine": "2"})
    was = read_tree(local.a)
    first = local.sync()
    assert first.exit == 2
    assert sorted(results(first).values()) == ["done"] * (2 if not top else 3) + ["failed"]
    assert read_tree(local.a) == was
    assert len(written(local.b)) == 2
    settled(local, first)


@pytest.mark.parametrize("changed", ["", "changed"])
@pytest.mark.parametrize(
    "old, new, below", [("README", "readme", ""), ("Data", "data", "f"), ("d/A", "d/a", "x/y")]
)
def test_a_rename_that_changes_case_only_is_no_deletion(local, lossy, old, new, below, changed):
    lossy(local.b, "case")
    write_tree(local.a, {f"{old}/{below}".rstrip("/"): "contents", "f": "1"})
    assert local.sync().exit == 0
    (local.a / old).rename(local.a / new)
    if changed:
        (local.a / new / below).write_text(changed)
    result = local.sync()
    assert result.exit == 0, result.report["items"]
    assert read_tree(local.b) == read_tree(local.a)
    assert (local.b / new / below).read_text() == (changed or "contents")
    settled(local, result)


def test_a_rename_that_changes_case_only_comes_from_there_too(local, lossy):
    lossy(local.b, "case")
    write_tree(local.a, {"README": "contents", "Dir/f": "1"})
    assert local.sync().exit == 0
    (local.b / "README").rename(local.b / "other")
    (local.b / "other").rename(local.b / "readme")
    (local.b / "Dir").rename(local.b / "other")
    (local.b / "other").rename(local.b / "dir")
    assert local.sync().exit == 0
    assert read_tree(local.a) == read_tree(local.b)
    assert set(read_tree(local.a)) == {"readme", "dir", "dir/f"}


@pytest.mark.parametrize("rule", ["case", "nfc"])
def test_directories_that_are_one_there_are_not_mixed(local, lossy, monkeypatch, rule):
    one, other = ("Data", "data") if rule == "case" else (NFC, NFD)
    lossy(local.b, rule)
    write_tree(local.a, {f"{one}/x": "1", "f": "2"})
    assert local.sync().exit == 0
    write_tree(local.a, {f"{other}/x": "3", f"{other}/y": "4", f"{one}/z": "5"})
    for most in (10_000, 1):  # staged whole, or filled where it lies
        monkeypatch.setattr(units, "MOST_ENTRIES", most)
        result = local.sync()
        assert result.exit == 2
        failed = {path for path, became in results(result).items() if became == "failed"}
        assert failed == {other, f"{other}/x", f"{other}/y"}
        assert read_tree(local.b) == {one: None, f"{one}/x": b"1", f"{one}/z": b"5", "f": b"2"}
    settled(local, result)


@pytest.mark.parametrize("top", ["", "new/"])
@pytest.mark.parametrize("name", ["a:b", "what?", "a*", "x|y", 'quo"te', "tab\t", "end ", "\udcff"])
def test_a_name_that_is_refused_there_fails_alone(local, lossy, top, name):
    lossy(local.b, "strict")
    write_tree(local.a, {f"{top}{name}": "1", f"{top}dir {name}/f": "2", f"{top}fine": "3"})
    first = local.sync()
    assert first.exit == 2
    assert [value for value in read_tree(local.b).values() if value] == [b"3"]
    reasons = {item["reason"] for item in first.report["items"] if item["result"] == "failed"}
    assert reasons == {"invalid argument"}
    settled(local, first)
    # What was refused can go again, and be called something else.
    (local.a / f"{top}{name}").rename(local.a / f"{top}better")
    (local.a / f"{top}dir {name}").rename(local.a / f"{top}better dir")
    assert local.sync().exit == 0
    assert read_tree(local.a) == read_tree(local.b)


def test_names_that_a_file_system_would_change_are_refused(local, lossy):
    lossy(local.b, "dots", "nfc")
    write_tree(local.a, {"end.": "1", "dir./f": "2", NFD: "3", f"{NFD} dir/x/f": "4", NFC: "5"})
    write_tree(local.a, {".hidden": "6", "a.b": "7"})
    first = local.sync()
    assert first.exit == 2
    assert set(read_tree(local.b)) == {NFC, ".hidden", "a.b"}
    settled(local, first)


def test_a_stick_in_the_format_of_cameras(local, lossy):
    """All that FAT does at once."""
    lossy(local.b, *FAT)
    write_tree(local.a, {"photo": "1", "d/more": "2", "to photo": Link("photo"), "a:b": "3"})
    first = local.sync()
    assert first.exit == 2
    assert results(first)["to photo"] == results(first)["a:b"] == "failed"
    assert read_tree(local.b) == {"d": None, "d/more": b"2", "photo": b"1"}
    settled(local, first)
    write_tree(local.a, {"photo": "changed"})
    write_tree(local.b, {"d/more": "changed", "new": "4"})
    (local.b / "d/more").rename(local.b / "d/other")
    second = local.sync()
    assert second.exit == 2
    assert {path for path, became in results(second).items() if became == "failed"} == {
        "a:b",
        "to photo",
    }
    assert read_tree(local.b) == {
        "d": None,
        "d/other": b"changed",
        "new": b"4",
        "photo": b"changed",
    }
    assert {b"1", b"2"} <= local.backups()


def test_permissions_that_are_not_kept_there_do_not_change_here(local, lossy):
    """Else a private key would be everybody's, as soon as something beside it changes there."""
    lossy(local.b, "plain")
    write_tree(local.a, {"key": "1", "d/f": "2"})
    (local.a / "key").chmod(0o600)
    (local.a / "d").chmod(0o700)
    assert local.sync().exit == 0
    write_tree(local.b, {"new": "3", "d/new": "4", "key": "changed"})
    assert local.sync().exit == 0
    assert (local.a / "key").read_text() == "changed"
    assert (local.a / "new").stat().st_mode & 0o777 == 0o644
    for mode in (0o600, 0o640):  # as it was, and changed here
        (local.a / "key").chmod(mode)
        assert local.sync().exit == 0
        write_tree(local.b, {"new": f"{mode}"})
        assert local.sync().exit == 0
        assert (local.a / "key").stat().st_mode & 0o777 == mode
        assert (local.a / "d").stat().st_mode & 0o777 == 0o700
        assert local.sync().report["items_total"] == 0


def test_what_is_ours_is_ours_in_any_case(local, lossy):
    lossy(local.b, "case")
    write_tree(local.a, {"f": "1"})
    assert local.sync().exit == 0
    write_tree(local.a, {".PAIRSYNC/replica.json": "{}", ".PairSync/pairs/x": "y"})
    was = (local.b / STATE / "replica.json").read_bytes()
    local.sync()
    assert (local.b / STATE / "replica.json").read_bytes() == was
    assert not (local.b / STATE / "pairs/x").exists()
