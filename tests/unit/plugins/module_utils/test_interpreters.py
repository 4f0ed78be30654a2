# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choosing the Python of an installed binary, and compiling for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils import interpreters
from ansible_collections.pairsync.fleet.plugins.module_utils.interpreters import Python
from ansible_collections.pairsync.fleet.plugins.plugin_utils import binary


@pytest.fixture
def installed(tmp_path):
    """A binary in a version directory."""
    package = tmp_path / "pairsync"
    package.mkdir()
    (package / "__init__.py").write_text('__version__ = "1.0"\nPROTOCOL = 1\n')
    (package / "cli.py").write_text("def main():\n    print(__file__)\n")
    return binary.build(tmp_path / "1.0-0123abcd" / "pairsync", package).path


def here():
    """Return the interpreter of this process."""
    return Python(path=os.path.realpath(sys.executable), tag=sys.implementation.cache_tag)


def test_an_interpreter_is_asked_who_it_is():
    assert interpreters.ask(sys.executable) == here()


@pytest.mark.parametrize("version", ["3.6", "3.8"])
def test_an_old_interpreter_is_none(version, interpreter):
    assert interpreters.ask(str(interpreter(version))) is None


def test_a_stand_in_is_none(tmp_path):
    shim = tmp_path / "python3"
    shim.write_text("#!/bin/sh\necho no such version >&2\nexit 127\n")
    shim.chmod(0o755)
    assert interpreters.ask(str(shim)) is None
    assert interpreters.ask(str(tmp_path / "missing")) is None


def test_the_hosts_own_interpreter_comes_before_one_in_a_home():
    found = interpreters.find(os.path.dirname(sys.executable))
    assert found is not None
    system = interpreters.ask("/usr/bin/python3")
    assert system is None or not found.path.startswith(os.path.expanduser("~"))


def test_a_prepared_binary_runs_its_compiled_modules(installed):
    assert not interpreters.is_ready(installed)
    interpreters.prepare(installed, here())
    assert interpreters.is_ready(installed)
    modules = installed.parent / f"compiled-{here().tag}" / "pairsync"
    assert sorted(path.name for path in modules.iterdir()) == ["__init__.pyc", "cli.pyc"]
    done = subprocess.run([installed], capture_output=True, text=True, check=True)
    assert done.stdout == f"{modules / 'cli.pyc'}\n"


def test_hosts_that_share_a_home_keep_each_others_interpreters(installed):
    (installed.parent / "python").write_text("/only/on/another/host/python3.9\n")
    interpreters.prepare(installed, here())
    assert interpreters.recorded(installed.parent) == [
        here().path,
        "/only/on/another/host/python3.9",
    ]


def test_a_python_that_went_away_is_noticed(installed):
    interpreters.prepare(installed, here())
    (installed.parent / "python").chmod(0o644)
    (installed.parent / "python").write_text("/gone/python3\n")
    assert not interpreters.is_ready(installed)


def test_only_our_binary_is_ours(installed, tmp_path):
    assert interpreters.is_pairsync(installed)
    (tmp_path / "other").write_bytes(b"\x7fELF")
    assert not interpreters.is_pairsync(tmp_path / "other")
    assert not interpreters.is_pairsync(tmp_path / "missing")
