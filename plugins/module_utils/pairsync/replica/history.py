# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the backup holds: its runs, and the versions of a path, as they lie there (see backup.py).

Only names and fingerprints are read, so that 100 000 versions are listed in a second.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple, Optional

from ..model.entry import DIR, STATE_NAME, is_below, parent_of
from ..model.errors import PairsyncError, UsageError
from ..model.report import display
from . import fsops, state
from .backup import BRIEF, kept_mode
from .rows import Seen
from .state import State
from .swap import seen
from .tree import Tree

RUN_TIME = "%Y%m%dT%H%M%SZ"
_STRICT = 0o700
_SHOWN = 5  # of what there is, where what was asked for is not


def run_id(now: float) -> str:
    """A name for a run that begins now (seconds since the epoch); names sort as runs began."""
    return (
        f"{time.strftime(RUN_TIME, time.gmtime(now))}-{int(now % 1 * 65536):04x}"
        + secrets.token_hex(2)
    )


class Kept(NamedTuple):
    """A run that displaced something.

    directory: its name in the backup. name: the run's own. brief: it goes with the next session
    of its pair.
    """

    directory: bytes
    name: str
    brief: bool

    @property
    def time(self) -> Optional[int]:
        """When the run began, in seconds since the epoch; None for a name that does not say."""
        try:
            return calendar.timegm(time.strptime(self.name.partition("-")[0], RUN_TIME))
        except ValueError:
            return None


class Version(NamedTuple):
    """One displaced object.

    path: the one it had in the replica. stored: where it lies in the run's directory. layer: 0,
    or higher for what the run displaced after something else of that name. seen: its fingerprint;
    its kind is 0 for a special file, and DIR for a directory that was empty.
    """

    path: bytes
    run: Kept
    layer: int
    stored: bytes
    seen: Seen

    @property
    def label(self) -> str:
        """How a person names the run, and the layer where that matters."""
        return f"{self.run.name}+{self.layer}" if self.layer else self.run.name


class Held(NamedTuple):
    """A replica held open for what its backup is asked. shown: its root, safe to print."""

    root_fd: int
    state: State
    backup: int
    shown: str


@contextlib.contextmanager
def opened(root: bytes) -> Iterator[Held]:
    """Hold a replica and its backup open; raises PairsyncError where there is none."""
    shown = display(root)
    try:
        root_fd = fsops.open_root(root)
    except OSError as error:
        raise PairsyncError(
            "root_not_dir" if isinstance(error, NotADirectoryError) else "root_missing",
            f"{shown} cannot be opened: {error.strerror}",
            "name the root of a replica on this host; `pairsync status` lists them",
        ) from error
    try:
        held = state.find(root_fd)
        if held is None:
            raise PairsyncError(
                "root_identity",
                f"{shown} has never been synced, and has no backup",
                "name the root of a replica on this host; `pairsync status` lists them",
            )
        try:
            backup = held.directory(b"backup")
            try:
                yield Held(root_fd, held, backup, shown)
            finally:
                fsops.close(backup)
        finally:
            held.close()
    finally:
        fsops.close(root_fd)


def path_in(held: Held, root: bytes, typed: bytes) -> bytes:
    """A path as typed, relative to the root or absolute below it, as one relative to the root.

    root: as typed, absolute. The root itself is the empty path. Raises UsageError.
    """
    path = typed
    if typed.startswith(b"/"):
        for top in (root, fsops.real_path(held.root_fd)):
            if is_below(typed, top.rstrip(b"/")) or typed.rstrip(b"/") == top.rstrip(b"/"):
                path = typed[len(top.rstrip(b"/")) :]
                break
        else:
            raise UsageError(
                f"{display(typed)} does not lie in {held.shown}",
                "write the path relative to the root, or absolute below it",
            )
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts or STATE_NAME in parts:
        raise UsageError(
            f"{display(typed)} is no path of a replica", "write it without `..` and `.pairsync`"
        )
    return b"/".join(parts)


def runs(backup: int) -> list[Kept]:
    """All runs of a backup, oldest first."""
    found = []
    for directory in sorted(fsops.names(backup)):
        name, __, rest = directory.decode("ascii", "replace").partition(".")
        found.append(Kept(directory, name, rest.endswith(BRIEF.lstrip("."))))
    return found


def versions(backup: int, run: Kept, path: bytes = b"") -> Iterator[Version]:
    """The versions that a run kept at a path and below it, in path order within each layer.

    A run that another session drops meanwhile has none.
    """
    try:
        tree = Tree(fsops.open_dir(backup, run.directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        for layer in _layers(tree):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                yield from _walk(_start(tree, layer.prefix, path), run, layer)
    finally:
        tree.close()


class _Layer(NamedTuple):
    number: int
    prefix: bytes  # of what lies in it


class _Listed(NamedTuple):
    """A held directory, where it lies in the run, and what is left to visit, last one first."""

    fd: int
    stored: bytes
    left: list[tuple[bytes, os.stat_result]]


def _layers(tree: Tree) -> list[_Layer]:
    layers = [_Layer(0, b"")]
    with contextlib.suppress(FileNotFoundError):
        numbers = [int(name) for name in fsops.names(tree.directory(STATE_NAME)) if name.isdigit()]
        layers += [_Layer(number, b"%s/%d/" % (STATE_NAME, number)) for number in sorted(numbers)]
    return layers


def _start(tree: Tree, prefix: bytes, path: bytes) -> _Listed:
    if not path:
        directory = prefix.rstrip(b"/")
        return _listed(fsops.duplicate(tree.directory(directory)), directory)
    parent, name = tree.parent(prefix + path)
    status = fsops.lstat(parent, name)
    return _Listed(fsops.duplicate(parent), parent_of(prefix + path), [(name, status)])


def _listed(fd: int, stored: bytes) -> _Listed:
    """What is in a directory, which is taken over; but not the layers in a run's own."""
    try:
        entries = [
            (name, status)
            for name, status in reversed(fsops.list_dir(fd))
            if not isinstance(status, OSError) and (stored or name != STATE_NAME)
        ]
    except BaseException:
        fsops.close(fd)
        raise
    return _Listed(fd, stored, entries)


def _walk(start: _Listed, run: Kept, layer: _Layer) -> Iterator[Version]:
    """All objects in a directory and below it; trees are deeper than Python recurses."""
    number, cut = layer.number, len(layer.prefix)
    stack = [start]
    try:
        while stack:
            fd, directory, left = stack[-1]
            if not left:
                fsops.close(stack.pop().fd)
                continue
            name, status = left.pop()
            stored = directory + b"/" + name if directory else name
            if stat.S_ISDIR(status.st_mode):
                try:
                    stack.append(_listed(fsops.open_dir(fd, name), stored))
                except FileNotFoundError:
                    continue  # dropped meanwhile
                if stack[-1].left:
                    continue
            was = seen(status)
            if was.kind == DIR:
                was = was._replace(mode=kept_mode(status.st_mode))
            yield Version(stored[cut:], run, number, stored, was)
    finally:
        for held in stack:
            fsops.close(held.fd)


def directory_mode(held: Held, version: Version, path: bytes) -> int:
    """The permissions that a directory above a version had: what the backup says since then.

    Only a run that removed the directory knows them (see backup.py); without one they are the
    strictest.
    """
    first = version.stored[: len(version.stored) - len(version.path) + len(path)]
    known = runs(held.backup)
    for run in known[known.index(version.run) :]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            tree = Tree(fsops.open_dir(held.backup, run.directory))
            try:
                status = fsops.lstat(*tree.parent(first if run == version.run else path))
            finally:
                tree.close()
            if stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) != _STRICT:
                return kept_mode(status.st_mode)
    return _STRICT


def choose(held: Held, path: bytes, named: str) -> list[Version]:
    """The versions that are meant, all of one run.

    path: whose, and of what lies below it. named: the run, as history shows it or its beginning;
    "" for the newest that kept any. Raises UsageError that says what there is.
    """
    known = runs(held.backup)
    if not known:
        raise UsageError(
            f"nothing has been replaced or deleted in {held.shown} yet",
            "there is nothing to restore",
        )
    if named:
        run, layer = _named(known, named)
        found = list(versions(held.backup, run, path))
        found = [one for one in found if layer is None or one.layer == layer]
    else:
        found = next(
            filter(None, (list(versions(held.backup, one, path)) for one in known[::-1])), []
        )
    if not found:
        raise _nothing(held, known, path, named)
    return found


def _named(known: list[Kept], named: str) -> tuple[Kept, Optional[int]]:
    name, plus, number = named.partition("+")
    found = [run for run in known if run.name == name] or [
        run for run in known if run.name.startswith(name)
    ]
    if len(found) == 1 and (not plus or number.isdigit()):
        return found[0], int(number) if plus else None
    shown = display(named.encode("utf-8", "surrogateescape"))
    newest = ", ".join(run.name for run in known[: -_SHOWN - 1 : -1])
    raise UsageError(
        f"{'more than one' if len(found) > 1 else 'no'} run in the backup is called {shown}",
        f"the newest of {len(known)} are {newest}",
    )


def _nothing(held: Held, known: list[Kept], path: bytes, named: str) -> UsageError:
    """What to say of a path that has no version: where it has some, or which others have."""
    if named:
        others = [run.name for run in known[::-1] if next(versions(held.backup, run, path), None)]
        if others:
            listed = ", ".join(others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
            return UsageError(
                f"run {named} kept nothing of {display(path)}", f"these did: {listed}"
            )
    there = {one.path for run in known for one in versions(held.backup, run)}
    name, parent = path.rpartition(b"/")[2], parent_of(path)
    near = sorted(
        there, key=lambda one: (one.rpartition(b"/")[2] != name, parent_of(one) != parent, one)
    )
    listed = ", ".join(map(display, near[:_SHOWN])) + (", …" if len(near) > _SHOWN else "")
    return UsageError(
        f"the backup of {held.shown} has no version of {display(path)}",
        f"it has versions of {len(there)} paths: {listed}",
    )
