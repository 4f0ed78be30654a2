# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Follow one session: show its plan, ask once, show how far it is, and return its report.

It reads the events of `pairsync … --events` and writes answers; where the session runs is not its
business.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from ..module_utils.pairsync.frontends.lines import header, plan_line
from . import rendering

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .remote import Process

# More lines of a plan than this say nothing to a person; the report has them all.
_MOST_LINES = 1000


class Follower:
    """What has been seen of a session so far.

    interactive: whether there is somebody to ask. relayed: whether contents pass through this
    machine, which is then said before the plan is approved.
    """

    def __init__(self, *, interactive: bool, relayed: bool = False) -> None:
        self.interactive = interactive
        self.relayed = relayed
        self.planned = False
        self.left = False
        self.report: dict[str, Any] | None = None
        self._lines: list[str] = []
        self._items = 0
        self._bytes = 0

    def follow(self, process: Process) -> dict[str, Any] | None:
        """Read events until there are no more; return the report, or None when none came.

        A first Ctrl-C asks the session to stop and waits for its report; a second one is not
        caught.
        """
        with rendering.progress() as self._progress, rendering.status() as self._status:
            lines = process.lines()
            while True:
                try:
                    line = next(lines, None)
                except KeyboardInterrupt:
                    if self.left:
                        raise
                    self.left = True
                    process.stop()
                    continue
                if line is None:
                    return self.report
                self._take(line, process)

    def _take(self, line: str, process: Process) -> None:
        """Act on one line; what is no event is shown as it is."""
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError):
            self._say(rendering.escape(line), sys.stderr)
            return
        act = getattr(self, f"_on_{kind}", None)
        if act is not None:
            act(event, process)

    def _say(self, text: str, stream: Any = None) -> None:
        """Write a line in place of the passing status."""
        self._status("")
        rendering.say(text, stream)

    def _on_phase(self, event: Mapping[str, Any], _process: Process) -> None:
        self._status(_PHASES.get(str(event.get("phase")), ""))

    def _on_replica(self, event: Mapping[str, Any], _process: Process) -> None:
        if event.get("created"):
            where = f"{event.get('label')}:{event.get('path')}"
            self._say(f"{rendering.escape(where)} did not exist and is created", sys.stderr)

    def _on_warning(self, event: Mapping[str, Any], _process: Process) -> None:
        self._say(f"warning: {rendering.escape(event.get('message', ''))}", sys.stderr)

    def _on_note(self, event: Mapping[str, Any], _process: Process) -> None:
        self._say(rendering.escape(event.get("message", "")))

    def _on_item(self, event: Mapping[str, Any], _process: Process) -> None:
        self._items += 1
        self._bytes += int(event.get("bytes") or 0)
        if len(self._lines) < _MOST_LINES:
            self._lines.append(rendering.escape(plan_line(event)))

    def _on_plan(self, event: Mapping[str, Any], _process: Process) -> None:
        self.planned = True
        if self._lines:
            self._say(rendering.escape(header(event.get("labels") or {})))
            for line in self._lines:
                rendering.say(line)
        if self._items > len(self._lines):
            rendering.say(f"… and {self._items - len(self._lines)} more")
        if self.relayed and self._bytes:
            rendering.say(f"{rendering.amount(self._bytes)} pass through this machine")

    def _on_question(self, event: Mapping[str, Any], process: Process) -> None:
        answers = [str(one) for one in event.get("answers") or ("y", "n")]
        self._status("")
        answer = _asked(
            rendering.escape(event.get("text", "")), answers, interactive=self.interactive
        )
        process.send(json.dumps({"id": event.get("id"), "answer": answer}))

    def _on_progress(self, event: Mapping[str, Any], _process: Process) -> None:
        self._status("")
        self._progress(event)

    def _on_result(self, event: Mapping[str, Any], _process: Process) -> None:
        if event.get("result") == "failed":
            text = f"failed: {event.get('path')}: {event.get('reason')}"
            self._say(rendering.escape(text), sys.stderr)

    def _on_report(self, event: Mapping[str, Any], _process: Process) -> None:
        self.report = event.get("report")


_PHASES = {
    "connect": "Contacting both hosts …",
    "scan": "Looking for changes …",
    "reconcile": "Comparing …",
    "transfer": "Propagating updates …",
    "record": "Recording …",
}


def _asked(text: str, answers: list[str], *, interactive: bool) -> str:
    """Return one of answers from the person at the terminal; the last one when there is nobody."""
    refusal = answers[-1]
    while interactive:
        try:
            typed = input(f"{text} [{'/'.join(answers)}] ").strip().lower()
        except EOFError:
            break
        for answer in answers:
            if typed and answer.startswith(typed):
                return answer
    return refusal
