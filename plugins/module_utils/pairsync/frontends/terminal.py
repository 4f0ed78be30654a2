# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person sees of a session: the plan, one question, progress, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Optional, TextIO, Union

from ..model.errors import UsageError
from ..model.plan import A_TO_B, B_TO_A, DONE, EQUAL, FAILED, HELD, MERGE, SKIPPED
from ..model.report import Outcome, item_json
from ..session.events import Event, PlanItems, Results
from .lines import header, plan_lines, reason_line

_REASONS = 200  # items that were not done, listed at the end
_KEYS = {"y": "y", "yes": "y", "n": "n", "no": "n", "q": "q"}


class Terminal:
    """A reader of events that prints, and asks. Also fed with events of a session elsewhere."""

    def __init__(self, out: TextIO, keys: Optional[TextIO] = None) -> None:
        """out: where to print. keys: where answers come from; None when nobody is asked."""
        self._out = out
        self._keys = keys
        self._live = out.isatty()
        self._items: list[Union[Outcome, Mapping[str, Any]]] = []
        self._undone: list[Union[Outcome, Mapping[str, Any]]] = []
        self._drawn = False
        self._began = time.monotonic()

    def emit(self, event: Event) -> None:
        """Take an event of a session in this process."""
        # A first sync has hundreds of thousands of items: they become text only when shown.
        if isinstance(event, PlanItems):
            self._items.extend(event.outcomes)
        elif isinstance(event, Results):
            self._undone.extend(one for one in event.outcomes if one.result != DONE)
        else:
            self.handle(event.as_json())

    def handle(self, event: Mapping[str, Any]) -> None:
        """Take an event as JSON."""
        name = event.get("event")
        if name == "item":
            self._items.append(event)
        elif name == "result":
            if event["result"] != DONE:
                self._undone.append(event)
        elif name == "plan":
            self._plan(event)
        elif name == "progress":
            self._progress(event)
        elif name == "warning":
            self._print(f"warning: {event['message']}")
        elif name == "note":
            self._print(str(event["message"]))
        elif name == "report":
            self._report(event["report"])

    def ask(self, text: str) -> str:
        """Ask, and return `y`, `n` or `q`; raise UsageError when nobody answers."""
        if self._keys is None:
            return "y"
        while True:
            self._clear()
            self._out.write(f"\n{text} [] ")
            self._out.flush()
            line = self._keys.readline()
            if not line:
                self._out.write("\n")
                raise UsageError(
                    "nobody answered whether to proceed, so nothing was done",
                    "run it at a terminal, or with `--batch`",
                )
            answer = _KEYS.get(line.strip().lower())
            if answer:
                return answer
            self._print("y: propagate, n or q: leave everything as it is")

    def _plan(self, event: Mapping[str, Any]) -> None:
        if not self._items:
            return
        self._print("\n" + header(event["labels"]))
        for line in plan_lines(_fields(item) for item in self._items):
            self._print(line)
        if len(self._items) > 1:
            self._print("\n" + "\n".join(event["summary"]))

    def _progress(self, event: Mapping[str, Any]) -> None:
        if not self._live:
            return
        done, total = event["bytes"], event["bytes_total"]
        percent = 100 * done // total if total else 100
        seconds = max(time.monotonic() - self._began, 0.001)
        rate = f"{size_text(int(done / seconds))}/s"
        files = f"{event['items']}/{event['items_total']} files"
        text = f"{percent:3d}%  {files}  {size_text(done)} of {size_text(total)}  {rate}"
        self._out.write(f"\r\x1b[K{text}")
        self._out.flush()
        self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            self._out.write("\r\x1b[K")
            self._drawn = False

    def _report(self, report: Mapping[str, Any]) -> None:
        self._clear()
        if report["error"] is not None or report["dry_run"]:
            return
        for item in self._undone[:_REASONS]:
            self._print(reason_line(_fields(item)))
        if len(self._undone) > _REASONS:
            self._print(f"  … and {len(self._undone) - _REASONS} more")
        self._print(ending(report))

    def _print(self, text: str) -> None:
        self._clear()
        self._out.write(text + "\n")
        self._out.flush()


def ending(report: Mapping[str, Any]) -> str:
    """The last line about a session, as Unison words it."""
    if report["collapsed"]:
        return "Nothing to do: both hosts see the same directory."
    totals: dict[str, int] = {}
    moved = 0
    for decision, results in report["counts"].items():
        for result, number in results.items():
            if decision in (A_TO_B, B_TO_A, MERGE) and result == DONE:
                moved += number
            elif decision != EQUAL:
                totals[result] = totals.get(result, 0) + number
    skipped, failed = totals.get(SKIPPED, 0) + totals.get(HELD, 0), totals.get(FAILED, 0)
    if not moved and not skipped and not failed:
        if report["counts"].get(EQUAL):
            return (
                "Nothing to do: replicas have been changed only in identical ways since last sync."
            )
        return "Nothing to do: replicas have not changed since last sync."
    word = "complete" if report["exit"] == 0 else "incomplete"
    parts = f"{moved} items transferred, {skipped} skipped, {failed} failed"
    return f"Synchronization {word} in {report['seconds']:.1f} s  ({parts})"


def _fields(item: Union[Outcome, Mapping[str, Any]]) -> Mapping[str, Any]:
    return item_json(item) if isinstance(item, Outcome) else item


def size_text(number: int) -> str:
    """A number of bytes as people read it."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
