# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every short history of two people and two paths, and a crash at every point of the sync after it.

The paths are a directory and a file in it, where most can go wrong between two. Histories that
leave the same trees are one.

As a program: `python -m tests.engine.crash.histories LENGTH all|steps [PART PARTS]` goes through
those of at most LENGTH operations, or through every PARTS-th one, and prints JSON; `steps` crashes
only right after each call that gives, takes or changes a name, and after each commit.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.engine.crash.scenes import Like, Make
from tests.engine.crash.seam import Point
from tests.engine.crash.stand import stand
from tests.engine.crash.sweep import AFTER, crash, points
from tests.engine.trees import Pair, write_tree


class Side(NamedTuple):
    """One side's `d` and `d/f`.

    d: "" for nothing, "file" or "dir". inner: what d/f is: "", "old" or "new". closed: others may
    not look into d.
    """

    d: str
    inner: str = ""
    closed: bool = False


NOTHING, AGREED = Side(""), Side("dir", "old")
OPERATIONS = ("write", "delete", "remove", "file", "make", "close")

# calls after which another process can see something new of a person's or of what is kept
_STEPS = ("renameat2", "rename", "link", "unlink", "rmdir", "mkdir", "symlink", "chmod", "COMMIT")
_OURS = ("/log", ".json", "/lock", "/probe", "/pairs")


def done(side: Side, operation: str) -> Side:
    """What an operation makes of a side; the side itself where it is not possible."""
    if operation == "file":
        return Side("file")
    if operation == "remove":
        return NOTHING
    if operation == "make":
        return Side("dir") if side.d == "" else side
    if side.d != "dir":
        return side
    if operation == "write":
        return side._replace(inner="new")
    if operation == "delete":
        return side._replace(inner="")
    return side._replace(closed=True)


def outcomes(begin: Side, length: int) -> list[tuple[Side, Side]]:
    """What both sides can be after at most so many operations, in the order of their number."""
    found = [(begin, begin)]
    for __ in range(length):
        for a, b in list(found):
            for operation in OPERATIONS:
                for pair in ((done(a, operation), b), (a, done(b, operation))):
                    if pair not in found:
                        found.append(pair)
    return found


def _scene(begin: Side, sides: tuple[Side, Side]) -> Make:
    def make(pair: Pair) -> Like:
        write_tree(pair.a, {"kept": "kept"})
        if begin == AGREED:
            write_tree(pair.a, {"d/f": "old"})
            assert pair.sync().exit == 0
        for name, root, side in zip("ab", pair.roots, sides, strict=True):
            _bring(root, side, name)
        return Like(exit=None, policy={"max_delete": 100})

    return make


def _bring(root: Path, side: Side, name: str) -> None:
    top = root / "d"
    if side.d != "dir" and top.is_dir():
        shutil.rmtree(top)
    if side.d == "file":
        top.write_text(f"{name}'s file")
    if side.d != "dir":
        return
    top.mkdir(exist_ok=True)
    if side.inner == "new":
        (top / "f").write_text(f"{name}'s new contents")
    elif not side.inner:
        (top / "f").unlink(missing_ok=True)
    if side.closed:
        top.chmod(0o700)


def _chosen(all_points: list[tuple[Point, str, str]], which: str) -> Iterator[tuple[Any, ...]]:
    for point, step, what in all_points:
        word, __, path = what.partition(" ")
        ours = any(part in path for part in _OURS)
        if which == "all" or (step == AFTER and word in _STEPS and not ours):
            yield point, step, what


def sweep(length: int, which: str, part: int = 0, parts: int = 1) -> dict[str, Any]:
    """Go through them: how many histories and crashes there are, and what went wrong."""
    started = time.monotonic()
    histories = [(begin, end) for begin in (AGREED, NOTHING) for end in outcomes(begin, length)]
    histories = histories[part::parts]
    crashes = 0
    failures = []
    for begin, sides in histories:
        with stand(_scene(begin, sides)) as here:
            for end in "ab":
                for point, step, what in _chosen(points(here, end), which):
                    crashes += 1
                    wrong = crash(here, end, point, step)
                    if wrong:
                        told = f"{begin} -> {sides}: {end} killed {step} {what}"
                        failures.append([told, [*point, step], wrong])
    return {
        "histories": len(histories),
        "crashes": crashes,
        "failures": failures,
        "seconds": round(time.monotonic() - started, 1),
    }


if __name__ == "__main__":
    length, which, *part = sys.argv[1:]
    sys.stdout.write(json.dumps(sweep(int(length), which, *map(int, part)), indent=1) + "\n")
