# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing that somebody else chose reaches a terminal or a log as a terminal would obey it."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import subprocess
import sys
import types

import pytest

from ansible_collections.pairsync.fleet.plugins.callback.recap import CallbackModule
from ansible_collections.pairsync.fleet.plugins.module_utils import jobs, reports
from ansible_collections.pairsync.fleet.plugins.plugin_utils import rendering
from ansible_collections.pairsync.fleet.plugins.plugin_utils.following import Follower
from pairsync.frontends.jsonlines import JsonLines
from pairsync.frontends.terminal import Terminal
from pairsync.model.spec import ReplicaSpec
from pairsync.session.connect import StderrTail, explain
from pairsync.session.events import as_objects
from tests.cli.running import InProcess
from tests.engine.trees import STATE, Link, Pair, write_tree

EVIL = {
    "colour": b"\x1b[31mred",
    "clear": b"\x1b[2J\x1b[H",
    "title": b"\x1b]0;owned\x07",
    "c1 in UTF-8": b"\xc2\x9b31m",
    "c1 byte": b"\x9b31m",
    "override": "\u202egnp.exe".encode(),
    "isolate": "\u2066x\u2069".encode(),
    "line separator": "\u2028fake line".encode(),
    "newline": b"x\npairsync: all is well",
    "return": b"x\rpairsync: all is well",
    "backspace": b"secret\x08\x08\x08",
    "delete": b"\x7f",
    "not UTF-8": b"\xff\xfe\xed\xa0\x80",
    "zero width": "a\u200bb\ufeff".encode(),
    "tags": "\U000e0041\U000e0042".encode(),
    "template": b"{{ lookup('pipe', 'id') }}{% raw %}",
    "markup": b"[bold red]x[ ]<td>$(id)`id`%s%n",
}
TEXT = "".join(map(os.fsdecode, EVIL.values()))


def tame(value, where=""):
    """Every text in a value is one that a terminal shows, and nothing else."""
    if isinstance(value, str):
        for line in value.removesuffix("\n").split("\n") if where == "output" else [value]:
            assert line.isprintable(), (where, line)
    elif isinstance(value, dict):
        for key, inner in value.items():
            tame(key, where)
            tame(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            tame(inner, where)


@pytest.fixture
def pair(tmp_path):
    """Two roots of odd names, with news, conflicts, problems and notes of odd names in them."""
    pair = Pair(tmp_path / os.fsdecode(EVIL["colour"]))
    for place, name in enumerate(map(os.fsdecode, EVIL.values())):
        write_tree(pair.a, {f"new {name}": "1", f"d {name}/x": "2", f"both {name}": "3"})
        write_tree(pair.b, {f"both {name}": "4", f"l {name}": Link(f"to {name}{place}")})
        os.mkfifo(pair.a / f"pipe {name}")
        os.mkfifo(pair.b / f"error {name}")
        write_tree(pair.a, {f"error {name}": "5"})
    return pair


def shown(result):
    """What each front end writes of a session."""
    terminal, lines, live = io.StringIO(), io.StringIO(), io.StringIO()
    live.isatty = lambda: True
    for front_end in (
        Terminal(terminal),
        JsonLines(lines, io.StringIO()),
        Terminal(live),
    ):
        for event in result.events:
            front_end.emit(event)
    return terminal.getvalue(), lines.getvalue(), live.getvalue()


@pytest.mark.parametrize("dry_run", [True, False])
def test_names_in_every_output_of_a_session(pair, dry_run, capsys):
    result = pair.sync(dry_run=dry_run)
    assert result.exit == 2
    tame(result.report)
    assert {item["decision"] for item in result.report["items"]} >= {"error", "conflict", "a->b"}
    terminal, lines, live = shown(result)
    tame(terminal, "output")
    tame(live.replace("\r\x1b[K", ""), "output")
    assert terminal.count("red") > 4
    assert lines.isascii()
    for line in lines.splitlines():
        tame(json.loads(line), "event")
    follower = Follower(interactive=False)
    follower.follow(types.SimpleNamespace(lines=lambda: iter(lines.splitlines()), send=print))
    told = capsys.readouterr()
    tame(told.out, "output")
    tame(told.err, "output")
    assert told.out.count("red") > 2


def test_names_can_be_told_and_acted_on_exactly(pair):
    items = pair.sync(dry_run=True).report["items"]
    exact = {base64.b64decode(one["path_b64"]) for one in items if "path_b64" in one}
    plain = {one["path"].encode() for one in items if "path_b64" not in one}
    wanted = {b"new " + name for name in EVIL.values()}
    assert exact | plain >= wanted
    harmless = {b"new " + EVIL["template"], b"new " + EVIL["markup"]}
    assert plain & wanted == harmless


def test_names_in_what_ansible_gets(pair):
    report = pair.sync().report
    tame(reports.sentence(report))
    tame(reports.trimmed(report, 5))
    for side in reports.diff(report):
        tame(side["before"], "output")
        tame(side["after"], "output")
        tame(side["before_header"])
    json.dumps(report, allow_nan=False).encode("ascii")


def test_names_in_logs_and_status(pair):
    pair.sync()
    pair.sync()
    for root in pair.roots:
        files = [*(root / STATE / "log").iterdir(), *(root / STATE / "pairs").rglob("*.json")]
        assert len(files) >= 2
        for file in files:
            for line in file.read_bytes().decode("ascii").splitlines():
                assert line.isprintable(), file
    told = InProcess(pair.home / "state")("status", os.fsdecode(os.fsencode(pair.a)))
    assert told.code == 0
    tame(told.out, "output")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_status_that_somebody_else_has_written(tmp_path, as_json):
    """Whoever looks at another user's root is shown text, not commands."""
    place = tmp_path / "root" / STATE / "pairs" / "0123"
    place.mkdir(parents=True)
    planted = {
        "schema": "pairsync.status/1",
        "pair": {"a": TEXT, "b": TEXT, "id": "\x1b[2J"},
        "exit": TEXT,
        "conflicts": TEXT,
        "error": {"code": TEXT},
    }
    for error in (planted["error"], None, TEXT, 5, {}):
        (place / "status.json").write_text(json.dumps({**planted, "error": error}))
        words = ["status", *(["--json"] if as_json else []), tmp_path / "root"]
        told = InProcess(tmp_path / "state")(*words)
        assert told.code in (0, 3), told
        tame(told.out, "output")
        tame(told.err, "output")


@pytest.mark.parametrize(
    "words",
    [
        ["sync", "EVIL", "b"],
        ["sync", "--batch", "/nowhere/EVIL", "/nowhere/b"],
        ["sync", "--batch", "HOSTEVIL:/x", "b"],
        ["sync", "--ignore", "EVIL", "a", "b"],
        ["sync", "--ignore", "Regex (EVIL", "a", "b"],
        ["sync", "--path", "../EVIL", "a", "b"],
        ["sync", "--mode", "EVIL", "a", "b"],
        ["sync", "--EVIL", "a", "b"],
        ["sync", "--spec", "EVIL"],
        ["sync", "--confirm", "EVIL", "/nowhere/a", "/nowhere/b"],
        ["EVIL"],
        ["status", "EVIL"],
        ["status", "--max-age", "EVIL"],
        ["forget", "EVIL", "b"],
        ["forget", "--new-id", "EVIL"],
        ["help", "EVIL"],
    ],
)
def test_what_a_caller_passes_on_comes_back_tame(tmp_path, monkeypatch, words):
    """Names get onto command lines too: from scripts, completion and other people's files."""
    monkeypatch.chdir(tmp_path)
    for text in map(os.fsdecode, EVIL.values()):
        told = InProcess(tmp_path / "state")(*[word.replace("EVIL", text) for word in words])
        # That a pair is not known is what one wants who forgets it.
        assert told.code == 3 or told.out.endswith(" is not known\n"), told
        assert (told.out + told.err).count("\n") == 1
        tame(told.out + told.err, "output")


def test_a_new_id_for_a_root_of_any_name(tmp_path):
    for name in EVIL.values():
        root = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(root)
        told = InProcess(tmp_path / "state")("forget", "--new-id", os.fsdecode(root))
        assert told.code == 0
        assert told.out.count("\n") == 1
        tame(told.out, "output")


def test_a_specification_of_odd_texts(tmp_path):
    for broken in (
        {TEXT: 1},
        {"replicas": {TEXT: {"path": TEXT}}},
        {"replicas": {"a": {"path": "/a", TEXT: 1}, "b": {"path": "/b"}}},
        {"mode": TEXT, "replicas": {"a": {"path": "/a"}, "b": {"path": "/b"}}},
        {"ignore": [TEXT], "replicas": {"a": {"path": "/a"}, "b": {"path": "/b"}}},
    ):
        (tmp_path / "spec.json").write_text(json.dumps(broken))
        told = InProcess(tmp_path / "state")("sync", "--batch", "--spec", tmp_path / "spec.json")
        assert told.code == 3
        tame(told.err, "output")


def test_the_holder_of_a_lock_is_named_tamely(tmp_path):
    """The note beside a lock is written by whoever holds it, also on another host."""
    pair = Pair(tmp_path / "pair")
    write_tree(pair.a, {"f": "1"})
    assert pair.sync().exit == 0
    (place,) = (pair.b / STATE / "pairs").iterdir()
    with (place / "lock").open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.truncate()
        held.write(b"".join(EVIL.values()))
        held.flush()
        result = pair.sync(lock_wait=0)
    assert result.error == "locked"
    tame(result.report)


# -- what other programs and hosts say -------------------------------------------------------------


def test_what_ssh_says_is_shown_as_one_printable_line():
    said = b"".join(EVIL.values()) + b"\n" + EVIL["clear"] + b"Connection refused\n"
    words = [sys.executable, "-c", f"import sys; sys.stderr.buffer.write({said!r})"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, bufsize=0) as process:
        text = StderrTail(process.stderr).text()
    place = ReplicaSpec("h1", "/x")
    for error in (
        explain(place, "pairsync", 255, text, b""),
        explain(place, "pairsync", 9, text, b""),
        explain(place, "pairsync", 0, "", said),
    ):
        tame(error.sentence())
        tame(error.as_json())
        assert len(error.sentence()) < 1000


def test_the_last_words_of_a_session_that_broke_off(tmp_path):
    job = jobs.Job(str(tmp_path), "job")
    (tmp_path / os.path.basename(job.file("stderr"))).write_bytes(b"".join(EVIL.values()))
    tame(jobs.last_words(job))


def test_the_table_of_a_playbook(monkeypatch):
    report = {
        "pair": {"a": TEXT, "b": TEXT},
        "error": {"code": TEXT, "host": TEXT, "message": TEXT, "next": TEXT},
        "counts": {},
    }
    callback = CallbackModule()
    told = []
    monkeypatch.setattr(callback._display, "display", told.append)
    monkeypatch.setattr(callback._display, "banner", told.append)
    task = types.SimpleNamespace(action="pairsync.fleet.reconcile")
    host = types.SimpleNamespace(get_name=lambda: TEXT)
    for result in ({"report": report}, {"msg": TEXT}):
        callback.v2_runner_on_failed(types.SimpleNamespace(task=task, host=host, result=result))
        callback.v2_playbook_on_stats(None)
    assert len(told) == 4
    for text in told:
        tame(text, "output")


def test_a_table_on_a_terminal():
    out = io.StringIO()
    out.isatty = lambda: True
    rendering.table(("pair",), [(TEXT,)], out)
    text = out.getvalue()
    for name in (EVIL["clear"], EVIL["title"], EVIL["override"]):
        assert name.decode() not in text
    assert "[bold red]" in text


def test_every_event_of_a_session_is_one_line(pair):
    for event in pair.sync().events:
        for value in as_objects(event):
            assert "\n" not in json.dumps(value)
            tame(value)
