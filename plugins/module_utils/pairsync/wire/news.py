# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How an agent tells, while it receives, what became of actions: the acknowledgement of a batch.

Nobody waits for it. It is what a session knows when it is cut short, and what it may record
before its end. What was simply done, the rule, takes a few bytes for a whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..model.plan import DONE
from ..replica.contents import Done
from . import codec


def write_news(news: Iterable[Done]) -> bytes:
    """Results as they came: runs of numbers that were simply done, then all others."""
    runs: list[list[int]] = []
    others: list[Done] = []
    for done in news:
        if done.result != DONE or done.reason:
            others.append(done)
        elif runs and runs[-1][0] + runs[-1][1] == done.number:
            runs[-1][1] += 1
        else:
            runs.append([done.number, 1])
    writer = codec.Writer()
    writer.number(len(runs))
    for first, count in runs:
        writer.number(first)
        writer.number(count)
    writer.raw(codec.write_list(others, codec.write_done))
    return writer.done()


def read_news(data: bytes, host: str, most: int) -> list[Done]:
    """What write_news wrote, without proofs; at most so many results, else ProtocolError."""
    reader = codec.Reader(data, host)
    found: list[Done] = []
    for __ in range(reader.count()):
        first, count = reader.number(), reader.number()
        if count > most - len(found):
            raise reader.fault("more results than it was given actions")
        found.extend(Done(number, DONE) for number in range(first, first + count))
    found.extend(codec.read_list(reader.rest(), host, codec.read_done))
    if len(found) > most:
        raise reader.fault("more results than it was given actions")
    return found
