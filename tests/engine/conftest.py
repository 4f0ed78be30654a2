# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Held directories, and edits at a chosen system call."""

from __future__ import annotations

import os

import pytest

from pairsync.replica import fsops


@pytest.fixture
def held():
    """A function that opens a directory and closes it after the test."""
    open_now = []

    def hold(path):
        path.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        open_now.append(fd)
        return fd

    yield hold
    for fd in open_now:
        os.close(fd)


@pytest.fixture
def before(monkeypatch):
    """`before("rename_exchange", edit, call=2)`: run an edit right before the n-th such call.

    when: looks at the arguments, and says which calls are counted.
    """

    def install(name, edit, call=1, when=lambda *__: True):
        real = getattr(fsops, name)
        calls = 0

        def wrapped(*arguments):
            nonlocal calls
            if when(*arguments):
                calls += 1
                if calls == call:
                    edit()
            return real(*arguments)

        monkeypatch.setattr(fsops, name, wrapped)

    return install


@pytest.fixture
def failing(monkeypatch):
    """`failing("sync_file", errno.EIO)`: every such call fails, or those that `when` picks."""

    def install(name, code, when=lambda *__: True):
        real = getattr(fsops, name)

        def wrapped(*arguments):
            if when(*arguments):
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        monkeypatch.setattr(fsops, name, wrapped)

    return install
