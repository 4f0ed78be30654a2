# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The session: connect → scan → reconcile → decide → propagate → record → report.

Works on two replicas through replica.interface alone, wherever they are.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass
from typing import Any, Callable, Optional, TypeVar

from .. import __version__
from ..model.entry import Change, blocked
from ..model.errors import EXIT_FATAL, PairsyncError
from ..model.pathspec import PathSet
from ..model.plan import A_TO_B, B_TO_A, CONFLICT, EQUAL, PROPS, Item, plan_digest
from ..model.report import Run, counts, exit_code, report_json
from ..model.spec import PairSpec
from ..reconcile.actions import actions_of
from ..reconcile.rules import decide
from ..reconcile.tree import reconcile
from ..replica.faults import as_fatal
from ..replica.history import run_id
from ..replica.interface import BaseState, Beginning, Opened, Peer, Replica, Scanned
from ..replica.journal import STATUS_SCHEMA
from .both import both
from .events import (
    Ask,
    Emit,
    Finished,
    Hello,
    Phase,
    PlanItems,
    PlanReady,
    Progress,
    Question,
    Remark,
    ReplicaReady,
    Results,
    ScanDone,
)
from .lagging import Lagging, Row
from .opening import Bases, check_nested, check_roots, pair_id, same_file_system, settle_bases
from .planning import (
    check_brake,
    check_emptied,
    directories_gone,
    is_confirmed,
    labels_of,
    summary,
    undecided,
)
from .remarks import late_writes
from .transfer import (
    Way,
    hold_pointers,
    incomplete_paths,
    order_crossing,
    outcomes_of,
    outcomes_so_far,
    planned,
    recording,
    sizes,
)

_PROGRESS_SECONDS = 0.1

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Options:
    """How this one session is run. confirm: digest of a plan that a person approved."""

    dry_run: bool = False
    confirm: str = ""
    route: str = "direct"


def run_session(
    spec: PairSpec,
    connect: Callable[[], tuple[Replica, Replica]],
    options: Options,
    emit: Emit,
    ask: Optional[Ask] = None,
) -> Run:
    """Run one session and return what happened; errors are in the result, not raised.

    connect makes both replicas. ask answers questions; None in batch.
    """
    started = time.time()
    run = Run(
        run=run_id(started),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        a=spec.a.display,
        b=spec.b.display,
        version=__version__,
        mode=spec.policy.mode,
        route=options.route,
        dry_run=options.dry_run,
    )
    clock = time.monotonic()
    emit(Hello(__version__, run.run))
    session: Optional[_Session] = None
    replicas: tuple[Replica, ...] = ()
    try:
        emit(Phase("connect"))
        replicas = connect()
        session = _Session(spec, replicas[0], replicas[1], options, run, emit, ask)
        session.go()
    except Exception as error:
        # Whatever happens, a program that runs sessions gets a report, and never exit code 1.
        run.error = as_fatal(error)
    except KeyboardInterrupt:
        run.error = PairsyncError(
            "interrupted",
            "the session was interrupted",
            "run the same command again; it goes on where it stopped",
        )
    run.seconds = time.monotonic() - clock
    run.wire_bytes = sum(replica.wire_bytes for replica in replicas)
    report = report_json(run)
    if session is None or not session.abandoned:
        if session is not None:
            session.end(report)
        for replica in replicas:
            with contextlib.suppress(PairsyncError, OSError):
                replica.close()
    emit(Finished(report))
    return run


class _Session:
    """One session in progress."""

    def __init__(
        self,
        spec: PairSpec,
        a: Replica,
        b: Replica,
        options: Options,
        run: Run,
        emit: Emit,
        ask: Optional[Ask],
    ) -> None:
        self.spec, self.a, self.b = spec, a, b
        self.options, self.run, self.emit, self.ask = options, run, emit, ask
        self.commit = ""
        self.begun = False
        self.stopped = False
        self.abandoned = False  # a thread hangs in a step: its replica must not be touched
        self._moved = [0, 0, 0, 0]  # files, bytes, of files, of bytes
        self._shown = 0.0

    def go(self) -> None:
        opened = self._open()
        if opened is None:
            return
        bases = self._begin(*opened)
        self.emit(Phase("scan"))
        scans = self._both(lambda: self.a.scan(bases.verb_a), lambda: self.b.scan(bases.verb_b))
        for side, found in zip("ab", scans):
            self.emit(ScanDone(side, found.entries, len(found.changes), found.seconds))
        for place, there, found in zip((self.spec.a, self.spec.b), opened, scans):
            for text in late_writes(place.display, there.path, found.late):
                self._warn(text)
        items = self._plan(bases, scans, opened)
        if self.options.dry_run:
            return
        self._decide(items)
        self._propagate(items, scans, bases)

    # -- opening --------------------------------------------------------------------------------

    def _open(self) -> Optional[tuple[Opened, Opened]]:
        spec = self.spec
        self._asked_ns = time.time_ns()
        opened = self._both(lambda: self.a.open(spec.a.path), lambda: self.b.open(spec.b.path))
        self._answered_ns = time.time_ns()
        check_roots(spec, *opened)
        created = tuple(one.missing for one in opened)
        for place, new in zip((spec.a, spec.b), created):
            if new:
                verb = (
                    "would be created" if self.options.dry_run else "did not exist and was created"
                )
                self._note(f"{place.display} {verb}")
        if not self.options.dry_run:
            fresh = not opened[0].replica_id or not opened[1].replica_id
            # One after the other: both hosts may see one file system.
            opened = (
                opened[0] if opened[0].replica_id else self.a.create(),
                opened[1] if opened[1].replica_id else self.b.create(),
            )
            if fresh:
                # Now that both have an id, each may find the other one's above it.
                opened = self._both(self.a.create, self.b.create)
                check_nested(spec, *opened)
        for side, place, one, new in zip("ab", (spec.a, spec.b), opened, created):
            self.emit(
                ReplicaReady(
                    side, place.label or "local", one.host, one.path, one.version, one.build, new
                )
            )
        if opened[0].replica_id and opened[0].replica_id == opened[1].replica_id:
            same_file_system(spec, self.a, self.b)
            self.run.collapsed = True
            self._note("both hosts see the same file system: there is nothing to sync")
            return None
        return opened

    def _begin(self, a: Opened, b: Opened) -> Bases:
        spec, run = self.spec, self.run
        run.pair_id = pair_id(a.replica_id, b.replica_id)

        def beginning(side: str, mine: str, peer: Opened, label: str) -> Beginning:
            remembered = Peer(peer.replica_id, label, peer.host, peer.path)
            return Beginning(
                run.pair_id, side, mine, remembered, spec.policy, run.run, self.options.dry_run
            )

        def begin_a() -> BaseState:
            return self.a.begin(beginning("a", spec.a.display, b, spec.b.label))

        def begin_b() -> BaseState:
            return self.b.begin(beginning("b", spec.b.display, a, spec.a.label))

        # Locks are taken in one order everywhere: two sessions of one pair that each hold one of
        # its ends would wait for each other.
        if a.replica_id <= b.replica_id:
            states = begin_a(), begin_b()
        else:
            states = (begin_b(), begin_a())[::-1]
        self.begun = True
        bases = settle_bases(*states)
        self.rows = (states[0].rows, states[1].rows) if bases.state == "ok" else (0, 0)
        self.commit = bases.commit
        self.coverage = bases.coverage
        run.base = bases.state
        if bases.state == "degraded":
            self._warn(
                "what the replicas last agreed on is lost or does not match:"
                " this run is like a first sync and deletes nothing"
            )
        return bases

    # -- plan -----------------------------------------------------------------------------------

    def _plan(
        self, bases: Bases, scans: tuple[Scanned, Scanned], opened: tuple[Opened, Opened]
    ) -> list[Item]:
        self.emit(Phase("reconcile"))
        changes = tuple({change.path: change for change in found.changes} for found in scans)
        hidden = self._details(changes[0], changes[1])
        found, notes = reconcile(changes[0], changes[1], hidden)
        for note in notes:
            self._note(note)
        first = bases.state != "ok"
        offset, uncertainty = self._clock_offset(opened)

        def decided(*, confirmed: bool, interactive: bool) -> list[Item]:
            return decide(
                found,
                self.spec.policy,
                covers=self.coverage.covers,
                interactive=interactive,
                confirmed=confirmed,
                clock_offset_ns=offset,
                clock_uncertainty_ns=uncertainty,
            )

        # The digest is that of a batch run, so that what `plan` shows can be confirmed anywhere.
        items = decided(confirmed=False, interactive=False)
        # Before the first sync there is no id: what `plan` showed must be what `sync` confirms.
        pair = self.run.pair_id if bases.commit else " ".join(f"{o.host}:{o.path}" for o in opened)
        digest = plan_digest(pair, (bases.commit, bases.commit), self.spec.policy.digest(), items)
        self.run.plan_digest = digest
        confirmed = is_confirmed(self.options.confirm, digest)
        if confirmed or self.ask is not None:
            items = decided(confirmed=confirmed, interactive=self.ask is not None)
        self.actions = actions_of(items)
        # Shown before the guards: a plan that a guard stops is one that a person has to see.
        self._show(items)
        if self.options.dry_run:
            self.run.outcomes = planned(items)
        if not confirmed:
            if not first:
                check_emptied(self.spec, scans, self.rows, digest)
            check_brake(self.spec, self.actions, self.rows, digest)
        return items

    def _details(
        self, a: dict[bytes, Change], b: dict[bytes, Change]
    ) -> frozenset[tuple[str, bytes]]:
        """Ask both replicas once, for digests that a decision needs and for ignored content."""
        files, gone_a, gone_b = undecided(a, b), directories_gone(a), directories_gone(b)
        if not files and not gone_a and not gone_b:
            return frozenset()
        answers = self._both(
            lambda: self.a.details(files, gone_b), lambda: self.b.details(files, gone_a)
        )
        for changes, (entries, __) in zip((a, b), answers):
            for path, entry in entries:
                changes[path] = changes[path]._replace(after=entry)
        return frozenset((side, path) for side, (__, paths) in zip("ab", answers) for path in paths)

    def _clock_offset(self, opened: tuple[Opened, Opened]) -> tuple[int, int]:
        """B's clock minus a's, and how far off that may be; in nanoseconds."""
        uncertainty = self._answered_ns - self._asked_ns
        return opened[1].clock_ns - opened[0].clock_ns, uncertainty

    def _show(self, items: list[Item]) -> None:
        outcomes = planned(items)
        shown = [outcome for outcome in outcomes if outcome.item.decision != EQUAL]
        self.emit(PlanItems(shown))
        labels = labels_of(self.spec)
        table = counts(outcomes)
        self.emit(
            PlanReady(self.run.plan_digest, len(shown), table, labels, summary(items, labels))
        )

    # -- decide and propagate -------------------------------------------------------------------

    def _decide(self, items: list[Item]) -> None:
        if self.ask is None or not any(item.decision in (A_TO_B, B_TO_A) for item in items):
            return
        self.emit(Phase("decide"))
        question = Question(1, "Proceed with propagating updates?", ("y", "n", "q"))
        self.emit(question)
        if self.ask(question) != "y":
            raise PairsyncError("interrupted", "nothing was propagated, as you said", "")

    def _propagate(self, items: list[Item], scans: tuple[Scanned, Scanned], bases: Bases) -> None:
        on_a, on_b = self.actions
        ways = (
            Way(self.a, self.b, A_TO_B, on_b, incomplete_paths(items, A_TO_B)),
            Way(self.b, self.a, B_TO_A, on_a, incomplete_paths(items, B_TO_A)),
        )
        if on_a or on_b:
            self.emit(Phase("transfer"))
            self._moved[2:] = sizes(on_a + on_b)
            hold_pointers(items, ways, PathSet(self.spec.policy.last))
            order_crossing(*ways)
            lagging = Lagging(items, ways, self._save, self._stop, self._abandon)
            try:
                with lagging:
                    self._both(
                        lambda: ways[0].run(self._count, lambda: self.stopped),
                        lambda: ways[1].run(self._count, lambda: self.stopped),
                    )
                lagging.check()
            except BaseException:
                # What was done stays done, and the report says so.
                self.run.outcomes = outcomes_so_far(items, ways)
                lagging.check()
                raise
            finally:
                self.run.contents_bytes = self._moved[1]
            for place, replica in ((self.spec.a, self.a), (self.spec.b, self.b)):
                if replica.weak:
                    self._warn(
                        f"{place.display}: the file system has no atomic exchange of names;"
                        " a replaced file is missing for a moment, and a late edit may be kept"
                        " only in the backup"
                    )
        self.run.outcomes = outcomes_of(items, ways)
        self.emit(Results([one for one in self.run.outcomes if one.item.decision != EQUAL]))
        self._record(items, ways, scans, bases)

    def _record(
        self, items: list[Item], ways: tuple[Way, Way], scans: tuple[Scanned, Scanned], bases: Bases
    ) -> None:
        commit = secrets.token_hex(16)
        coverage = self.coverage
        if not any(self._left_out(item) for item in items):
            coverage = coverage.after(self.spec.policy)
        dropped = [path for found in scans for path in found.dropped]
        for_a, for_b = recording(items, ways, commit, dropped, coverage.text())
        kept = set(for_a.keep)
        news = (
            not bases.commit
            or for_a.rows
            or coverage != self.coverage
            or any(
                change.path not in kept and not blocked(change.after)
                for found in scans
                for change in found.changes
            )
            or any(done.result == "done" for way in ways for done in way.done.values())
        )
        if not news:
            return
        self.emit(Phase("record"))
        self._agree(commit, lambda: self.a.record(for_a), lambda: self.b.record(for_b))

    def _save(self, rows: list[Row]) -> None:
        """Record what is done so far, under the coverage of the base as it was."""
        commit, coverage = secrets.token_hex(16), self.coverage.text()
        self._agree(
            commit,
            lambda: self.a.record_so_far(commit, rows, coverage),
            lambda: self.b.record_so_far(commit, rows, coverage),
        )

    def _agree(self, commit: str, on_a: Callable[[], str], on_b: Callable[[], str]) -> None:
        """Write a commit as pending on both sides, then make it current on both."""
        sums = self._both(on_a, on_b)
        if sums[0] != sums[1]:
            raise PairsyncError(
                "internal",
                "the two replicas would remember different things, so nothing was recorded",
                "run the same command again; if it happens again, please report it",
            )
        self._both(lambda: self.a.promote(commit), lambda: self.b.promote(commit))
        self.commit = commit

    def _left_out(self, item: Item) -> bool:
        """Contents that were never synced, and are not by this session."""
        if item.decision in (A_TO_B, B_TO_A, EQUAL) or item.column == PROPS:
            return False
        return any(part.base is None and not self.coverage.covers(part.path) for part in item.parts)

    def _count(self, files: int, size: int) -> None:
        self._moved[0] += files
        self._moved[1] += size
        now = time.monotonic()
        if now - self._shown >= _PROGRESS_SECONDS:
            self._shown = now
            self.emit(Progress(self._moved[0], self._moved[2], self._moved[1], self._moved[3]))

    # -- end ------------------------------------------------------------------------------------

    def end(self, report: dict[str, Any]) -> None:
        """Leave the status on both replicas, whatever happened."""
        if not self.begun or self.options.dry_run:
            return
        conflicts = sum(1 for one in self.run.outcomes if one.item.decision == CONFLICT)
        complete = exit_code(self.run) < EXIT_FATAL
        status = {
            "schema": STATUS_SCHEMA,
            "pair": report["pair"],
            "run": self.run.run,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "finished_unix": int(time.time()),
            "scanned_unix": int(time.time()) if complete else None,
            "exit": report["exit"],
            "generation": self.commit,
            "conflicts": conflicts,
            "counts": report["counts"],
            "error": report["error"],
        }
        with contextlib.suppress(PairsyncError, OSError):
            self.a.end({**status, "side": "a"}, report)
        with contextlib.suppress(PairsyncError, OSError):
            self.b.end({**status, "side": "b"}, None)

    # -- small things ---------------------------------------------------------------------------

    def _both(self, on_a: Callable[[], T], on_b: Callable[[], U]) -> tuple[T, U]:
        return both(on_a, on_b, self._stop, self._abandon)

    def _stop(self) -> None:
        self.stopped = True
        self.a.interrupt()
        self.b.interrupt()

    def _abandon(self) -> None:
        self.abandoned = True

    def _note(self, text: str) -> None:
        self.run.notes.append(text)
        self.emit(Remark(text, warning=False))

    def _warn(self, text: str) -> None:
        self.run.warnings.append(text)
        self.emit(Remark(text))
