# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two things at once, one for each replica."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, Callable, Optional, TypeVar

T = TypeVar("T")
U = TypeVar("U")

PATIENCE_SECONDS = 60.0  # for a step that hangs in a system call

_Answer = tuple[int, Any, Optional[BaseException]]


def both(
    on_a: Callable[[], T],
    on_b: Callable[[], U],
    stop: Callable[[], None],
    abandon: Callable[[], None],
) -> tuple[T, U]:
    """Run both and return both results; raise the first error.

    stop asks the other one to end when one has failed, or when this is interrupted. abandon is
    called when it does not end, or when waiting for that is interrupted as well: what it works on
    must be left alone then.
    """
    answers: queue.Queue[_Answer] = queue.Queue()

    def run(place: int, function: Callable[[], Any]) -> None:
        try:
            answers.put((place, function(), None))
        except BaseException as error:
            answers.put((place, None, error))

    for place, function in enumerate((on_a, on_b)):
        threading.Thread(target=run, args=(place, function), name="ab"[place], daemon=True).start()
    results: list[Any] = [None, None]
    left = 2
    try:
        while left:
            place, value, error = answers.get()
            left -= 1
            results[place] = value
            if error is not None:
                raise error
    except BaseException:
        try:
            stop()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while left and time.monotonic() < deadline:
                try:
                    answers.get(timeout=0.1)
                    left -= 1
                except queue.Empty:
                    continue
        finally:
            if left:
                abandon()
        raise
    return results[0], results[1]
