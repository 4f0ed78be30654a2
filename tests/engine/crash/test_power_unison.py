# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cut of test_power.py with Unison in our place: its outcome stands beside ours, unjudged."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest

from tests.bench import ssh
from tests.engine.crash.power import BEFORE, EDITS, Disk, Fleet
from tests.engine.trees import read_tree, write_tree

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.root,
    *(pytest.mark.needs(one) for one in ("mkfs.ext4", "mkfs.xfs", "ssh", "sshd", "unison")),
]
EXPECTED = {
    name: text.encode()
    for name, text in {**BEFORE, **EDITS["a"], **EDITS["b"]}.items()
    if not name.startswith("gone")
}


def unison(fleet):
    """One run in batch mode; archives lie on another disk, as where homes and data are apart."""
    archives = {side: fleet.work / f"unison-{side}" for side in "ab"}
    server = fleet.work / "server"
    server.write_text(f'#!/bin/sh\nUNISON={shlex.quote(str(archives["b"]))} exec unison "$@"\n')
    server.chmod(0o755)
    return subprocess.run(
        ["unison", str(fleet.roots["a"]), f"ssh://bench/{fleet.roots['b']}", "-batch", "-auto",
         "-sshargs", f"-F {fleet.ssh}", "-servercmd", str(server), "-logfile", "/dev/null",
         "-confirmbigdel=false"],
        env={**os.environ, "UNISON": str(archives["a"])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def files(root):
    return {name: data for name, data in read_tree(root).items() if isinstance(data, bytes)}


@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_unison_after_a_power_cut_right_after_its_run(tmp_path, figure, kind, victim):
    with ssh.start(tmp_path / "ssh", {"LC_ALL": "C.UTF-8"}) as running:
        disk = Disk(tmp_path / "work", kind)
        try:
            fleet = Fleet(tmp_path / "work", disk, victim, running.config)
            write_tree(fleet.roots["a"], BEFORE)
            fleet.roots["b"].mkdir(parents=True)
            done = unison(fleet)
            assert done.returncode == 0, done.stderr
            subprocess.run(["sync", "-f", disk.path], check=True)
            for side, edits in EDITS.items():
                write_tree(fleet.roots[side], edits)
                (fleet.roots[side] / f"gone-{side}").unlink()
            done = unison(fleet)
            assert done.returncode == 0, done.stderr
            before = files(fleet.roots[fleet.survivor])
            assert before == EXPECTED
            disk.lose_power()
            unison(fleet)
            after = files(fleet.roots[fleet.survivor])
        finally:
            disk.stop()
    figure("Unison: power cuts right after a run", 1)
    figure("Unison: files that were whole on the other host, and then deleted there",
           len(before.keys() - after.keys()))  # fmt: skip
    figure("Unison: files that were whole on the other host, and then replaced there",
           sum(1 for name, data in before.items() if after.get(name, data) != data))  # fmt: skip
