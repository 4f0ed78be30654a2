# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Late writes: what is written into a displaced object is found, told once, and kept."""

from __future__ import annotations

import os
import time

import pytest

from pairsync.model.policy import Retention
from pairsync.replica import late, swap
from pairsync.replica.backup import Backup, drop_brief, run_name
from pairsync.replica.late import Late, compare, pinned
from pairsync.replica.lock import root_lock
from pairsync.replica.retention import keep_within
from pairsync.replica.swap import Aside, At
from tests.engine.trees import STATE, Pair, contents, write_tree


def later():
    """When nothing is compared any more, in seconds since the epoch."""
    return time.time() + 2 * late.GRACE


def displace(root, run, names):
    """Delete files as a session does; return its backup, still open."""
    backup = Backup(root.state, run)
    for name in names:
        parent = os.open((root.path / name).parent, os.O_RDONLY)
        expected = swap.seen((root.path / name).lstat())
        place = At(parent, os.path.basename(name).encode())
        assert swap.remove(place, expected, Aside(name.encode(), backup)).reason == ""
        os.close(parent)
    return backup


def records(root):
    return os.listdir(root.path / STATE / "displaced")


@pytest.fixture
def written_late(root):
    """A run whose file is still open when the session has ended, and was written to."""
    write_tree(root.path, {"d/log": "before", "other": "untouched"})
    with (root.path / "d/log").open("ab") as stream:
        displace(root, "run", ["d/log", "other"]).close()
        stream.write(b", after")
    return root


def test_a_late_write_is_told_once_and_pinned(written_late):
    found = [Late(b"run", b"d/log")]
    assert compare(written_late.state, time.time()) == found
    assert compare(written_late.state, time.time()) == []
    assert compare(written_late.state, later()) == []
    assert pinned(written_late.state) == {b"run": {b"d/log"}}
    assert contents(written_late.kept_in) == {b"before, after", b"untouched"}


def test_nothing_is_compared_for_ever(written_late):
    """Sessions may follow each other closely, so one comparison is not enough."""
    compare(written_late.state, time.time())
    assert records(written_late) == ["run"]
    with (written_late.kept_in / "run/other").open("ab") as stream:
        stream.write(b", later still")
    assert compare(written_late.state, later()) == [Late(b"run", b"other")]
    assert not records(written_late)


def test_a_session_looks_while_nothing_is_on_its_way(tmp_path, held):
    """What only waits in the backup goes, and must not be exchanged for a file meanwhile."""
    pair = Pair(tmp_path)
    write_tree(pair.a, {"log": "before"})
    pair.sync()
    with (pair.b / "log").open("ab") as stream:
        (pair.a / "log").write_text("another")
        assert pair.sync().exit == 0
        stream.write(b", after")
    with root_lock(held(pair.b), held(pair.b / STATE), "b", 0):
        assert pair.sync(lock_wait=0).error == "locked"
        assert not (pair.b / STATE / "pinned").exists()
    assert "late write" in str(pair.sync().report["warnings"])
    assert (pair.b / STATE / "pinned").exists()


def test_half_a_line_does_not_cost_the_next_one(root):
    late.pin(root.state, b"run", [b"one"])
    with (root.path / STATE / "pinned/run").open("ab") as stream:
        stream.write(b'{"path": "b2')  # and then the power went
    late.pin(root.state, b"run", [b"two"])
    assert pinned(root.state) == {b"run": {b"one", b"two"}}


def test_a_session_at_work_is_let_alone(root):
    write_tree(root.path, {"log": "before"})
    with (root.path / "log").open("ab") as stream:
        backup = displace(root, "run", ["log"])
        stream.write(b", after")
    assert compare(root.state, later()) == []
    backup.close()
    assert compare(root.state, later()) == [Late(b"run", b"log")]


def test_what_is_kept_briefly_goes_unless_it_was_written_to(root):
    write_tree(root.path, {"d/log": "before", "d/other": "untouched", "e/f": "untouched as well"})
    run = run_name("run", Retention(enabled=False), "pair")
    with (root.path / "d/log").open("ab") as stream:
        displace(root, run, ["d/log", "d/other", "e/f"]).close()
        stream.write(b", after")
    assert compare(root.state, time.time()) == [Late(run.encode(), b"d/log")]
    for __ in range(2):
        drop_brief(root.state, "pair")
        assert contents(root.kept_in) == {b"before, after"}


def test_the_end_of_a_record_may_be_missing(written_late):
    """As a session leaves it that is killed, or a disk that is full."""
    record = written_late.path / STATE / "displaced/run"
    record.write_bytes(record.read_bytes()[:-10])
    assert compare(written_late.state, time.time()) == [Late(b"run", b"d/log")]


def test_what_nobody_kept_is_not_missed(written_late):
    (written_late.kept_in / "run/d/log").unlink()
    assert compare(written_late.state, time.time()) == []
    for run in written_late.kept_in.iterdir():
        run.rename(written_late.path / "elsewhere")
    assert compare(written_late.state, time.time()) == []


@pytest.fixture
def swapping(root, held):
    """A file about to be replaced: `act()` does it, and a crash right after may be injected."""
    write_tree(root.path, {"f": "old"})
    write_tree(root.path / STATE / "stage", {"new": "from the other side"})

    def act():
        backup = Backup(root.state, "run")
        expected = swap.seen((root.path / "f").lstat())
        staged = At(held(root.path / STATE / "stage"), b"new")
        try:
            return swap.replace(staged, At(root.fd, b"f"), expected, Aside(b"f", backup))
        finally:
            backup.close()

    root.act = act
    return root


def crash():
    raise KeyboardInterrupt


def test_a_late_edit_displaced_by_a_session_that_died_is_told(swapping, before, monkeypatch):
    def edit():
        write_tree(swapping.path, {"f~": "late"})
        (swapping.path / "f~").rename(swapping.path / "f")

    before("rename_exchange", edit)
    before("lstat", crash, call=3)  # when it is to be verified
    with pytest.raises(KeyboardInterrupt):
        swapping.act()
    assert compare(swapping.state, time.time()) == [Late(b"run", b"f")]
    assert contents(swapping.kept_in) == {b"late"}


def test_what_waited_to_replace_something_goes(swapping, before):
    """It never had the name, or had it for an instant only."""
    before("rename_exchange", crash)
    with pytest.raises(KeyboardInterrupt):
        swapping.act()
    assert contents(swapping.kept_in) == {b"from the other side"}
    assert compare(swapping.state, time.time()) == []
    assert contents(swapping.kept_in) == set()
    assert (swapping.path / "f").read_text() == "old"


def test_what_was_replaced_stays(swapping):
    assert swapping.act().reason == ""
    assert compare(swapping.state, later()) == []
    assert contents(swapping.kept_in) == {b"old"}


def drop_all_but_the_newest(root):
    (root.path / STATE / "pairs/p").mkdir(parents=True, exist_ok=True)
    keep_within(root.state, "p", Retention(keep=1), "none", later())


@pytest.fixture
def long_open(root):
    """A file that a program has open for writing since before it was displaced; a newer version."""
    write_tree(root.path, {"log": "before", "other": "untouched"})
    with (root.path / "log").open("ab", buffering=0) as stream:
        displace(root, "20200101T000000Z-1", ["log", "other"]).close()
        write_tree(root.path, {"log": "newer", "other": "newer too"})
        displace(root, "20200102T000000Z-2", ["log", "other"]).close()
        assert compare(root.state, later()) == []
        assert not records(root)
        yield root, stream


def test_what_may_still_be_written_to_is_not_dropped(long_open):
    """A program may keep its log open for days, whatever became of the name."""
    root, stream = long_open
    drop_all_but_the_newest(root)
    assert contents(root.kept_in) == {b"before", b"newer", b"newer too"}
    stream.close()
    drop_all_but_the_newest(root)
    assert contents(root.kept_in) == {b"newer", b"newer too"}


def test_what_was_written_after_the_last_comparison_is_never_dropped(long_open):
    root, stream = long_open
    stream.write(b", and days later")
    stream.close()
    drop_all_but_the_newest(root)
    drop_all_but_the_newest(root)
    assert contents(root.kept_in) == {b"before, and days later", b"newer", b"newer too"}
    assert pinned(root.state) == {b"20200101T000000Z-1": {b"log"}}


def test_records_go_with_their_runs(long_open):
    root, stream = long_open
    stream.close()
    drop_all_but_the_newest(root)
    assert os.listdir(root.path / STATE / "settled") == ["20200102T000000Z-2"]


def test_records_go_also_where_nothing_is_kept_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(late, "GRACE", 0.0)
    pair = Pair(tmp_path)
    for number in range(4):
        write_tree(pair.a, {"f": f"version {number}"})
        assert pair.sync(backup=Retention(enabled=False)).exit == 0
    assert not pair.sync(backup=Retention(enabled=False)).error
    assert not pair.backups()
    for kind in ("displaced", "settled"):
        assert os.listdir(pair.b / STATE / kind) == []


def test_a_copy_of_the_backup_was_not_written_to(long_open):
    """Who brings a replica back from elsewhere must not find all of it pinned."""
    root, stream = long_open
    stream.close()
    kept = root.kept_in / "20200101T000000Z-1/log"
    kept.with_name("copy").write_bytes(kept.read_bytes())
    kept.with_name("copy").replace(kept)
    drop_all_but_the_newest(root)
    assert contents(root.kept_in) == {b"newer", b"newer too"}


def test_a_growing_file_is_kept_while_a_program_has_what_it_replaced_open(tmp_path):
    """What both ends append to, one of them now and then: sessions follow each other closely."""
    pair = Pair(tmp_path)
    write_tree(pair.a, {"log": "one\n"})
    pair.sync()
    with (pair.b / "log").open("ab", buffering=0) as stream:
        for line in ("two\n", "three\n", "four\n"):
            with (pair.a / "log").open("a") as growing:
                growing.write(line)
            assert pair.sync().exit == 0
        stream.write(b"late\n")
    assert "late write" in str(pair.sync().report["warnings"])
    assert b"one\nlate\n" in contents(pair.b / STATE / "backup")


def test_what_is_kept_briefly_is_written_to_between_comparing_and_dropping(root):
    backup = Backup(root.state, run_name("run", Retention(enabled=False), "p"))
    write_tree(root.path, {"d/log": "before"})
    parent = os.open(root.path / "d", os.O_RDONLY)
    expected = swap.seen((root.path / "d/log").lstat())
    swap.remove(At(parent, b"log"), expected, Aside(b"d/log", backup))
    os.close(parent)
    backup.close()
    kept = root.kept_in / "run.p.brief/d/log"
    assert compare(root.state, later()) == []
    kept.write_text("before, after")
    assert drop_brief(root.state, "p") == [Late(b"run.p.brief", b"d/log")]
    assert drop_brief(root.state, "p") == []
    assert kept.read_text() == "before, after"
