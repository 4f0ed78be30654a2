# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seam between a session and a replica, wherever the replica is.

LocalReplica (this host) and RemoteReplica (an agent behind a pipe) both fit it. The order of
calls is: open, begin, scan, details, then any of send / receive-feed-finish, then record,
promote, end. Every method may raise PairsyncError, after which only close() is useful.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Optional, Protocol

from ..model.entry import Change, Entry
from ..model.policy import Policy
from ..reconcile.actions import Action
from .contents import Done, Record


class Opened(NamedTuple):
    """A root that was found, or not.

    replica_id: "" while the root has none. missing: there is no directory; parent: but there is
    one to make it in. identity: names the directory itself on its machine, and ancestors those
    above it, and the replicas that those are. former: ids that a person replaced by this one.
    peers: what is known of the pairs this replica is in. clock_ns: the host's time.
    """

    host: str
    path: str
    user: str
    version: str
    build: str
    replica_id: str
    missing: bool
    parent: bool
    identity: str
    ancestors: tuple[str, ...]
    former: tuple[str, ...]
    peers: tuple[dict[str, Any], ...]
    clock_ns: int


class Peer(NamedTuple):
    """The other replica of the pair, as this one remembers it."""

    replica_id: str
    label: str
    host: str
    path: str


class Beginning(NamedTuple):
    """What a session is about. side: which replica this one is. dry_run: write nothing."""

    pair_id: str
    side: str
    label: str
    peer: Peer
    policy: Policy
    run: str
    dry_run: bool


class BaseState(NamedTuple):
    """What a replica remembers of the pair: the fields of base.Commits."""

    current: str = ""
    pending: str = ""
    rows: int = 0
    sound: bool = True
    coverage: str = ""
    current_sum: str = ""
    pending_sum: str = ""
    pending_coverage: str = ""


class Scanned(NamedTuple):
    """A complete scan: changes in path order, the number of entries, and remarks.

    dropped: paths of the base that are ignored now. late: displaced files that were written to
    afterwards, each as the run that displaced it, a slash, and its path.
    """

    changes: list[Change]
    entries: int
    dropped: list[bytes]
    seconds: float
    late: list[bytes]


class Recording(NamedTuple):
    """What both replicas agree on after a session.

    A replica records its own changes and what it received, except: keep, paths of its own
    changes that are not agreed on; leave, numbers of received actions that are not recorded as
    they stand. rows: explicit base rows, which win over both.
    coverage: what the base can speak for afterwards (see model/coverage.py).
    """

    commit: str
    rows: list[tuple[bytes, Optional[Entry]]]
    keep: list[bytes]
    leave: list[int]
    coverage: str = ""


class Replica(Protocol):
    """One replica as a session sees it."""

    @property
    def wire_bytes(self) -> int:
        """Bytes that went over a connection for this replica; 0 for one on this host."""

    @property
    def weak(self) -> bool:
        """Tell, after finish(), whether the file system lacks the atomic renames."""

    def open(self, path: str) -> Opened:
        """Look at the root; change nothing."""

    def create(self) -> Opened:
        """Make the root (its parent exists), give it an id if it has none."""

    def shares(self, nonce: str, *, write: bool) -> bool:
        """Write a nonce into the state directory, or tell whether it is there and remove it."""

    def begin(self, beginning: Beginning) -> BaseState:
        """Take the pair lock and read the base."""

    def scan(self, base: str) -> Scanned:
        """Settle the base (`keep`, `promote`, `drop` or `reset`) and compare the root with it."""

    def details(
        self, files: list[bytes], directories: list[bytes]
    ) -> tuple[list[tuple[bytes, Entry]], list[bytes]]:
        """Entries of changed files with their digests; which directories hold ignored content."""

    def send(self, wanted: list[tuple[int, bytes]]) -> Iterator[Record]:
        """The contents of scanned files, by action number, in order."""

    def receive(self, actions: list[Action], incomplete: list[bytes]) -> None:
        """Be told what to bring about; contents follow by feed()."""

    def feed(self, record: Record) -> None:
        """Take one record of contents."""

    def news(self) -> list[Done]:
        """What became of actions since the last call, as far as that is known here.

        For any thread, at any time, also after an error.
        """

    def finish(self) -> list[Done]:
        """Swap everything in; what became of each action."""

    def record_so_far(
        self, commit: str, rows: list[tuple[bytes, Optional[Entry]]], coverage: str
    ) -> str:
        """Make some base rows durable and write them as the pending commit; return its checksum.

        For another thread, at any time after the scan, also while contents come and go.
        """

    def record(self, recording: Recording) -> str:
        """Make the outcome durable, write it as the pending commit, return its checksum."""

    def promote(self, commit: str) -> None:
        """Make the pending commit current."""

    def end(self, status: dict[str, Any], report: Optional[dict[str, Any]]) -> None:
        """Keep the session's status, and its report where one is given."""

    def forget(self, pair_id: str) -> bool:
        """Set the base of a pair aside; tell whether there was one."""

    def interrupt(self) -> None:
        """Let what runs in another thread end as soon as that is safe."""

    def close(self) -> None:
        """Let go of everything, whatever happened before; no other thread may be at work."""
