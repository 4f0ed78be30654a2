# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in homes: nothing of them is lost, and root follows nothing that their owner put there."""

from __future__ import annotations

import os
import pwd
import stat
import threading
from functools import partial

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils import homefiles

NOBODY = pwd.getpwnam("nobody")


def test_a_new_file_is_its_owner_s_alone(tmp_path):
    homefiles.edit(tmp_path / "file", lambda text: f"{text}new\n")
    assert (tmp_path / "file").read_text() == "new\n"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_any_bytes_come_through_and_the_mode_stays(tmp_path):
    file = tmp_path / "file"
    before = b"\xff\xfe one\r\ntwo\x0b\xe2\x80\xa8\n\nthree without an end"
    file.write_bytes(before)
    file.chmod(0o640)
    homefiles.edit(file, lambda text: "mine\n" + text)
    assert file.read_bytes() == b"mine\n" + before
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    homefiles.edit(file, lambda text: text.removeprefix("mine\n"))
    assert file.read_bytes() == before


def test_a_file_without_text_goes(tmp_path):
    (tmp_path / "file").write_text("x")
    for _again in range(2):
        homefiles.edit(tmp_path / "file", lambda __: "")
        assert os.listdir(tmp_path) == []


def test_what_needs_no_change_is_not_written(tmp_path):
    (tmp_path / "file").write_text("same")
    before = (tmp_path / "file").stat()
    homefiles.edit(tmp_path / "file", lambda text: text)
    assert (tmp_path / "file").stat().st_ino == before.st_ino


def test_a_symlink_stays_one(tmp_path):
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles/keys").write_text("old\n")
    (tmp_path / "keys").symlink_to("dotfiles/keys")
    homefiles.edit(tmp_path / "keys", lambda text: text + "new\n")
    assert (tmp_path / "keys").is_symlink()
    assert (tmp_path / "dotfiles/keys").read_text() == "old\nnew\n"


def test_a_change_that_fails_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ZeroDivisionError):
        homefiles.edit(tmp_path / "file", lambda __: str(1 // 0))
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def append(line, text):
    return text + line


def test_no_line_of_many_writers_is_lost(tmp_path):
    file = tmp_path / "file"

    def work(number):
        for turn in range(5):
            homefiles.edit(file, partial(append, f"{number}.{turn}\n"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(file.read_text().split()) == [f"{n}.{t}" for n in range(4) for t in range(5)]


@pytest.mark.root
def test_root_acts_as_the_owner_of_the_home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    for above in (tmp_path, *tmp_path.parents[:3]):
        above.chmod(above.stat().st_mode | 0o011)
    (tmp_path / "roots").write_text("root's\n")
    (tmp_path / "roots").chmod(0o600)
    (home / "trap").symlink_to(tmp_path / "roots")
    with homefiles.acting_as(NOBODY):
        homefiles.edit(home / "file", lambda __: "text\n")
        with pytest.raises(PermissionError):
            homefiles.edit(home / "trap", lambda __: "mine\n")
    assert (home / "file").stat().st_uid == NOBODY.pw_uid
    assert (tmp_path / "roots").read_text() == "root's\n"
    assert (os.geteuid(), os.getegid()) == (0, 0)
    assert NOBODY.pw_gid not in os.getgroups()
