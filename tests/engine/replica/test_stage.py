# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Staging: whom a new object belongs to."""

from __future__ import annotations

import contextlib
import os

import pytest

from pairsync.replica.stage import Owner, owner_in

OURS, THEIRS = 54321, 54322


@contextlib.contextmanager
def plain_user(group):
    """Not root for a moment, but in a group."""
    groups = os.getgroups()
    os.setgroups([group])
    os.seteuid(54320)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setgroups(groups)


@pytest.mark.root
@pytest.mark.parametrize("group, owner", [(OURS, OURS), (THEIRS, -1)])
def test_a_plain_user_follows_a_directory_s_group_when_in_it(tmp_path, group, owner):
    os.chown(tmp_path, -1, group)
    tmp_path.chmod(0o2775)
    status = tmp_path.stat()
    with plain_user(OURS):
        assert owner_in(status) == Owner(-1, owner, set_gid=True)
