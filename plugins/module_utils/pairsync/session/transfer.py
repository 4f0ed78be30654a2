# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The transfer: contents stream from one replica to the other, in both directions at once.

No request waits for a round trip: the list of what is wanted goes to the sender, the list of
what is to be done to the receiver, and contents follow without further questions.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from threading import Event
from typing import Callable, Optional

from ..model.entry import FILE, Entry, parent_of, same_contents
from ..model.errors import PairsyncError
from ..model.pathspec import PathSet
from ..model.plan import (
    A_TO_B,
    B_TO_A,
    BOTH,
    CONFLICT,
    DONE,
    EQUAL,
    ERROR,
    HELD,
    PLANNED,
    PROPS,
    SKIP,
    SKIPPED,
    Item,
)
from ..model.report import Outcome, display
from ..reconcile.actions import Action, agreed
from ..replica.contents import Begin, Done, Piece, Whole
from ..replica.interface import Recording, Replica

Count = Callable[[int, int], None]

NOT_REACHED = "the session broke off; the next one sees how far it came"


@dataclass
class Way:
    """One direction: who sends, who receives, what is done there, and what came of it."""

    source: Replica
    target: Replica
    direction: str
    actions: list[Action]
    incomplete: list[bytes] = field(default_factory=list)
    held: dict[int, Done] = field(default_factory=dict)
    done: dict[int, Done] = field(default_factory=dict)
    sent: Event = field(default_factory=Event)
    after: Optional[Event] = None  # what has to be sent before this way is finished

    def run(self, count: Count, stopped: Callable[[], bool]) -> None:
        """Bring the actions about. count is told of (files, bytes) as they pass."""
        try:
            received = self._send(count, stopped)
        finally:
            self.sent.set()
        if not received:
            return
        if self.after is not None:
            self.after.wait()
        self.done.update((one.number, one) for one in self.target.finish())

    def collect(self) -> None:
        """Take note of what became of actions until now; for any thread."""
        self.done.update((one.number, one) for one in self.target.news())

    def cut_short(self) -> None:
        """Settle what a session that broke off did not come to, or never heard of."""
        with contextlib.suppress(PairsyncError):
            self.collect()
        for action in self.actions:
            self.done.setdefault(action.number, Done(action.number, SKIPPED, NOT_REACHED))

    def _send(self, count: Count, stopped: Callable[[], bool]) -> bool:
        """Send all contents; False when there is nothing to do at all."""
        actions = [action for action in self.actions if action.number not in self.held]
        self.done.update(self.held)
        if not actions:
            return False
        self.target.receive(actions, self.incomplete)
        wanted = [(action.number, action.path) for action in actions if action.takes_contents]
        if wanted:
            for record in self.source.send(wanted):
                if stopped():
                    raise KeyboardInterrupt
                self.target.feed(record)
                if isinstance(record, (Whole, Piece)):
                    count(0 if isinstance(record, Piece) else 1, len(record.data))
                elif isinstance(record, Begin):
                    count(1, 0)
        return True


def sizes(actions: list[Action]) -> list[int]:
    """How many files have to be sent, and how many bytes."""
    files = [one.want for one in actions if one.takes_contents and one.want is not None]
    return [len(files), sum(entry.size for entry in files)]


def order_crossing(one: Way, other: Way) -> None:
    """Send contents one way before the same file's permissions come the other way.

    Its sender would take the new permissions for an edit.
    """
    for way, back in ((one, other), (other, one)):
        props = {action.path for action in way.actions if action.props_only}
        if props and any(action.path in props for action in back.actions):
            way.after = back.sent


def hold_pointers(items: list[Item], ways: tuple[Way, Way], last: PathSet) -> None:
    """Hold pointers that moved during the scan, and deletions around what a pointer may name.

    last: the policy's pointer files. A pointer that stays as it is, on both sides, may name what
    a deletion would take away; so may one that was not as it is now when it was looked at.
    """
    left: dict[bytes, str] = {}  # directories with a pointer that nobody brings over
    for item in items:
        if not _is_left(item):
            continue
        for part in item.parts:
            if last.matches(part.path) and not same_contents(part.a, part.b):
                left.setdefault(parent_of(part.path), f"held with {display(part.path)}")
    for way in ways:
        moved = set()
        around = dict(left)
        for index, item in enumerate(items):
            if not item.unsettled or item.decision != way.direction:
                continue
            moved.add(index)
            gone = (item.parts[0].a if way.direction == A_TO_B else item.parts[0].b) is None
            what = "a pointer file beside or above it" if gone else display(item.path)
            around[parent_of(item.path)] = f"held with {what}, which changed during the scan"
        if not moved and not around:
            continue
        for action in way.actions:
            reason = _around(action.path, around)
            if reason and (action.item in moved or action.want is None):
                way.held[action.number] = Done(action.number, HELD, reason)


def _around(path: bytes, reasons: dict[bytes, str]) -> str:
    """The reason of the nearest directory above a path that has one; "" when none has."""
    while path:
        path = parent_of(path)
        if path in reasons:
            return reasons[path]
    return ""


def _is_left(item: Item) -> bool:
    """Tell whether contents of an item stay different, and a person would have to act on that."""
    return item.decision in (ERROR, CONFLICT, SKIP) and item.column != PROPS and not item.note


def incomplete_paths(items: list[Item], direction: str) -> list[bytes]:
    """Paths that the source has, the target lacks, and this session does not bring over.

    A pointer to any of them would name what is not there. What both have, in two versions, is
    there: a conflict over a file beside a pointer does not keep the pointer back.
    """
    found = []
    for item in items:
        if not _is_left(item):
            continue
        for part in item.parts:
            source, target = (part.a, part.b) if direction == A_TO_B else (part.b, part.a)
            if source is not None and target is None:
                found.append(part.path)
    return found


def outcomes_so_far(items: list[Item], ways: tuple[Way, Way]) -> list[Outcome]:
    """What became of every item in a session that broke off; nothing is agreed on by then."""
    for way in ways:
        way.cut_short()
    return [
        Outcome(one.item, SKIPPED, NOT_REACHED) if one.item.decision == EQUAL else one
        for one in outcomes_of(items, ways)
    ]


def outcomes_of(items: list[Item], ways: tuple[Way, Way]) -> list[Outcome]:
    """What became of every item of the plan."""
    by_item: dict[int, list[Done]] = {}
    for way in ways:
        for action in way.actions:
            by_item.setdefault(action.item, []).append(way.done[action.number])
    return [_outcome(item, by_item.get(index, [])) for index, item in enumerate(items)]


def _outcome(item: Item, results: list[Done]) -> Outcome:
    if item.decision == ERROR:
        return Outcome(item, "failed")
    if item.decision == EQUAL:
        return Outcome(item, DONE)
    if item.decision not in (A_TO_B, B_TO_A):
        return Outcome(item, SKIPPED)
    size = sum(done.size for done in results)
    for done in results:
        if done.result != DONE:
            return Outcome(item, done.result, done.reason, size)
    grew = any(done.proof is not None and done.proof.grew for done in results)
    said = [done.reason for done in results if done.reason]
    if grew:
        said.append("grew while it was read; the rest follows next time")
    return Outcome(item, DONE, "; ".join(said), size)


def planned(items: list[Item]) -> list[Outcome]:
    """What a dry run says of every item."""
    return [Outcome(item, "failed" if item.decision == ERROR else PLANNED) for item in items]


def recording(
    items: list[Item], ways: tuple[Way, Way], commit: str, dropped: list[bytes], coverage: str
) -> tuple[Recording, Recording]:
    """What a and b have to record so that both bases become the same.

    dropped: base paths that either side found to be ignored now.
    """
    rows: dict[bytes, Optional[Entry]] = dict.fromkeys(dropped)
    keep: set[bytes] = set()
    leave: tuple[list[int], list[int]] = ([], [])  # received by b, received by a
    actions: dict[tuple[int, bytes], tuple[Action, Way]] = {
        (action.item, action.path): (action, way) for way in ways for action in way.actions
    }
    for index, item in enumerate(items):
        for part in item.parts:
            if item.decision == EQUAL and item.column == BOTH:
                continue
            if item.decision not in (A_TO_B, B_TO_A, EQUAL):
                keep.add(part.path)
                continue
            action, way = actions.get((index, part.path), (None, None))
            if action is None or way is None:
                if item.decision == EQUAL:
                    keep.add(part.path)
                    _set(rows, part.path, agreed(rows.get(part.path, part.base), part, item))
                continue
            done = way.done[action.number]
            if done.result != DONE:
                keep.add(part.path)
            elif done.proof is not None and done.proof.grew and action.by_reference:
                # Not what the sender scanned, so it cannot record its own change.
                keep.add(part.path)
                rows[part.path] = _arrived(action.want, done)
                leave[0 if way.direction == A_TO_B else 1].append(action.number)
            elif not action.by_reference:
                keep.add(part.path)
                _set(
                    rows,
                    part.path,
                    _arrived(agreed(rows.get(part.path, part.base), part, item), done),
                )
                leave[0 if way.direction == A_TO_B else 1].append(action.number)
    explicit = list(rows.items())
    kept = sorted(keep)
    return (
        Recording(commit, explicit, kept, leave[1], coverage),
        Recording(commit, explicit, kept, leave[0], coverage),
    )


def _set(rows: dict[bytes, Optional[Entry]], path: bytes, row: Optional[Entry]) -> None:
    if row is not None or path in rows:
        rows[path] = row


def _arrived(row: Optional[Entry], done: Done) -> Optional[Entry]:
    """A row with the size and digest of what was really received."""
    if row is None or row.kind != FILE or done.proof is None:
        return row
    return row._replace(size=done.proof.size, digest=done.proof.digest)
