# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`--json`: exactly one report on standard output, and what is in it."""

from __future__ import annotations

import base64
import json
import os
import re

import pytest

from pairsync.model.errors import CODES

KEYS = {
    "schema", "pair", "version", "run", "started", "seconds", "exit", "mode", "base", "route",
    "plan_digest", "dry_run", "counts", "items_total", "items", "bytes", "warnings", "notes",
    "collapsed", "error",
}  # fmt: skip
ITEM = {
    "path", "from", "decision", "recommendation", "a", "b", "kind", "result", "reason", "bytes",
}  # fmt: skip
STATUSES = {"unchanged", "new", "changed", "props", "deleted", "moved", "problem"}
DECISIONS = {"a->b", "b->a", "equal", "conflict", "merge", "skip", "error"}
RESULTS = {"done", "planned", "skipped", "failed", "held"}
KINDS = {"file", "directory", "symlink", "problem", "special"}


def check(report):
    """Check that a report has every key, and each of them a value of its set."""
    # Wrong usage is reported before there is a run.
    ran = report["error"] is None or report["error"]["code"] != "usage" or report["run"]
    assert {key for key in report if key != "order"} == KEYS
    assert report["schema"] == "pairsync.report/1"
    assert set(report["pair"]) == {"a", "b", "id"}
    assert not ran or re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", report["run"])
    assert not ran or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report["started"])
    assert isinstance(report["seconds"], float)
    assert report["exit"] in (0, 1, 2, 3)
    assert report["mode"] in ("two-way", "mirror", "push")
    assert report["base"] in ("ok", "first", "degraded")
    assert report["route"] in ("direct", "relay", "auto")
    assert isinstance(report["dry_run"], bool)
    assert isinstance(report["collapsed"], bool)
    assert set(report["bytes"]) == {"contents", "wire"}
    assert all(isinstance(text, str) for text in report["warnings"] + report["notes"])
    assert set(report["counts"]) <= DECISIONS
    assert all(set(results) <= RESULTS for results in report["counts"].values())
    total = sum(number for results in report["counts"].values() for number in results.values())
    assert total == report["items_total"]
    equal = sum(report["counts"].get("equal", {}).values())
    assert len(report["items"]) == min(total - equal, 10_000)
    for item in report["items"]:
        assert {key for key in item if key != "path_b64"} == ITEM
        assert {item["a"], item["b"]} <= STATUSES
        assert item["decision"] in DECISIONS
        assert item["recommendation"] in DECISIONS
        assert item["result"] in RESULTS
        assert item["kind"] in KINDS
        assert item["path"].isprintable()
    if report["error"] is None:
        assert report["exit"] < 3
        assert re.fullmatch("[0-9a-f]{64}", report["plan_digest"])
    else:
        assert report["exit"] == 3
        assert set(report["error"]) == {"code", "host", "message", "next"}
        assert report["error"]["code"] in CODES


def test_a_report_of_everything_at_once(pairsync, synced):
    a, b = synced
    (a / "file").write_text("from a\n")
    (b / "file").write_text("from the other\n")
    (a / "new").write_text("new\n")
    (b / "also").symlink_to("file")
    (a / "same").write_text("same\n")
    (b / "same").write_text("same\n")
    (a / "run.sh").chmod(0o700)
    (b / "sub/inner").unlink()
    os.mkfifo(a / "pipe")
    for command in ("plan", "sync"):
        ran = pairsync(command, "--batch", "--json", a, b)
        check(ran.report)
        assert ran.code == ran.report["exit"] == 1
        assert ran.err == ""
        word = "planned" if command == "plan" else "done"
        assert ran.report["dry_run"] == (command == "plan")
        found = {item["path"]: item for item in ran.report["items"]}
        assert set(found) == {"file", "new", "also", "run.sh", "sub/inner"}
        assert ran.report["items"][0]["path"] == "file", "conflicts come first"
        assert (found["new"]["a"], found["new"]["decision"]) == ("new", "a->b")
        assert found["new"]["result"] == word
        assert (found["also"]["kind"], found["also"]["decision"]) == ("symlink", "b->a")
        assert (found["run.sh"]["a"], found["run.sh"]["decision"]) == ("props", "a->b")
        assert (found["sub/inner"]["b"], found["sub/inner"]["decision"]) == ("deleted", "b->a")
        assert ran.report["counts"]["equal"] == {word: 1}
        assert len(ran.report["notes"]) == 1
    assert ran.report["bytes"]["contents"] == 4


def test_a_fatal_error_is_a_report_too(pairsync, pair, tmp_path):
    file = tmp_path / "plain file"
    file.write_text("")
    ran = pairsync("sync", "--batch", "--json", pair[0], file)
    check(ran.report)
    assert ran.code == 3
    assert ran.report["error"]["code"] == "root_not_dir"
    assert ran.err == f"pairsync: {ran.report['error']['message']}; {ran.report['error']['next']}\n"


@pytest.mark.parametrize(
    "words", [["--spec", "nowhere.json"], ["onlyone"], ["a", "b", "--path", "../x"], ["x:", ":y"]]
)
def test_an_error_of_usage_is_a_report_too(pairsync, words):
    ran = pairsync("sync", "--batch", "--json", *words)
    check(ran.report)
    assert ran.code == 3
    assert ran.report["error"]["code"] == "usage"
    assert ran.err.count("\n") == 1


def test_more_items_than_a_report_lists_are_counted(pairsync, pair):
    a, b = pair
    (b / "file").write_text("in conflict\n")
    for number in range(10_050):
        (a / f"n{number}").touch()
    ran = pairsync("plan", "--json", a, b)
    check(ran.report)
    assert ran.report["items_total"] > 10_050
    assert ran.report["items"][0]["decision"] == "conflict"


# Names that terminals, shells, argument parsers and JSON get wrong, and how they are shown.
HOSTILE = {
    b"new\nline": "new\\nline",
    b"c\rr": "c\\rr",
    b"t\tab": "t\\tab",
    b"quotes'\"`$(x);*": "quotes'\"`$(x);*",
    b"   ": "   ",
    b"-rf": "-rf",
    b"--": "--",
    b"\xff\xfe": "\\xff\\xfe",
    b"caf\xe9": "caf\\xe9",
    "café".encode(): "café",
    b"esc\x1b[31m\x07": "esc\\x1b[31m\\x07",
    "c1\x9b31m".encode(): "c1\\x9b31m",
    "bidi\u202egnp.exe".encode(): "bidi\\u202egnp.exe",
    b"back\\slash": "back\\\\slash",
    b"\x7f": "\\x7f",
    b"n" * 255: "n" * 255,
    "\U0001f600".encode(): "\U0001f600",
}


def test_hostile_names_are_synced_and_shown_safely(pairsync, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    for name in HOSTILE:
        with open(os.path.join(os.fsencode(a), name), "wb") as stream:
            stream.write(name)
    report = pairsync("plan", "--json", a, b).report
    check(report)
    found = {}
    for item in report["items"]:
        exact = item.get("path_b64")
        found[base64.b64decode(exact) if exact else item["path"].encode()] = item["path"]
    assert found == HOSTILE
    ran = pairsync("sync", "--batch", a, b)
    assert ran.code == 0, ran
    assert all(line.isprintable() for line in ran.out.splitlines())
    for shown in HOSTILE.values():
        assert f"new file ---->            {shown}\n" in ran.out
    assert sorted(os.listdir(os.fsencode(b))) == sorted([*HOSTILE, b".pairsync"])
    for name in HOSTILE:
        with open(os.path.join(os.fsencode(b), name), "rb") as stream:
            assert stream.read() == name


@pytest.mark.parametrize("name", [b"esc\x1b[31m", b"\xff\xfe", b"new\nline", "café".encode()])
def test_a_root_with_a_hostile_name(binary, tmp_path, name):
    root = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(root)
    b = tmp_path / "b"
    b.mkdir()
    (b / "x").write_text("x")
    for __ in range(2):
        ran = binary("sync", "--batch", os.fsdecode(root), b)
        assert ran.code == 0, ran
        assert all(line.isprintable() for line in ran.out.splitlines())
    check(binary("sync", "--batch", "--json", os.fsdecode(root), b).report)
    ran = binary("status")
    assert ran.code == 0, ran
    assert all(line.isprintable() for line in ran.out.splitlines())
    os.unlink(os.path.join(root, b"x"))
    os.rename(root, root + b".gone")
    ran = binary("sync", "--batch", os.fsdecode(root), b)
    assert (ran.code, ran.err.count("\n")) == (3, 1), ran
    assert ran.err.rstrip("\n").isprintable()


def test_output_in_a_locale_without_unicode(binary, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    (a / "café ").write_text("x")
    with open(os.path.join(os.fsencode(a), b"\xff"), "wb"):
        pass
    ran = binary("sync", "--batch", a, b, env={"LC_ALL": "C", "LANG": "C"})
    assert ran.code == 0, ran
    assert sorted(os.listdir(os.fsencode(b))) == sorted([b".pairsync", "café ".encode(), b"\xff"])


def test_an_error_is_valid_json_whatever_it_quotes(binary, pair):
    ran = binary("sync", "--batch", "--json", pair[0], "ho\x1bst:/x\u202e")
    json.dumps(ran.report)
    assert ran.code == 3
    assert ran.err.rstrip("\n").isprintable()
