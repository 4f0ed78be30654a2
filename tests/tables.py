# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables in docs/ whose rows name tests, as `engine/replica/test_swap.py::test_name`."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEST = re.compile(r"`([a-z0-9_/]+\.py)::(test_\w+)`")


def named_tests(cell: str) -> list[tuple[str, str]]:
    """The tests that a piece of a page names, each as its file below tests/ and its own name."""
    named = TEST.findall(cell)
    assert cell.count("::") == len(named), f"a name that is not written as others are: {cell}"
    return named


def missing_tests(cell: str) -> list[str]:
    """Those of them that there are not."""
    return [f"{file}::{name}" for file, name in named_tests(cell) if name not in names_in(file)]


@functools.cache
def names_in(file: str) -> set[str]:
    """The names of a file's tests, methods of classes included; none of a file that is not."""
    path = ROOT / "tests" / file
    if not path.is_file():
        return set()
    tree = ast.parse(path.read_bytes())
    return {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)}
