# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share: which tests run where, and that nothing is skipped silently.

A test says what it needs with a marker (`root`, `fleet`, `needs("unison")`) or a fixture
(`interpreter`), and is skipped for a reason from `EXPECTED` when this machine does not have it.
Any other skip is a failure.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils import develop
from tests import figures
from tests.mounts import keep_mounts_private, may_mount

collect_ignore = ["output"]  # what ansible-test writes

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

NEEDS_ROOT = "needs root"
NEEDS_MOUNTS = "needs root with the right to mount (CAP_SYS_ADMIN)"
NEEDS_COMMAND = "needs the command "
NEEDS_PYTHON = "needs Python "

# What tests/fleet runs to start its hosts.
FLEET_COMMANDS = ("ip", "mount", "nsenter", "setpriv", "ssh", "sshd", "unshare", "useradd")

# Every reason for which a test may be skipped, and whether it is true here. A prefix stands for the
# reasons that begin with it, and is given the rest of the sentence.
EXPECTED: dict[str, Callable[[str], bool]] = {
    NEEDS_ROOT: lambda _rest: os.geteuid() != 0,
    NEEDS_MOUNTS: lambda _rest: os.geteuid() == 0 and not may_mount(),
    NEEDS_COMMAND: lambda rest: rest in _missing_commands() and not develop.may_install(),
    NEEDS_PYTHON: lambda rest: _find_python(rest) is None,
}

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("nightly", deadline=None, print_blob=True, max_examples=5000)
hypothesis.settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch between the tiers."""
    parser.addoption("--nightly", action="store_true", help="run the tests marked nightly as well")


def pytest_configure(config: pytest.Config) -> None:
    """See to it that what tests mount, and the trees they make, end with them.

    Pytest would keep the trees of three runs, and gives up on one that is a thousand levels deep.
    To look at what a test has left, say where: `pytest --basetemp DIRECTORY`.
    """
    if may_mount():
        keep_mounts_private()
    config.pluginmanager.register(figures)  # the fixture
    if not hasattr(config, "workerinput"):  # a worker of xdist: its reports come to us
        tier = "nightly" if config.getoption("nightly") else "default"
        config.pluginmanager.register(figures.Figures(tier=tier))
    if not config.option.basetemp:  # workers are given theirs
        scratch = tempfile.mkdtemp(prefix="pairsync-tests-")
        os.environ["PYTEST_DEBUG_TEMPROOT"] = scratch
        config.add_cleanup(lambda: subprocess.run(["rm", "-rf", "--", scratch], check=False))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the nightly tests, unless asked for."""
    if config.getoption("nightly"):
        return
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if nightly:
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in nightly]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose markers ask for what this machine does not have."""
    fleet = item.get_closest_marker("fleet")
    if fleet or item.get_closest_marker("root"):
        if os.geteuid() != 0:
            pytest.skip(NEEDS_ROOT)
        if not may_mount():
            pytest.skip(NEEDS_MOUNTS)
    needed = [command for marker in item.iter_markers("needs") for command in marker.args]
    for command in [*needed, *(FLEET_COMMANDS if fleet else ())]:
        if command not in develop.PACKAGES:
            pytest.fail(f"{command!r} is in no package: add it to PACKAGES in develop.py.")
        if command in _missing_commands():
            pytest.skip(NEEDS_COMMAND + command)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip that nobody expects into a failure."""
    report = yield
    return _without_unexpected_skip(report)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """As for tests: a module that skips itself as a whole."""
    report = yield
    return _without_unexpected_skip(report)


@pytest.fixture(scope="session")
def interpreter() -> Callable[[str], Path]:
    """A function that finds an interpreter: `interpreter("3.9")`; skips without one."""

    def find(version: str) -> Path:
        found = _find_python(version)
        if found is None:
            pytest.skip(NEEDS_PYTHON + version)
        return found

    return find


@functools.cache
def _missing_commands() -> frozenset[str]:
    """Return the commands that tests need and this machine lacks."""
    return frozenset(develop.missing_packages())


def _find_python(version: str) -> Path | None:
    """Look for pythonX.Y in the system and below pyenv; a stand-in on PATH does not count."""
    places = [Path("/usr/bin"), Path("/usr/local/bin")]
    places += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin"), reverse=True)
    found = shutil.which(f"python{version}", path=os.pathsep.join(map(str, places)))
    return Path(found) if found else None


def _without_unexpected_skip(report: Report) -> Report:
    """Given a report, return it as a failure if it is a skip for a reason that is not expected."""
    # An expected failure is also reported as skipped.
    if report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        where, line, text = report.longrepr
        reason = text.removeprefix("Skipped: ")
        if not _is_expected(reason):
            report.outcome = "failed"
            report.longrepr = f"{where}:{line}: unexpected skip: {reason}"
    return report


def _is_expected(reason: str) -> bool:
    """Say whether a reason for skipping is one of EXPECTED and true here."""
    return any(
        holds(reason.removeprefix(expected))
        for expected, holds in EXPECTED.items()
        if reason == expected or (expected.endswith(" ") and reason.startswith(expected))
    )
