# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring: what a run displaced comes back, as if a peer had sent it.

The versions are copied out of the backup, which keeps them, and land by the same steps as what a
session receives (see receive.py): staged, made durable, exchanged and verified; what they replace
goes to the backup as a run of its own. Peers see an ordinary change at the next sync.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import time
from collections.abc import Iterator
from typing import NamedTuple, Optional

from ..model.entry import FILE, Entry, sort_key
from ..model.errors import UsageError
from ..model.pathspec import PathSet
from ..model.plan import DONE
from ..model.policy import DEFAULT_LAST
from ..model.report import display
from . import fsops, guard, state
from .backup import Backup
from .contents import Record, Unsent
from .durable import make_durable
from .history import Held, Version, directory_mode, run_id
from .landing import Ground
from .lock import PairLock, Sign, root_lock
from .receive import Receiver
from .restore_plan import Plan, Restored, newest_of
from .retention import check_room, keep_within
from .send import Wanted, send
from .stage import Stage
from .tree import Tree

_STAGE = b"restore"  # beside those of pairs, whose ids are hexadecimal
_WRITTEN = "somebody still writes into this version; restore it again when that has ended"


class Restoration(NamedTuple):
    """What a restore did, in path order. undo: the run that keeps what was replaced, if any."""

    items: list[Restored]
    undo: str = ""


def restore(held: Held, versions: list[Version], wait: int) -> Restoration:
    """Bring versions of one run back to their paths.

    wait: seconds without progress after which a lock that somebody holds is given up. Raises
    PairsyncError and OSError; whatever happens, each path has what it had or what was restored.
    """
    with _working(held, wait) as work, work.stage(held.state.directory(b"stage"), _STAGE) as stage:
        return work.bring(versions, fsops.duplicate(held.root_fd), stage, replaces=True)


def restore_to(held: Held, versions: list[Version], directory: bytes, wait: int) -> Restoration:
    """Write copies of versions of one run below a directory, and overwrite nothing.

    directory: made when it is missing. Errors as for restore(), and UsageError for a directory
    that belongs to a replica's own state.
    """
    above, name = os.path.split(directory.rstrip(b"/") or b"/.")
    try:
        parent = fsops.open_root(above)
    except OSError as error:
        raise _unfit(above, error) from error
    try:
        _check_outside(held, directory, os.path.join(fsops.real_path(parent), name))
        with contextlib.suppress(FileExistsError):
            fsops.make_dir(parent, name, 0o777)
    finally:
        fsops.close(parent)
    try:
        target = fsops.open_root(directory)  # a link that its operator named is followed
    except OSError as error:
        raise _unfit(directory, error) from error
    try:
        inside = _check_outside(held, directory, fsops.real_path(target))
        with _working(held, wait) as work:
            # What is on its way in is never in a replica's own namespace.
            parent = held.state.directory(b"stage") if inside else fsops.duplicate(target)
            name = _STAGE if inside else b".pairsync-restore-" + secrets.token_hex(4).encode()
            with work.stage(parent, name) as stage:
                return work.bring(versions, fsops.duplicate(target), stage, replaces=False)
    finally:
        fsops.close(target)


def _unfit(directory: bytes, error: OSError) -> UsageError:
    return UsageError(
        f"{display(directory)} cannot be opened: {error.strerror}",
        "name another directory for the copies; the one above it must be there",
    )


def _check_outside(held: Held, named: bytes, real: bytes) -> bool:
    """Tell whether a directory lies in the replica; raises UsageError for its own state."""
    if b"/.pairsync/" in real + b"/":
        raise UsageError(
            f"{display(named)} belongs to a replica's own state",
            "name another directory for the copies",
        )
    root = fsops.real_path(held.root_fd)
    return (real + b"/").startswith(root.rstrip(b"/") + b"/")


@contextlib.contextmanager
def _working(held: Held, wait: int) -> Iterator[_Work]:
    """Hold off other restores on the same replica."""
    fd = held.state.directory(b"restore")
    try:
        lock = PairLock(fd, f"restoring into {held.shown}", wait)
        try:
            yield _Work(held, wait, lock.sign)
        finally:
            lock.close()
    finally:
        fsops.close(fd)


class _Work:
    """One restore at work; it shows waiters that there is progress."""

    def __init__(self, held: Held, wait: int, sign: Sign) -> None:
        self._held = held
        self._wait = wait
        self._sign = sign
        self._root_sign: Optional[Sign] = None

    @contextlib.contextmanager
    def stage(self, parent: int, name: bytes) -> Iterator[Stage]:
        """A fresh stage in a directory, which is taken over; nothing of it stays."""
        try:
            state.remove_tree(parent, name)  # what a restore that died left behind
            fsops.make_dir(parent, name)
            stage = Stage(fsops.open_dir(parent, name))
            try:
                yield stage
            finally:
                stage.close()
                state.remove_tree(parent, name)
        finally:
            fsops.close(parent)

    def bring(
        self, versions: list[Version], root: int, stage: Stage, *, replaces: bool
    ) -> Restoration:
        """Bring versions to their paths below a directory, which is taken over."""
        held = self._held
        name = run_id(time.time())
        backup = Backup(held.state, name)
        tree = Tree(root)
        kept = Tree(fsops.open_dir(held.backup, versions[0].run.directory))
        try:
            mounts = guard.mounts_below(root)
            plan = Plan(
                kept,
                tree,
                replaces=replaces,
                mounts=mounts,
                mode_of=functools.partial(directory_mode, held),
                beat=self._beat,
            )
            for version in newest_of(versions):
                plan.add(version)
            tree.forget()
            check_room(held.state, "", None, plan.actions)
            ground = Ground(
                tree=tree,
                stage=stage,
                backup=backup,
                last=PathSet(DEFAULT_LAST),
                expected=plan.expected.get,
                locked=self._root_locked,
                landed=_nobody_asks,
                beat=self._beat,
            )
            items = self._land(plan, Receiver(ground, plan.actions, []), kept, tree)
            if not backup.kept:
                return Restoration(items)
            backup.close()
            with self._root_locked():
                keep_within(held.state, "", None, name, time.time())
            return Restoration(items, name)
        finally:
            kept.close()
            backup.close()
            tree.close()

    def _land(self, plan: Plan, receiver: Receiver, kept: Tree, tree: Tree) -> list[Restored]:
        receiver.start()
        wanted = [
            Wanted(action.number, version.stored, version.seen)
            for action in plan.actions
            for version in (plan.pending.get(action.path),)
            if version is not None and version.seen.kind == FILE and not action.props_only
        ]
        for record in send(kept, wanted, _nobody_asks):
            receiver.feed(_told(record))
        done = {one.number: one for one in receiver.finish()}
        rows: dict[bytes, Optional[Entry]] = {}
        items = list(plan.settled)
        for action in receiver.actions:
            one = done[action.number]
            if one.result == DONE:
                rows[action.path] = action.want
            version = plan.pending.get(action.path)
            if version is not None:
                items.append(Restored(version, one.result, one.reason))
        make_durable(tree, rows)
        return sorted(items, key=_path)

    @contextlib.contextmanager
    def _root_locked(self) -> Iterator[None]:
        held = self._held
        with root_lock(held.root_fd, held.state.fd, held.shown, self._wait) as sign:
            self._root_sign = sign
            try:
                yield
            finally:
                self._root_sign = None

    def _beat(self) -> None:
        self._sign.beat()
        if self._root_sign is not None:
            self._root_sign.beat()


def _told(record: Record) -> Record:
    if isinstance(record, Unsent) and not record.failed:
        return record._replace(reason=_WRITTEN)
    return record


def _path(item: Restored) -> bytes:
    return sort_key(item.version.path)


def _nobody_asks(*__: object) -> None:
    """No index is kept up: the next scan sees what has changed."""
