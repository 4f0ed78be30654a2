# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rule about skips: expected ones pass, every other one is a failure."""

from __future__ import annotations

import pytest

from tests.fleet.rootfs import CHECKOUT

pytest_plugins = ["pytester"]

# What a test module holds, and how pytest must count it.
CASES = {
    "a reason nobody expects": (
        """
        import pytest
        def test(): pytest.skip("later")
        """,
        "failed",
    ),
    "an expected reason that is not true here": (
        """
        import pytest
        from tests.conftest import NEEDS_COMMAND
        def test(): pytest.skip(NEEDS_COMMAND + "sh")
        """,
        "failed",
    ),
    "a module without its library": (
        """
        import pytest
        pytest.importorskip("there_is_no_such_module")
        """,
        "errors",
    ),
    "no parameters": (
        """
        import pytest
        @pytest.mark.parametrize("x", [])
        def test(x): pass
        """,
        "errors",
    ),
    "a command that is in no package": (
        """
        import pytest
        @pytest.mark.needs("frobnicate")
        def test(): pass
        """,
        "errors",
    ),
    "a missing interpreter": (
        """
        def test(interpreter): interpreter("3.999")
        """,
        "skipped",
    ),
    "an expected failure": (
        """
        import pytest
        @pytest.mark.xfail
        def test(): assert False
        """,
        "xfailed",
    ),
}


@pytest.fixture
def run_pytest(pytester, monkeypatch):
    """Run pytest on a test module, under the rules of this directory."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    pytester.makeconftest("from tests.conftest import *")

    def run(source, *options):
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("-o", "markers=nightly\nneeds", *options)

    return run


@pytest.mark.parametrize("source,outcome", CASES.values(), ids=CASES)
def test_an_unexpected_skip_is_a_failure(run_pytest, source, outcome):
    result = run_pytest(source)
    assert result.parseoutcomes() == {outcome: 1}
    assert (result.ret == 0) is (outcome in ("skipped", "xfailed"))


@pytest.mark.parametrize("case", ["a reason nobody expects", "a module without its library"])
def test_a_skip_in_a_worker_is_no_other(run_pytest, case):
    source, outcome = CASES[case]
    assert run_pytest(source, "--numprocesses=1").parseoutcomes() == {outcome: 1}


def test_nightly_tests_run_only_when_asked_for(run_pytest):
    source = "import pytest\n@pytest.mark.nightly\ndef test(): pass"
    assert run_pytest(source).parseoutcomes() == {"deselected": 1}
    assert run_pytest(source, "--nightly").parseoutcomes() == {"passed": 1}
