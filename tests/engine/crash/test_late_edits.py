# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Late edits: somebody works on the very files that a session replaces and deletes (P2, P18).

Nothing that was saved may be missing afterwards: not from both replicas, from the backup and from
the copies of conflicting versions. What an editor itself replaced by a newer version is its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pairsync.model.policy import Retention
from pairsync.replica import fsops
from pairsync.replica.contents import Done
from pairsync.replica.local import LocalReplica
from tests.engine.crash.editor import EDITS, token
from tests.engine.trees import STATE, Pair, both_local, contents, local_and_agent, write_tree

ROOT = Path(__file__).resolve().parents[3]
NONE = Retention(enabled=False)

# Between two of these calls nothing happens to a name that a receiver finishes: an edit before any
# other call is one before the next of them.
SEAMS = ["lstat", "move_aside", "remove_dir", "rename_exchange", "rename_noreplace"]


@pytest.fixture(params=["local", "agent"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    connect = both_local if request.param == "local" else local_and_agent
    return Pair(tmp_path / "pair", connect)


@pytest.fixture
def local(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "pair")


def everything(pair: Pair) -> bytes:
    """All contents that are left anywhere, our own state included."""
    return b"\0".join(contents(pair.a) | contents(pair.b))


# -- at every call --------------------------------------------------------------------------------


def a_replacement(pair: Pair) -> None:
    (pair.a / "f").write_bytes(b"from a")


def a_deletion(pair: Pair) -> None:
    (pair.a / "f").unlink()


def a_directory(pair: Pair) -> None:
    (pair.a / "f").unlink()
    write_tree(pair.a, {"f/inner": "from a"})


CHANGES = [a_replacement, a_deletion, a_directory]


class Edit:
    """Edits a file right before the n-th call of fsops that a receiver makes in finish()."""

    def __init__(self, patch: pytest.MonkeyPatch, path: Path, edit: str, at: int) -> None:
        self.path, self.edit, self.at = path, EDITS[edit], at
        self.calls = 0
        self.counting = False
        self.done = False
        for name in SEAMS:
            patch.setattr(fsops, name, self.wrapped(getattr(fsops, name)))

    def wrapped(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            if self.counting:
                self.calls += 1
                # What is a directory by now has nothing to edit.
                if self.calls == self.at and not self.path.is_dir():
                    self.done = True
                    self.edit(self.path, b"late")
            return real(*arguments)

        return call

    def replica(self) -> LocalReplica:
        """The receiver."""
        edit = self

        class Receiving(LocalReplica):
            def finish(self) -> list[Done]:
                edit.counting = True
                try:
                    return super().finish()
                finally:
                    edit.counting = False

        return Receiving()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "strength, edit",
    [*(("exchange", edit) for edit in EDITS), ("weak", "by_rename"), ("weak", "append")],
)
def test_an_edit_before_any_call_survives(local, monkeypatch, change, edit, strength):
    calls, at = 0, -1  # first without an edit, to count
    while at < calls:
        at += 1
        write_tree(local.a, {"f": "old"})
        assert local.sync().exit == 0
        change(local)
        with monkeypatch.context() as patch:
            if strength == "weak":
                patch.setattr(fsops, "_renameat2", lambda *__: False)
            late = Edit(patch, local.b / "f", edit, at)
            local.connect = lambda late=late: (LocalReplica(), late.replica())
            local.sync()
        local.connect = both_local
        calls = max(calls, late.calls)  # fewer when the edit is seen early
        left = everything(local)
        assert not late.done or b"late" in left, f"lost before call {at}"
        local.sync()
        left = everything(local)
        assert not late.done or b"late" in left, f"lost after call {at}"
        assert change is a_deletion or b"from a" in left
        local.remove()
        local.__init__(local.home)
    assert calls >= 3


# -- somebody else's process ----------------------------------------------------------------------

FILES = 50  # that one session replaces, and somebody saves meanwhile


def race(pair: Pair, how: str, seed: str) -> int:
    """One session beside an editor; return how many files that has kept back."""
    names = [f"{number:02}" for number in range(FILES)]
    write_tree(pair.a, dict.fromkeys(names, "old"))
    assert pair.sync().exit == 0
    shutil.rmtree(pair.b / STATE / "displaced", ignore_errors=True)
    write_tree(pair.a, {name: f"{name} from a" for name in names})
    command = [sys.executable, "-m", "tests.engine.crash.editor", str(pair.b), how, seed]
    # From the last to the first, so that the two of them meet.
    command += reversed(names)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as editor:
        assert editor.stdout
        assert editor.stdout.readline() == b"ready\n"
        result = pair.sync()
        saved = set(editor.stdout.read().split(b"\n")) - {b""}
    assert saved == {token(seed, name) for name in names}
    for __ in range(2):
        left = everything(pair)
        lost = [one for one in saved if one not in left]
        assert not lost, f"{len(lost)} of {len(saved)} were lost"
        assert all(f"{name} from a".encode() in left for name in names)
        pair.sync()
    return sum(became != "done" for __, became in result.items.values())


def races(pair: Pair, how: str, count: int, figure: Callable[[str, int], None]) -> int:
    """Many of them, each on new roots; return how many files were kept back in all."""
    kept_back = 0
    for number in range(count):
        one = Pair(pair.home / str(number), pair.connect)
        kept_back += race(one, how, f"{how} {number}")
        one.remove()
    figure(f"late edits, {how}", count * FILES)
    figure(f"late edits, {how}: seen in time", kept_back)
    return kept_back


@pytest.mark.parametrize("how", ["by_rename", "append"])
def test_nothing_that_is_saved_during_a_session_is_lost(pair, how, figure):
    races(pair, how, 2, figure)


@pytest.mark.nightly
@pytest.mark.parametrize("how", EDITS)
def test_nothing_that_is_saved_during_many_sessions_is_lost(pair, how, figure):
    assert 0 < races(pair, how, 30, figure) < 30 * FILES


# -- late writes ----------------------------------------------------------------------------------


def test_what_is_written_into_a_displaced_file_is_reported_and_pinned(pair):
    write_tree(pair.a, {"d/log": "before", "gone": "1"})
    assert pair.sync().exit == 0
    (pair.a / "d/log").write_text("from a")
    (pair.a / "gone").unlink()
    with (pair.b / "d/log").open("ab") as log, (pair.b / "gone").open("ab") as gone:
        assert pair.sync().exit == 0
        log.write(b", after")
        gone.write(b", after")
    result = pair.sync()
    assert result.exit == 0
    assert {b"before, after", b"1, after"} <= pair.backups()
    (run,) = (pair.b / ".pairsync/backup").iterdir()
    first, second = result.report["warnings"]
    assert f"{pair.b}: late write: d/log " in first
    assert f"`pairsync restore {pair.b} d/log --run {run.name}`" in first
    assert f"`pairsync restore {pair.b} gone --run {run.name}`" in second
    assert pair.sync().report["warnings"] == []


def test_without_a_backup_a_late_write_survives_the_next_sessions(pair):
    write_tree(pair.a, {"log": "before", "other": "1"})
    assert pair.sync().exit == 0
    write_tree(pair.a, {"log": "from a", "other": "2"})
    with (pair.b / "log").open("ab") as log:
        assert pair.sync(backup=NONE).exit == 0
        log.write(b", after")
    assert len(pair.sync(backup=NONE).report["warnings"]) == 1
    for __ in range(2):
        assert pair.backups() == {b"before, after"}
        assert pair.sync(backup=NONE).report["warnings"] == []


def test_a_plan_looks_for_no_late_writes(local):
    write_tree(local.a, {"log": "before"})
    assert local.sync().exit == 0
    write_tree(local.a, {"log": "from a"})
    with (local.b / "log").open("ab") as log:
        assert local.sync().exit == 0
        log.write(b", after")
    assert local.sync(dry_run=True).report["warnings"] == []
    assert len(local.sync().report["warnings"]) == 1
