# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica on this host: what an agent serves, and what a session uses for a local path."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import astuple, replace
from typing import Any, Optional, TypeVar

from .. import __version__
from ..model.denied import Denied
from ..model.entry import FILE, PROBLEM, Change, Entry, is_below, parent_of
from ..model.errors import PairsyncError, ProtocolError
from ..model.pathspec import PathSet
from ..model.plan import DONE
from ..model.policy import Retention
from ..model.report import display
from ..reconcile.actions import Action
from . import fsops, guard, index, journal, late, outcome, state
from .backup import Backup, drop_brief, run_name
from .base import Base
from .confine import check_row, refused
from .contents import Done, Record
from .denylist import denied_in, own_home
from .digest import digest_file
from .durable import make_durable
from .index import Index
from .interface import BaseState, Beginning, Opened, Recording, Scanned
from .landing import Ground
from .lock import PairLock, Sign, root_lock
from .receive import Receiver
from .retention import check_room, keep_within, note_retention
from .rows import COARSE_TICK_NS, TICK_NS, Listing, Lookup, Seen, trusted_digests
from .send import Wanted, send
from .stage import Stage
from .state import State
from .store import is_damaged
from .swap import seen
from .tree import Tree
from .walk import Rules, Scan, scan

T = TypeVar("T")


class LocalReplica:
    """One root on this host during one session. See interface.Replica for the contract."""

    def __init__(
        self, build: str = "source", state_home: str = "", home: Optional[bytes] = None
    ) -> None:
        """build: digest of the running binary. state_home: where known replicas are noted.

        home: of the user who syncs; by default what the host's table of users says.
        """
        self._build = build
        self._state_home = state_home
        self._home = own_home() if home is None else home
        self._path = b""
        self._root_fd = -1
        self._tree: Optional[Tree] = None
        self._state: Optional[State] = None
        self._pair_fd = -1
        self._lock: Optional[PairLock] = None
        self._root_sign: Optional[Sign] = None
        self._base: Optional[Base] = None
        self._beginning: Optional[Beginning] = None
        self._scan = Scan()
        self._rules = Rules(PathSet(), PathSet())
        self._denied = Denied()
        self._before_ns = 0
        self._receiver: Optional[Receiver] = None
        self._stage: Optional[Stage] = None
        self._backup: Optional[Backup] = None
        self._brief: Optional[Backup] = None  # for what is kept until the next session
        self._landed: dict[bytes, Optional[Seen]] = {}
        self._learned: dict[bytes, bytes] = {}
        self._trusted: dict[bytes, Listing] = {}  # of directories the index did not know
        self._results: dict[int, Done] = {}
        self._lookup = Lookup({})
        self._interrupted = False
        # Held by whoever changes the root or writes the base: a commit of what is done so far is
        # written between two records of contents, never beside one.
        self._turn = threading.Lock()
        self.weak = False

    @property
    def wire_bytes(self) -> int:
        """See interface.Replica: nothing goes over a wire."""
        return 0

    # -- opening --------------------------------------------------------------------------------

    def open(self, path: str) -> Opened:
        """Look at the root; change nothing."""
        self._path = os.fsencode(os.path.expanduser(path))
        if not os.path.isabs(self._path):
            self._path = os.path.join(os.getcwdb(), self._path)
        try:
            self._root_fd = fsops.open_root(self._path)
        except FileNotFoundError:
            parent = os.path.isdir(os.path.dirname(self._path.rstrip(b"/")))
            return self._opened(missing=True, parent=parent)
        except NotADirectoryError as error:
            raise PairsyncError(
                "root_not_dir",
                f"{self._shown} is not a directory",
                "name the directory to sync; single files are synced with `--path`",
            ) from error
        except OSError as error:
            raise PairsyncError(
                "root_missing",
                f"{self._shown} cannot be opened: {error.strerror}",
                "make it readable",
            ) from error
        self._tree = Tree(fsops.duplicate(self._root_fd))
        self._state = state.find(self._root_fd)
        if self._state is not None:
            self._check_file_system()
            if self._state_home:
                noted = journal.noted_root(self._state_home, self._state.replica_id)
                state.check_copies(self._root_fd, self._state, noted)
        return self._opened(missing=False, parent=True)

    def create(self) -> Opened:
        """Make the root if it is missing, and give it an id if it has none."""
        if self._root_fd < 0:
            try:
                fsops.make_root(self._path)
            except FileExistsError:
                pass  # by somebody else, since it was looked for
            except OSError as error:
                raise PairsyncError(
                    "root_missing",
                    f"{self._shown} does not exist and cannot be made: {error.strerror}",
                    "make it, for the user who syncs",
                ) from error
            self._root_fd = fsops.open_root(self._path)
            self._tree = Tree(fsops.duplicate(self._root_fd))
        if self._state is None:
            self._state = state.find(self._root_fd)  # both hosts may see one file system
        if self._state is None:
            try:
                self._state = state.create(self._root_fd, guard.file_system(self._root_fd))
            except OSError as error:
                raise PairsyncError(
                    "root_identity",
                    f"{self._shown}/.pairsync cannot be made: {error.strerror}",
                    "let the user who syncs write to that directory",
                ) from error
        return self._opened(missing=False, parent=True)

    @property
    def _shown(self) -> str:
        return display(self._path)

    def _opened(self, *, missing: bool, parent: bool) -> Opened:
        identity = ""
        ancestors: tuple[str, ...] = ()
        real = self._path
        if missing and parent:
            # Known by the same name once it is there, also through a symlink above it.
            above, name = os.path.split(self._path.rstrip(b"/"))
            above_fd = fsops.open_root(above)
            above = fsops.real_path(above_fd)
            fsops.close(above_fd)
            real = os.path.join(above, name)
            inner, outer = guard.lineage(above)
            ancestors = (inner, *outer)
        if not missing:
            real = fsops.real_path(self._root_fd)
            identity, ancestors = guard.lineage(real)
        if parent:
            own = (os.path.abspath(os.fsencode(self._state_home)),) if self._state_home else ()
            self._denied = denied_in(real, self._home, own)
        # By id as well: two hosts have no other name for a directory that both can see.
        ancestors += tuple(f"replica {one}" for one in state.ids_above(real))
        return Opened(
            host=socket.gethostname(),
            path=os.fsdecode(real),
            user=guard.user_name(),
            version=__version__,
            build=self._build,
            replica_id=self._state.replica_id if self._state is not None else "",
            missing=missing,
            parent=parent,
            identity=identity,
            ancestors=ancestors,
            former=self._state.former if self._state is not None else (),
            peers=journal.peers(self._state) if self._state is not None else (),
            clock_ns=time.time_ns(),
        )

    def _check_file_system(self) -> None:
        now, then = guard.file_system(self._root_fd), _needed(self._state).file_system
        if not guard.same_file_system(now, then):
            raise PairsyncError(
                "root_identity",
                f"{self._shown} lies on another file system than before ({now}, not {then})",
                "mount the right one; if it moved for good, run"
                f" `pairsync forget --new-id {self._shown}`",
            )

    def shares(self, nonce: str, *, write: bool) -> bool:
        """Write a nonce, or tell whether it is there; the writer removes it in close()."""
        fd = _needed(self._state).fd
        name = b"nonce-" + nonce.encode("ascii")
        if write:
            fsops.close(fsops.create_file(fd, name))
            return True
        try:
            fsops.unlink(fd, name)
        except FileNotFoundError:
            return False
        return True

    # -- base and scan --------------------------------------------------------------------------

    def begin(self, beginning: Beginning) -> BaseState:
        """Take the pair lock and read the base."""
        self._beginning = beginning
        policy = beginning.policy
        self._rules = Rules(
            PathSet(policy.ignore),
            PathSet(policy.last),
            tuple(os.fsencode(path) for path in policy.paths),
            guard.mounts_below(self._root_fd) if self._root_fd >= 0 else frozenset(),
            self._denied,
        )
        if self._state is None:
            return BaseState()
        pair = beginning.pair_id.encode("ascii")
        if beginning.dry_run and not journal.has_pair(self._state, pair):
            return BaseState()
        self._pair_fd = self._state.directory(b"pairs", pair)
        what = f"the pair {beginning.label} and {beginning.peer.label}"
        self._lock = PairLock(self._pair_fd, what, policy.lock_wait, beginning.run)
        if not beginning.dry_run:
            self._clear_stage()  # of what a session that died left behind
        if not state.is_original(self._pair_fd, self._state, self._root_fd):
            return BaseState(sound=False)
        try:
            self._base = Base(self._pair_fd, beginning.pair_id)
        except sqlite3.DatabaseError as error:
            if not is_damaged(error):
                raise  # the system's fault, not the file's: the base stays as it is
            return BaseState(sound=False)
        if not self._base.sound:
            return BaseState(sound=False)
        return BaseState(*astuple(self._base.commits))

    def scan(self, base: str) -> Scanned:
        """Settle the base as the session says, and compare the root with it."""
        started = time.monotonic()
        if self._root_fd < 0:
            return Scanned([], 0, [], 0.0, [])
        beginning = self._in_session()
        self._settle_base(base, beginning)
        written_late = self._look_for_late_writes()
        known = Index()
        if self._state is not None:
            self._before_ns = self._probe()
            with self._root_locked():
                known = index.load(self._state.fd, self._in_session().pair_id)
        try:
            self._scan = scan(self._root_fd, self._rules, self._base, known, self._beat)
        except OSError as error:
            raise PairsyncError(
                "root_missing",
                f"{self._shown} cannot be read: {error.strerror}",
                "make it readable",
            ) from error
        self._save_scan(known)
        found = self._scan
        self._lookup = Lookup(found.listings)
        return Scanned(
            list(found.changes.values()),
            found.entries,
            found.dropped,
            time.monotonic() - started,
            written_late,
        )

    def _look_for_late_writes(self) -> list[bytes]:
        """Compare what was displaced with what was noted of it, then drop what need not stay."""
        beginning = self._in_session()
        if self._state is None or beginning.dry_run:
            return []
        found = late.compare(self._state, time.time())
        drop_brief(self._state, beginning.pair_id)
        return [one.told for one in found]

    def _clear_stage(self) -> None:
        """Remove what is staged for this pair, whose lock is held: nobody else writes there."""
        try:
            parent = fsops.open_dir(_needed(self._state).fd, b"stage")
        except FileNotFoundError:
            return
        try:
            state.remove_tree(parent, self._in_session().pair_id.encode("ascii"))
        finally:
            fsops.close(parent)

    def _settle_base(self, verb: str, beginning: Beginning) -> None:
        if verb == "reset":
            if self._base is not None:
                self._base.close()
                self._base = None
            if self._pair_fd >= 0 and not beginning.dry_run:
                journal.set_aside(self._pair_fd)
                self._base = Base(self._pair_fd, beginning.pair_id)
            return
        if self._base is None:
            return
        if beginning.dry_run:
            if verb == "promote":
                self._base.preview()
            return
        with self._writing_base():
            if verb == "promote":
                self._base.promote()
            elif verb == "drop":
                self._base.drop_pending()
        if self._base.commits.current:
            # Also after a session that died between its commit and this.
            self._remember_ends()

    @contextlib.contextmanager
    def _writing_base(self) -> Iterator[None]:
        """Set a base aside whose damage shows only when it is written: it must not stay so."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if not is_damaged(error) or self._base is None:
                raise
            self._base.close()
            self._base = None
            journal.set_aside(self._pair_fd)
            raise PairsyncError(
                "internal",
                f"what {self._shown} and its peer agreed on is damaged, and was set aside: {error}",
                "run the same command again: it compares everything anew, and deletes nothing",
            ) from error

    def _probe(self) -> int:
        """The file system's own now, less one tick of its clock, in nanoseconds.

        Also finds out whether it keeps permissions.
        """
        try:
            fd = fsops.open_note(_needed(self._state).fd, b"probe")
        except OSError:
            return 0  # trust nothing
        try:
            now = fsops.touch(fd)
            self._rules = replace(self._rules, modes=guard.stores_modes(fd))
        finally:
            fsops.close(fd)
        return now - (TICK_NS if now % 1_000_000_000 else COARSE_TICK_NS)

    def _save_scan(self, known: Index) -> None:
        if self._state is None:
            return
        changed = {}
        for path, listing in self._scan.listings.items():
            if known.listings.get(path) != listing:
                trusted = Listing(listing.seen, trusted_digests(listing, self._before_ns))
                self._trusted[path] = trusted
                if known.listings.get(path) != trusted:
                    changed[path] = trusted
        gone = set() if self._rules.paths else known.listings.keys() - self._scan.listings.keys()
        with self._root_locked():
            pair = self._in_session().pair_id
            marks = {
                path: mark
                for path, mark in self._scan.marks.items()
                if known.marks.get(path) != mark
            }
            index.save(self._state.fd, pair, Index(changed, marks), set(gone))

    def details(
        self, files: list[bytes], directories: list[bytes]
    ) -> tuple[list[tuple[bytes, Entry]], list[bytes]]:
        """Digests of changed files, and which directories hold ignored content."""
        hidden = self._scan.hidden
        holding = [
            path
            for path in directories
            if any(one == path or is_below(one, path) for one in hidden)
        ]
        return [(path, self._hashed(path)) for path in files], holding

    def _hashed(self, path: bytes) -> Entry:
        change = self._scan.changes.get(path)
        entry = change.after if change is not None else None
        if entry is None or entry.kind != FILE or entry.digest is not None:
            return entry if entry is not None else Entry(FILE)
        self._beat()
        expected = self._lookup.seen(path)
        try:
            fd = fsops.open_file(*_needed(self._tree).parent(path))
            try:
                digest = None
                if expected is not None and seen(fsops.fstat(fd))[:6] == expected[:6]:
                    digest = digest_file(fd, entry.size)
                    if seen(fsops.fstat(fd))[:6] != expected[:6]:
                        digest = None
            finally:
                fsops.close(fd)
        except OSError as error:
            return Entry(PROBLEM, target=f"cannot be read: {error.strerror}".encode())
        if digest is not None:
            self._learned[path] = digest
            self._scan.changes[path] = Change(
                path, change.before if change else None, entry._replace(digest=digest)
            )
            return entry._replace(digest=digest)
        return entry  # stays lazy: it changed, and agrees with nothing

    # -- contents -------------------------------------------------------------------------------

    def send(self, wanted: list[tuple[int, bytes]]) -> Iterator[Record]:
        """The contents of scanned files, by action number, in order."""
        growing = PathSet(self._in_session().policy.growing)
        lookup = Lookup(self._scan.listings)
        requests = []
        for number, path in wanted:
            expected = lookup.seen(path)
            if expected is None or expected.kind != FILE:
                raise PairsyncError(
                    "protocol",
                    f"contents of a path were asked for that was not scanned (action {number})",
                )
            change = self._scan.changes.get(path)
            before = change.before if change is not None else None
            prefix = None
            if before is not None and before.kind == FILE and before.digest is not None:
                prefix = (before.size, before.digest)
            requests.append(Wanted(number, path, expected, prefix, growing.matches(path)))
        tree = Tree(fsops.duplicate(self._root_fd))
        try:
            for record in send(tree, requests, self._learn):
                self._beat()
                yield record
        finally:
            tree.close()

    def _learn(self, wanted: Wanted, digest: bytes) -> None:
        self._learned[wanted.path] = digest

    def receive(self, actions: list[Action], incomplete: list[bytes]) -> None:
        """Prepare to bring the actions about."""
        beginning, held = self._in_session(), _needed(self._state)
        self._may_write()
        refusals = refused(actions, self._scan, self._rules)
        self._stage = Stage(held.directory(b"stage", beginning.pair_id.encode("ascii")))
        check_room(held, beginning.pair_id, beginning.policy.backup, actions)
        run = run_name(beginning.run, beginning.policy.backup, beginning.pair_id)
        self._backup = Backup(held, run)
        brief = run_name(beginning.run, Retention(enabled=False), beginning.pair_id)
        self._brief = Backup(held, brief) if brief != run else None
        lookup = Lookup(self._scan.listings)
        ground = Ground(
            tree=Tree(fsops.duplicate(self._root_fd)),
            stage=self._stage,
            backup=self._backup,
            last=self._rules.last,
            expected=lookup.seen,
            locked=self._root_locked,
            landed=self._landed.__setitem__,
            beat=self._beat,
            replica=os.fsencode(beginning.label),
            brief=self._brief,
        )
        self._receiver = Receiver(ground, actions, incomplete, refusals)
        self._receiver.start()

    def feed(self, record: Record) -> None:
        """Take one record of contents."""
        with self._turn:
            _needed(self._receiver).feed(record)

    def news(self) -> list[Done]:
        """What became of actions since the last call."""
        return self._receiver.news() if self._receiver is not None else []

    def finish(self) -> list[Done]:
        """Swap everything in; what became of each action."""
        receiver = _needed(self._receiver)
        with self._turn:
            done = receiver.finish()
        self._results = {one.number: one for one in done}
        self.weak = receiver.weak
        return done

    # -- recording ------------------------------------------------------------------------------

    def record_so_far(
        self, commit: str, rows: list[tuple[bytes, Optional[Entry]]], coverage: str
    ) -> str:
        """Make some base rows durable and write them as the pending commit."""
        held, base = _needed(self._state), _needed(self._base)
        self._may_write()
        self._check_rows(rows, base)
        with self._turn, self._root_locked():
            make_durable(_needed(self._tree), dict(rows))
            with self._writing_base():
                checksum = base.write_pending(commit, rows, coverage)
            # No marks: of these directories more is to come.
            changed, gone = outcome.listings(
                self._scan.listings, self._landed, dict(self._learned), self._before_ns
            )
            index.save(held.fd, self._in_session().pair_id, Index(changed), gone)
        return checksum

    def record(self, recording: Recording) -> str:
        """Make the outcome durable, then write it as the pending commit."""
        held, base = _needed(self._state), _needed(self._base)
        self._may_write()
        self._check_rows(recording.rows, base)
        leave = set(recording.leave)
        others: dict[bytes, Optional[Entry]] = {}
        if self._receiver is not None:
            for action in self._receiver.actions:
                done = self._results.get(action.number)
                if done is not None and done.result == DONE and action.number not in leave:
                    others[action.path] = action.want
        others.update(recording.rows)
        # A change of our own that was overridden may never have been read: it has no row.
        rows = outcome.own_rows(self._scan, self._learned, {*recording.keep, *others})
        rows.update(others)
        with self._root_locked():
            make_durable(_needed(self._tree), rows)
            with self._writing_base():
                checksum = base.write_pending(
                    recording.commit, sorted(rows.items()), recording.coverage
                )
            changed, gone = outcome.listings(
                self._scan.listings, self._landed, self._learned, self._before_ns
            )
            agreed = {}
            if not self._rules.paths:  # what lies outside of them was not compared
                touched = {parent_of(path) for path in rows} & self._trusted.keys()
                settled = {path: self._trusted[path] for path in touched} | changed
                agreed = outcome.marks(settled, base, set(recording.keep))
            index.save(held.fd, self._in_session().pair_id, Index(changed, agreed), gone)
        return checksum

    def promote(self, commit: str) -> None:
        """Make the pending commit current."""
        base = _needed(self._base)
        if base.commits.pending != commit:
            raise PairsyncError("protocol", "another commit is pending than the one to promote")
        with self._turn, self._writing_base():
            base.promote()
        self._remember_ends()

    def _remember_ends(self) -> None:
        """Write down which directory this replica is, and who the other one is."""
        state.note_original(self._pair_fd, _needed(self._state), self._root_fd)
        journal.write_peer(self._pair_fd, self._in_session().peer)

    def end(self, status: dict[str, Any], report: Optional[dict[str, Any]]) -> None:
        """Keep the session's status, and its report where one is given."""
        if self._state is None or self._pair_fd < 0 or self._in_session().dry_run:
            return
        journal.write_status(self._pair_fd, status)
        journal.write_log(self._state, self._in_session().run, report)
        if self._state_home:
            journal.remember_root(
                self._state_home, self._state.replica_id, fsops.real_path(self._root_fd)
            )
        beginning = self._in_session()
        retention = beginning.policy.backup
        if self._backup is not None and self._backup.kept and retention.enabled:
            self._backup.close()
            with self._root_locked():
                keep_within(self._state, beginning.pair_id, retention, beginning.run, time.time())
        else:
            note_retention(self._state, beginning.pair_id, retention, self._root_locked)

    def forget(self, pair_id: str) -> bool:
        """Set the base of a pair aside; tell whether there was one."""
        if self._state is None or not journal.has_pair(self._state, pair_id.encode("ascii")):
            return False
        pair_fd = self._state.directory(b"pairs", pair_id.encode("ascii"))
        lock = PairLock(pair_fd, "the pair", 0)
        try:
            journal.forget_peer(pair_fd)
            return journal.set_aside(pair_fd)
        finally:
            lock.close()
            fsops.close(pair_fd)

    def interrupt(self) -> None:
        """Let the step that runs in another thread be the last one."""
        self._interrupted = True

    def close(self) -> None:
        """Let go of everything, whatever happened before; what was staged and not used goes."""
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None
        if self._stage is not None and self._state is not None and self._beginning is not None:
            self._stage.close()
            self._stage = None
            with contextlib.suppress(OSError):
                self._clear_stage()
        for held in (self._backup, self._brief, self._base, self._lock, self._tree, self._state):
            if held is not None:
                held.close()
        self._backup = self._brief = self._base = self._lock = self._tree = self._state = None
        for fd in (self._pair_fd, self._root_fd):
            if fd >= 0:
                fsops.close(fd)
        self._pair_fd = self._root_fd = -1

    # -- small things ---------------------------------------------------------------------------

    def _may_write(self) -> None:
        if self._in_session().dry_run:
            raise ProtocolError("a dry run writes nothing")

    def _check_rows(self, rows: list[tuple[bytes, Optional[Entry]]], base: Base) -> None:
        received = self._receiver.actions if self._receiver is not None else []
        about = self._scan.changes.keys() | {action.path for action in received}
        directory, names = b"", base.entries(b"")
        for path, entry in rows:
            if parent_of(path) != directory:
                directory = parent_of(path)
                names = base.entries(directory)
            known = path in about or path.rpartition(b"/")[2] in names
            check_row(path, entry, known=known)

    def _in_session(self) -> Beginning:
        return _needed(self._beginning)

    @contextlib.contextmanager
    def _root_locked(self) -> Iterator[None]:
        session, held = self._in_session(), _needed(self._state)
        if self._lock is not None:
            self._lock.sign.confirm()
        with root_lock(
            self._root_fd, held.fd, self._shown, session.policy.lock_wait, session.run
        ) as sign:
            self._root_sign = sign
            try:
                yield
            finally:
                self._root_sign = None

    def _beat(self, __: int = 0) -> None:
        if self._interrupted:
            raise PairsyncError(
                "interrupted",
                "the session was interrupted",
                "run the same command again; it goes on where it stopped",
            )
        if self._lock is not None:
            self._lock.sign.beat()
        held = self._root_sign
        if held is not None:
            held.beat()


def _needed(value: Optional[T]) -> T:
    """A part of the session that must be there by now, unless the caller breaks the order."""
    if value is None:
        raise ProtocolError("a session must begin before it goes on")
    return value
