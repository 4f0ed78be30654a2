# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`--events`: every event as one line, and answers the same way."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_report import check
from tests.cli.trees import contents

YES = json.dumps({"id": 1, "answer": "y"}) + "\n"


def named(events, name):
    return [event for event in events if event["event"] == name]


def test_the_stream_of_a_session_in_batch(pairsync, pair):
    a, b = pair
    ran = pairsync("sync", "--events", "--batch", a, b)
    assert ran.code == 0
    assert ran.err == ""
    events = ran.events
    assert (events[0]["event"], events[0]["schema"]) == ("hello", "pairsync.events/1")
    phases = [event["phase"] for event in named(events, "phase")]
    assert phases == ["connect", "scan", "reconcile", "transfer", "record"]
    assert {event["side"] for event in named(events, "replica")} == {"a", "b"}
    assert [event["entries"] for event in named(events, "scanned")] == [6, 0]
    [plan] = named(events, "plan")
    items, results = named(events, "item"), named(events, "result")
    assert len(items) == len(results) == plan["items_total"] == 6
    assert {item["result"] for item in items} == {"planned"}
    assert {item["result"] for item in results} == {"done"}
    assert events[-1]["event"] == "report"
    report = events[-1]["report"]
    check(report)
    assert (report["run"], report["plan_digest"]) == (events[0]["run"], plan["digest"])
    assert not named(events, "question")


def test_a_question_and_its_answer(pairsync, pair):
    a, b = pair
    ran = pairsync("sync", "--events", a, b, stdin=YES)
    assert ran.code == 0, ran
    [question] = named(ran.events, "question")
    assert (question["id"], question["answers"][:2]) == (1, ["y", "n"])
    assert contents(a) == contents(b)


def test_nobody_is_asked_when_there_is_nothing_to_do(pairsync, synced):
    ran = pairsync("sync", "--events", *synced)
    assert ran.code == 0
    assert not named(ran.events, "question")


@pytest.mark.parametrize(
    "answer",
    ["", "yes\n", "[]\n", '{"id": 2, "answer": "y"}\n', '{"id": 1, "answer": "Y"}\n', "{}\n"],
)
def test_no_answer_or_a_wrong_one_changes_nothing(pairsync, pair, answer):
    a, b = pair
    ran = pairsync("sync", "--events", a, b, stdin=answer)
    assert ran.code == 3
    assert ran.events[-1]["report"]["error"]["code"] == "usage"
    assert contents(b) == {}


def test_a_fatal_error_ends_the_stream_with_a_report(pairsync, pair, tmp_path):
    ran = pairsync("sync", "--events", "--batch", pair[0], pair[0] / "sub")
    assert ran.code == 3
    check(ran.events[-1]["report"])
    assert ran.events[-1]["report"]["error"]["code"] == "root_overlap"


def test_a_plan_asks_nothing(pairsync, pair):
    ran = pairsync("plan", "--events", *pair)
    assert ran.code == 1
    assert not named(ran.events, "question")
    assert not named(ran.events, "result")
