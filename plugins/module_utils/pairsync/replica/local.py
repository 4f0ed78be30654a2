# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica on this host: what an agent serves, and what a session uses for a local path."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Optional, TypeVar

from ..model.entry import Entry, parent_of
from ..model.errors import PairsyncError, ProtocolError
from ..model.pathspec import PathSet
from ..model.plan import DONE
from ..model.policy import Retention
from ..reconcile.actions import Action
from . import fsops, guard, index, journal, late, outcome, state
from .agreed import Agreed
from .backup import Backup, drop_brief, run_name
from .confine import check_rows, refused
from .contents import Done, Record
from .durable import make_durable
from .index import Index
from .interface import BaseState, Beginning, Opened, Recording, Scanned
from .landing import Ground
from .lock import PairLock, Sign, root_lock
from .receive import Receiver
from .retention import check_room, keep_within, note_retention
from .root import Root
from .rows import COARSE_TICK_NS, TICK_NS, Listing, Lookup, Seen, trusted_digests
from .send import Wanted, hashed, requested, send
from .stage import Stage
from .state import State
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
        self._root = Root(build, state_home, home)
        self._pair_fd = -1
        self._lock: Optional[PairLock] = None
        self._held = threading.local()  # sign: of the root lock, in the thread that holds it
        self._agreed: Optional[Agreed] = None
        self._beginning: Optional[Beginning] = None
        self._scan = Scan()
        self._rules = Rules(PathSet(), PathSet())
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
        return self._root.open(path)

    def create(self) -> Opened:
        """Make the root if it is missing, and give it an id if it has none."""
        return self._root.create()

    def shares(self, nonce: str, *, write: bool) -> bool:
        """Write a nonce, or tell whether it is there; whoever finds it takes it away."""
        fd = _needed(self._root.state).fd
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
            guard.mounts_below(self._root.fd) if self._root.fd >= 0 else frozenset(),
            self._root.denied,
        )
        held = self._root.state
        if held is None:
            return BaseState()
        pair = beginning.pair_id.encode("ascii")
        if beginning.dry_run and not journal.has_pair(held, pair):
            return BaseState()
        self._pair_fd = held.directory(b"pairs", pair)
        what = f"the pair {beginning.label} and {beginning.peer.label or beginning.peer.path}"
        self._lock = PairLock(self._pair_fd, what, policy.lock_wait, beginning.run)
        if not beginning.dry_run:
            self._clear_stage()  # of what a session that died left behind
        self._agreed = Agreed(self._pair_fd, beginning.pair_id, self._root.shown)
        if not state.is_original(self._pair_fd, held, self._root.fd):
            return BaseState(sound=False)
        return self._agreed.open()

    def scan(self, base: str) -> Scanned:
        """Settle the base as the session says, and compare the root with it."""
        started = time.monotonic()
        if self._root.fd < 0:
            return Scanned([], 0, [], 0.0, [])
        beginning = self._in_session()
        if self._agreed is not None:
            self._agreed.settle(base, dry_run=beginning.dry_run)
            if self._agreed.base is not None and self._agreed.base.commits.current:
                # Also after a session that died between its commit and this.
                self._remember_ends()
        written_late = self._look_for_late_writes()
        known = Index()
        if self._root.state is not None:
            self._before_ns = self._probe()
            with self._root_locked():
                known = index.load(self._root.state.fd, self._in_session().pair_id)
        try:
            base_now = self._agreed.base if self._agreed is not None else None
            self._scan = scan(self._root.fd, self._rules, base_now, known, self._beat)
        except OSError as error:
            raise PairsyncError(
                "root_missing",
                f"{self._root.shown} cannot be read: {error.strerror}",
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
        if self._root.state is None or beginning.dry_run:
            return []
        with self._root_locked():
            found = late.compare(self._root.state, time.time())
        found += drop_brief(self._root.state, beginning.pair_id)
        return [one.told for one in found]

    def _clear_stage(self) -> None:
        """Remove what is staged for this pair, whose lock is held: nobody else writes there."""
        try:
            parent = fsops.open_dir(_needed(self._root.state).fd, b"stage")
        except FileNotFoundError:
            return
        try:
            state.remove_tree(parent, self._in_session().pair_id.encode("ascii"))
        finally:
            fsops.close(parent)

    def _probe(self) -> int:
        """The file system's own now, less one tick of its clock, in nanoseconds.

        Also finds out whether it keeps permissions.
        """
        try:
            fd = fsops.open_note(_needed(self._root.state).fd, b"probe")
        except OSError:
            return 0  # trust nothing
        try:
            now = fsops.touch(fd)
            self._rules = replace(self._rules, modes=guard.stores_modes(fd))
        finally:
            fsops.close(fd)
        return now - (TICK_NS if now % 1_000_000_000 else COARSE_TICK_NS)

    def _save_scan(self, known: Index) -> None:
        if self._root.state is None:
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
            index.save(self._root.state.fd, pair, Index(changed, marks), set(gone))

    def details(
        self, files: list[bytes], directories: list[bytes]
    ) -> tuple[list[tuple[bytes, Entry]], list[bytes]]:
        """Digests of changed files, and which directories hold ignored content."""
        above: set[bytes] = set()  # what holds ignored content, directly or further down
        for hidden in self._scan.hidden:
            one = hidden
            while one not in above:
                above.add(one)
                one = parent_of(one)  # the root's is the root
        holding = [path for path in directories if path in above]
        tree = _needed(self._root.tree)
        entries = []
        for path in files:
            self._beat()
            entry = hashed(tree, self._scan.changes.get(path), self._lookup.seen(path))
            change = self._scan.changes.get(path)
            if change is not None and change.after != entry and entry.digest is not None:
                self._learned[path] = entry.digest
                self._scan.changes[path] = change._replace(after=entry)
            entries.append((path, entry))
        return entries, holding

    # -- contents -------------------------------------------------------------------------------

    def send(self, wanted: list[tuple[int, bytes]]) -> Iterator[Record]:
        """The contents of scanned files, by action number, in order."""
        growing = PathSet(self._in_session().policy.growing)
        requests = requested(self._scan, wanted, growing)
        tree = Tree(fsops.duplicate(self._root.fd))
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
        beginning, held = self._in_session(), _needed(self._root.state)
        self._may_write()
        refusals = refused(actions, self._scan, self._rules)
        self._stage = Stage(held.directory(b"stage", beginning.pair_id.encode("ascii")))
        with self._root_locked():  # it may make room
            check_room(held, beginning.pair_id, beginning.policy.backup, actions)
        run = run_name(beginning.run, beginning.policy.backup, beginning.pair_id)
        self._backup = Backup(held, run)
        brief = run_name(beginning.run, Retention(enabled=False), beginning.pair_id)
        self._brief = Backup(held, brief) if brief != run else None
        lookup = Lookup(self._scan.listings)
        ground = Ground(
            tree=Tree(fsops.duplicate(self._root.fd)),
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
        held, agreed = _needed(self._root.state), _needed(self._agreed)
        base = _needed(agreed.base)
        self._may_write()
        check_rows(rows, self._about(), base)
        with self._turn, self._root_locked():
            make_durable(_needed(self._root.tree), dict(rows))
            with agreed.writing():
                checksum = base.write_pending(commit, rows, coverage)
            # No marks: of these directories more is to come.
            changed, gone = outcome.listings(
                self._scan.listings, self._landed, dict(self._learned), self._before_ns
            )
            index.save(held.fd, self._in_session().pair_id, Index(changed), gone)
        return checksum

    def record(self, recording: Recording) -> str:
        """Make the outcome durable, then write it as the pending commit."""
        held, agreed = _needed(self._root.state), _needed(self._agreed)
        base = _needed(agreed.base)
        self._may_write()
        check_rows(recording.rows, self._about(), base)
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
            make_durable(_needed(self._root.tree), rows)
            with agreed.writing():
                checksum = base.write_pending(
                    recording.commit, sorted(rows.items()), recording.coverage
                )
            changed, gone = outcome.listings(
                self._scan.listings, self._landed, self._learned, self._before_ns
            )
            marks = {}
            if not self._rules.paths:  # what lies outside of them was not compared
                touched = {parent_of(path) for path in rows} & self._trusted.keys()
                settled = {path: self._trusted[path] for path in touched} | changed
                marks = outcome.marks(settled, base, set(recording.keep))
            index.save(held.fd, self._in_session().pair_id, Index(changed, marks), gone)
        return checksum

    def promote(self, commit: str) -> None:
        """Make the pending commit current."""
        agreed = _needed(self._agreed)
        base = _needed(agreed.base)
        if base.commits.pending != commit:
            raise PairsyncError("protocol", "another commit is pending than the one to promote")
        with self._turn, agreed.writing():
            base.promote()
        self._remember_ends()

    def _remember_ends(self) -> None:
        """Write down which directory this replica is, and who the other one is."""
        state.note_original(self._pair_fd, _needed(self._root.state), self._root.fd)
        journal.write_peer(self._pair_fd, self._in_session().peer)

    def end(self, status: dict[str, Any], report: Optional[dict[str, Any]]) -> None:
        """Keep the session's status, and its report where one is given."""
        held = self._root.state
        if held is None or self._pair_fd < 0 or self._in_session().dry_run:
            return
        try:
            # First: it makes room, and whatever else is kept about sessions may lack that.
            self._keep_backup_within(held)
        finally:
            journal.write_status(self._pair_fd, status)
            journal.write_log(held, self._in_session().run, report)
            if self._root.state_home:
                journal.remember_root(
                    self._root.state_home, held.replica_id, fsops.real_path(self._root.fd)
                )

    def _keep_backup_within(self, held: State) -> None:
        beginning = self._in_session()
        retention = beginning.policy.backup
        if self._backup is not None and self._backup.kept and retention.enabled:
            self._backup.close()
            with self._root_locked():
                keep_within(held, beginning.pair_id, retention, beginning.run, time.time())
        else:
            note_retention(held, beginning.pair_id, retention, self._root_locked)

    def forget(self, pair_id: str) -> bool:
        """Set the base of a pair aside; tell whether there was one."""
        if self._root.state is None or not journal.has_pair(
            self._root.state, pair_id.encode("ascii")
        ):
            return False
        pair_fd = self._root.state.directory(b"pairs", pair_id.encode("ascii"))
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
        if self._stage is not None and self._root.state is not None and self._beginning is not None:
            self._stage.close()
            self._stage = None
            with contextlib.suppress(OSError):
                self._clear_stage()
        for held in (self._backup, self._brief, self._agreed, self._lock):
            if held is not None:
                held.close()
        self._backup = self._brief = self._agreed = self._lock = None
        if self._pair_fd >= 0:
            fsops.close(self._pair_fd)
        self._pair_fd = -1
        self._root.close()

    # -- small things ---------------------------------------------------------------------------

    def _may_write(self) -> None:
        if self._in_session().dry_run:
            raise ProtocolError("a dry run writes nothing")

    def _about(self) -> set[bytes]:
        """The paths that changed here, or are changed here."""
        received = self._receiver.actions if self._receiver is not None else []
        return self._scan.changes.keys() | {action.path for action in received}

    def _in_session(self) -> Beginning:
        return _needed(self._beginning)

    @contextlib.contextmanager
    def _root_locked(self) -> Iterator[None]:
        session, held = self._in_session(), _needed(self._root.state)
        if self._lock is not None:
            self._lock.sign.confirm()
        with root_lock(
            self._root.fd, held.fd, self._root.shown, session.policy.lock_wait, session.run
        ) as sign:
            self._held.sign = sign
            try:
                yield
            finally:
                self._held.sign = None

    def _beat(self, __: int = 0) -> None:
        if self._interrupted:
            raise PairsyncError(
                "interrupted",
                "the session was interrupted",
                "run the same command again; it goes on where it stopped",
            )
        if self._lock is not None:
            self._lock.sign.beat()
        # Only by who holds it: for others its descriptor may be another file's an instant later.
        held: Optional[Sign] = getattr(self._held, "sign", None)
        if held is not None:
            held.beat()


def _needed(value: Optional[T]) -> T:
    """A part of the session that must be there by now, unless the caller breaks the order."""
    if value is None:
        raise ProtocolError("a session must begin before it goes on")
    return value
