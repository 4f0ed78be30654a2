# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lands, what waits, and what one file's trouble leaves alone."""

from __future__ import annotations

import errno
import os

import pytest

from pairsync.replica import durable, fsops, units
from pairsync.replica.local import LocalReplica
from tests.engine.trees import Link, Pair, entries, read_tree, write_tree


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
        # When it is sent: b's may be opened before, to be hashed.
        when=lambda parent, name: (
            name == b"checkpoint" and fsops.real_path(parent) == os.fsencode(run.a / "run")
        ),
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


@pytest.fixture
def trained(local):
    """A pair that agrees on two checkpoints in `run`, and on what lies beside it."""
    write_tree(local.a, {"run/checkpoint": "1", "run/model-1": "old", "run/sub/x": "y", "f": "z"})
    assert local.sync().exit == 0
    return local


@pytest.mark.parametrize("other", ["conflict", "unreadable", "link"])
def test_a_pointer_that_nobody_brings_over_holds_deletions(trained, other):
    """Each side keeps its own pointer, and with it what that names."""
    local = trained
    write_tree(local.a, {"run/checkpoint": "2"})
    for name in ("run/model-1", "run/sub/x", "f"):
        (local.a / name).unlink()
    if other == "conflict":
        write_tree(local.b, {"run/checkpoint": "1b"})
    elif other == "link":
        (local.b / "run/checkpoint").unlink()
        (local.b / "run/checkpoint").symlink_to("model-1")
    real = fsops.list_dir
    inode = (local.b / "run").stat().st_ino

    def listed(fd):
        error = OSError(errno.EACCES, "Permission denied")
        here = os.fstat(fd).st_ino == inode
        return [
            (name, error if here and name == b"checkpoint" else status) for name, status in real(fd)
        ]

    with pytest.MonkeyPatch.context() as patch:
        if other == "unreadable":
            patch.setattr(fsops, "list_dir", listed)
        result = local.sync()
    assert result.items["f"] == ("a->b", "done")
    assert result.items["run/model-1"] == ("a->b", "held")
    assert result.items["run/sub/x"] == ("a->b", "held")
    reasons = {item["path"]: item["reason"] for item in result.report["items"]}
    assert reasons["run/model-1"] == "held with run/checkpoint"
    assert (local.b / "run/model-1").read_text() == "old"
    write_tree(local.a, {"run/checkpoint": "2, as agreed on"})
    settled = local.sync(prefer="a")
    assert settled.exit == 0, settled.report
    assert not (local.b / "run/model-1").exists()


def test_a_pointer_whose_permissions_differ_holds_nothing(trained):
    (trained.a / "run/checkpoint").chmod(0o600)
    (trained.b / "run/checkpoint").chmod(0o640)
    (trained.a / "run/model-1").unlink()
    assert trained.sync().items["run/model-1"] == ("a->b", "done")


def test_a_pointer_does_not_wait_for_a_conflict_over_what_both_have(trained):
    """Both edited a file beside it: whatever it names is there."""
    write_tree(trained.a, {"run/checkpoint": "2", "run/model-1": "by a"})
    write_tree(trained.b, {"run/model-1": "by b"})
    result = trained.sync()
    assert result.items["run/checkpoint"] == ("a->b", "done")
    assert result.items["run/model-1"] == ("conflict", "skipped")
    assert trained.sync(prefer="a").exit == 0
    assert read_tree(trained.a) == read_tree(trained.b)


# -- what is known of what landed -----------------------------------------------------------------


def other_file(path):
    """Replace a file as `mv` does, by an older one of the same size."""

    def act():
        size = path.stat().st_size
        other = path.with_name("other")
        other.write_bytes(b"L" * size)
        os.utime(other, (1_000_000_000, 1_000_000_000))
        other.rename(path)

    return act


@pytest.mark.parametrize("name", ["new", "f"])
def test_a_file_replaced_right_after_it_landed_is_seen_next_time(local, before, name):
    write_tree(local.a, {"f": "first"})
    assert local.sync().exit == 0
    write_tree(local.a, {name: "from a"})
    os.utime(local.a / name, (1_200_000_000, 1_200_000_000))
    landed = local.b / name

    def is_there(__, called):
        return called == name.encode() and landed.exists() and landed.read_text() == "from a"

    before("lstat", other_file(landed), when=is_there)
    assert local.sync().exit == 0
    assert landed.read_text() == "LLLLLL"
    assert local.sync().exit == 0
    assert (local.a / name).read_text() == "LLLLLL"


def test_permissions_come_without_what_is_not_synced(local):
    write_tree(local.a, {"f": "text", "d": None})
    assert local.sync().exit == 0
    (local.a / "f").chmod(0o750)
    (local.a / "d").chmod(0o750)
    (local.b / "f").chmod(0o4644)
    (local.b / "d").chmod(0o3755)
    assert local.sync().exit == 0
    assert (local.b / "f").stat().st_mode & 0o7777 == 0o4750
    assert (local.b / "d").stat().st_mode & 0o7777 == 0o3750


# -- hard links -----------------------------------------------------------------------------------


@pytest.fixture
def linked(local):
    """A pair whose b has one file under three names, and a symlink under two."""
    names = ("f", "g", "d/h")
    write_tree(local.a, {**dict.fromkeys(names, "text"), "l": Link("f"), "m": Link("f")})
    assert local.sync().exit == 0
    for name, other in (("g", "f"), ("d/h", "f"), ("m", "l")):
        (local.b / name).unlink()
        os.link(local.b / other, local.b / name, follow_symlinks=False)
    assert local.sync().exit == 0
    return local


def test_all_names_of_a_file_are_replaced_in_one_session(linked):
    write_tree(linked.a, {"f": "new f", "g": "new g", "d/h": "new h"})
    for name in ("l", "m"):
        (linked.a / name).unlink()
        (linked.a / name).symlink_to("g")
    assert linked.sync().exit == 0
    assert read_tree(linked.b) == read_tree(linked.a)


def test_all_names_of_a_file_are_deleted_in_one_session(linked):
    for name in ("f", "g", "d/h", "l", "m"):
        (linked.a / name).unlink()
    assert linked.sync().exit == 0
    assert read_tree(linked.b) == {"d": None}


def test_one_name_of_a_file_is_replaced_while_another_is_sent(linked):
    (linked.b / "f").write_text("from b, by all its names")
    write_tree(linked.a, {"f": "from a"})
    assert linked.sync(prefer="a").exit == 0
    assert read_tree(linked.a) == read_tree(linked.b)
    assert (linked.a / "f").read_text() == "from a"
    assert (linked.a / "g").read_text() == "from b, by all its names"


# -- large directories ----------------------------------------------------------------------------


def test_a_directory_that_is_filled_where_it_lies_has_its_permissions_at_once(
    local, before, monkeypatch
):
    monkeypatch.setattr(units, "MOST_ENTRIES", 2)
    write_tree(local.a, {"big/1": "1", "big/2": "2", "big/3": "3"})
    (local.a / "big").chmod(0o575)
    seen = []
    before("rename_noreplace", lambda: seen.append((local.b / "big").stat().st_mode & 0o777))
    assert local.sync().exit == 0
    assert seen == [0o775]
    assert entries(local.b) == entries(local.a)


def test_a_large_directory_that_appears_meanwhile_is_joined(local, before, monkeypatch):
    monkeypatch.setattr(units, "MOST_ENTRIES", 2)
    write_tree(local.a, {"big/1": "1", "big/2": "2", "big/3": "3"})
    before(
        "make_dir",
        lambda: write_tree(local.b, {"big/late": "late"}),
        when=lambda __, name, *___: name == b"big",
    )
    assert local.sync().exit == 0
    assert set(read_tree(local.b)) == {"big", "big/1", "big/2", "big/3", "big/late"}
    assert local.sync().exit == 0
    assert read_tree(local.a) == read_tree(local.b)


def test_permissions_that_a_large_directory_cannot_get_are_not_recorded(
    local, failing, monkeypatch
):
    monkeypatch.setattr(units, "MOST_ENTRIES", 2)
    write_tree(local.a, {"big/1": "1", "big/2": "2", "big/3": "3"})
    (local.a / "big").chmod(0o550)
    failing(
        "set_mode",
        errno.EPERM,
        when=lambda fd, __: os.readlink(f"/proc/self/fd/{fd}")[-4:] == "/big",
    )
    result = local.sync()
    assert result.exit == 2
    assert result.items["big"] == ("a->b", "failed")
    assert set(read_tree(local.b)) == {"big", "big/1", "big/2", "big/3"}
    assert "big" not in local.base(local.b)
    monkeypatch.undo()
    local.sync(prefer="a")
    assert entries(local.b) == entries(local.a)


# -- one file's trouble ---------------------------------------------------------------------------

LARGE = bytes(3 << 20)


@pytest.mark.parametrize("call", ["create_file", "write"])
def test_a_large_file_that_cannot_be_written_fails_alone(local, failing, call):
    write_tree(local.a, {"large": LARGE, "small": "1", "d/large": LARGE, "d/small": "2"})

    def of_large(__, what, *___):
        return len(what) > 1000 if call == "write" else what in (b"f3", b"large")

    failing(call, errno.EFBIG, of_large)
    result = local.sync()
    assert result.exit == 2
    assert result.items["large"][1] == "failed"
    assert result.items["d/large"][1] == "failed"
    assert set(read_tree(local.b)) == {"d", "d/small", "small"}


@pytest.mark.parametrize("top", ["", "new/"])
def test_a_name_that_cannot_be_stored_fails_with_what_is_below_it(local, failing, top):
    write_tree(local.a, {f"{top}odd/d/large": LARGE, f"{top}odd/small": "1", f"{top}z/fine": "2"})
    failing("make_dir", errno.EINVAL, lambda __, name, *___: name == (b"odd" if top else b"u0"))
    result = local.sync()
    assert result.exit == 2
    failed = {path for path, (___, became) in result.items.items() if became == "failed"}
    assert failed == {f"{top}odd{below}" for below in ("", "/d", "/d/large", "/small")}
    assert read_tree(local.b)[f"{top}z/fine"] == b"2"


class Forgetful(LocalReplica):
    """Does not send everything that it was asked for."""

    def send(self, wanted):
        yield from list(super().send(wanted))[:-1]


def test_a_file_is_replaced_by_a_directory_only_when_all_of_it_came(local):
    write_tree(local.a, {"f": "text"})
    assert local.sync().exit == 0
    (local.a / "f").unlink()
    write_tree(local.a, {"f/1": "1", "f/2": "2"})
    local.connect = lambda: (Forgetful(), LocalReplica())
    result = local.sync()
    assert set(result.items.values()) == {("a->b", "skipped")}
    assert result.report["items"][0]["reason"] == "its contents did not arrive"
    assert read_tree(local.b) == {"f": b"text"}


@pytest.mark.parametrize("trouble", ["on a", "on b"])
def test_a_directory_that_lacks_something_replaces_no_file(local, before, failing, trouble):
    """Both are kept as they are, and the next session brings all of it (P11)."""
    write_tree(local.a, {"f": "text"})
    assert local.sync().exit == 0
    (local.a / "f").unlink()
    write_tree(local.a, {"f/1": "1", "f/2": "2", "f/d/3": "3"})
    if trouble == "on a":
        late = local.a / "f/2"
        before("open_file", lambda: late.write_text("late"), when=lambda __, name: name == b"2")
    else:
        calls = iter([True])
        failing("create_file", errno.EACCES, lambda __, name, *___: name == b"2" and next(calls, 0))
    result = local.sync()
    assert result.exit == (1 if trouble == "on a" else 2)
    assert read_tree(local.b) == {"f": b"text"}
    results = {path: became for path, (___, became) in result.items.items()}
    missing = results.pop("f/2")
    assert missing == ("skipped" if trouble == "on a" else "failed")
    assert set(results.values()) == {"held"}
    assert local.sync().exit == 0
    assert read_tree(local.b) == read_tree(local.a)


# -- durable --------------------------------------------------------------------------------------


def test_where_a_file_system_hides_errors_all_of_a_new_directory_is_synced(local, monkeypatch):
    """Each file and directory, before anything has its name (P16)."""
    monkeypatch.setattr(durable, "_tells", lambda __: False)
    write_tree(local.a, {f"d/{number}/f": str(number) for number in range(durable.FEW)})
    synced = set()
    sync_file, rename = fsops.sync_file, fsops.rename_noreplace
    named = []

    def note(fd):
        synced.add(os.fstat(fd).st_ino)
        sync_file(fd)

    def name(*arguments):
        if arguments[3] == b"d":
            named.append(set(synced))
        return rename(*arguments)

    monkeypatch.setattr(fsops, "sync_file", note)
    monkeypatch.setattr(fsops, "rename_noreplace", name)
    assert local.sync().exit == 0
    (before,) = named
    assert {path.stat().st_ino for path in [local.b / "d", *(local.b / "d").rglob("*")]} <= before


# -- growing files --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 1 << 20, (4 << 20) + 7, 6 << 20])
@pytest.mark.parametrize("more", [3, 5 << 20])
def test_what_a_file_continues_needs_no_backup(local, size, more):
    write_tree(local.a, {"log": os.urandom(size), "other": os.urandom(size + 1)})
    assert local.sync().exit == 0
    with (local.a / "log").open("ab") as log:
        log.write(os.urandom(more))
    other = (local.b / "other").read_bytes()
    (local.a / "other").write_bytes(b"x" + os.urandom(size + more))
    assert local.sync().exit == 0
    assert len(local.backups()) == 2  # until the next session, for who still writes into it
    (local.a / "new").write_text("1")
    assert local.sync().exit == 0
    assert local.backups() == {other}


def test_what_is_written_into_a_log_that_was_continued_is_kept(local):
    write_tree(local.a, {"log": "one\n"})
    assert local.sync().exit == 0
    with (local.a / "log").open("ab") as log:
        log.write(b"two\n")
    with (local.b / "log").open("ab") as log:
        assert local.sync().exit == 0
        log.write(b"late\n")
    for warnings in (1, 0):
        assert len(local.sync().report["warnings"]) == warnings
        assert local.backups() == {b"one\nlate\n"}
