# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long what was displaced stays in the backup; the newest version of a path always does."""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Iterator

from ..model.policy import Retention
from . import fsops
from .backup import BRIEF
from .state import State
from .tree import Tree


def prune(state: State, retention: Retention, now: float) -> None:
    """Drop versions beyond the retention, oldest first; the newest of each path stays.

    now: seconds since the epoch.
    """
    root = state.directory(b"backup")
    try:
        runs = sorted(name for name in fsops.names(root) if not name.endswith(BRIEF.encode()))
        versions: dict[bytes, list[bytes]] = {}
        for run in runs:
            for path in _objects(root, run):
                versions.setdefault(path, []).append(run)
        oldest = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now - retention.days * 86400)).encode()
        for path, held in versions.items():
            for place, run in enumerate(held[:-1]):
                if run < oldest or len(held) - place > retention.keep:
                    _drop(root, run, path)
    finally:
        fsops.close(root)


def _objects(parent: int, name: bytes) -> Iterator[bytes]:
    """Paths of all files and links below a directory, relative to it."""
    fd = fsops.open_dir(parent, name)
    try:
        for inner, status in fsops.list_dir(fd):
            if isinstance(status, OSError):
                continue
            if stat.S_ISDIR(status.st_mode):
                for path in _objects(fd, inner):
                    yield inner + b"/" + path
            else:
                yield inner
    finally:
        fsops.close(fd)


def _drop(root: int, run: bytes, path: bytes) -> None:
    """Remove one version, and the directories that held nothing else."""
    tree = Tree(fsops.duplicate(root))
    try:
        fsops.unlink(*tree.parent(run + b"/" + path))
        parts = [run, *path.split(b"/")[:-1]]
        while parts:
            directory = b"/".join(parts)
            tree.forget()
            fsops.remove_dir(*tree.parent(directory))
            parts.pop()
    except OSError as error:
        # Another pair's session may be dropping the same, or keeping something there.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
    finally:
        tree.close()
