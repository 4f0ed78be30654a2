# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sweeps run as programs of their own: forking needs a process that has no threads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def program():
    """`program("sweep", "replace", "a")`: what a module of this folder prints."""

    def run(module: str, *words: str) -> Any:
        command = [sys.executable, "-m", f"tests.engine.crash.{module}", *words]
        done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, check=False)
        assert done.returncode == 0, f"see above; by hand: {' '.join(command[1:])}"
        return json.loads(done.stdout)

    return run
