# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unison as oracle: the same history of edits and batch syncs gives the same trees and conflicts.

The two differ by design in one thing, and histories are made so that it does not arise: contents
and permissions of a file changed in one round. For Unison that is one conflict; here they are two
columns, each decided on its own, as in git. So permissions change only where nobody edits.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.engine.model.edits import STEPS, operate, scratch
from tests.engine.trees import STATE, Pair, entries

pytestmark = pytest.mark.needs("unison")

# `changed  <-?-> deleted    d/f  `, as `unison -batch` lists what it leaves.
SKIPPED = re.compile(r"^\s*skipped: (.+?) \(.*\)$")


class Unison:
    """Two roots that Unison keeps in sync."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.roots = home / "a", home / "b"
        for root in self.roots:
            root.mkdir(parents=True)
        self.environment = {
            **os.environ,
            "UNISON": str(home / "archive"),
            "HOME": str(home),
            "UNISONLOCALHOSTNAME": "here",
        }

    def sync(self) -> set[str]:
        """Sync in batch; return the paths that are in conflict."""
        command = ["unison", *map(str, self.roots), "-batch", "-confirmbigdel=false"]
        command += ["-auto", "-logfile", str(self.home / "log"), "-contactquietly", "-dumbtty"]
        command += ["-ui", "text"]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        found = (SKIPPED.match(line) for line in (done.stdout + done.stderr).splitlines())
        return {match[1] for match in found if match}


def alone(steps):
    """The steps of a round, without changes of permissions where somebody edits as well."""
    edited = {path for __, operation, *paths in steps if operation != "chmod" for path in paths}
    return [
        step
        for step in steps
        if step[1] != "chmod"
        or not any(one == step[2] or step[2].startswith(one + "/") for one in edited)
    ]


def visible(root: Path) -> dict[str, object]:
    return {path: entry for path, entry in entries(root).items() if not path.startswith(STATE)}


def against_unison(figure, most_rounds: int, how: settings) -> None:
    """Compare random histories, and count them."""
    compared = []

    @how
    @given(rounds=st.lists(STEPS, min_size=1, max_size=most_rounds))
    def one(rounds):
        compare(rounds)
        compared.append(rounds)

    one()
    figure("random histories compared with Unison", len(compared))


def test_same_trees_and_same_conflicts(figure):
    how = settings(
        max_examples=150, derandomize=True, database=None, deadline=None, phases=[Phase.generate]
    )
    against_unison(figure, 3, how)


# In parts, since no test may take longer than five minutes.
@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_same_trees_and_same_conflicts_in_many_histories(figure, part):
    against_unison(figure, 4, settings(max_examples=150, deadline=None))


def compare(rounds) -> None:
    with scratch() as home:
        ours, theirs = Pair(home / "ours"), Unison(home / "theirs")
        number = 0
        for steps in rounds:
            for side, operation, path, other in alone(steps):
                number += 1
                for root in (ours.roots, theirs.roots):
                    token = b"tok-%06d\n" % number
                    operate(root["ab".index(side)], operation, path, other, token)
            result = ours.sync(max_delete=100)
            if result.error == "root_emptied":
                result = ours.sync(max_delete=100, confirm=result.report["plan_digest"])
            assert not result.error, result.report["error"]
            conflicts = theirs.sync()
            listed = result.report["items"]
            mine = {item["path"] for item in listed if item["decision"] == "conflict"}
            assert mine == conflicts, listed
            for our_root, their_root in zip(ours.roots, theirs.roots, strict=True):
                assert visible(our_root) == visible(their_root)
