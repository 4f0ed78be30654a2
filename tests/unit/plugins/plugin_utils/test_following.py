# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Following a session by its events: what is shown, what is asked, what comes back."""

from __future__ import annotations

import json
import sys

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils.following import Follower
from ansible_collections.pairsync.fleet.plugins.plugin_utils.remote import LocalProcess

# Writes the events it is given; at a question it waits for the answer, and writes that as well.
SESSION = """
import json, sys
for event in json.load(open(sys.argv[1])):
    print(event if isinstance(event, str) else json.dumps(event), flush=True)
    if isinstance(event, dict) and event["event"] == "question":
        answer = json.loads(sys.stdin.readline())
        report = {"exit": 0 if answer["answer"] == "y" else 1, "id": answer["id"]}
        print(json.dumps({"event": "report", "report": report}), flush=True)
"""


def item(path, **more):
    return {
        "event": "item", "path": path, "decision": "b->a", "recommendation": "b->a",
        "a": "unchanged", "b": "changed", "kind": "file", "result": "planned", "bytes": 0,
        "reason": None, **more,
    }  # fmt: skip


PLAN = {"event": "plan", "digest": "0f", "items_total": 1, "labels": {"a": "gpu1", "b": "gpu2"}}
QUESTION = {"event": "question", "id": 7, "text": "Proceed?", "answers": ["y", "n"]}


@pytest.fixture
def follow(capsys, tmp_path):
    def run(*events, interactive=False, relayed=False):
        follower = Follower(interactive=interactive, relayed=relayed)
        (tmp_path / "events").write_text(json.dumps(events))
        process = LocalProcess([sys.executable, "-c", SESSION, str(tmp_path / "events")])
        follower.follow(process)
        process.finish()
        return follower, capsys.readouterr()

    return run


def test_the_plan_is_shown_as_lines_with_the_hosts_above(follow):
    follower, shown = follow(item("checkpoint"), PLAN)
    assert shown.out.splitlines()[0].split() == ["gpu1", "gpu2"]
    assert shown.out.splitlines()[1].rstrip() == "         <---- changed    checkpoint"
    assert follower.planned
    assert follower.report is None


def test_without_a_plan_no_heading_is_shown(follow):
    _follower, shown = follow({**PLAN, "items_total": 0})
    assert shown.out == ""


@pytest.mark.parametrize(
    "typed,answer,left", [("y", 0, False), ("Y", 0, False), ("n", 1, False), ("q", 1, True)]
)
def test_one_question_one_answer(follow, monkeypatch, typed, answer, left):
    typing = iter(["what?", "", typed])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(typing))
    follower, _shown = follow(QUESTION, interactive=True)
    assert follower.report == {"exit": answer, "id": 7}
    assert follower.left == left


def test_with_nobody_there_the_answer_is_no(follow):
    follower, _shown = follow(QUESTION)
    assert follower.report["exit"] == 1


def test_the_end_of_the_terminal_is_a_no_as_well(follow, monkeypatch):
    def end(_prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    follower, _shown = follow(QUESTION, interactive=True)
    assert follower.report["exit"] == 1
    assert follower.left


def test_what_the_hosts_say_is_shown_without_control_bytes(follow):
    _follower, shown = follow(
        {"event": "warning", "message": "late write\x1b[2J"},
        {"event": "note", "message": "gpu2:/data did not exist and was created"},
        {"event": "result", "path": "x", "result": "failed", "reason": "disk\x07full"},
        "noise \x1b[31mof a shell",
        '["no", "event"]',
    )
    assert "\x1b" not in shown.err
    assert "\x07" not in shown.err
    assert "warning: late write\\x1b[2J" in shown.err
    assert "gpu2:/data did not exist and was created" in shown.out
    assert "failed: x: disk\\x07full" in shown.err
    assert "noise" in shown.err


def test_a_relayed_plan_says_how_much_passes_through_here(follow):
    _follower, shown = follow(
        item("a", bytes=2_000_000), item("b", bytes=500_000), PLAN, relayed=True
    )
    assert "2.5 MB pass through this machine" in shown.out


def test_a_very_long_plan_is_cut(follow):
    _follower, shown = follow(*(item(f"file{number}") for number in range(1005)), PLAN)
    assert "… and 5 more items" in shown.out
