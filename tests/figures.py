# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests have gone through, counted: the figures of docs/safety.md.

A test says `figure("crash points", 451)`; after the run `tests/output/safety.json` holds the sum
of each figure and what each test added to it. Only tests that passed count.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

WHERE = Path(__file__).resolve().parent / "output" / "safety.json"
_PREFIX = "figure: "


class Figures:
    """A pytest plugin for the process that sees the reports of all workers."""

    def __init__(self, where: Path = WHERE) -> None:
        self._where = where
        self._found: dict[str, dict[str, int]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the figures of a test that has passed."""
        if report.when != "call" or not report.passed:
            return
        for name, value in report.user_properties:
            if name.startswith(_PREFIX):
                tests = self._found.setdefault(name.removeprefix(_PREFIX), {})
                tests[report.nodeid] = tests.get(report.nodeid, 0) + int(str(value))

    def pytest_sessionfinish(self) -> None:
        """Write them down, if there were any."""
        if not self._found:
            return
        figures = {
            name: {"total": sum(tests.values()), "tests": dict(sorted(tests.items()))}
            for name, tests in sorted(self._found.items())
        }
        self._where.parent.mkdir(exist_ok=True)
        self._where.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


@pytest.fixture
def figure(record_property):
    """`figure(name, count)`: count something that docs/safety.md tells."""

    def count(name: str, number: int) -> None:
        record_property(_PREFIX + name, number)

    return count
