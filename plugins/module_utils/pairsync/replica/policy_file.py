# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a policy file, if nobody but root and the agent's own user can have written it."""

from __future__ import annotations

import os
import stat

from ..model.agent_policy import AgentPolicy, parse_agent_policy
from ..model.errors import PairsyncError
from ..model.report import display
from . import fsops

_MOST = 64 << 10  # bytes
# O_PATH: a directory that may be entered need not be readable.
_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def read_policy(path: bytes) -> AgentPolicy:
    """The policy in a file; raise PairsyncError `policy` when it cannot be trusted.

    Nothing on the way may be a symlink, belong to somebody else, or be writable for others; a
    directory in which names belong to their owners (sticky, as /tmp) may be.
    """
    parts = path.split(b"/")
    if len(parts) < 2 or parts[0] or any(part in (b"", b".", b"..") for part in parts[1:]):
        raise _refused(path, "its path must be absolute, without `.`, `..` and `//`")
    held = os.open(b"/", _ENTER)
    try:
        for depth, name in enumerate(parts[1:-1], start=2):
            inner = os.open(name, _ENTER, dir_fd=held)
            fsops.close(held)
            held = inner
            status = fsops.fstat(held)
            if not _trusted(status) and not (_owned(status) and status.st_mode & stat.S_ISVTX):
                raise _refused(path, f"others may write to {display(b'/'.join(parts[:depth]))}")
        file = fsops.open_file(held, parts[-1])
    except OSError as error:
        raise _refused(path, f"it cannot be opened ({error.strerror})") from error
    finally:
        fsops.close(held)
    try:
        if not _trusted(fsops.fstat(file)):
            raise _refused(path, "others may write to it")
        text = fsops.read(file, _MOST + 1)
    except OSError as error:
        raise _refused(path, f"it cannot be read ({error.strerror})") from error
    finally:
        fsops.close(file)
    if len(text) > _MOST:
        raise _refused(path, "it is too long")
    return parse_agent_policy(text, display(path))


def _owned(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _trusted(status: os.stat_result) -> bool:
    return _owned(status) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _refused(path: bytes, why: str) -> PairsyncError:
    return PairsyncError(
        "policy",
        f"the policy {display(path)} is refused: {why}",
        "let it and the directories above it be root's or this user's, writable for nobody else,"
        " and no symlink",
    )
