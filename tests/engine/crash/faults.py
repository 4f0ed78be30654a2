# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fault sweep: let every call fail with every error it can give, once and for good.

As a program: `python -m tests.engine.crash.faults SCENE all|telling [PART PARTS]` sweeps a scene
with all errors, or with one of each kind that the engine can tell apart, and prints JSON; with
`case THREAD NUMBER ERRNO KEEPS` after the scene it tries one case.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from pairsync.model.entry import Entry
from pairsync.model.errors import CODES
from pairsync.model.report import display
from tests.engine.crash.errors import (
    GONE,
    PASSING,
    RESOURCES,
    TELLING,
    is_about_all,
    kind,
    possible,
    stays,
)
from tests.engine.crash.looks import (
    Look,
    Spot,
    base_rows,
    complaints,
    entry_of,
    look,
    lost,
    mixtures,
)
from tests.engine.crash.scenes import SCENES
from tests.engine.crash.seam import Call, Counting, Point
from tests.engine.crash.stand import Said, Stand, stand
from tests.engine.trees import STATE

ONCE, FOR_GOOD = "once", "for good"


class Case(NamedTuple):
    """One fault: where, which error, whether it stays; and the call it hits, for people."""

    point: Point
    error: int
    keeps: str
    call: str
    kind: str

    def __str__(self) -> str:
        return f"{errno.errorcode[self.error]} {self.keeps} at {self.call}"


class Fault:
    """A hook that lets one call fail, and those like it if the fault is for good."""

    def __init__(self, case: Case, roots: tuple[bytes, ...]) -> None:
        self._case = case
        self._counting = Counting()
        self._roots = roots
        self._root = b""
        self.hit = b""  # the path that it came at

    def __call__(self, call: Call) -> Any:
        point, case = self._counting.next(), self._case
        if point == case.point and kind(call) == case.kind:
            self.hit = call.path()
            self._root = next((root for root in self._roots if self.hit.startswith(root)), b"")
        elif not (
            self.hit
            and case.keeps == FOR_GOOD
            and stays(case.error, (case.kind, self.hit), call, self._root)
        ):
            return call.run()
        if call.name == "close":
            call.run()  # the descriptor is gone whatever it says
        raise OSError(case.error, os.strerror(case.error))


class Listing:
    """A hook that notes every case."""

    def __init__(self, errors: frozenset[int] | None) -> None:
        """errors: only these, or None for all."""
        self.cases: list[Case] = []
        self._errors = errors
        self._counting = Counting()

    def __call__(self, call: Call) -> Any:
        point = self._counting.next()
        for error in possible(call):
            if self._errors is None or error in self._errors:
                for keeps in (ONCE,) if error in PASSING else (ONCE, FOR_GOOD):
                    case = Case(point, error, keeps, str(call), kind(call))
                    self.cases.append(case)
        return call.run()


def cases(here: Stand, errors: frozenset[int] | None) -> list[Case]:
    here.reset()
    ended = here.session(Listing(errors))
    assert ended.code == 0
    return ended.value[1].cases


def fault(here: Stand, case: Case) -> list[str]:
    """Try one case; what is wrong then."""
    roots = tuple(os.fsencode(root) for root in here.pair.roots)
    here.reset()
    ended = here.session(Fault(case, roots))
    if ended.code != 0:
        return [f"the process ended with {ended.code}"]
    said, hook = ended.value
    if not hook.hit:
        return ["the call was not made"]
    found = lost(here.before, here.pair) + mixtures(here.before, here.after, here.pair)
    found += _reported(here, case, hook.hit, said)
    again = here.session()
    if again.code != 0:
        return [*found, f"without the fault, the next run ended with {again.code}"]
    if again.value[0].exit != here.said.exit:
        found.append(f"without the fault, the next run said {again.value[0]}")
    return found + complaints(here.before, here.after, look(here.pair, bases=True))


def _reported(here: Stand, case: Case, hit: bytes, said: Said) -> Iterator[str]:
    """Whether what the session says is true, and what it records."""
    if said.exit == 3:
        error = said.error or {}
        if error.get("code") not in CODES or not error.get("message") or not error.get("next"):
            yield f"no sentence with a next step: {error}"
        # A taken name in a directory that only we write to is nothing that a system does.
        if error.get("code") == "internal" and case.error != errno.EEXIST:
            yield f"a fault of the system is called one of pairsync: {error['message']}"
    elif said.error:
        yield f"exit code {said.exit} with an error: {said.error}"
    elif said.exit < here.said.exit:
        yield f"exit code {said.exit}"
    now = look(here.pair)
    left = {path for path, (__, result) in said.items.items() if result not in ("done", "planned")}
    if said.exit < 3:
        usual = {path for path, (__, result) in here.said.items.items() if result != "done"}
        if not (case.error in GONE and _in_tree(here, hit)):
            # Else it is the truth for all that a session can know.
            yield from _others(here, now, left - usual)
        # What both need, such as the backup or another open file, hits more than one when it stays.
        if case.keeps == ONCE or (_in_tree(here, hit) and case.error not in RESOURCES):
            yield from _related(here, hit, said, left - usual)
        if said.exit == here.said.exit and left - usual:
            yield f"exit code {said.exit}, and left: {sorted(left - usual)}"
    cleared = ("unlink", "rmdir", "chmod")  # which what is left in the stage is removed by
    removed = case.kind in cleared and b"/.pairsync/stage/" in hit
    if is_about_all(case.error, case.kind) and _holds_contents(here, hit) and not removed:
        code = (said.error or {}).get("code")
        if (said.exit, code) != (3, "space"):
            yield f"the file system is in trouble, and the session said {said}"
    yield from _recorded(here, now, said)


def _others(here: Stand, now: Look, left: set[str]) -> Iterator[str]:
    """Every path that is not reported is as if nothing had happened."""
    for place, side in enumerate("ab"):
        wanted, got = here.after.trees[place], now.trees[place]
        for path in sorted({*wanted, *got}):
            if path in left or any(_below(path, top) or _below(top, path) for top in left):
                continue
            if wanted.get(path) != got.get(path):
                yield f"not reported: {path} of {side} is {got.get(path)}, not {wanted.get(path)}"


def _related(here: Stand, hit: bytes, said: Said, left: set[str]) -> Iterator[str]:
    """Only what lies at, above or below the path of the call is left; and what waits for it."""
    left = {path for path in left if said.items[path][1] != "held"}
    inside = _in_tree(here, hit)
    if inside:
        tops = {display(inside)}
    else:
        tops = {path for path in left if not any(_below(path, other) for other in left)}
        if len(tops) > 1:
            yield f"more than one path is affected: {sorted(left)}"
    for path in sorted(left):
        if not any(path == top or _below(path, top) or _below(top, path) for top in tops):
            yield f"{path} has nothing to do with the fault"


def _in_tree(here: Stand, hit: bytes) -> bytes:
    """The path of a call in its replica; empty for what is not a person's."""
    roots = [os.fsencode(root) + b"/" for root in here.pair.roots]
    inside = next((hit[len(root) :] for root in roots if hit.startswith(root)), b"")
    return b"" if inside.startswith(b".pairsync") else inside


def _holds_contents(here: Stand, hit: bytes) -> bool:
    """Whether a call is about a person's files: in the tree, on their way, or kept."""
    ours = [os.fsencode(root / STATE) for root in here.pair.roots]
    places = [one + place for one in ours for place in (b"/stage/", b"/backup/")]
    return bool(_in_tree(here, hit)) or hit.startswith(tuple(places))


def _recorded(here: Stand, now: Look, said: Said) -> Iterator[str]:
    """No base speaks of what is not so on both sides."""
    if not all(here.pair.base_files(root) for root in here.pair.roots):
        return
    for root, side in zip(here.pair.roots, "ab", strict=True):
        rows = base_rows(here.pair, root)
        for path in sorted({*rows, *here.base}):
            row = rows.get(path)
            if row == here.base.get(path):
                continue
            for tree in (0, 1):
                if not _agrees(row, now.trees[tree].get(path)):
                    yield f"recorded in {side}, but not so: {path} = {row} ({said})"
                    break


def _agrees(row: Entry | None, spot: Spot | None) -> bool:
    """Permissions that both sides have of their own are recorded as unknown."""
    if row is None or spot is None:
        return row is None and spot is None
    there = entry_of(spot)
    return row in (there, there._replace(mode=None))


def _below(inner: str, outer: str) -> bool:
    return inner.startswith(outer + "/")


def sweep(name: str, which: str, part: int = 0, parts: int = 1) -> dict[str, Any]:
    """Try every case of a scene, or every PARTS-th; how many there are, and what went wrong."""
    started = time.monotonic()
    failures = []
    with stand(SCENES[name]) as here:
        found = cases(here, TELLING if which == "telling" else None)[part::parts]
        for case in found:
            wrong = fault(here, case)
            if wrong:
                at = [*case.point, case.error, case.keeps]
                failures.append([str(case), at, wrong])
    seconds = round(time.monotonic() - started, 1)
    return {"cases": len(found), "failures": failures, "seconds": seconds}


def main(name: str, which: str, *words: str) -> dict[str, Any]:
    if which != "case":
        return sweep(name, which, *map(int, words))
    thread, number, error, keeps = words
    with stand(SCENES[name]) as here:
        wanted = (Point(thread, int(number)), int(error), keeps)
        case = next(one for one in cases(here, None) if one[:3] == wanted)
        return {"case": str(case), "wrong": fault(here, case)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:]), indent=1) + "\n")
