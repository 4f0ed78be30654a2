# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event stream as JSON lines, and answers the same way: `--events`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TextIO

from ..model.errors import UsageError
from ..session.events import Event, Question, as_objects


class JsonLines:
    """Writes every event as one line; reads `{"id": N, "answer": TEXT}` for a question."""

    def __init__(self, out: TextIO, answers: TextIO) -> None:
        """out, answers: both text streams, one JSON object a line."""
        self._out = out
        self._answers = answers

    def emit(self, event: Event) -> None:
        """Write one event; a list of items takes a line for each."""
        for value in as_objects(event):
            self._out.write(json.dumps(value, separators=(",", ":")) + "\n")
        self._out.flush()

    def ask(self, question: Question) -> str:
        """Wait for the answer; raise UsageError when there is none that fits."""
        return read_answer(self._answers, question.answers, question.id)


def read_answer(stream: TextIO, answers: Sequence[str], number: int) -> str:
    """Read one answer to the question of this number; raise UsageError when it does not fit."""
    line = stream.readline()
    if not line:
        raise UsageError("nobody answered whether to proceed, so nothing was done", "use `--batch`")
    try:
        data = json.loads(line)
    except ValueError as error:
        raise UsageError("the answer is not a JSON object") from error
    answer = data.get("answer") if isinstance(data, dict) else None
    if answer not in answers or data.get("id", number) != number:
        raise UsageError(f"the answer must be one of {', '.join(answers)}")
    return str(answer)
