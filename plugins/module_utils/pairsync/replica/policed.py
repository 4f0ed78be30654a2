# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica behind a policy: every operation of a session passes here before it is done.

The peer is not trusted: it may hold a stolen key and speak the protocol perfectly. What it asks
for is compared with what the kernel says was opened, never with what the request looks like.
"""

from __future__ import annotations

import calendar
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Optional

from ..model.agent_policy import AgentPolicy
from ..model.entry import Entry
from ..model.errors import PairsyncError
from ..model.policy import SMALL_DELETION, Retention
from ..model.report import display
from ..reconcile.actions import Action
from . import fsops
from .contents import Done, Piece, Record, Whole
from .interface import BaseState, Beginning, Opened, Recording, Replica, Scanned

_RUN = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]{1,16}")
_DAY = 86400
# Versions beyond this number of one path would go, had they not gone by age long before.
_ANY_NUMBER = 10**6


class PolicedReplica:
    """A replica that does what its policy allows and nothing else. See interface.Replica."""

    def __init__(self, inner: Replica, policy: AgentPolicy) -> None:
        self._inner = inner
        self._policy = policy
        self._roots = {os.fsencode(root) for root in policy.roots}
        self._rows = 0
        self._deleted = 0
        self._entries = 0
        self._bytes = 0

    @property
    def wire_bytes(self) -> int:
        """See interface.Replica."""
        return self._inner.wire_bytes

    @property
    def weak(self) -> bool:
        """See interface.Replica."""
        return self._inner.weak

    # -- which root -----------------------------------------------------------------------------

    def open(self, path: str) -> Opened:
        """See interface.Replica; any other root than the policy's is refused, there or not."""
        root = self._root_of(path)
        if root is None:
            raise self._refusal(
                f"this key does not open {display(os.fsencode(path))}",
                f"it is for {', '.join(display(one) for one in sorted(self._roots))}:"
                " name that directory, or install the key of the pair that is meant",
            )
        return self._checked(self._inner.open(os.fsdecode(root)), root)

    def create(self) -> Opened:
        """See interface.Replica."""
        self._may_receive()
        return self._checked(self._inner.create())

    def _root_of(self, path: str) -> Optional[bytes]:
        """The policy's root that a path leads to, or None. The kernel resolves it, not this."""
        wanted = os.path.join(os.getcwdb(), os.fsencode(os.path.expanduser(path)))
        if b"\0" in wanted:
            return None
        try:
            real = _resolved(wanted)
        except FileNotFoundError:
            above, name = os.path.split(wanted.rstrip(b"/"))
            if name in (b"", b".", b".."):
                return None
            try:
                real = os.path.join(_resolved(above), name)
            except OSError:
                real = wanted
        except OSError:
            real = wanted  # if it is the policy's, opening it says what is wrong
        return real if real in self._roots else None

    def _checked(self, opened: Opened, root: Optional[bytes] = None) -> Opened:
        """What was opened, if it is what was to be: it may have become a symlink meanwhile."""
        real = os.fsencode(opened.path)
        if real not in self._roots or root not in (None, real):
            raise self._refusal(
                f"{display(root or real)} leads somewhere else now", "make it a directory again"
            )
        known = opened.peers
        if self._policy.pair:  # what other pairs there are is not this peer's business
            known = tuple(peer for peer in known if peer.get("pair") == self._policy.pair)
        return opened._replace(peers=known)

    # -- what may be done there -----------------------------------------------------------------

    def begin(self, beginning: Beginning) -> BaseState:
        """See interface.Replica; with a backup that the session can lengthen, not shorten."""
        self._check_peer(beginning)
        self._check_clock(beginning.run)
        policy = replace(beginning.policy, backup=self._retention(beginning.policy.backup))
        state = self._inner.begin(beginning._replace(policy=policy))
        self._rows = state.rows
        return state

    def _check_peer(self, beginning: Beginning) -> None:
        policy = self._policy
        known = ((policy.pair, beginning.pair_id), (policy.replica, beginning.peer.replica_id))
        for mine, theirs in known:
            if mine and theirs != mine:
                raise self._refusal(
                    "this key belongs to another pair of replicas than the session's",
                    "if a replica got a new id on purpose, install the key again",
                )

    def _check_clock(self, run: str) -> None:
        """The name of a run says how old its backup is, and the session makes the name."""
        match = _RUN.fullmatch(run)
        if match is None:
            raise self._refusal("the session's run has a name that says no time", "")
        then = calendar.timegm(time.strptime(match.group(1), "%Y%m%dT%H%M%SZ"))
        if abs(then - time.time()) > _DAY:
            raise self._refusal(
                "the clocks of the two hosts are more than a day apart", "set them right"
            )

    def _retention(self, wanted: Retention) -> Retention:
        """What a session wants, but at least what the policy says, and a day for the clocks."""
        policy = self._policy
        return replace(
            wanted,
            enabled=True,
            # Whoever may replace a file may do so any number of times: no number protects.
            keep=_ANY_NUMBER if policy.days else max(wanted.keep, policy.keep),
            days=max(wanted.days, policy.days) + 1,
            # Nor does a size: nothing young goes to make room for what is worth less.
            max_size="100%",
            min_free="0",
        )

    def receive(self, actions: list[Action], incomplete: list[bytes]) -> None:
        """See interface.Replica."""
        if actions:
            self._may_receive()
        self._entries += len(actions)
        self._deleted += sum(action.want is None for action in actions)
        policy = self._policy
        if policy.entries and self._entries > policy.entries:
            raise self._refusal(
                f"one session may bring {policy.entries} changes to this host, not {self._entries}",
                "raise `entries` in the policy on this host",
            )
        most = max(SMALL_DELETION, self._rows * policy.max_delete // 100)
        if policy.max_delete < 100 and self._deleted > most:
            raise PairsyncError(
                "mass_change",
                f"{self._deleted} of {self._rows} entries would be deleted, more than the"
                f" {policy.max_delete} % that this host's policy for {policy.label} allows",
                "delete them on this host, or raise `max_delete` in the policy there",
            )
        self._inner.receive(actions, incomplete)

    def feed(self, record: Record) -> None:
        """See interface.Replica."""
        if isinstance(record, (Whole, Piece)):
            self._bytes += len(record.data)
            if self._policy.bytes and self._bytes > self._policy.bytes:
                raise self._refusal(
                    f"one session may bring {self._policy.bytes} bytes to this host",
                    "raise `bytes` in the policy on this host",
                )
        self._inner.feed(record)

    def send(self, wanted: list[tuple[int, bytes]]) -> Iterator[Record]:
        """See interface.Replica."""
        if wanted and not self._policy.send:
            raise self._refusal("this key may bring changes, not take contents", "use mode: push")
        return self._inner.send(wanted)

    def forget(self, pair_id: str) -> bool:
        """See interface.Replica; never allowed."""
        del pair_id
        raise self._refusal(
            "this key cannot make a host forget a pair", "run `pairsync forget` on that host"
        )

    def _may_receive(self) -> None:
        if not self._policy.receive:
            raise self._refusal("this key may read, not change anything", "use mode: mirror")

    def _refusal(self, what: str, following: str) -> PairsyncError:
        return PairsyncError("policy", f"{what} (policy of {self._policy.label})", following)

    # -- what needs no leave --------------------------------------------------------------------

    def shares(self, nonce: str, *, write: bool) -> bool:
        """See interface.Replica."""
        return self._inner.shares(nonce, write=write)

    def scan(self, base: str) -> Scanned:
        """See interface.Replica."""
        return self._inner.scan(base)

    def details(
        self, files: list[bytes], directories: list[bytes]
    ) -> tuple[list[tuple[bytes, Entry]], list[bytes]]:
        """See interface.Replica."""
        return self._inner.details(files, directories)

    def news(self) -> list[Done]:
        """See interface.Replica."""
        return self._inner.news()

    def finish(self) -> list[Done]:
        """See interface.Replica."""
        return self._inner.finish()

    def record_so_far(
        self, commit: str, rows: list[tuple[bytes, Optional[Entry]]], coverage: str
    ) -> str:
        """See interface.Replica."""
        return self._inner.record_so_far(commit, rows, coverage)

    def record(self, recording: Recording) -> str:
        """See interface.Replica."""
        return self._inner.record(recording)

    def promote(self, commit: str) -> None:
        """See interface.Replica."""
        self._inner.promote(commit)

    def end(self, status: dict[str, Any], report: Optional[dict[str, Any]]) -> None:
        """See interface.Replica."""
        self._inner.end(status, report)

    def interrupt(self) -> None:
        """See interface.Replica."""
        self._inner.interrupt()

    def close(self) -> None:
        """See interface.Replica."""
        self._inner.close()


def _resolved(path: bytes) -> bytes:
    """Where a path really leads; raises OSError."""
    fd = fsops.open_root(path)
    try:
        return fsops.real_path(fd)
    finally:
        fsops.close(fd)
