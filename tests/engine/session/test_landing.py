# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lands, what waits, and what one file's trouble leaves alone."""

from __future__ import annotations

import errno
import os

import pytest

from pairsync.replica import fsops
from tests.engine.trees import Pair, read_tree, write_tree


@pytest.fixture
def local(tmp_path):
    return Pair(tmp_path / "pair")


@pytest.fixture
def run(local):
    """A pair with a pointer, and on a the next version of what it points to."""
    write_tree(local.a, {"run/checkpoint": "1", "run/model-1": "old"})
    assert local.sync().exit == 0
    write_tree(local.a, {"run/checkpoint": "2 ", "run/model-2": "new"})
    (local.a / "run/model-1").unlink()
    return local


# -- pointers -------------------------------------------------------------------------------------


def test_a_pointer_that_did_not_arrive_holds_deletions(run, before):
    before(
        "open_file",
        lambda: (run.a / "run/checkpoint").write_text("2 and more"),
        when=lambda _, name: name == b"checkpoint",
    )
    result = run.sync()
    assert result.items["run/checkpoint"][1] == "skipped"
    assert result.items["run/model-1"][1] == "held"
    assert (run.b / "run/model-1").read_text() == "old"
    assert run.sync().exit == 0
    assert not (run.b / "run/model-1").exists()


def test_a_pointer_edited_on_the_other_side_holds_deletions(run, before):
    before(
        "rename_exchange",
        lambda: (run.b / "run/checkpoint").write_text("late"),
        when=lambda *call: call[3] == b"checkpoint",
    )
    result = run.sync()
    assert result.items["run/checkpoint"][1] == "skipped"
    reasons = {item["path"]: item["reason"] for item in result.report["items"]}
    assert reasons["run/model-1"] == "held with run/checkpoint"
    assert (run.b / "run/model-1").read_text() == "old"


def test_a_pointer_that_moves_during_the_scan_holds_deletions(local, before):
    """It was as it was agreed on when it was looked at, and something is gone since."""
    write_tree(local.a, {"run/checkpoint": "1", "run/model-1/x": "old", "f": "far away"})
    assert local.sync().exit == 0
    assert local.sync().exit == 0
    (local.a / "run/model-1/x").unlink()
    (local.a / "f").unlink()
    inode = (local.a / "run/model-1").stat().st_ino
    before(
        "list_dir",
        lambda: (local.a / "run/checkpoint").write_text("2"),
        when=lambda fd: os.fstat(fd).st_ino == inode,
    )
    result = local.sync()
    assert result.items == {"f": ("a->b", "done"), "run/model-1/x": ("a->b", "held")}
    reasons = {item["path"]: item["reason"] for item in result.report["items"]}
    assert "pointer" in reasons["run/model-1/x"]
    assert (local.b / "run/model-1/x").read_text() == "old"
    assert local.sync().exit == 0
    assert not (local.b / "run/model-1/x").exists()
    assert (local.b / "run/checkpoint").read_text() == "2"
