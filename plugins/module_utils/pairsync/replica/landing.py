# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Landing: give staged objects their names, change modes, delete; one result per action.

A change underneath skips an action, an error fails it, and an error of the whole file system
ends the session.
"""

from __future__ import annotations

import errno
import stat
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional

from ..model.entry import DIR, FILE, LINK, PERMISSION_BITS, Entry, is_below, is_dir, parent_of
from ..model.pathspec import PathSet
from ..model.plan import DONE, FAILED, HELD, SKIPPED
from ..model.report import display
from ..reconcile.actions import Action
from . import fsops, swap
from .attributes import Owner, of_new, of_replaced
from .backup import Backup
from .contents import Done
from .digest import digest_file
from .durable import FEW, make_durable
from .faults import as_fatal, of_file_system
from .names import is_listed
from .rows import Seen
from .stage import Stage, finish_dir
from .swap import Aside, At, Swapped
from .tree import Tree
from .units import Unit, Units


@dataclass(frozen=True)
class Ground:
    """What the receiving side stands on.

    expected: what the scan saw at a path. locked: holds the root for a moment. landed: is told
    what is at a path now (None: nothing). beat: shows that there is progress.
    replica: what this one is called in names of copies. brief: a backup for what need not be kept
    longer than until the next session; without one all is kept alike.
    """

    tree: Tree
    stage: Stage
    backup: Backup
    last: PathSet
    expected: Callable[[bytes], Optional[Seen]]
    locked: Callable[[], AbstractContextManager[None]]
    landed: Callable[[bytes, Optional[Seen]], None]
    beat: Callable[[], None]
    replica: bytes = b""
    brief: Optional[Backup] = None


class Flush:
    """Staged objects that are being made durable, in a thread of its own."""

    def __init__(self, fd: int, rows: dict[bytes, Optional[Entry]]) -> None:
        """fd: the stage, stays the caller's; rows: as for make_durable, by staged name."""
        self._tree = Tree(fsops.duplicate(fd))
        self._rows = rows
        self._error: Optional[Exception] = None
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Tell whether wait() returns at once."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Wait for it; raises PairsyncError when nobody knows what is durable."""
        self._thread.join()
        if self._error is not None:
            raise as_fatal(self._error) from self._error

    def _run(self) -> None:
        try:
            make_durable(self._tree, self._rows)
        except Exception as error:  # whoever waits is told
            self._error = error
        finally:
            self._tree.close()


class Batch(NamedTuple):
    """Staged objects on their way to their names. flush: what makes them durable, if not done."""

    actions: list[Action]
    units: list[Unit]
    flush: Optional[Flush] = None

    @property
    def ready(self) -> bool:
        """Tell whether nothing has to be waited for."""
        return self.flush is None or self.flush.ended


class Landing:
    """The swaps of one session on one replica, and their results by action number."""

    def __init__(self, ground: Ground, units: Units) -> None:
        self._ground = ground
        self._units = units
        self._owners: dict[bytes, Owner] = {}
        self._joined: set[int] = set()
        self._absent: list[Action] = []  # directories that could not be made
        self.results: dict[int, Done] = {}
        self.staged: dict[int, Seen] = {}  # what was staged alone, by action number
        self.continued: set[int] = set()  # what replaces a file and begins with all of it
        self.weak = False
        self._lost: dict[int, list[str]] = {}  # what cannot be kept of what is replaced

    def settle(self, action: Action, done: Done) -> None:
        """Set an action's result."""
        # Not by _replace(), which takes three times as long: this is once per action.
        self.results[action.number] = Done(action.number, done.result, done.reason, done.proof)

    def fail(self, action: Action, error: OSError) -> None:
        """Set an action's result after an error; raise when the whole file system is in trouble."""
        self.settle(action, failure(error))

    def owner(self, directory: bytes) -> Owner:
        """Who a new object in a directory belongs to."""
        found = self._owners.get(directory)
        if found is None:
            try:
                found = of_new(self._ground.tree.directory(directory))
            except OSError:
                found = Owner()
            self._owners[directory] = found
        return found

    def owner_of(self, action: Action) -> Owner:
        """Who an action's object belongs to where it lands."""
        unit = self._units.of(action)
        if unit is not None:
            return unit.owner
        if action.have is not None:
            try:
                kept = of_replaced(*self._ground.tree.parent(action.path))
            except OSError:
                kept = Owner(lost=["its owner and attributes"])
            self._lost[action.number] = kept.lost
            return kept
        return self.owner(parent_of(action.path))

    # -- large new directories ------------------------------------------------------------------

    def make_plain_dirs(self) -> None:
        """Make the directories that are too large to be staged whole."""
        for action in self._units.plain_dirs:
            if not self._attempt(action, self._make_dir):
                self._absent.append(action)

    def _make_dir(self, action: Action) -> Swapped:
        parent, name = self._ground.tree.parent(action.path)
        # Writable for its owner until it is filled; else as it will be, for whoever finds it
        # unfinished: a session that is cut short leaves it like this.
        bits = _dir_bits(action.want) | stat.S_IRWXU
        try:
            fsops.make_dir(parent, name, bits)
        except FileExistsError:
            if not self._is_dir_there(action):
                _check_name(parent, name)
                return Swapped(swap.APPEARED)
            self._joined.add(action.number)
            if action.want is not None:
                self._ground.landed(action.path, _dir_seen(action.want))
            return Swapped()
        directory = self._ground.tree.directory(action.path)
        mode = stat.S_IMODE(fsops.fstat(directory).st_mode)
        if mode & PERMISSION_BITS != bits:
            fsops.set_mode(directory, mode & ~PERMISSION_BITS | bits)  # despite the umask
        return Swapped()

    def finish_plain_dirs(self) -> None:
        """Give them their owner and mode, now that they are filled."""
        for action in reversed(self._units.plain_dirs):
            if self.results[action.number].result != DONE or action.want is None:
                continue
            if action.number in self._joined:
                continue  # somebody else's, who also says what its permissions are
            try:
                directory = self._ground.tree.directory(action.path)
                finish_dir(directory, action.want, self.owner(parent_of(action.path)))
            except OSError as error:
                # Nothing is recorded of permissions that it does not have.
                self.fail(action, error)
            else:
                self._ground.landed(action.path, _dir_seen(action.want))

    # -- creating and replacing -----------------------------------------------------------------

    def land(self, actions: list[Action], units: list[Unit]) -> None:
        """Make staged objects durable, then give them their names, one right after the other."""
        self.complete(self.begin(actions, units))

    def begin(self, actions: list[Action], units: list[Unit]) -> Batch:
        """Begin to make staged objects durable; more can be staged meanwhile."""
        units = [unit for unit in units if self._closes(unit)]
        rows = {self._units.staged_name(one): one.want for one in actions}
        for unit in units:
            rows.update(
                (unit.staged_name(one.path), one.want)
                for one in unit.actions
                if one.number not in self.results  # could not be staged
            )
        if len(rows) > FEW:
            return Batch(actions, units, Flush(self._ground.stage.fd, rows))
        self._ground.stage.sync(rows)
        return Batch(actions, units)

    def complete(self, batch: Batch) -> None:
        """Wait until a batch is durable, then give its objects their names."""
        if not batch.actions and not batch.units:
            return
        if batch.flush is not None:
            batch.flush.wait()
        with self._ground.locked():
            for unit in batch.units:
                self._land_unit(unit)
            for action in batch.actions:
                self._attempt(action, self._create if action.have is None else self._replace)

    def _closes(self, unit: Unit) -> bool:
        """Finish a staged directory; one that cannot be finished fails with all that is in it."""
        try:
            self._close_unit(unit)
        except OSError as error:
            self._ground.stage.forget()
            for action in unit.actions:
                if action.number not in self.results:
                    self.fail(action, error)
            return False
        return True

    def _close_unit(self, unit: Unit) -> None:
        """Finish a staged directory from the inside out; without a pointer to what is missing."""
        missing = [action.path for action in unit.actions if action.number in self.results]
        for action in unit.actions:
            if action.path not in unit.seen or not self._ground.last.matches(action.path):
                continue
            around = parent_of(action.path)
            absent = next((path for path in missing if is_below(path, around)), None)
            if absent is not None:
                self._ground.stage.discard(unit.staged_name(action.path))
                self.settle(action, held_for(absent))
        owner = self.owner(parent_of(unit.top.path))
        for action in reversed(unit.actions):
            want = action.want
            if want is not None and want.kind == DIR and action.number not in self.results:
                name = unit.staged_name(action.path)
                if action is unit.top:
                    want = _movable(want)
                self._ground.stage.finish_dir(name, want, owner)
        self._ground.stage.forget()

    def _land_unit(self, unit: Unit) -> None:
        if unit.top.have is None and self._is_dir_there(unit.top):
            # Another pair's session made it meanwhile: what is in ours goes in one by one.
            for action in unit.actions:
                self._attempt(unit.arrived(action), self._create_or_join)
            return
        done = self._attempt(unit.top, self._create if unit.top.have is None else self._replace)
        if done and unit.top.want is not None and unit.top.want != _movable(unit.top.want):
            owner = self.owner(parent_of(unit.top.path))
            finish_dir(self._ground.tree.directory(unit.top.path), unit.top.want, owner)
            self._ground.tree.forget()
        for action in unit.actions[1:]:
            if action.number in self.results:
                continue
            self.settle(action, self.results[unit.top.number])
            if not done or action.want is None:
                continue
            seen = unit.seen.get(action.path)
            self._ground.landed(action.path, seen if seen is not None else _dir_seen(action.want))

    def _create(self, action: Action) -> Swapped:
        staged, place = self._places(action)
        swapped = swap.create(staged, place)
        if not swapped.reason:
            self._note_landed(action, place)
            return swapped
        _check_name(place.fd, place.name)
        there = self._same_there(action, place)
        if there is None:
            return swapped
        self._ground.landed(action.path, there)  # another pair's session brought the same
        return Swapped()

    def _create_or_join(self, action: Action) -> Swapped:
        return self._join(action) if is_dir(action.want) else self._create(action)

    def _join(self, action: Action) -> Swapped:
        """Make a directory of a staged one's name, unless it is there."""
        if not self._is_dir_there(action):
            parent, name = self._ground.tree.parent(action.path)
            fsops.make_dir(parent, name)
            if action.want is not None:
                owner = self.owner(parent_of(action.path))
                finish_dir(self._ground.tree.directory(action.path), action.want, owner)
        if action.want is not None:
            self._ground.landed(action.path, _dir_seen(action.want))
        return Swapped()

    def _is_dir_there(self, action: Action) -> bool:
        try:
            place = self._ground.tree.parent(action.path)
            return swap.kind_of(fsops.lstat(*place)) == DIR and is_listed(*place)
        except OSError:
            return False

    @staticmethod
    def _same_there(action: Action, place: At) -> Optional[Seen]:
        """What is there, if it is to the byte what was to be created."""
        want = action.want
        try:
            if want is not None and want.kind == LINK:
                same = fsops.read_link(place.fd, place.name) == want.target
                return swap.seen(fsops.lstat(place.fd, place.name)) if same else None
            if want is None or want.kind != FILE:
                return None
            fd = fsops.open_file(place.fd, place.name)
        except OSError:
            return None
        try:
            now = swap.seen(fsops.fstat(fd))
            if now.size != want.size or now.mode != want.mode:
                return None
            digest = digest_file(fd, want.size)
            after = swap.seen(fsops.fstat(fd), digest)
            return after if digest == want.digest and after[:6] == now[:6] else None
        finally:
            fsops.close(fd)

    def _replace(self, action: Action) -> Swapped:
        expected = self._ground.expected(action.path)
        if expected is None:
            return Swapped(swap.CHANGED)
        if expected.kind == DIR:
            self._ground.backup.keep_dir(action.path, expected.mode)
        staged, place = self._places(action)
        swapped = swap.replace(staged, place, expected, self._aside(action))
        if expected.kind == DIR or is_dir(action.want):
            self._ground.tree.forget()
        if not swapped.reason:
            self._note_landed(action, At(*self._ground.tree.parent(action.path)))
        return swapped

    def _places(self, action: Action) -> tuple[At, At]:
        return (
            self._ground.stage.place(self._units.staged_name(action)),
            At(*self._ground.tree.parent(action.path)),
        )

    def _aside(self, action: Action) -> Aside:
        ground = self._ground
        backup = ground.backup
        if ground.brief is not None and action.number in self.continued:
            backup = ground.brief
        return Aside(action.path, backup, ground.replica)

    def _note_landed(self, action: Action, place: At) -> None:
        want = action.want
        if want is not None and want.kind == DIR:
            self._ground.landed(action.path, _dir_seen(want))
            return
        unit = self._units.of(action)
        staged = unit.seen.get(action.path) if unit is not None else self.staged[action.number]
        now = swap.seen(fsops.lstat(place.fd, place.name))
        # Who opened the file under its new name may have written into it by now.
        if staged is not None and _same_file(staged, now):
            now = now._replace(digest=staged.digest)
        self._ground.landed(action.path, now)

    # -- permissions and deletions --------------------------------------------------------------

    def set_modes(self, actions: list[Action]) -> None:
        """Change permissions where nothing else is to change."""
        for action in actions:
            self._attempt(action, self._set_mode)

    def _set_mode(self, action: Action) -> Swapped:
        want, have = action.want, action.have
        parent, name = self._ground.tree.parent(action.path)
        status = fsops.lstat(parent, name)
        now = swap.seen(status)
        expected = self._ground.expected(action.path)
        # Where permissions are not kept, the scan says what was agreed on, not what it saw.
        known = {have.mode if have is not None else None, expected.mode if expected else None}
        mode_moved = have is not None and have.mode is not None and now.mode not in known
        if want is None or have is None or now.kind != have.kind or mode_moved:
            return Swapped(swap.CHANGED)
        if want.mode is not None:
            # What is not synced stays: set-id bits, and those that a directory hands down.
            special = stat.S_IMODE(status.st_mode) & ~PERMISSION_BITS
            fsops.set_mode_at(parent, name, special | want.mode)
        after = swap.seen(fsops.lstat(parent, name))
        # The contents' digest still holds if nothing but the mode changed since the scan.
        digest = None
        if expected is not None and expected[2:6] == now[2:6] and _same_file(now, after):
            digest = expected.digest
        self._ground.landed(action.path, after._replace(digest=digest))
        return Swapped()

    def delete(self, doomed: list[Action], held: list[bytes]) -> None:
        """Delete, and swap in what replaces a directory, deepest first.

        held: pointer files that were not swapped in; nothing around them is deleted.
        """
        if not doomed:
            return
        with self._ground.locked():
            for action in reversed(doomed):
                pointer = next((one for one in held if is_below(action.path, parent_of(one))), None)
                if pointer is not None:
                    self.settle(action, Done(0, HELD, f"held with {display(pointer)}"))
                else:
                    self._attempt(action, self._remove if action.want is None else self._replace)

    def _remove(self, action: Action) -> Swapped:
        expected = self._ground.expected(action.path)
        if is_dir(action.have):
            if expected is not None:
                self._ground.backup.keep_dir(action.path, expected.mode)
            self._ground.tree.forget()
            swapped = swap.remove_dir(At(*self._ground.tree.parent(action.path)))
        else:
            if expected is None:
                return Swapped(swap.CHANGED)
            place = At(*self._ground.tree.parent(action.path))
            swapped = swap.remove(place, expected, self._aside(action))
        if not swapped.reason:
            self._ground.landed(action.path, None)
        return swapped

    def _attempt(self, action: Action, step: Callable[[Action], Swapped]) -> bool:
        """Run one step of an action that has no result yet; tell whether it was done."""
        if action.number in self.results:
            return False
        # The file system may take its name for another's: then nothing may land in that one.
        absent = next((one for one in self._absent if is_below(action.path, one.path)), None)
        if absent is not None:
            self.settle(action, self.results[absent.number])
            return False
        self._ground.beat()
        try:
            swapped = step(action)
        except OSError as error:
            self.fail(action, error)
            return False
        self.weak = self.weak or swapped.weak
        if swapped.reason:
            self.settle(action, Done(0, SKIPPED, swapped.reason))
            return False
        lost = self._lost.get(action.number)
        self.settle(action, Done(0, DONE, f"could not keep {' and '.join(lost)}" if lost else ""))
        return True


def held_for(absent: bytes) -> Done:
    """The result of a pointer file whose surroundings are incomplete."""
    reason = f"held: {display(absent)}, which it may point to, has not arrived"
    return Done(0, HELD, reason)


def failure(error: OSError) -> Done:
    """The result of one failed action; raises PairsyncError when it is not about that one alone."""
    fatal = of_file_system(error)
    if fatal is not None:
        raise fatal from error
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return Done(0, FAILED, "its directory is not there")
    return Done(0, FAILED, (error.strerror or str(error)).lower())


def _check_name(directory: int, name: bytes) -> None:
    """After EEXIST: raise OSError when it is another name that is there, and taken for this one."""
    if not is_listed(directory, name):
        reason = "the file system here takes its name for another one"
        raise FileExistsError(errno.EEXIST, reason)


def _same_file(one: Seen, other: Seen) -> bool:
    """Tell whether two fingerprints are of one file; a rename or a chmod changes its ctime."""
    return (one.kind, one.inode, one.size, one.mtime_ns) == (
        other.kind,
        other.inode,
        other.size,
        other.mtime_ns,
    )


def _movable(want: Entry) -> Entry:
    """A directory's entry with the permissions that moving it to another parent takes."""
    return want if want.mode is None else want._replace(mode=want.mode | 0o700)


def _dir_seen(want: Entry) -> Seen:
    return Seen(DIR, _dir_bits(want), 0, 0, 0, 0)


def _dir_bits(want: Optional[Entry]) -> int:
    return 0o755 if want is None or want.mode is None else want.mode
