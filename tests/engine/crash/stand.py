# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A scene set up on disk, to be run again and again from the same beginning."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pairsync.replica import lock
from tests.engine.crash import seam
from tests.engine.crash.looks import base_rows, look
from tests.engine.crash.processes import Ended, Pipes, Process
from tests.engine.crash.scenes import Like, Make, age
from tests.engine.trees import Pair, Result

_LOCK_WAIT = 10  # seconds


class Said(NamedTuple):
    """What a session reported, as far as it matters here."""

    exit: int
    error: dict[str, Any] | None
    items: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, result: Result) -> Said:
        return cls(result.exit, result.report["error"], result.items)


class Stand:
    """One scene, its trees as they were before the session, and a place to run that session in."""

    def __init__(self, make: Make, home: Path) -> None:
        """make: the scene. home: an empty directory."""
        self._kept = home / "kept"
        self.pair = Pair(home / "work")
        self.like: Like = self._child(lambda: self._made(make)).value
        for where, value in self.like.tune.items():
            module, __, attribute = where.rpartition(".")
            setattr(importlib.import_module("pairsync." + module), attribute, value)
        shutil.copytree(self.pair.home, self._kept, symlinks=True)
        self.before = look(self.pair)
        self.base = base_rows(self.pair, self.pair.a) if self.pair.base_files(self.pair.a) else {}
        # In this process, so that what the engine keeps in memory is the same in all its children.
        self.said = self.session_here()
        usual = (0, 1) if self.like.exit is None else (self.like.exit,)
        assert self.said.exit in usual, self.said
        self.after = look(self.pair, bases=True)

    def _made(self, make: Make) -> Like:
        like = make(self.pair)
        age(self.pair)
        return like

    @staticmethod
    def _child(body: Callable[[], Any]) -> Ended:
        ended = Process(body).end()
        assert ended.code == 0, ended
        return ended

    def reset(self) -> None:
        """Put the trees back as they were before the session, in the same root directories.

        Other ones would be copies to the engine, and rightly so.
        """
        for root in self.pair.roots:
            kept = self._kept / root.name
            if root.exists():
                clear(root)
            if kept.exists():
                shutil.copytree(kept, root, symlinks=True, dirs_exist_ok=True)
            elif root.exists():
                root.rmdir()

    def session(self, hook: seam.Hook | None = None) -> Ended:
        """A session with both replicas in one process; what it said."""

        def run() -> tuple[Said, seam.Hook | None]:
            seam.set_hook(hook)
            return self.session_here(), hook

        return Process(run).end()

    def session_here(self) -> Said:
        """The same in this process."""
        return Said.of(self.pair.sync(lock_wait=_LOCK_WAIT, **self.like.policy))

    def session_with_agent(self, end: str, hook: seam.Hook) -> tuple[Ended, Ended]:
        """A session with an agent, and a hook at one end: how the session ended, and the agent.

        The value of the agent is the hook as it is then; that of the session what it said, and the
        hook.
        """
        pipes = Pipes.new()

        def agent() -> seam.Hook:
            if end == "b":
                seam.set_hook(hook)
            pipes.serve()
            return hook

        def session() -> tuple[Said, seam.Hook]:
            if end == "a":
                seam.set_hook(hook)
            self.pair.connect = pipes.connect
            return self.session_here(), hook

        processes = Process(session), Process(agent)
        pipes.close()
        return processes[0].end(), processes[1].end()


def clear(top: Path) -> None:
    """Remove all that is in a directory."""
    for directory, __, ___ in os.walk(top):
        os.chmod(directory, 0o700)  # a plain user cannot remove what is in a read-only directory
    for path in top.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def stand(make: Make) -> Iterator[Stand]:
    """A scene on disk, for a process of its own that has no threads."""
    seam.install()
    lock._BEAT_SECONDS = 10**9  # how many calls there are must not depend on the clock
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    home = Path(tempfile.mkdtemp(prefix="pairsync-crash-", dir=place))
    try:
        yield Stand(make, home)
    finally:
        clear(home)
        home.rmdir()
