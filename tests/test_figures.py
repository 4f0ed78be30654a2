# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures are sums over the tests that passed."""

from __future__ import annotations

import json

import pytest

from tests.figures import Figures, markdown


def report(name, outcome="passed", **figures):
    found = [(f"figure: {key}", value) for key, value in figures.items()]
    found.append(("something else", "x"))
    return pytest.TestReport(
        name, ("file", 1, name), {}, outcome, None, "call", user_properties=found
    )


def test_what_passed_is_summed_up(tmp_path):
    where = tmp_path / "output" / "safety.json"
    figures = Figures(where)
    for one in (report("one", points=3, cases=1), report("two", points=4), report("three")):
        figures.pytest_runtest_logreport(one)
    figures.pytest_runtest_logreport(report("four", "failed", points=100))
    figures.pytest_sessionfinish()
    told = json.loads(where.read_text())
    assert told["figures"] == {
        "cases": {"total": 1, "tests": {"one": 1}},
        "points": {"total": 7, "tests": {"one": 3, "two": 4}},
    }
    assert told["tier"] == "default"


def test_a_run_without_figures_leaves_the_last_ones(tmp_path):
    where = tmp_path / "safety.json"
    where.write_text("{}")
    figures = Figures(where)
    figures.pytest_runtest_logreport(report("one"))
    figures.pytest_sessionfinish()
    assert where.read_text() == "{}"


def test_the_table_names_each_test_once():
    tests = {"tests/x.py::one[a]": 1_000, "tests/x.py::one[b]": 234, "tests/x.py::two": 5}
    told = {
        "date": "2026-01-02",
        "tier": "nightly",
        "figures": {"points, all": {"total": 1_239, "tests": tests}},
    }
    assert markdown(told).splitlines() == [
        "From `invoke test --tier nightly` of 2026-01-02:",
        "",
        "| what | how many | by |",
        "| --- | ---: | --- |",
        "| points, all | 1 239 | `x.py::one`<br>`x.py::two` |",
    ]
