# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real trees on disk: written by hand, read back, and synced by the engine in this process."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pairsync.model.entry import DIR, FILE, LINK, SPECIAL, Entry
from pairsync.model.plan import EQUAL
from pairsync.model.policy import Policy
from pairsync.model.report import Run, report_json
from pairsync.model.spec import PairSpec, ReplicaSpec
from pairsync.replica.base import Base
from pairsync.replica.digest import digest_bytes
from pairsync.replica.interface import Replica
from pairsync.replica.local import LocalReplica
from pairsync.session.events import Ask
from pairsync.session.run import Options, run_session
from pairsync.wire.frames import FrameReader, FrameWriter
from pairsync.wire.handshake import await_agent, greet
from pairsync.wire.remote import RemoteReplica

STATE = ".pairsync"
ENGINE_HOME = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"


class Link(NamedTuple):
    """In a tree written by hand: a symlink."""

    target: str


def write_tree(root: Path, tree: Mapping[str, str | bytes | Link | None]) -> Path:
    """Make a tree: text and bytes are files, None is a directory; parents are made as needed."""
    root.mkdir(parents=True, exist_ok=True)
    for name, value in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if value is None:
            path.mkdir(exist_ok=True)
        elif isinstance(value, Link):
            path.symlink_to(value.target)
        else:
            path.write_bytes(value.encode() if isinstance(value, str) else value)
    return root


def walk(root: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Every entry below a root but our own state, parents first."""
    todo = [root]
    while todo:
        for path in sorted(todo.pop().iterdir(), reverse=True):
            if path.name == STATE:
                continue
            status = path.lstat()
            yield path.relative_to(root).as_posix(), path, status
            if stat.S_ISDIR(status.st_mode):
                todo.append(path)


def read_tree(root: Path) -> dict[str, Any]:
    """What a person sees: path to bytes, Link, or None for a directory."""
    found: dict[str, Any] = {}
    for name, path, status in walk(root):
        if stat.S_ISREG(status.st_mode):
            found[name] = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            found[name] = Link(os.readlink(path))
        else:
            found[name] = None if stat.S_ISDIR(status.st_mode) else stat.S_IFMT(status.st_mode)
    return dict(sorted(found.items()))


def entries(root: Path) -> dict[str, Entry]:
    """A tree as the engine compares it: kind, permissions, contents, target."""
    found = {}
    for name, path, status in walk(root):
        mode = stat.S_IMODE(status.st_mode) & 0o777
        if stat.S_ISREG(status.st_mode):
            data = path.read_bytes()
            found[name] = Entry(FILE, mode, len(data), 0, digest_bytes(data))
        elif stat.S_ISDIR(status.st_mode):
            found[name] = Entry(DIR, mode)
        elif stat.S_ISLNK(status.st_mode):
            found[name] = Entry(LINK, None, 0, 0, None, os.fsencode(os.readlink(path)))
        else:
            found[name] = Entry(SPECIAL, target=b"special")
    return found


def fingerprints(root: Path) -> dict[str, tuple[int, ...]]:
    """What must not change when nothing is done: inode, type, mode, size, both times."""
    return {
        name: (
            status.st_ino,
            status.st_mode,
            status.st_nlink,
            0 if stat.S_ISDIR(status.st_mode) else status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        for name, __, status in walk(root)
    }


def contents(root: Path) -> set[bytes]:
    """The contents of every file below a root, those of our own state included."""
    found = set()
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found.add(path.read_bytes())
    return found


def written(root: Path) -> set[bytes]:
    """The contents of every file that a person sees."""
    return {value for value in read_tree(root).values() if isinstance(value, bytes)}


@dataclass(frozen=True)
class Result:
    """A session that has ended."""

    run: Run
    report: dict[str, Any]
    events: list[Any]

    @property
    def exit(self) -> int:
        return int(self.report["exit"])

    @property
    def items(self) -> dict[str, tuple[str, str]]:
        """Path to (decision, result) of what the report lists."""
        return {item["path"]: (item["decision"], item["result"]) for item in self.report["items"]}

    @property
    def error(self) -> str:
        return self.report["error"]["code"] if self.report["error"] else ""


Connect = Callable[[], tuple[Replica, Replica]]


def both_local() -> tuple[Replica, Replica]:
    return LocalReplica(), LocalReplica()


def local_and_agent() -> tuple[Replica, Replica]:
    return LocalReplica(), agent()


def agent(*prefix: str) -> RemoteReplica:
    """A replica behind a real pipe to a process of its own; prefix: a command that starts it."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "pairsync", "agent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": str(ENGINE_HOME), "PAIRSYNC_STATE": "/nonexistent"},
    )
    assert process.stdin
    assert process.stdout
    to_agent, from_agent = process.stdin, process.stdout
    reader = FrameReader(from_agent.fileno(), "b")
    writer = FrameWriter(to_agent.fileno(), "b")

    def hang_up() -> str:
        to_agent.close()
        process.wait(20)
        return ""

    nonce = secrets.token_hex(16)
    greet(writer, nonce, "source")
    await_agent(from_agent.fileno(), reader, nonce, "b", "source")
    return RemoteReplica(reader, writer, "b", hang_up)


class Pair:
    """Two roots beside each other, and sessions over them."""

    def __init__(self, home: Path, connect: Connect = both_local) -> None:
        self.home = home
        self.a, self.b = home / "a", home / "b"
        self.a.mkdir(parents=True, exist_ok=True)
        self.b.mkdir(parents=True, exist_ok=True)
        self.connect = connect

    @property
    def roots(self) -> tuple[Path, Path]:
        return self.a, self.b

    def sync(
        self, *, dry_run: bool = False, confirm: str = "", ask: Ask | None = None, **policy: Any
    ) -> Result:
        """One session, in batch unless somebody is asked; policy: fields of Policy."""
        spec = PairSpec(
            ReplicaSpec("a", str(self.a), local=True),
            ReplicaSpec("b", str(self.b), local=True),
            policy=Policy(**policy),
        )
        events: list[Any] = []
        options = Options(dry_run=dry_run, confirm=confirm)
        run = run_session(spec, self.connect, options, events.append, ask)
        return Result(run, report_json(run), events)

    def base_files(self, root: Path) -> list[Path]:
        return list((root / STATE / "pairs").glob("*/base.sqlite"))

    def base(self, root: Path) -> dict[str, Entry]:
        """The base of the one pair that a root is in."""
        with self._opened(root) as base:
            return {path.decode(): entry for path, entry in base.below(b"")}

    def commit(self, root: Path) -> str:
        """The id of the base's current commit."""
        with self._opened(root) as base:
            assert base.sound
            assert not base.commits.pending
            return base.commits.current

    @staticmethod
    @contextlib.contextmanager
    def _opened(root: Path) -> Iterator[Base]:
        (pair,) = (root / STATE / "pairs").iterdir()
        fd = os.open(pair, os.O_RDONLY | os.O_DIRECTORY)
        base = Base(fd, pair.name)
        try:
            yield base
        finally:
            base.close()
            os.close(fd)

    def backups(self) -> set[bytes]:
        """The contents of everything that was displaced."""
        return contents(self.a / STATE / "backup") | contents(self.b / STATE / "backup")

    def remove(self) -> None:
        shutil.rmtree(self.home)


def quiet(result: Result) -> bool:
    """Nothing was done, and nothing but conflicts and notes is left."""
    table = result.report["counts"]
    return not any(
        row.get("done") for decision, row in table.items() if decision in ("a->b", "b->a", EQUAL)
    )
