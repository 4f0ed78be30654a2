# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The receiving side: stage what arrives, then swap it in, in an order that readers can rely on.

New files and directories appear batch by batch as they arrive; then replaced files, one after
the other; then pointer files (`last:`); then permissions; then deletions, deepest first. A
pointer whose directory is not complete is held, and the deletions there with it.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass, field
from typing import Callable, ContextManager, Optional

from ..model.entry import DIR, FILE, LINK, Entry, is_below, parent_of
from ..model.errors import PairsyncError, ProtocolError
from ..model.pathspec import PathSet
from ..model.plan import DONE, FAILED, HELD, SKIPPED
from ..model.report import display
from ..reconcile.actions import Action, new_tops
from . import fsops, swap
from .backup import Backup
from .contents import Begin, Done, End, Piece, Proof, Record, Unsent, Whole
from .rows import Seen
from .stage import MOST_BYTES, MOST_ENTRIES, Incoming, Owner, Stage, finish_dir, finish_file, is_dir, is_leaf, owner_in
from .swap import At, Swapped
from .tree import Tree

# A batch of new objects is made durable and gets its names when it has grown to this.
BATCH_FILES = 2_000
BATCH_BYTES = 256 << 20
# Up to this many files are made durable one by one; more at once, by file system.
FEW = 16

_FILE_SYSTEM_ERRORS = {
    errno.ENOSPC: ("space", "is full"),
    errno.EDQUOT: ("space", "has no quota left"),
    errno.EROFS: ("space", "is read-only"),
    errno.EIO: ("space", "reports input/output errors"),
}


@dataclass
class _Unit:
    """A new directory that is staged whole: actions[start:stop], the first one its top."""

    start: int
    stop: int
    waiting: int = 0
    size: int = 0
    seen: dict[bytes, Seen] = field(default_factory=dict)


@dataclass(frozen=True)
class Ground:
    """What the receiving side stands on. expected: what the scan saw at a path. locked: the root
    lock for a moment. landed: told what is at a path now (None: nothing)."""

    tree: Tree
    stage: Stage
    backup: Backup
    last: PathSet
    expected: Callable[[bytes], Optional[Seen]]
    locked: Callable[[], ContextManager[None]]
    landed: Callable[[bytes, Optional[Seen]], None]
    beat: Callable[[], None]


class Receiver:
    """The actions of one session on one replica, from first byte to last deletion."""

    def __init__(self, ground: Ground, actions: list[Action], incomplete: list[bytes]) -> None:
        """actions: in path order. incomplete: paths that the plan leaves out, for pointers."""
        self._ground = ground
        self._actions = actions
        self._incomplete = list(incomplete)
        self._place = {action.number: index for index, action in enumerate(actions)}
        self._results: dict[int, Done] = {}
        self._units: list[_Unit] = []
        self._unit_of: dict[int, _Unit] = {}
        self._plain_dirs: list[Action] = []
        self._incoming: Optional[tuple[int, Incoming]] = None
        self._staged: dict[int, Seen] = {}
        self._proofs: dict[int, Proof] = {}
        self._ready: list[Action] = []
        self._ready_units: list[_Unit] = []
        self._ready_bytes = 0
        self._ready_files = 0
        self._owners: dict[bytes, Owner] = {}
        self.weak = False
        self._assign(0, len(actions))

    # -- before the first byte ------------------------------------------------------------------

    def start(self) -> None:
        """Check the space, make large new directories, stage small ones and links."""
        self._check_space()
        for action in self._plain_dirs:
            self._attempt(action, self._make_plain_dir)
        for unit in self._units:
            self._stage_unit(unit)
        for action in self._actions:
            if action.number in self._unit_of or action.props_only:
                continue
            if action.want is not None and action.want.kind == LINK:
                self._attempt(action, self._stage_link)

    def _assign(self, start: int, stop: int) -> None:
        for top, end in new_tops(self._actions, start, stop):
            action = self._actions[top]
            size = sum(one.want.size for one in self._actions[top:end] if one.want is not None)
            if action.have is not None or (end - top <= MOST_ENTRIES and size <= MOST_BYTES):
                unit = _Unit(top, end, size=size)
                self._units.append(unit)
                for one in self._actions[top:end]:
                    self._unit_of[one.number] = unit
            else:
                self._plain_dirs.append(action)
                self._assign(top + 1, end)

    def _check_space(self) -> None:
        new = [one.want for one in self._actions if is_leaf(one.want) and not one.props_only]
        size = sum(entry.size for entry in new if entry is not None)
        free = fsops.free_bytes(self._ground.stage.fd)
        if size > free:
            raise PairsyncError(
                "space",
                f"{size} bytes are to be received, and the file system has {free} free",
                "make room, or leave something out with --path or --ignore; nothing was touched",
            )
        inodes = fsops.free_inodes(self._ground.stage.fd)
        if inodes is not None and len(new) > inodes:
            raise PairsyncError(
                "space",
                f"{len(new)} files are to be received, and the file system has room for {inodes}",
                "remove files, or leave something out with --path or --ignore; nothing was touched",
            )

    def _make_plain_dir(self, action: Action) -> Swapped:
        parent, name = self._ground.tree.parent(action.path)
        try:
            fsops.make_dir(parent, name)
        except FileExistsError:
            return Swapped(swap.APPEARED)
        return Swapped()

    def _stage_unit(self, unit: _Unit) -> None:
        top = self._actions[unit.start]
        owner = self._owner(parent_of(top.path))
        for action in self._actions[unit.start : unit.stop]:
            if action.want is None:
                continue  # an ignored leftover of a type change; nothing to stage
            name = self._staged_name(action)
            if action.want.kind == DIR:
                self._ground.stage.make_dir(name)
            elif action.want.kind == LINK:
                unit.seen[action.path] = self._ground.stage.write_link(name, action.want, owner)
            else:
                unit.waiting += 1
        if not unit.waiting:
            self._unit_ready(unit)

    def _stage_link(self, action: Action) -> Swapped:
        want = action.want
        assert want is not None
        owner = self._owner(parent_of(action.path))
        name = self._staged_name(action)
        self._staged[action.number] = self._ground.stage.write_link(name, want, owner)
        if action.have is None:
            self._ready.append(action)
        return Swapped()

    def _staged_name(self, action: Action) -> bytes:
        unit = self._unit_of.get(action.number)
        if unit is None:
            return b"f%d" % action.number
        top = self._actions[unit.start]
        return b"u%d" % top.number + action.path[len(top.path) :]

    def _owner(self, directory: bytes) -> Owner:
        found = self._owners.get(directory)
        if found is None:
            try:
                found = owner_in(fsops.fstat(self._ground.tree.directory(directory)))
            except OSError:
                found = Owner()
            self._owners[directory] = found
        return found

    # -- what arrives ---------------------------------------------------------------------------

    def feed(self, record: Record) -> None:
        """Take the next record; raise ProtocolError for one that nobody asked for."""
        self._ground.beat()
        place = self._place.get(record.number)
        if place is None or record.number in self._results:
            raise ProtocolError(f"contents came for action {record.number}, which does not wait for any")
        action = self._actions[place]
        if not (action.want is not None and action.want.kind == FILE) or action.props_only:
            raise ProtocolError(f"contents came for action {record.number}, which is not about a file")
        try:
            self._take(action, record)
        except OSError as error:
            self._drop_incoming()
            self._finish(action, _failure(error))
            self._arrived(action, 0)

    def _take(self, action: Action, record: Record) -> None:
        if isinstance(record, Piece):
            incoming = self._current(record.number)
            if not incoming.write(record.data):
                raise ProtocolError("a file is longer than its sender said")
        elif isinstance(record, Begin):
            if self._incoming is not None:
                raise ProtocolError("a file began before the last one was complete")
            assert action.want is not None
            name = self._staged_name(action)
            self._incoming = (record.number, self._ground.stage.begin_file(name, action.want, record.size))
        elif isinstance(record, Whole):
            self._take_whole(action, record)
        elif isinstance(record, End):
            self._take_end(action, record)
        else:
            self._drop_incoming()
            result = FAILED if record.failed else SKIPPED
            self._finish(action, Done(action.number, result, record.reason))
            self._arrived(action, 0)

    def _current(self, number: int) -> Incoming:
        if self._incoming is None or self._incoming[0] != number:
            raise ProtocolError("a piece came of a file that has not begun")
        return self._incoming[1]

    def _take_whole(self, action: Action, record: Whole) -> None:
        want = self._checked(action, record.proof)
        if want is None:
            return
        owner = self._owner_of(action)
        name = self._staged_name(action)
        seen = self._ground.stage.write_file(name, want, record.proof, record.data, owner)
        self._staged_or_damaged(action, want, seen, record.proof)

    def _take_end(self, action: Action, record: End) -> None:
        incoming = self._current(record.number)
        want = self._checked(action, record.proof)
        if want is None:
            return
        self._incoming = None
        seen: Optional[Seen] = None
        try:
            if incoming.digest() == record.proof.digest:
                owner = self._owner_of(action)
                seen = finish_file(incoming.fd, want, record.proof.mtime_ns, record.proof.digest, owner)
        finally:
            fsops.close(incoming.fd)
        self._staged_or_damaged(action, want, seen, record.proof)

    def _checked(self, action: Action, proof: Proof) -> Optional[Entry]:
        """The entry that will be there, if the proof agrees with the plan; else the item fails."""
        want = action.want
        assert want is not None
        if want.digest is not None and proof.digest != want.digest and not proof.grew:
            self._drop_incoming()
            self._finish(action, Done(action.number, SKIPPED, "changed since it was compared"))
            self._arrived(action, 0)
            return None
        return want._replace(size=proof.size, mtime_ns=proof.mtime_ns, digest=proof.digest)

    def _staged_or_damaged(
        self, action: Action, want: Entry, seen: Optional[Seen], proof: Proof
    ) -> None:
        if seen is None:
            with contextlib.suppress(OSError):
                self._ground.stage.discard(self._staged_name(action))
            self._finish(action, Done(action.number, FAILED, "arrived damaged"))
            self._arrived(action, 0)
            return
        self._actions[self._place[action.number]] = action._replace(want=want)
        unit = self._unit_of.get(action.number)
        if unit is not None:
            unit.seen[action.path] = seen
        else:
            self._staged[action.number] = seen
            if action.have is None:
                self._ready.append(action)
        self._proofs[action.number] = proof
        self._arrived(action, proof.size)

    def _drop_incoming(self) -> None:
        if self._incoming is None:
            return
        number, incoming = self._incoming
        self._incoming = None
        fsops.close(incoming.fd)
        with contextlib.suppress(OSError):
            self._ground.stage.discard(self._staged_name(self._actions[self._place[number]]))

    def _arrived(self, action: Action, size: int) -> None:
        """Count what has come; land a batch when it is large enough."""
        unit = self._unit_of.get(action.number)
        self._ready_bytes += size
        self._ready_files += 1
        if unit is not None:
            unit.waiting -= 1
            if not unit.waiting:
                self._unit_ready(unit)
        if self._ready_bytes >= BATCH_BYTES or self._ready_files >= BATCH_FILES:
            self._land_new()

    def _unit_ready(self, unit: _Unit) -> None:
        if self._actions[unit.start].have is None:
            self._ready_units.append(unit)

    def _owner_of(self, action: Action) -> Owner:
        unit = self._unit_of.get(action.number)
        if unit is not None:
            return self._owner(parent_of(self._actions[unit.start].path))
        if action.have is not None:
            try:
                parent, name = self._ground.tree.parent(action.path)
                return owner_in(fsops.fstat(parent), fsops.lstat(parent, name))
            except OSError:
                return Owner()
        return self._owner(parent_of(action.path))

    # -- swapping -------------------------------------------------------------------------------

    def finish(self) -> list[Done]:
        """Swap in what is left, in order; return what became of every action, by number."""
        if self._incoming is not None:
            raise ProtocolError("the stream ended inside a file")
        self._land_new()
        pointers, replaced = [], []
        for action in self._actions:
            if action.number in self._results or not self._is_replacement(action):
                continue
            pointer = is_leaf(action.want) and self._ground.last.matches(action.path)
            (pointers if pointer else replaced).append(action)
        self._land_replacements(replaced)
        self._finish_plain_dirs()
        held = self._land_pointers(pointers)
        for action in self._actions:
            if action.props_only:
                self._attempt(action, self._set_mode)
        self._delete(held)
        return [self._settled(action) for action in self._actions]

    def _is_replacement(self, action: Action) -> bool:
        """An action that swaps one staged object in: not inside a unit, not from a directory."""
        if action.props_only or action.want is None or is_dir(action.have):
            return False
        unit = self._unit_of.get(action.number)
        if unit is not None:
            return self._actions[unit.start].number == action.number and action.have is not None
        return action.number in self._staged

    def _land_new(self) -> None:
        """Give their names to all new objects that are complete, pointer files excepted."""
        ready = [one for one in self._ready if not self._ground.last.matches(one.path)]
        units, self._ready_units = self._ready_units, []
        self._ready = [one for one in self._ready if self._ground.last.matches(one.path)]
        self._ready_bytes = self._ready_files = 0
        if not ready and not units:
            return
        for unit in units:
            self._close_unit(unit)
        with self._ground.locked():
            self._make_staged_durable(ready, bool(units))
            for unit in units:
                self._attempt_unit(unit)
            for action in ready:
                self._attempt(action, self._create)

    def _close_unit(self, unit: _Unit) -> None:
        self._hold_pointers(unit)
        owner = self._owner(parent_of(self._actions[unit.start].path))
        for action in reversed(self._actions[unit.start : unit.stop]):
            if action.want is not None and action.want.kind == DIR:
                self._ground.stage.finish_dir(self._staged_name(action), action.want, owner)
        self._ground.stage.forget()

    def _hold_pointers(self, unit: _Unit) -> None:
        """Take pointer files out of a staged directory in which something is missing."""
        actions = self._actions[unit.start : unit.stop]
        missing = [a.path for a in actions if a.number in self._results]
        for action in actions:
            if action.path not in unit.seen or not self._ground.last.matches(action.path):
                continue
            absent = next((path for path in missing if is_below(path, parent_of(action.path))), None)
            if absent is not None:
                self._ground.stage.discard(self._staged_name(action))
                self._finish(action, _held(action, absent))

    def _make_staged_durable(self, actions: list[Action], units: bool) -> None:
        stage = self._ground.stage
        if not units and len(actions) <= FEW:
            stage.sync([self._staged_name(action) for action in actions])
        elif not fsops.sync_file_system(stage.fd):
            stage.sync([self._staged_name(action) for action in actions])

    def _attempt_unit(self, unit: _Unit) -> None:
        top = self._actions[unit.start]
        done = self._attempt(top, self._create if top.have is None else self._replace)
        for action in self._actions[unit.start + 1 : unit.stop]:
            if action.number in self._results:
                continue
            result = self._results[top.number]
            self._finish(action, result._replace(number=action.number))
            seen = unit.seen.get(action.path)
            if done and seen is not None:
                self._ground.landed(action.path, seen)
            elif done and action.want is not None and action.want.kind == DIR:
                self._ground.landed(action.path, _dir_seen(action.want))

    def _create(self, action: Action) -> Swapped:
        staged, place = self._both_places(action)
        swapped = swap.create(staged, place)
        if not swapped.reason:
            self._note_landed(action, place)
        return swapped

    def _replace(self, action: Action) -> Swapped:
        expected = self._ground.expected(action.path)
        if expected is None:
            return Swapped(swap.CHANGED)
        staged, place = self._both_places(action)
        swapped = swap.replace(staged, place, expected, action.path, self._ground.backup)
        if expected.kind == DIR or is_dir(action.want):
            self._ground.tree.forget()
        if not swapped.reason:
            self._note_landed(action, At(*self._ground.tree.parent(action.path)))
        return swapped

    def _both_places(self, action: Action) -> tuple[At, At]:
        return (
            self._ground.stage.place(self._staged_name(action)),
            At(*self._ground.tree.parent(action.path)),
        )

    def _note_landed(self, action: Action, place: At) -> None:
        want = action.want
        if want is not None and want.kind == DIR:
            self._ground.landed(action.path, _dir_seen(want))
        else:
            digest = want.digest if want is not None else None
            self._ground.landed(action.path, swap.seen(fsops.lstat(place.fd, place.name), digest))

    def _land_replacements(self, actions: list[Action]) -> None:
        """All are staged by now, so they follow one another within milliseconds."""
        if not actions:
            return
        for action in actions:
            unit = self._unit_of.get(action.number)
            if unit is not None:
                self._close_unit(unit)
        with self._ground.locked():
            self._make_staged_durable(actions, any(a.number in self._unit_of for a in actions))
            for action in actions:
                unit = self._unit_of.get(action.number)
                if unit is not None:
                    self._attempt_unit(unit)
                else:
                    self._attempt(action, self._create if action.have is None else self._replace)

    def _land_pointers(self, replaced: list[Action]) -> list[bytes]:
        """Swap pointer files in whose directory is complete; return the paths of the others."""
        pointers = replaced
        if not pointers:
            return []
        waiting = {action.number for action in pointers}
        missing = self._incomplete + [
            action.path
            for action in self._actions
            if action.want is not None
            and action.number not in waiting
            and not action.props_only
            and not is_dir(action.have)
            and self._results.get(action.number, Done(0, SKIPPED)).result != DONE
        ]
        held: list[bytes] = []
        complete: list[Action] = []
        for action in pointers:
            directory = parent_of(action.path)
            absent = next((path for path in missing if is_below(path, directory)), None)
            if absent is None:
                complete.append(action)
                continue
            held.append(action.path)
            self._finish(action, _held(action, absent))
        self._land_replacements(complete)
        return held

    def _finish_plain_dirs(self) -> None:
        for action in reversed(self._plain_dirs):
            if self._results.get(action.number, Done(0, DONE)).result != DONE or action.want is None:
                continue
            with contextlib.suppress(OSError):
                finish_dir(
                    self._ground.tree.directory(action.path),
                    action.want,
                    self._owner(parent_of(action.path)),
                )
                self._ground.landed(action.path, _dir_seen(action.want))

    def _set_mode(self, action: Action) -> Swapped:
        want = action.want
        assert want is not None
        parent, name = self._ground.tree.parent(action.path)
        now = swap.seen(fsops.lstat(parent, name))
        have = action.have
        if have is None or now.kind != have.kind or (have.mode is not None and now.mode != have.mode):
            return Swapped(swap.CHANGED)
        if want.mode is not None:
            fsops.set_mode_at(parent, name, want.mode)
        expected = self._ground.expected(action.path)
        after = swap.seen(fsops.lstat(parent, name))
        same = expected is not None and expected[2:6] == now[2:6]
        digest = expected.digest if same and expected is not None else None
        self._ground.landed(action.path, after._replace(digest=digest))
        return Swapped()

    def _delete(self, held: list[bytes]) -> None:
        """Deletions and what replaces a directory, deepest first."""
        doomed = [
            action
            for action in self._actions
            if action.number not in self._results
            and (action.want is None or (is_dir(action.have) and not action.props_only))
        ]
        if not doomed:
            return
        with self._ground.locked():
            for action in reversed(doomed):
                pointer = next((p for p in held if is_below(action.path, parent_of(p))), None)
                if pointer is not None:
                    self._finish(action, Done(action.number, HELD, f"held with {display(pointer)}"))
                elif action.want is not None:
                    self._attempt(action, self._replace)
                else:
                    self._attempt(action, self._remove)

    def _remove(self, action: Action) -> Swapped:
        place = At(*self._ground.tree.parent(action.path))
        if is_dir(action.have):
            self._ground.tree.forget()
            place = At(*self._ground.tree.parent(action.path))
            swapped = swap.remove_dir(place)
        else:
            expected = self._ground.expected(action.path)
            if expected is None:
                return Swapped(swap.CHANGED)
            swapped = swap.remove(place, expected, action.path, self._ground.backup)
        if not swapped.reason:
            self._ground.landed(action.path, None)
        return swapped

    # -- results --------------------------------------------------------------------------------

    def _attempt(self, action: Action, step: Callable[[Action], Swapped]) -> bool:
        """Run one step; a change underneath skips the item, an error fails it, and an error of
        the whole file system ends the session."""
        if action.number in self._results:
            return False
        try:
            swapped = step(action)
        except OSError as error:
            self._finish(action, _failure(error)._replace(number=action.number))
            return False
        self.weak = self.weak or swapped.weak
        if swapped.reason:
            self._finish(action, Done(action.number, SKIPPED, swapped.reason))
            return False
        if step != self._stage_link:  # a staged link is not there yet
            self._finish(action, Done(action.number, DONE))
        return True

    def _finish(self, action: Action, done: Done) -> None:
        self._results[action.number] = done._replace(number=action.number)

    def _settled(self, action: Action) -> Done:
        done = self._results.get(action.number)
        if done is None:
            return Done(action.number, SKIPPED, "its contents did not arrive")
        return done._replace(proof=self._proofs.get(action.number)) if done.result == DONE else done

    @property
    def actions(self) -> list[Action]:
        """The actions, with what really arrived in `want`."""
        return self._actions


def _held(action: Action, absent: bytes) -> Done:
    return Done(action.number, HELD, f"held: {display(absent)}, which it may point to, has not arrived")


def _dir_seen(want: Entry) -> Seen:
    return Seen(DIR, 0o755 if want.mode is None else want.mode, 0, 0, 0, 0)


def _failure(error: OSError) -> Done:
    """The result for one failed action; raises when the whole file system is in trouble."""
    if error.errno in _FILE_SYSTEM_ERRORS:
        code, what = _FILE_SYSTEM_ERRORS[error.errno]
        raise PairsyncError(
            code,
            f"the file system {what}",
            "put that right and run the same command again; nothing was lost",
        ) from error
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return Done(0, FAILED, "its directory is not there")
    return Done(0, FAILED, (error.strerror or str(error)).lower())
