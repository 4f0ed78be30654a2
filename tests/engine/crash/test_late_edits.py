# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Late edits: somebody works on the very files that a session replaces and deletes (P2, P18).

Nothing that was saved may be missing afterwards: not from both replicas, from the backup and from
the copies of conflicting versions. What an editor itself replaced by a newer version is its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pairsync.model.policy import Retention
from pairsync.replica import fsops
from pairsync.replica.contents import Done
from pairsync.replica.local import LocalReplica
from tests.engine.trees import Pair, both_local, contents, local_and_agent, write_tree

NONE = Retention(enabled=False)

# Between two of these calls nothing happens to a name that a receiver finishes: an edit before any
# other call is one before the next of them.
SEAMS = ["lstat", "move_aside", "remove_dir", "rename_exchange", "rename_noreplace"]


def by_rename(path: Path, data: bytes) -> None:
    """As editors save: a new file takes the name."""
    new = path.with_name(path.name + "~")
    new.write_bytes(data)
    new.rename(path)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)


def truncate(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def delete_and_create(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


EDITS: dict[str, Callable[[Path, bytes], None]] = {
    "by_rename": by_rename,
    "append": append,
    "truncate": truncate,
    "delete_and_create": delete_and_create,
}


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
