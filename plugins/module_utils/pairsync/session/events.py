# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one stream of events that every front end reads, as values and as JSON.

Prompt, progress, the Ansible module and `--events` are readers of these and nothing else; the
only way back in is the answer to a Question.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Union

from ..model.errors import printable
from ..model.report import Outcome, display, item_json

SCHEMA = "pairsync.events/1"


@dataclass(frozen=True)
class Hello:
    """The session has begun."""

    version: str
    run: str

    def as_json(self) -> dict[str, Any]:
        """The event as one JSON object."""
        return {"event": "hello", "schema": SCHEMA, "version": self.version, "run": self.run}


@dataclass(frozen=True)
class Phase:
    """What the session does now: connect, scan, reconcile, decide, transfer or record."""

    phase: str

    def as_json(self) -> dict[str, Any]:
        """The event as one JSON object."""
        return {"event": "phase", "phase": self.phase}


@dataclass(frozen=True)
class ReplicaReady:
    """A replica was opened, as it says itself. created: made for this first sync."""

    side: str
    label: str
    host: str
    path: str
    version: str
    build: str
    created: bool

    def as_json(self) -> dict[str, Any]:
        """The event as one JSON object; the path is escaped like those of items."""
        told = {**self.__dict__, "path": display(os.fsencode(self.path))}
        return {"event": "replica", **told, "host": printable(self.host)}


@dataclass(frozen=True)
class ScanDone:
    """A replica was scanned."""

    side: str
    entries: int
    changes: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The event as one JSON object."""
        return {"event": "scanned", **self.__dict__, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Remark:
    """Something a person should know: a warning, or a plain note."""

    message: str
    warning: bool = True

    def as_json(self) -> dict[str, Any]:
        """The event as one JSON object."""
        return {"event": "warning" if self.warning else "note", "message": self.message}


@dataclass(frozen=True)
class PlanItems:
    """The lines of the plan, all at once: a first sync has hundreds of thousands."""

    outcomes: Sequence[Outcome]


@dataclass(frozen=True)
class PlanReady:
    """The plan is complete; its items came before."""

    digest: str
    items_total: int
    counts: Mapping[str, Mapping[str, int]]
    labels: Mapping[str, str]
    summary: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The event as one JSON object."""
        return {
            "event": "plan",
            "digest": self.digest,
            "items_total": self.items_total,
            "counts": self.counts,
            "labels": self.labels,
            "summary": list(self.summary),
        }


@dataclass(frozen=True)
class Question:
    """The session waits for one of these answers."""

    id: int
    text: str
    answers: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The event as one JSON object."""
        return {
            "event": "question",
            "id": self.id,
            "text": self.text,
            "answers": list(self.answers),
        }


@dataclass(frozen=True)
class Progress:
    """How far the transfer is; bytes are those of contents."""

    items: int
    items_total: int
    bytes: int
    bytes_total: int

    def as_json(self) -> dict[str, Any]:
        """The event as one JSON object."""
        return {"event": "progress", **self.__dict__}


@dataclass(frozen=True)
class Results:
    """What became of all items."""

    outcomes: Sequence[Outcome]


@dataclass(frozen=True)
class Finished:
    """The session is over; always the last event."""

    report: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The event as one JSON object."""
        return {"event": "report", "report": self.report}


Event = Union[
    Hello,
    Phase,
    ReplicaReady,
    ScanDone,
    Remark,
    PlanItems,
    PlanReady,
    Question,
    Progress,
    Results,
    Finished,
]
Emit = Callable[[Event], None]
Ask = Callable[[Question], str]


def as_objects(event: Event) -> Iterator[dict[str, Any]]:
    """An event as JSON objects: one for each item of a list, else a single one."""
    if isinstance(event, (PlanItems, Results)):
        name = "item" if isinstance(event, PlanItems) else "result"
        for outcome in event.outcomes:
            yield {"event": name, **item_json(outcome)}
    else:
        yield event.as_json()
