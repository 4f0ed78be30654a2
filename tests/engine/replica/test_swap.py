# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Swap and verify: no edit made between the scan and the swap is lost (P18)."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from pairsync.replica import fsops, state, swap
from pairsync.replica.backup import Backup
from pairsync.replica.digest import digest_bytes
from pairsync.replica.swap import Aside, At
from tests.engine.trees import STATE, contents, write_tree

STEPS = ["lstat", "move_aside", "rename_exchange", "rename_noreplace"]


class Place:
    """A root with one file `name`, and the file that is to replace it."""

    def __init__(self, tmp_path, held):
        self.root = write_tree(tmp_path / "root", {"name": "old"})
        root_fd = held(self.root)
        self.state = state.create(root_fd, "")
        self.stage = write_tree(self.root / STATE / "stage", {"new": "new contents"})
        self.staged = At(held(self.stage), b"new")
        self.at = At(root_fd, b"name")
        self.backup = Backup(self.state, "run")
        self.aside = Aside(b"name", self.backup, b"gpu1:/data")
        self.expected = swap.seen(os.lstat(self.root / "name"))

    def replace(self):
        return swap.replace(self.staged, self.at, self.expected, self.aside)

    def remove(self):
        return swap.remove(self.at, self.expected, self.aside)

    def kept(self):
        """What would still be there once the stage is emptied."""
        fd = os.open(self.root / STATE, os.O_RDONLY)
        state.remove_tree(fd, b"stage")
        os.close(fd)
        return contents(self.root)


@pytest.fixture
def place(tmp_path, held):
    place = Place(tmp_path, held)
    yield place
    place.backup.close()
    place.state.close()


@pytest.fixture(params=[True, False], ids=["exchange", "weak"])
def strength(request, monkeypatch):
    """With and without a kernel that can exchange names."""
    if not request.param:
        monkeypatch.setattr(fsops, "_renameat2", lambda *__: False)
    return request.param


def edits(root):
    """What a person may do to the file at any moment, and the bytes that must survive."""
    name = root / "name"

    def append():
        with name.open("ab") as stream:
            stream.write(b" and more")

    def rewrite():
        name.write_bytes(b"late")

    def as_editors_do():
        (root / "name~").write_bytes(b"late")
        (root / "name~").rename(name)

    def same_size_and_time():
        before = name.stat()
        name.write_bytes(b"OLD")
        os.utime(name, ns=(before.st_atime_ns, before.st_mtime_ns))

    def delete():
        name.unlink()

    def to_link():
        name.unlink()
        name.symlink_to("elsewhere")

    def to_directory():
        name.unlink()
        name.mkdir()
        (name / "inner").write_bytes(b"late")

    return {
        "append": (append, b"old and more"),
        "rewrite": (rewrite, b"late"),
        "as_editors_do": (as_editors_do, b"late"),
        "same_size_and_time": (same_size_and_time, b"OLD"),
        "delete": (delete, None),
        "to_link": (to_link, None),
        "to_directory": (to_directory, b"late"),
    }


EDITS = ["append", "rewrite", "as_editors_do", "delete", "to_link", "to_directory"]


def test_replaces_and_keeps_the_displaced_inode(place, strength):
    inode = place.expected.inode
    swapped = place.replace()
    assert swapped.reason == ""
    assert swapped.weak is not strength
    assert (place.root / "name").read_text() == "new contents"
    kept = place.root / STATE / "backup" / "run" / "name"
    assert kept.read_text() == "old"
    assert kept.stat().st_ino == inode
    assert place.backup.kept == 1


def test_never_replaces_what_it_was_not_told_of(place, strength):
    (place.root / "name").write_text("edited since the scan")
    assert place.replace().reason == swap.CHANGED
    assert (place.root / "name").read_text() == "edited since the scan"
    assert (place.stage / "new").read_text() == "new contents"


@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("verb", ["replace", "remove"])
def test_an_edit_at_any_call_survives(place, before, strength, verb, edit, step, call):
    """A file that is written in place at the very moment it is displaced lives on in the backup."""
    act, survivor = edits(place.root)[edit]
    done = []

    def once():
        if not done and os.path.lexists(place.root / "name"):
            done.append(True)
            act()

    before(step, once, call)
    # A file that was deleted under our hands; the receiver reports it.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        getattr(place, verb)()
    kept = place.kept()
    if done and survivor:
        # An edit that comes after the swap is one of the new file.
        assert any(survivor in text or text.endswith(survivor[-4:]) for text in kept), kept
    if not done or edit in ("append", "as_editors_do"):
        assert kept


def test_a_rewrite_that_hides_itself_is_seen_before_the_swap(place):
    act, __ = edits(place.root)["same_size_and_time"]
    act()
    assert place.replace().reason == swap.CHANGED
    assert (place.root / "name").read_bytes() == b"OLD"


@pytest.mark.parametrize("verb", ["replace", "remove"])
def test_another_name_of_the_file_is_no_edit(place, verb):
    (place.root / "other").hardlink_to(place.root / "name")
    place.expected = place.expected._replace(digest=digest_bytes(b"old"))
    assert getattr(place, verb)() == swap.Swapped()
    assert (place.root / "other").read_text() == "old"


@pytest.mark.parametrize("digest", [None, digest_bytes(b"old")])
def test_a_rewrite_that_hides_itself_behind_another_name_is_seen(place, digest):
    (place.root / "other").hardlink_to(place.root / "name")
    act, __ = edits(place.root)["same_size_and_time"]
    act()
    place.expected = place.expected._replace(digest=digest)
    assert place.replace().reason == swap.CHANGED
    assert (place.root / "name").read_bytes() == b"OLD"


def test_deleting_what_was_just_swapped_in_loses_no_late_edit(place, monkeypatch):
    """The late edit has been displaced, and its place is gone when it is to be put back."""
    real = fsops.rename_exchange
    steps = iter([edits(place.root)["as_editors_do"][0], (place.root / "name").unlink])

    def exchange(*arguments):
        next(steps)()
        return real(*arguments)

    monkeypatch.setattr(fsops, "rename_exchange", exchange)
    assert place.replace().reason == swap.CHANGED
    assert (place.root / "name").read_bytes() == b"late"


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT])
def test_what_cannot_be_put_back_is_kept(place, monkeypatch, code):
    """Not even when the place is gone, and nothing can be created there either."""
    real = fsops.rename_exchange
    calls = []

    def exchange(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            if code == errno.ENOENT:
                monkeypatch.setattr(fsops, "rename_noreplace", refuse)
            raise OSError(code, os.strerror(code))
        edits(place.root)["as_editors_do"][0]()
        return real(*arguments)

    def refuse(*__):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(fsops, "rename_exchange", exchange)
    assert place.replace().reason.endswith("is in the backup")
    assert b"late" in place.kept()


def newcomer_edited(place):
    """Written into by a program that opened it in the instant in which it had the name."""
    with (place.root / "name").open("ab") as stream:
        stream.write(b", edited")
    return b"new contents, edited"


def newcomer_replaced(place):
    write_tree(place.root, {"other~": "once more"})
    (place.root / "other~").rename(place.root / "name")
    return b"once more"


def newcomer_made_a_directory(place):
    (place.root / "name").unlink()
    write_tree(place.root, {"name/inner": "below"})
    return b"below"


@pytest.mark.parametrize("edit", [newcomer_edited, newcomer_replaced, newcomer_made_a_directory])
def test_two_late_edits_lie_beside_each_other(place, monkeypatch, edit):
    """The first is displaced by the exchange, the second by the exchange that puts it back."""
    real = fsops.rename_exchange
    second = []

    def exchange(*arguments):
        if second:
            second[0] = edit(place)
        else:
            second.append(b"")
            edits(place.root)["as_editors_do"][0]()
        return real(*arguments)

    monkeypatch.setattr(fsops, "rename_exchange", exchange)
    reason = place.replace().reason
    (copy,) = place.root.glob("name.conflict-gpu1--data-????????")
    assert (place.root / "name").read_bytes() == b"late"
    assert second[0] in (contents(copy) if copy.is_dir() else {copy.read_bytes()})
    assert reason == f"{swap.CHANGED}, twice; one version is now {copy.name}"


def test_a_copy_replaces_no_other_copy(place, monkeypatch):
    """P33: where its name is taken, whatever has it stays, and the version is in the backup."""
    name = f"name.conflict-gpu1--data-{digest_bytes(b'once more')[:4].hex()}"
    write_tree(place.root, {name: "an older copy, edited since"})
    real = fsops.rename_exchange
    edited = [edits(place.root)["as_editors_do"][0], lambda: newcomer_replaced(place)]

    def exchange(*arguments):
        edited.pop(0)()
        return real(*arguments)

    monkeypatch.setattr(fsops, "rename_exchange", exchange)
    assert place.replace().reason.endswith("is in the backup")
    assert (place.root / name).read_text() == "an older copy, edited since"
    assert (place.root / "name").read_bytes() == b"late"
    assert b"once more" in place.kept()


def test_a_newcomer_that_was_taken_back_may_still_be_written_to(place, monkeypatch):
    """Who opened it while it had the name writes into the backup, as for all that is displaced."""
    real = fsops.rename_exchange
    opened = []

    def exchange(*arguments):
        if opened:
            opened[0] = (place.root / "name").open("ab")
        else:
            opened.append(None)
            edits(place.root)["as_editors_do"][0]()
        return real(*arguments)

    monkeypatch.setattr(fsops, "rename_exchange", exchange)
    assert place.replace().reason == swap.CHANGED
    with opened[0] as stream:
        stream.write(b", edited")
    assert {b"late", b"new contents, edited"} <= place.kept()


def test_what_cannot_be_kept_is_not_replaced(place, failing):
    failing("move_aside", errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        place.replace()
    assert (place.root / "name").read_text() == "old"


def test_what_cannot_be_noted_is_not_displaced(place, failing):
    """A late write into it would not be seen."""
    failing("write", errno.ENOSPC)
    for verb in (place.replace, place.remove):
        with pytest.raises(OSError, match="No space"):
            verb()
        assert (place.root / "name").read_text() == "old"
        assert (place.stage / "new").read_text() == "new contents"
    assert not contents(place.root / STATE / "backup")


def test_what_cannot_be_exchanged_is_as_before(place, failing):
    failing("rename_exchange", errno.EACCES)
    with pytest.raises(OSError, match="Permission denied"):
        place.replace()
    assert (place.root / "name").read_text() == "old"
    assert (place.stage / "new").read_text() == "new contents"
    assert not contents(place.root / STATE / "backup")


def test_a_crash_between_displacing_and_verifying_loses_no_late_edit(place, monkeypatch):
    """What is displaced is never in the stage, which recovery empties."""
    real = fsops.rename_exchange

    def crash(*arguments):
        edits(place.root)["as_editors_do"][0]()
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fsops, "rename_exchange", crash)
    with pytest.raises(KeyboardInterrupt):
        place.replace()
    assert b"late" in place.kept()


def test_without_an_exchange_what_cannot_land_gives_way_again(place, monkeypatch, failing):
    """Else the next scan would see a deletion."""
    monkeypatch.setattr(fsops, "_renameat2", lambda *__: False)
    create = fsops.rename_noreplace

    def once(*arguments):
        monkeypatch.setattr(fsops, "rename_noreplace", create)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    real_aside = fsops.move_aside

    def aside(*arguments):
        if arguments[1] == b"name":
            monkeypatch.setattr(fsops, "rename_noreplace", once)
        return real_aside(*arguments)

    monkeypatch.setattr(fsops, "move_aside", aside)
    with pytest.raises(OSError, match="Input/output"):
        place.replace()
    assert (place.root / "name").read_text() == "old"


def test_without_an_exchange_nothing_that_appears_meanwhile_is_removed(place, monkeypatch):
    """Moving aside is one step also there: what is saved between two steps stays."""
    monkeypatch.setattr(fsops, "_renameat2", lambda *__: False)

    def late_after(call):
        def wrapped(*arguments, **options):
            call(*arguments, **options)
            if arguments[0] == b"name":
                with monkeypatch.context() as patch:
                    patch.setattr(os, "rename", rename)
                    edits(place.root)["as_editors_do"][0]()

        return wrapped

    rename = os.rename
    for name in ("link", "rename"):
        monkeypatch.setattr(os, name, late_after(getattr(os, name)))
    place.remove()
    assert (place.root / "name").read_bytes() == b"late"


def test_creating_never_replaces(place, strength):
    assert swap.create(place.staged, place.at).reason == swap.APPEARED
    assert (place.root / "name").read_text() == "old"
    (place.root / "name").unlink()
    assert swap.create(place.staged, place.at).reason == ""
    assert (place.root / "name").read_text() == "new contents"


def test_removing_moves_into_the_backup(place, strength):
    assert place.remove().reason == ""
    assert not (place.root / "name").exists()
    assert (place.root / STATE / "backup/run/name").read_text() == "old"


def test_removing_the_same_name_twice_in_a_run_keeps_both(place):
    place.remove()
    (place.root / "name").write_text("second")
    place.expected = swap.seen(os.lstat(place.root / "name"))
    place.remove()
    assert {b"old", b"second"} <= contents(place.root / STATE / "backup")


def test_a_file_in_the_backup_does_not_block_a_directory_of_its_name(place, held):
    place.remove()
    write_tree(place.root, {"name/inner": "below"})
    inner = At(held(place.root / "name"), b"inner")
    expected = swap.seen(os.lstat(place.root / "name/inner"))
    assert swap.remove(inner, expected, Aside(b"name/inner", place.backup)).reason == ""
    assert {b"old", b"below"} <= contents(place.root / STATE / "backup")


def test_a_directory_goes_only_when_it_is_empty(place, held):
    write_tree(place.root, {"d/new": "appeared"})
    at = At(place.at.fd, b"d")
    assert swap.remove_dir(at).reason == "new content below"
    (place.root / "d/new").unlink()
    assert swap.remove_dir(at).reason == ""
    assert not (place.root / "d").exists()


def test_a_directory_is_exchanged_for_a_file_once_it_is_empty(place):
    (place.root / "name").unlink()
    write_tree(place.root, {"name/late": "appeared"})
    place.expected = swap.seen(os.lstat(place.root / "name"))
    assert place.replace().reason == "new content below"
    assert (place.root / "name/late").read_text() == "appeared"
    (place.root / "name/late").unlink()
    assert place.replace().reason == ""
    assert (place.root / "name").read_text() == "new contents"
