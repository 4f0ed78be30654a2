# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests have gone through, counted: the figures of docs/safety.md.

A test says `figure("crash points", 451)`; after the run `tests/output/safety.json` holds the sum
of each figure and what each test added to it. Only tests that passed count. `invoke test --tier
nightly` prints them as the table of docs/safety.md at its end, `python -m tests.figures` those of
the last run.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

WHERE = Path(__file__).resolve().parent / "output" / "safety.json"
_PREFIX = "figure: "


class Figures:
    """A pytest plugin for the process that sees the reports of all workers."""

    def __init__(self, where: Path = WHERE, tier: str = "default") -> None:
        self._where = where
        self._tier = tier
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
        self._where.parent.mkdir(exist_ok=True)
        self._where.write_text(json.dumps(self._told(), indent=1) + "\n", encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show them after a long run."""
        if self._found and self._tier == "nightly":
            terminalreporter.section("figures for docs/safety.md")
            terminalreporter.write_line(markdown(self._told()))

    def _told(self) -> dict[str, Any]:
        figures = {
            name: {"total": sum(tests.values()), "tests": dict(sorted(tests.items()))}
            for name, tests in sorted(self._found.items())
        }
        return {"date": time.strftime("%Y-%m-%d"), "tier": self._tier, "figures": figures}


def markdown(told: dict[str, Any]) -> str:
    """What safety.json holds, as the table of docs/safety.md."""
    lines = [
        f"From `invoke test --tier {told['tier']}` of {told['date']}:",
        "",
        "| what | how many | by |",
        "| --- | ---: | --- |",
    ]
    for name, figure in told["figures"].items():
        tests = {test.partition("[")[0].removeprefix("tests/") for test in figure["tests"]}
        by = "<br>".join(f"`{test}`" for test in sorted(tests))
        number = f"{figure['total']:,}".replace(",", " ")
        lines.append(f"| {name} | {number} | {by} |")
    return "\n".join(lines)


@pytest.fixture
def figure(record_property):
    """`figure(name, count)`: count something that docs/safety.md tells."""

    def count(name: str, number: int) -> None:
        record_property(_PREFIX + name, number)

    return count


if __name__ == "__main__":
    sys.stdout.write(markdown(json.loads(WHERE.read_text(encoding="utf-8"))) + "\n")
