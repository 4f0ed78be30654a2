# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The crash sweep: end a process at every call, sync again, compare with an undisturbed run.

As a program: `python -m tests.engine.crash.sweep SCENE a|b [THREAD NUMBER STEP]` sweeps one end of
one scene, or shows what is there after one crash, and prints JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.engine.crash.looks import complaints, look, lost, mixtures
from tests.engine.crash.processes import KILLED, Ended
from tests.engine.crash.scenes import SCENES
from tests.engine.crash.seam import Call, Counting, Point
from tests.engine.crash.stand import Stand, stand

BEFORE, TORN, AFTER = "before", "torn", "after"

# How often a point may be missed: what a thread does can depend on how far another one is.
_TRIES = 5


class Kill:
    """A hook that ends the process at one point.

    step: before the call, after it, or in the middle of a write.
    """

    def __init__(self, point: Point, step: str) -> None:
        self._point, self._step = point, step
        self._counting = Counting()

    def __call__(self, call: Call) -> Any:
        if self._counting.next() != self._point:
            return call.run()
        if self._step == AFTER:
            with contextlib.suppress(OSError):
                call.run()
        elif self._step == TORN and call.torn:
            fd, data, *place = call.arguments
            real = getattr(os, call.name)
            real(fd, bytes(data)[: len(data) // 2], *place)
        os._exit(KILLED)


class Recording:
    """A hook that notes every call."""

    def __init__(self) -> None:
        self.points: list[tuple[Point, str, str]] = []
        self._counting = Counting()

    def __call__(self, call: Call) -> Any:
        point = self._counting.next()
        self.points.append((point, BEFORE, str(call)))
        if call.torn:
            self.points.append((point, TORN, str(call)))
        result = call.run()
        if call.changing:
            self.points.append((point, AFTER, str(call)))
        return result


def points(here: Stand, end: str) -> list[tuple[Point, str, str]]:
    """Every point of one end: (which call, step, what it is)."""
    here.reset()
    session, agent = here.session_with_agent(end, Recording())
    assert (session.code, agent.code) == (0, 0), (session, agent)
    assert session.value[0].exit == here.said.exit
    hook = agent.value if end == "b" else session.value[1]
    return hook.points


def crash(here: Stand, end: str, point: Point, step: str) -> list[str]:
    """End one end's process at a point, run the sync again; what is wrong then."""
    for __ in range(_TRIES):
        here.reset()
        session, agent = here.session_with_agent(end, Kill(point, step))
        if (session if end == "a" else agent).code == KILLED:
            break
    found = [*_survivor(here, end, session, agent)]
    found += lost(here.before, here.pair) + mixtures(here.before, here.after, here.pair)
    again = here.session_here()
    if not here.like.exact:
        if again.exit not in (here.said.exit, 1):
            found.append(f"the next run ended with {again}")
        return found + lost(here.before, here.pair)
    if again.exit != here.said.exit:
        found.append(f"the next run ended with {again}")
    return found + _complaints(here)


def _survivor(here: Stand, end: str, session: Ended, agent: Ended) -> Iterator[str]:
    """What the process at the other end made of it."""
    dead, other = (session, agent) if end == "a" else (agent, session)
    if dead.code != KILLED:
        yield f"the process at {end} was not killed: {dead}"
    if other.code != 0:
        yield f"the process at the other end failed: {other}"
    elif end == "b":
        said = other.value[0]
        if said.exit == here.said.exit:
            # All was done before: the agent only had to hang up.
            yield from _complaints(here, ours=False)
        elif said.exit != 3 or not _is_a_sentence(said.error):
            yield f"the session said {said}"


def _complaints(here: Stand, *, ours: bool = True) -> list[str]:
    now = look(here.pair, bases=True)
    if not here.like.keeps:
        now = now._replace(backups=here.after.backups)
    return complaints(here.before, here.after, now if ours else now._replace(ours=here.after.ours))


def _is_a_sentence(error: dict[str, Any] | None) -> bool:
    return bool(
        error
        and error["code"] in ("protocol", "unreachable")
        and error["message"]
        and "\n" not in error["message"]
        and error["next"]
    )


def sweep(name: str, end: str) -> dict[str, Any]:
    """Crash one end of a scene at every point; how many there are, and what went wrong."""
    started = time.monotonic()
    failures = []
    with stand(SCENES[name]) as here:
        found = points(here, end)
        for point, step, what in found:
            wrong = crash(here, end, point, step)
            if wrong:
                failures.append([f"{end} killed {step} {what}", [*point, step], wrong])
    seconds = round(time.monotonic() - started, 1)
    return {"points": len(found), "failures": failures, "seconds": seconds}


def main(name: str, end: str, *at: str) -> dict[str, Any]:
    if not at:
        return sweep(name, end)
    thread, number, step = at
    with stand(SCENES[name]) as here:
        wrong = crash(here, end, Point(thread, int(number)), step)
        now = look(here.pair, bases=True)
        return {"wrong": wrong, "after": str(here.after), "now": str(now)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:]), indent=1) + "\n")
