# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A report in a sentence, as a diff, cut to size."""

from __future__ import annotations

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils import reports


def report(counts, items=(), **more):
    pair = {"a": "gpu1:/data/model", "b": "gpu2:/data/model"}
    return {"pair": pair, "counts": counts, "items": list(items), "dry_run": False, **more}


def item(path, decision, result="done", **more):
    return {"path": path, "decision": decision, "result": result, "kind": "file", **more}


def test_only_what_was_done_is_a_change():
    assert reports.is_changed(report({"b->a": {"done": 1}}))
    assert not reports.is_changed(report({"equal": {"done": 7}, "conflict": {"skipped": 1}}))
    assert not reports.is_changed(report({"a->b": {"failed": 1, "held": 2}}))


def test_a_plan_would_change_what_it_plans():
    assert reports.is_changed(report({"a->b": {"planned": 1}}, dry_run=True))
    assert not reports.is_changed(report({"a->b": {"planned": 1}}))


SENTENCES = [
    (report({}), "nothing to do"),
    (report({"equal": {"done": 3}}), "nothing to do"),
    (report({"b->a": {"done": 5}}), "5 propagated"),
    (report({"b->a": {"planned": 5}}, dry_run=True), "5 to propagate"),
    (
        report(
            {"b->a": {"done": 1}, "conflict": {"skipped": 1}},
            [item("config.json", "conflict", "skipped")],
        ),
        "1 propagated, 1 in conflict (config.json)",
    ),
    (
        report({"a->b": {"failed": 1}, "error": {"failed": 1}}, [item("x", "error", "failed")]),
        "2 failed (x)",
    ),
    (report({"b->a": {"held": 2}}), "2 left for the next run"),
    (report({}, collapsed=True), "both replicas are one file system: nothing to do"),
    (
        report({}, error={"host": "gpu3", "message": "cannot be reached", "next": "switch it on"}),
        "gpu3: cannot be reached; switch it on",
    ),
]


@pytest.mark.parametrize("given,expected", SENTENCES)
def test_one_sentence(given, expected):
    assert reports.sentence(given) == expected


def test_only_a_few_paths_are_named():
    items = [item(f"f{number}", "conflict", "skipped") for number in range(9)]
    text = reports.sentence(report({"conflict": {"skipped": 9}}, items))
    assert text == "9 in conflict (f0, f1, f2, f3, f4, …)"


def test_failed_and_conflicting_items_survive_the_cut():
    items = [item("a", "a->b"), item("c", "conflict", "skipped"), item("e", "error", "failed")]
    full = report({}, items, items_total=3)
    cut = reports.trimmed(full, 2)
    assert [one["path"] for one in cut["items"]] == ["e", "c"]
    assert cut["items_total"] == 3
    assert len(full["items"]) == 3


def test_the_diff_has_names_and_properties_by_replica():
    items = [
        item("checkpoint", "b->a", a="unchanged", b="changed", bytes=120),
        item("new", "a->b", a="new", b="unchanged", bytes=3),
        item("old", "a->b", a="deleted", b="unchanged"),
        item("config.json", "conflict", "skipped", a="changed", b="changed"),
    ]
    to_b, to_a = reports.diff(report({}, items))
    assert to_a["before_header"] == "gpu1:/data/model"
    assert to_a["before"] == "checkpoint  file\n"
    assert to_a["after"] == "checkpoint  file, changed on gpu2:/data/model, 120 bytes\n"
    assert to_b["before"] == "old  file\n"
    assert to_b["after"] == "new  file, new on gpu1:/data/model, 3 bytes\n"


def test_nothing_done_is_an_empty_diff():
    assert (
        reports.diff(report({"conflict": {"skipped": 1}}, [item("c", "conflict", "skipped")])) == []
    )


@pytest.mark.parametrize(
    "given,expected",
    [
        (report({"a->b": {"held": 1, "skipped": 3}}, exit=1), True),
        (report({"a->b": {"held": 1}, "conflict": {"skipped": 1}}, exit=1), False),
        (report({"a->b": {"held": 1}, "error": {"failed": 1}}, exit=2), False),
        (report({"a->b": {"done": 1}}, exit=0), False),
    ],
)
def test_only_what_was_overtaken_is_worth_a_second_run(given, expected):
    assert reports.is_overtaken(given) == expected
