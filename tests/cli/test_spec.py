# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pair from `--spec` or from locations, and the options of its policy."""

from __future__ import annotations

import json
import os

import pytest

from tests.cli.trees import contents


def spec_of(a, b, **keys):
    return {
        "schema": "pairsync.spec/1",
        "replicas": {
            "one": {"path": str(a), "local": True},
            "two": {"path": str(b), "local": True},
        },
        **keys,
    }


@pytest.fixture(params=["file", "stdin", "stdin, indented"])
def run_spec(request, pairsync, tmp_path):
    """Runs a command with a specification, from a file or from standard input."""

    def run(command, spec, *words):
        indent = 2 if request.param == "stdin, indented" else None
        text = spec if isinstance(spec, str) else json.dumps(spec, indent=indent)
        if request.param != "file":
            return pairsync(command, "--spec", "-", *words, stdin=text + "\n")
        (tmp_path / "spec.json").write_text(text)
        return pairsync(command, "--spec", tmp_path / "spec.json", *words)

    return run


def test_a_pair_from_a_specification(run_spec, pair):
    a, b = pair
    (a / "left.tmp").write_text("ignored\n")
    ran = run_spec("sync", spec_of(a, b, ignore=["Name *.tmp"]), "--batch", "--json")
    assert ran.code == 0, ran
    assert ran.report["pair"]["a"] == f"one:{a}"
    assert set(contents(a)) - set(contents(b)) == {b"left.tmp"}


@pytest.mark.parametrize(
    "change,said",
    [
        ({"ignor": []}, "ignor: unknown key; did you mean 'ignore'?"),
        ({"schema": "pairsync.spec/9"}, "schema: 'pairsync.spec/9'"),
        ({"replicas": {"one": "/a"}}, "replicas: exactly two"),
        ({"replicas": {"one": {"path": "/a", "pth": 1}, "two": "/b"}}, "replicas.one.pth"),
        ({"replicas": {"one": {"path": 5}, "two": "/b"}}, "replicas.one.path"),
        ({"replicas": {"one": {"path": "/a", "port": "22"}, "two": "/b"}}, "replicas.one.port"),
        ({"replicas": {"one": {"path": "/a", "local": 1}, "two": "/b"}}, "replicas.one.local"),
        ({"replicas": {"-oProxyCommand=x": "/a", "two": "/b"}}, "-oProxyCommand=x"),
        ({"mode": "both"}, "mode: 'both'"),
        ({"mode": 5}, "mode"),
        ({"mode": ["mirror"]}, "mode"),
        ({"prefer": "c"}, "prefer"),
        ({"ignore": "Name x"}, "ignore: a list"),
        ({"ignore": ["Nam x"]}, "'Nam x' is malformed"),
        ({"ignore": ["Regex ("]}, "'Regex (' is malformed"),
        ({"ignore": [5]}, "ignore[0]"),
        ({"paths": ["../x"]}, "paths[0]"),
        ({"paths": ["/x"]}, "paths[0]"),
        ({"max_delete": 101}, "max_delete"),
        ({"max_delete": True}, "max_delete"),
        ({"timeout": -1}, "timeout"),
        ({"lock_wait": 1.5}, "lock_wait"),
        ({"route": "around"}, "route"),
        ({"route": {}}, "route"),
        ({"tree": 5}, "tree"),
        ({"backup": {"kep": 5}}, "backup"),
    ],
)
def test_every_mistake_in_a_specification_is_named(pairsync, pair, change, said):
    a, b = pair
    spec = json.dumps({**spec_of(a, b), **change})
    ran = pairsync("sync", "--batch", "--spec", "-", stdin=spec + "\n")
    assert ran.code == 3
    assert said in ran.err
    assert ran.err.startswith("pairsync: ")
    assert ran.err.count("\n") == 1
    assert contents(b) == {}


@pytest.mark.parametrize("text", ["", "[]", "5", "{", "null", '{"schema": "pairsync.spec/1"}'])
def test_what_is_no_specification_is_refused(pairsync, text):
    ran = pairsync("sync", "--batch", "--spec", "-", stdin=text)
    assert ran.code == 3
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("pairsync: ")


def test_a_specification_and_locations_are_one_too_many(run_spec, pair):
    ran = run_spec("sync", spec_of(*pair), *pair)
    assert (ran.code, "use one of the two" in ran.err) == (3, True)


def test_options_add_to_a_specification(run_spec, pair):
    a, b = pair
    (a / "x.tmp").write_text("x")
    (a / "x.log").write_text("x")
    ran = run_spec(
        "sync", spec_of(a, b, ignore=["Name *.tmp"]), "--batch", "--ignore", "Name *.log"
    )
    assert ran.code == 0
    assert not {b"x.tmp", b"x.log"} & set(contents(b))


def test_path_restricts_a_session(pairsync, pair):
    a, b = pair
    (a / "other").mkdir()
    (a / "other/x").write_text("x")
    ran = pairsync("sync", "--batch", "--path", "sub", "--path", "other", a, b)
    assert ran.code == 0, ran
    assert set(contents(b)) == {b"sub", b"sub/inner", b"sub/empty", b"other", b"other/x"}
    assert pairsync("sync", "--batch", a, b).code == 0
    assert contents(a) == contents(b)


def test_ignore_is_repeatable(pairsync, pair):
    a, b = pair
    ran = pairsync("sync", "--batch", "--ignore", "Name run.*", "--ignore", "Path sub", a, b)
    assert ran.code == 0
    assert set(contents(b)) == {b"file", b"link"}


def test_mirror_makes_b_a_copy_of_a(pairsync, synced):
    a, b = synced
    (b / "file").write_text("changed on b\n")
    (b / "run.sh").unlink()
    (a / "sub/inner").write_text("changed on a\n")
    before = contents(a)
    assert pairsync("sync", "--batch", "--mode", "mirror", a, b).code == 0
    assert contents(a) == contents(b) == before


def test_push_leaves_what_b_did_on_its_own(pairsync, synced):
    a, b = synced
    (b / "own").write_text("only on b\n")
    (a / "file").write_text("changed on a\n")
    ran = pairsync("sync", "--batch", "--json", "--mode", "push", a, b)
    assert ran.code == 0, ran
    assert (b / "file").read_text() == "changed on a\n"
    assert (b / "own").exists()
    assert not (a / "own").exists()


@pytest.mark.parametrize("prefer,winner", [("a", "a"), ("b", "b"), ("newer", "b"), ("older", "a")])
def test_prefer_decides_conflicts(pairsync, synced, prefer, winner):
    a, b = synced
    (a / "file").write_text("a\n")
    (b / "file").write_text("b, which is longer\n")
    os.utime(a / "file", (10**9, 10**9))
    os.utime(b / "file", (10**9 + 60, 10**9 + 60))
    text = (a if winner == "a" else b).joinpath("file").read_text()
    ran = pairsync("sync", "--batch", "--prefer", prefer, a, b)
    assert ran.code == 0, ran
    assert (a / "file").read_text() == (b / "file").read_text() == text


def test_a_missing_path_never_wins_by_time(pairsync, synced):
    a, b = synced
    (a / "file").unlink()
    (b / "file").write_text("changed on b\n")
    ran = pairsync("sync", "--batch", "--prefer", "older", a, b)
    assert ran.code == 1
    assert (b / "file").read_text() == "changed on b\n"
