# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of the system, as a person reads them."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from pairsync.model.errors import PairsyncError
from pairsync.replica import fsops
from pairsync.replica.faults import as_fatal


@pytest.mark.parametrize(
    "number, code",
    [
        (errno.ENOSPC, "space"),
        (errno.EDQUOT, "space"),
        (errno.EROFS, "space"),
        (errno.EIO, "space"),
        (errno.EMFILE, "space"),
        (errno.ENFILE, "space"),
        (errno.ENOMEM, "space"),
        (errno.EFBIG, "space"),
        (errno.EMLINK, "space"),
        (errno.EBUSY, "locked"),
        (errno.EACCES, "root_identity"),
        (errno.EPERM, "root_identity"),
        (errno.ENOENT, "root_missing"),
        (errno.ESTALE, "root_missing"),
    ],
)
def test_what_the_system_refuses_is_no_fault_of_pairsync(number, code):
    error = as_fatal(OSError(number, os.strerror(number)))
    assert error.code == code
    assert error.next
    assert "should not" not in error.message


def test_what_nobody_foresaw_is_reported_as_that():
    error = as_fatal(OSError(errno.EXDEV, os.strerror(errno.EXDEV)))
    assert error.code == "internal"
    assert "report" in error.next


def test_an_error_that_is_one_already_stays():
    error = PairsyncError("locked", "busy")
    assert as_fatal(error) is error


def test_an_interrupted_flush_goes_on(monkeypatch):
    answers = [errno.EINTR, errno.EINTR, 0]

    def syncfs(fd):
        code = answers.pop(0)
        ctypes.set_errno(code)
        return -1 if code else 0

    monkeypatch.setattr(fsops, "_libc_function", lambda __: syncfs)
    assert fsops.sync_file_system(0)
    assert not answers
