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

from ..module_utils.pairsync.frontends.lines import header, plan_lines
from . import rendering

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .remote import Process

# Also ends the run over all further pairs.
_QUIT = "q"


class Follower:
    """What has been seen of a session so far.

    interactive: whether there is somebody to ask. relayed: whether contents pass through this
    machine, which is then said before the plan is approved. planned: a plan was shown. left: the
    person said `q` or pressed Ctrl-C.
    """

    def __init__(self, *, interactive: bool, relayed: bool = False) -> None:
        self.interactive = interactive
        self.relayed = relayed
        self.planned = False
        self.left = False
        self.report: dict[str, Any] | None = None
        self._items: list[Mapping[str, Any]] = []

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

    def _on_warning(self, event: Mapping[str, Any], _process: Process) -> None:
        self._say(f"warning: {rendering.escape(event.get('message', ''))}", sys.stderr)

    def _on_note(self, event: Mapping[str, Any], _process: Process) -> None:
        self._say(rendering.escape(event.get("message", "")))

    def _on_item(self, event: Mapping[str, Any], _process: Process) -> None:
        self._items.append(event)

    def _on_plan(self, event: Mapping[str, Any], _process: Process) -> None:
        self.planned = True
        if self._items:
            self._say(rendering.escape(header(event.get("labels") or {})))
        for line in plan_lines(self._items):
            rendering.say(rendering.escape(line))
        size = sum(int(item.get("bytes") or 0) for item in self._items)
        if self.relayed and size:
            rendering.say(f"{rendering.amount(size)} pass through this machine")
        self._items = []

    def _on_question(self, event: Mapping[str, Any], process: Process) -> None:
        self._status("")
        answers = [str(one) for one in event.get("answers") or ("y", "n")]
        answer = self._asked(rendering.escape(event.get("text", "")), answers)
        if answer == _QUIT:
            self.left = True
        if answer not in answers:
            answer = answers[-1]
        process.send(json.dumps({"id": event.get("id"), "answer": answer}))

    def _asked(self, text: str, answers: Sequence[str]) -> str:
        """Return an answer of the person at the terminal, or `q`; the refusal without one."""
        choices = [*answers, *([] if _QUIT in answers else [_QUIT])]
        while self.interactive:
            try:
                typed = input(f"{text} [{'/'.join(choices)}] ").strip().lower()
            except EOFError:
                return _QUIT
            if typed in choices:
                return typed
        return answers[-1]

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
