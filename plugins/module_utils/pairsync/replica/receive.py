# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The receiving side: stage what arrives, and swap it in in an order that readers can rely on.

New files and directories appear batch by batch as they arrive; then replaced files, one right
after the other; then pointer files (`last:`); then permissions; then deletions, deepest first. A
pointer whose surroundings are not complete is held, and the deletions there with it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Optional

from ..model.entry import DIR, FILE, LINK, Entry, is_below, is_dir, parent_of
from ..model.errors import PairsyncError, ProtocolError
from ..model.plan import DONE, FAILED, HELD, SKIPPED
from ..model.report import display
from ..reconcile.actions import Action
from . import fsops
from .contents import Begin, Done, End, Piece, Proof, Record, Whole
from .digest import digest_bytes
from .landing import Batch, Ground, Landing, held_for
from .names import judge
from .rows import Seen
from .stage import Incoming, finish_file, is_leaf
from .units import Unit, Units

# A batch of new objects is made durable and gets its names when it has grown to this, or to
# MOST_TIMES as much where the disk is still busy with the one before.
BATCH_FILES = 2_000
BATCH_BYTES = 256 << 20
MOST_TIMES = 4

# What has a name that cannot be stored is not there either.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG)


class Receiver:
    """The actions of one session on one replica, from first byte to last deletion."""

    def __init__(
        self,
        ground: Ground,
        actions: list[Action],
        incomplete: list[bytes],
        refusals: Optional[Mapping[int, Done]] = None,
    ) -> None:
        """actions: in path order. incomplete: paths that the plan leaves out, for pointers.

        refusals: results of actions that must not be tried, by number.
        """
        refusals = dict(refusals or {})
        left = [action for action in actions if action.number not in refusals]
        judged = judge(ground.stage.fd, ground.tree, left)
        refusals.update(judged.refused)
        self._late = judged.late  # has its name only when something else has lost it
        self._ground = ground
        self._actions = {action.number: action for action in actions}
        self._incomplete = incomplete
        self._units = Units([action for action in actions if action.number not in refusals])
        self._landing = Landing(ground, self._units)
        for number, done in refusals.items():
            self._landing.settle(self._actions[number], done)
        self._awaited: dict[int, Action] = {}  # files that have not come to their end
        self._incoming: Optional[tuple[int, Incoming]] = None
        self._refused = set(refusals)  # are not staged; what still comes for them is passed over
        self._proofs: dict[int, Proof] = {}
        self._ready: list[Action] = []
        self._ready_units: list[Unit] = []
        self._ready_bytes = 0
        self._ready_files = 0
        self._batch: Optional[Batch] = None  # becomes durable while the next one is staged
        self._told = 0

    @property
    def actions(self) -> list[Action]:
        """The actions in path order, with what really arrived in `want`."""
        return list(self._actions.values())

    def news(self) -> list[Done]:
        """What became of actions since the last call; for other threads as well."""
        results = self._landing.results
        if len(results) == self._told:
            return []
        numbers = list(results)  # in one step: it grows meanwhile
        fresh, self._told = numbers[self._told :], len(numbers)
        return [self._result(self._actions[number]) for number in fresh]

    @property
    def weak(self) -> bool:
        """Tell whether the file system lacks the atomic renames."""
        return self._landing.weak

    # -- before the first byte ------------------------------------------------------------------

    def start(self) -> None:
        """Check the space, make large new directories, stage small ones and links."""
        self._check_space()
        self._landing.make_plain_dirs()
        for unit in self._units.all:
            self._stage_unit(unit)
        for action in self._actions.values():
            if action.props_only or action.want is None or action.number in self._refused:
                continue
            if action.want.kind == FILE:
                self._awaited[action.number] = action
            elif action.want.kind == LINK and self._units.of(action) is None:
                self._stage_link(action, action.want)

    def _check_space(self) -> None:
        new = [one.want for one in self._actions.values() if not one.props_only]
        files = [entry for entry in new if entry is not None and is_leaf(entry)]
        size = sum(entry.size for entry in files)
        free = fsops.free_bytes(self._ground.stage.fd)
        inodes = fsops.free_inodes(self._ground.stage.fd)
        what = ""
        if size > free:
            what = f"{size} bytes are to be received, and the file system has {free} free"
        elif inodes is not None and len(files) > inodes:
            what = f"{len(files)} files are to be received, and there is room for {inodes}"
        if what:
            raise PairsyncError(
                "space",
                what,
                "make room, or leave something out with --path or --ignore; nothing was touched",
            )

    def _stage_unit(self, unit: Unit) -> None:
        """Stage the directories and links of a unit.

        A name that cannot be stored fails its action and those below it, not the session.
        """
        owner = unit.owner = self._landing.owner(parent_of(unit.top.path))
        stage = self._ground.stage
        failed: Optional[Action] = None
        for action in unit.actions:
            want = action.want
            name = unit.staged_name(action.path)
            if failed is not None and is_below(action.path, failed.path):
                self._landing.settle(action, self._landing.results[failed.number])
                self._refused.add(action.number)
                continue
            try:
                if want is None or want.kind == DIR:
                    stage.make_dir(name)
                elif want.kind == LINK:
                    unit.seen[action.path] = stage.write_link(name, want, owner)
                else:
                    unit.waiting += 1
            except OSError as error:
                failed = action
                self._unstage(action, error)
                self._landing.fail(action, error)
        self._complete_unit(unit)

    def _stage_link(self, action: Action, want: Entry) -> None:
        name = self._units.staged_name(action)
        try:
            seen = self._ground.stage.write_link(name, want, self._landing.owner_of(action))
        except OSError as error:
            self._landing.fail(action, error)
        else:
            self._note_staged(action, seen)

    # -- what arrives ---------------------------------------------------------------------------

    def feed(self, record: Record) -> None:
        """Take the next record; raise ProtocolError for one that nobody asked for."""
        self._ground.beat()
        number = record.number
        more = isinstance(record, (Begin, Piece))
        action = self._awaited.get(number) if more else self._awaited.pop(number, None)
        if action is None or action.want is None:
            if number not in self._refused:
                raise ProtocolError(f"contents came for action {number}, which waits for none")
            if not more:
                self._refused.discard(number)  # that was the last of it
            return
        try:
            self._take(action, action.want, record)
        except OSError as error:
            self._drop_incoming()
            self._unstage(action, error)
            self._landing.fail(action, error)
            if more:
                del self._awaited[number]
                self._refused.add(number)
            self._arrived(action, 0)

    def _take(self, action: Action, want: Entry, record: Record) -> None:
        if isinstance(record, Piece):
            if not self._current(record.number).write(record.data):
                raise ProtocolError("a file is longer than its sender said")
        elif isinstance(record, Begin):
            if self._incoming is not None:
                raise ProtocolError("a file began before the last one was complete")
            if record.size > want.size and record.size > fsops.free_bytes(self._ground.stage.fd):
                # Nobody has looked whether there is room for what is more than planned.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            name = self._units.staged_name(action)
            before = self._before(action, record.size)
            prefix = before.size if before is not None else 0
            incoming = self._ground.stage.begin_file(name, want, record.size, prefix)
            self._incoming = (record.number, incoming)
        elif isinstance(record, Whole):
            if self._agrees(action, want, record.proof):
                arrived = _arrived_entry(want, record.proof)
                owner = self._landing.owner_of(action)
                name = self._units.staged_name(action)
                stage = self._ground.stage
                seen = stage.write_file(name, arrived, record.proof, record.data, owner)
                before = self._before(action, len(record.data))
                if before is not None:
                    begins_with = digest_bytes(record.data[: before.size])
                    self._note_continued(action, before, begins_with)
                self._verified(action, arrived, seen, record.proof)
        elif isinstance(record, End):
            self._take_end(action, want, record)
        else:
            self._drop_incoming()
            result = FAILED if record.failed else SKIPPED
            self._landing.settle(action, Done(0, result, record.reason))
            self._arrived(action, 0)

    def _current(self, number: int) -> Incoming:
        if self._incoming is None or self._incoming[0] != number:
            raise ProtocolError("a piece came of a file that has not begun")
        return self._incoming[1]

    def _take_end(self, action: Action, want: Entry, record: End) -> None:
        incoming = self._current(record.number)
        if not self._agrees(action, want, record.proof):
            return
        self._incoming = None
        arrived = _arrived_entry(want, record.proof)
        seen: Optional[Seen] = None
        try:
            if incoming.digest() == record.proof.digest:
                owner = self._landing.owner_of(action)
                proof = record.proof
                seen = finish_file(incoming.fd, arrived, proof.mtime_ns, proof.digest, owner)
        finally:
            fsops.close(incoming.fd)
        before = self._before(action, record.proof.size)
        if before is not None:
            self._note_continued(action, before, incoming.prefix_digest())
        self._verified(action, arrived, seen, record.proof)

    def _before(self, action: Action, size: int) -> Optional[Seen]:
        """The file that one of so many bytes replaces, if it may be a continuation of that.

        By this host's own account: a session that lied about it could have it go without a backup.
        """
        seen = self._ground.expected(action.path) if action.have is not None else None
        if seen is None or seen.kind != FILE or seen.digest is None or seen.size > size:
            return None
        return seen

    def _note_continued(self, action: Action, before: Seen, prefix: Optional[bytes]) -> None:
        """Note a file that begins with all that it replaces: that needs no backup."""
        if prefix == before.digest:
            self._landing.continued.add(action.number)

    def _agrees(self, action: Action, want: Entry, proof: Proof) -> bool:
        """Tell whether these are the contents that the plan was made for."""
        if want.digest is None or proof.digest == want.digest or proof.grew:
            return True
        self._drop_incoming()
        self._landing.settle(action, Done(0, SKIPPED, "changed since it was compared"))
        self._arrived(action, 0)
        return False

    def _verified(self, action: Action, want: Entry, seen: Optional[Seen], proof: Proof) -> None:
        """Take note of a staged file; seen is None when the bytes are not what was vouched for."""
        if seen is None:
            self._unstage(action)
            self._landing.settle(action, Done(0, FAILED, "arrived damaged"))
            self._arrived(action, 0)
            return
        number, path, __, have, item, props_only, by_reference = action
        self._proofs[number] = proof
        # Made anew: _replace() takes three times as long, and this is once per file.
        action = Action(number, path, want, have, item, props_only, by_reference)
        self._actions[number] = action
        unit = self._units.of(action)
        if unit is not None:
            unit.seen[path] = seen
        else:
            self._note_staged(action, seen)
        self._arrived(action, proof.size)

    def _note_staged(self, action: Action, seen: Seen) -> None:
        self._landing.staged[action.number] = seen
        if action.have is not None or action.number in self._late:
            return
        if not self._ground.last.matches(action.path):
            self._ready.append(action)

    def _drop_incoming(self) -> None:
        if self._incoming is None:
            return
        number, incoming = self._incoming
        self._incoming = None
        fsops.close(incoming.fd)
        self._unstage(self._actions[number])

    def _unstage(self, action: Action, error: Optional[OSError] = None) -> None:
        """Remove what was staged of an action: it must not land with the directory it lies in.

        error: why it is not wanted any more; if its name was taken, what has it is another's.
        Raises OSError when it cannot be removed.
        """
        if isinstance(error, FileExistsError) or is_dir(action.want):
            return
        try:
            self._ground.stage.discard(self._units.staged_name(action))
        except OSError as left:
            if left.errno not in _NOT_THERE:
                raise

    def _arrived(self, action: Action, size: int) -> None:
        """Count what has come; land a batch when it is large enough."""
        self._ready_bytes += size
        self._ready_files += 1
        unit = self._units.of(action)
        if unit is not None:
            unit.waiting -= 1
            self._complete_unit(unit)
        if self._ready_bytes >= BATCH_BYTES or self._ready_files >= BATCH_FILES:
            full = max(self._ready_bytes / BATCH_BYTES, self._ready_files / BATCH_FILES)
            if self._batch is None or self._batch.ready or full >= MOST_TIMES:
                self._land_new(wait=False)

    def _complete_unit(self, unit: Unit) -> None:
        if not unit.waiting and unit.top.have is None and unit.top.number not in self._late:
            self._ready_units.append(unit)

    # -- swapping -------------------------------------------------------------------------------

    def finish(self) -> list[Done]:
        """Swap in what is left, in order; return what became of every action."""
        if self._incoming is not None:
            raise ProtocolError("the stream ended inside a file")
        self._land_new(wait=True)
        left = [one for one in self._actions.values() if one.number not in self._landing.results]
        pointers, replaced = self._replacements(left)
        self._landing.land(replaced, self._replacing_units())
        self._landing.finish_plain_dirs()
        held = self._land_pointers(pointers)
        self._landing.set_modes([one for one in left if one.props_only])
        self._landing.delete([one for one in left if _goes_last(one)], held)
        self._land_late()
        self._ground.backup.sync()
        if self._ground.brief is not None:
            self._ground.brief.sync()
        return [self._result(action) for action in self._actions.values()]

    def close(self) -> None:
        """Let go of the root, and of a file that did not come to its end."""
        self._drop_incoming()
        self._ground.tree.close()

    def _land_new(self, *, wait: bool) -> None:
        """Land the batch before, and begin with what has come since; wait: land that as well."""
        ready, units = self._ready, self._ready_units
        self._ready, self._ready_units = [], []
        self._ready_bytes = self._ready_files = 0
        self._land_batch()
        if ready or units:
            self._batch = self._landing.begin(ready, units)
        if wait:
            self._land_batch()

    def _land_batch(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            self._landing.complete(batch)

    def _replacements(self, left: list[Action]) -> tuple[list[Action], list[Action]]:
        """Staged objects that were kept back: pointer files, and what replaces files."""
        pointers: list[Action] = []
        replaced: list[Action] = []
        for action in left:
            if action.number in self._late:
                continue
            if action.number in self._landing.staged and not _goes_last(action):
                pointer = self._ground.last.matches(action.path)
                (pointers if pointer else replaced).append(action)
        return pointers, replaced

    def _replacing_units(self) -> list[Unit]:
        """New directories that replace a file; one of which something is missing is held."""
        whole: list[Unit] = []
        for unit in self._units.all:
            if unit.top.have is None or unit.waiting:
                continue
            results = self._landing.results
            missing = next((one.path for one in unit.actions if one.number in results), None)
            if missing is None:
                whole.append(unit)
                continue
            reason = (
                f"held: {display(missing)} is missing, and a file is replaced only by all of it"
            )
            for action in unit.actions:
                if action.number not in results:
                    self._landing.settle(action, Done(0, HELD, reason))
        return whole

    def _land_pointers(self, pointers: list[Action]) -> list[bytes]:
        """Swap in pointers whose surroundings are complete; return the paths of all others."""
        waiting = {action.number for action in pointers}
        left = [action for action in self._actions.values() if not self._done(action)]
        missing = self._incomplete + [
            action.path
            for action in left
            if action.want is not None
            and action.number not in waiting
            and not self._comes_late(action)
            and not action.props_only
            and not is_dir(action.have)
        ]
        complete: list[Action] = []
        for action in pointers:
            around = parent_of(action.path)
            absent = next((path for path in missing if is_below(path, around)), None)
            if absent is None:
                complete.append(action)
            else:
                self._landing.settle(action, held_for(absent))
        self._landing.land(complete, [])
        return [action.path for action in left if self._is_held_back(action)]

    def _is_held_back(self, action: Action) -> bool:
        """Tell whether this is a pointer that still points to what was there before."""
        if not is_leaf(action.want) or action.props_only or self._done(action):
            return False
        if self._comes_late(action):
            return False
        waits = _goes_last(action) and action.number in self._landing.staged
        return not waits and self._ground.last.matches(action.path)

    def _comes_late(self, action: Action) -> bool:
        """Tell whether it waits for a deletion, so that no deletion may wait for it."""
        unit = self._units.of(action)
        return (action if unit is None else unit.top).number in self._late

    def _land_late(self) -> None:
        """Land what differs from something deleted only in ways that the file system overlooks."""
        units = [one for one in self._units.all if one.top.number in self._late and not one.waiting]
        alone = [
            action
            for action in self._actions.values()
            if action.number in self._late and action.number in self._landing.staged
        ]
        self._landing.land(alone, units)

    def _done(self, action: Action) -> bool:
        result = self._landing.results.get(action.number)
        return result is not None and result.result == DONE

    def _result(self, action: Action) -> Done:
        done = self._landing.results.get(action.number)
        if done is None:
            return Done(action.number, SKIPPED, "its contents did not arrive")
        if done.result != DONE:
            return done
        return Done(action.number, DONE, done.reason, self._proofs.get(action.number))


def _goes_last(action: Action) -> bool:
    """A deletion, or something that replaces a directory, which must be emptied first."""
    return action.want is None or (is_dir(action.have) and not action.props_only)


def _arrived_entry(want: Entry, proof: Proof) -> Entry:
    # Made anew: _replace() takes three times as long, and this is once per file.
    return Entry(FILE, want.mode, proof.size, proof.mtime_ns, proof.digest)
