# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What restoring takes: the versions of one run, and the steps that bring them back."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from typing import Callable, NamedTuple, Optional

from ..model.entry import DIR, FILE, LINK, STATE_NAME, Entry, is_below, sort_key
from ..model.plan import FAILED, SKIPPED
from ..model.report import display
from ..reconcile.actions import Action
from . import fsops
from .digest import digest_file
from .history import Version
from .rows import Seen
from .swap import At, kind_of, seen
from .tree import Tree

UNCHANGED = "unchanged"  # beside the results of plan.py: what is there is what was kept
_TAKEN = "something of that name is there, and nothing is overwritten"


class Restored(NamedTuple):
    """What became of one version. result: one of plan.py's, or UNCHANGED."""

    version: Version
    result: str
    reason: str = ""


class _Refused(Exception):  # noqa: N818 - a result, not an error
    """A version is not brought back: its result and the reason."""


def newest_of(versions: Iterable[Version]) -> list[Version]:
    """The versions of one run that can be brought back together, in path order.

    Of what the run displaced at one path, or at a path and below it, the last.
    """
    chosen: dict[bytes, Version] = {}
    leaves: set[bytes] = set()
    above: set[bytes] = set()
    for version in sorted(versions, key=_last_first):
        parents = list(_parents(version.path))
        known = version.path in chosen or version.path in above
        if known or not leaves.isdisjoint(parents):
            continue
        chosen[version.path] = version
        above.update(parents)
        if version.seen.kind != DIR:
            leaves.add(version.path)
    return sorted(chosen.values(), key=_in_path_order)


def _last_first(version: Version) -> int:
    return -version.layer


def _in_path_order(version: Version) -> bytes:
    return sort_key(version.path)


def _parents(path: bytes) -> Iterator[bytes]:
    """The directories on the way to a path, outermost first, without the root."""
    end = path.find(b"/")
    while end >= 0:
        yield path[:end]
        end = path.find(b"/", end + 1)


class Plan:
    """The steps that bring versions back, and what is known of where they go."""

    def __init__(
        self,
        kept: Tree,
        target: Tree,
        *,
        replaces: bool,
        mounts: frozenset[bytes],
        mode_of: Callable[[Version, bytes], int],
        beat: Callable[[], None],
    ) -> None:
        """Begin with no step.

        kept: the run in the backup. target: where the versions go. replaces: whether they may
        displace what is there. mounts: other file systems there. mode_of: the permissions that a
        directory above a version had. beat: as in landing.Ground.
        """
        self._kept = kept
        self._target = target
        self._replaces = replaces
        self._mounts = mounts
        self._mode_of = mode_of
        self._beat = beat
        self._steps: dict[bytes, Action] = {}
        self._ways: set[bytes] = {b""}  # directories that are there
        self.expected: dict[bytes, Seen] = {}
        self.settled: list[Restored] = []
        self.pending: dict[bytes, Version] = {}

    @property
    def actions(self) -> list[Action]:
        """The steps, in path order and numbered."""
        paths = sorted(self._steps, key=sort_key)
        return [self._steps[path]._replace(number=number) for number, path in enumerate(paths)]

    def add(self, version: Version) -> None:
        """Plan one version, or settle it at once."""
        self._beat()
        try:
            self._add(version)
            self.pending[version.path] = version
        except _Refused as refused:
            self.settled.append(Restored(version, *refused.args))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            self.settled.append(Restored(version, FAILED, reason))

    def _add(self, version: Version) -> None:
        path, want = version.path, self._wanted(version)
        missing = self._way_to(version)
        there = None
        if not missing:
            try:
                there = fsops.lstat(*self._target.parent(path))
            except FileNotFoundError:
                pass
        if there is None:
            self._steps[path] = Action(0, path, want, None, 0)
        else:
            self._over(version, want, seen(there))

    def _wanted(self, version: Version) -> Entry:
        was = version.seen
        if was.kind == FILE:
            return Entry(FILE, was.mode, was.size, was.mtime_ns)
        if was.kind == LINK:
            text = fsops.read_link(*self._kept.parent(version.stored))
            return Entry(LINK, None, 0, was.mtime_ns, None, text)
        if was.kind == DIR:
            return Entry(DIR, was.mode)
        raise _Refused(FAILED, "a special file cannot be restored")

    def _way_to(self, version: Version) -> bool:
        """See to the directories above a version; tell whether one of them is yet to be made."""
        missing = False
        for path in _parents(version.path):
            if path in self._ways:
                continue
            if path in self._steps:
                missing = True
                continue
            have = None if missing else self._at(path)
            if have is not None and have.kind == DIR:
                self._ways.add(path)
                continue
            missing = True
            self._step(path, Entry(DIR, self._mode_of(version, path)), have)
        return missing

    def _at(self, path: bytes) -> Optional[Seen]:
        try:
            return seen(fsops.lstat(*self._target.parent(path)))
        except FileNotFoundError:
            return None

    def _over(self, version: Version, want: Entry, have: Seen) -> None:
        """Plan a version where something is already."""
        if want.kind == have.kind and self._is_same(version, want, have):
            if want.kind != FILE or want.mode == have.mode or not self._replaces:
                raise _Refused(UNCHANGED)
            entry = Entry(FILE, have.mode, have.size, have.mtime_ns)
            step = Action(0, version.path, entry._replace(mode=want.mode), entry, 0, True)
            self._steps[version.path] = step
            self.expected[version.path] = have
            return
        self._step(version.path, want, have)

    def _step(self, path: bytes, want: Entry, have: Optional[Seen]) -> None:
        entry = None
        if have is not None:
            if not self._replaces:
                raise _Refused(SKIPPED, _TAKEN)
            if have.kind == 0:
                raise _Refused(FAILED, f"{display(path)} is a device, pipe or socket now")
            if have.kind == DIR:
                self._empty(path)
            self.expected[path] = have
            entry = Entry(have.kind, have.mode, have.size, have.mtime_ns)
        self._steps[path] = Action(0, path, want, entry, 0)

    def _is_same(self, version: Version, want: Entry, have: Seen) -> bool:
        if want.kind == DIR:
            return True
        place = At(*self._target.parent(version.path))
        if want.kind == LINK:
            return fsops.read_link(place.fd, place.name) == want.target
        if want.size != have.size:
            return False
        kept = At(*self._kept.parent(version.stored))
        return self._digest(place, want.size) == self._digest(kept, want.size)

    def _digest(self, place: At, size: int) -> Optional[bytes]:
        fd = fsops.open_file(place.fd, place.name)
        try:
            return digest_file(fd, size)
        finally:
            fsops.close(fd)

    def _empty(self, top: bytes) -> None:
        """Plan to displace everything below a directory that a file or link replaces."""
        found: dict[bytes, Seen] = {top: Seen(DIR, 0, 0, 0, 0, 0)}
        todo = [top]
        while todo:
            directory = todo.pop()
            if any(directory == one or is_below(one, directory) for one in self._mounts):
                raise _Refused(FAILED, f"another file system is mounted below {display(top)}")
            for name, status in fsops.list_dir(self._target.directory(directory)):
                path = directory + b"/" + name
                if isinstance(status, OSError):
                    raise status
                if name == STATE_NAME:
                    raise _Refused(FAILED, f"{display(directory)} is a replica of its own now")
                found[path] = seen(status)
                if kind_of(status) == 0:
                    raise _Refused(FAILED, f"{display(path)} is a device, pipe or socket")
                if stat.S_ISDIR(status.st_mode):
                    todo.append(path)
        del found[top]
        for path, one in found.items():
            have = Entry(one.kind, one.mode, one.size, one.mtime_ns)
            self._steps[path] = Action(0, path, None, have, 0)
            self.expected[path] = one
