# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seam has every system call, so that no sweep can pass one over."""

from __future__ import annotations

import ast
import os
from pathlib import Path

from pairsync.replica import fsops
from tests.engine.crash.seam import C_CALLS, SYSTEM_CALLS

# Functions of os that fsops calls, and that ask the system for nothing.
HARMLESS = frozenset({"fsencode", "strerror"})
# A lease that lasts as long as its descriptor, and a volume's UUID: nothing changes, and each
# error is an answer.
HARMLESS_CONTROLS = frozenset({"fcntl", "ioctl"})


def test_every_call_of_fsops_is_one_of_ours():
    tree = ast.parse(Path(fsops.__file__).read_text())
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    of = {"os": set(), "fcntl": set()}
    for function in called:
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            of.get(function.value.id, set()).add(function.attr)
    assert of["os"] - HARMLESS == SYSTEM_CALLS
    assert of["fcntl"] - HARMLESS_CONTROLS == {"flock"}


def test_every_function_of_the_c_library_is_one_of_ours():
    tree = ast.parse(Path(fsops.__file__).read_text())
    names = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_libc_function"
    }
    assert names == C_CALLS


def test_nothing_else_of_fsops_can_reach_the_system():
    """Another module that it imports would have to be thought of here."""
    modules = {name for name, value in vars(fsops).items() if type(value) is type(os)}
    assert modules == {"ctypes", "errno", "fcntl", "os", "stat", "sys"}
