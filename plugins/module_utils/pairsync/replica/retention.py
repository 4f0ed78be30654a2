# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long what was displaced stays in the backup, and that it has room there.

Limits are versions of a path, days, size, and the space left to others. The newest version of a
path is never dropped, nor is one that is pinned (see late.py): where the limits cannot be kept,
nothing more is replaced. Several pairs of one root share its backup: each limit is the most
generous of those that they set, so that no pair loses what another one wants to keep.

`.pairsync/backup.json` notes each pair's retention and what the backup held when it was last
looked through, for `status` and to save looking again.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Callable, NamedTuple, Optional

from ..model.entry import DIR, FILE, is_below, parent_of
from ..model.errors import PairsyncError
from ..model.policy import Retention, amount_of
from ..model.spec import parse_policy
from ..reconcile.actions import Action
from . import fsops, history, journal, late, state
from .history import Kept, Version
from .state import State
from .tree import Tree

SCHEMA = "pairsync.backup/1"
_NOTE = b"backup.json"
_MANY = 10_000  # a backup of more versions is looked through
_SELDOM = 60  # at most every so many seconds


class Limits(NamedTuple):
    """What the backup of one root may hold; size and free in bytes."""

    keep: int
    days: int
    size: int
    free: int


class Usage(NamedTuple):
    """What a backup holds: versions, their size in bytes, and when that was counted.

    oldest: when its oldest run began. Times in seconds since the epoch; None where unknown.
    """

    versions: int
    size: int
    oldest: Optional[int]
    counted: float


def limits_of(held: State, retentions: Iterable[Retention]) -> Limits:
    """The most generous of several retentions; of none, the default."""
    several = [one for one in retentions if one.enabled] or [Retention()]
    whole = fsops.total_bytes(held.fd)
    return Limits(
        max(one.keep for one in several),
        max(one.days for one in several),
        max(amount_of(one.max_size, whole) for one in several),
        min(amount_of(one.min_free, whole) for one in several),
    )


def noted(held: State) -> tuple[dict[str, Retention], Optional[Usage]]:
    """The retention that each pair of a root set, and what the backup held when last seen."""
    note = state.read_json(held.fd, _NOTE) or {}
    retentions = {}
    for pair, fields in note.get("retention", {}).items():
        with contextlib.suppress(PairsyncError):
            if journal.has_pair(held, pair.encode("ascii", "replace")):
                retentions[pair] = parse_policy({"backup": fields}).backup
    try:
        usage = Usage(note["versions"], note["bytes"], note["oldest"], note["counted"])
        return retentions, usage if usage.size + usage.versions + usage.counted >= 0 else None
    except (KeyError, TypeError):
        return retentions, None


def check_room(
    held: State, pair_id: str, retention: Optional[Retention], actions: list[Action]
) -> None:
    """Raise PairsyncError `backup_full` where what the actions displace could not be kept.

    Makes room for what a session is to receive, where `min_free` asks for that. pair_id,
    retention: the session's, "" and None for what no session does; one that keeps nothing for
    long has no limits.
    """
    displaced = {
        action.path: action.have.size
        for action in actions
        if action.have is not None and action.have.kind != DIR and not action.props_only
    }
    if not displaced or (retention is not None and not retention.enabled):
        return
    coming = sum(
        action.want.size
        for action in actions
        if action.want is not None and action.want.kind == FILE and not action.props_only
    )
    others, usage = noted(held)
    if retention is not None:
        others[pair_id] = retention
    limits = limits_of(held, others.values())
    size, free = sum(displaced.values()), fsops.free_bytes(held.fd) - coming
    if usage is not None and usage.size + size <= limits.size and free >= limits.free:
        return
    with _Catalogue(held) as catalogue:
        droppable = sum(one.seen.size for one in catalogue.droppable(displaced))
        least = catalogue.size + size - droppable
        if least > limits.size:
            raise _full(
                f"at least {least} bytes would have to be kept, and it may take {limits.size}",
                "max_size",
            )
        if free + droppable < limits.free:
            raise _full(f"{limits.free} bytes are to stay free, and {free} would be", "min_free")
        for version in catalogue.droppable() if retention is not None else []:
            if fsops.free_bytes(held.fd) - coming >= limits.free:
                break
            catalogue.drop(version)


def _full(what: str, key: str) -> PairsyncError:
    return PairsyncError(
        "backup_full",
        f"the backup has no room for what would be replaced: {what}",
        f"give it more (`backup: {{{key}: …}}`), or keep this run's only until the next with"
        " --no-backup; nothing was touched",
    )


def keep_within(
    held: State, pair_id: str, retention: Optional[Retention], run: str, now: float
) -> None:
    """Drop versions beyond the limits, oldest first, and note what is left.

    pair_id, retention: the session's; "" and None for what no session does. run: what has just
    displaced something. now: seconds since the epoch. The caller holds the root lock.
    """
    retentions, usage = noted(held)
    if retention is not None and retention.enabled:
        retentions[pair_id] = retention
    limits = limits_of(held, retentions.values())
    if usage is not None and usage.versions > _MANY and 0 <= now - usage.counted < _SELDOM:
        usage = _with_run(held, usage, run)
        if usage.size <= limits.size:
            _note(held, retentions, usage)
            return
    with _Catalogue(held) as catalogue:
        catalogue.drop_by_count_and_age(limits, now)
        for version in catalogue.droppable():
            room = fsops.free_bytes(held.fd) >= limits.free
            if catalogue.size <= limits.size and room:
                break
            catalogue.drop(version)
        late.tidy(held)
        _note(held, retentions, catalogue.usage(now))


def _with_run(held: State, usage: Usage, run: str) -> Usage:
    backup = held.directory(b"backup")
    try:
        kept = Kept(run.encode("ascii"), run, brief=False)
        sizes = [one.seen.size for one in history.versions(backup, kept)]
    finally:
        fsops.close(backup)
    return usage._replace(versions=usage.versions + len(sizes), size=usage.size + sum(sizes))


def note_retention(
    held: State,
    pair_id: str,
    retention: Retention,
    locked: Callable[[], AbstractContextManager[None]],
) -> None:
    """Note a session's retention where it is new. locked: holds the root for a moment."""
    if retention.enabled and noted(held)[0].get(pair_id) != retention:
        with locked():
            retentions, usage = noted(held)
            _note(held, {**retentions, pair_id: retention}, usage)


def _note(held: State, retentions: Mapping[str, Retention], usage: Optional[Usage]) -> None:
    note: dict[str, Any] = {
        "schema": SCHEMA,
        "retention": {pair: asdict(one) for pair, one in retentions.items()},
    }
    if usage is not None:
        note.update(
            versions=usage.versions, bytes=usage.size, oldest=usage.oldest, counted=usage.counted
        )
    state.write_json(held.fd, _NOTE, note)


class _Catalogue:
    """All versions that are under retention, by path and oldest first; the backup is held open."""

    def __init__(self, held: State) -> None:
        self._backup = held.directory(b"backup")
        self._held = held
        self._pins = late.pinned(held)
        self._looks: dict[bytes, Mapping[bytes, list[tuple[int, int, int]]]] = {}
        self._of: dict[bytes, list[Version]] = {}
        self.size = 0
        for run in history.runs(self._backup):
            if not run.brief:
                for version in history.versions(self._backup, run):
                    self._of.setdefault(version.path, []).append(version)
                    self.size += version.seen.size

    def __enter__(self) -> _Catalogue:  # noqa: PYI034 - Python 3.9 has no Self
        return self

    def __exit__(self, *__: object) -> None:
        fsops.close(self._backup)

    def usage(self, now: float) -> Usage:
        """What there is, counted now."""
        runs = {one.run for several in self._of.values() for one in several}
        times = [run.time for run in runs if run.time is not None]
        count = sum(map(len, self._of.values()))
        return Usage(count, self.size, min(times, default=None), now)

    def droppable(self, displaced: Iterable[bytes] = ()) -> list[Version]:
        """What may go, oldest first. displaced: paths of which there will be a newer version."""
        found = []
        for path, several in self._of.items():
            last = len(several) if path in displaced else len(several) - 1
            found += [one for one in several[:last] if not self._is_pinned(one)]
        return sorted(found, key=_age)

    def drop_by_count_and_age(self, limits: Limits, now: float) -> None:
        """Drop what is too old, and what there is too much of."""
        oldest = now - limits.days * 86400
        for several in list(self._of.values()):
            for place, version in enumerate(several[:-1]):
                old = version.run.time is not None and version.run.time < oldest
                many = len(several) - place > limits.keep
                if (old or many) and not self._is_pinned(version):
                    self.drop(version)

    def drop(self, version: Version) -> None:
        """Remove one version, and the directories that held nothing else.

        It stays if a program has it open for writing, and for good if one wrote into it.
        """
        run = version.run.directory
        if run not in self._looks:
            self._looks[run] = late.noted(self._held, run)
        tree = Tree(fsops.open_dir(self._backup, run))
        try:
            place = tree.parent(version.stored)
            if version.seen.kind == DIR:
                fsops.remove_dir(*place)
            else:
                outcome = late.remove(*place, self._looks[run].get(version.stored, ()))
                if outcome == late.LATE:
                    late.pin(self._held, run, [version.stored])
                    self._pins.setdefault(run, set()).add(version.stored)
                if outcome != late.GONE:
                    return
            inner = parent_of(version.stored)
            while inner:
                tree.forget()
                fsops.remove_dir(*tree.parent(inner))
                inner = parent_of(inner)
            fsops.remove_dir(self._backup, run)
        except OSError as error:
            # Another pair's session may be dropping the same, or keeping something there.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
        finally:
            tree.close()
        self._of[version.path] = [one for one in self._of[version.path] if one is not version]
        self.size -= version.seen.size

    def _is_pinned(self, version: Version) -> bool:
        pins = self._pins.get(version.run.directory)
        return pins is not None and any(
            version.stored == pin or is_below(version.stored, pin) for pin in pins
        )


def _age(version: Version) -> tuple[bytes, int]:
    return version.run.directory, version.layer
