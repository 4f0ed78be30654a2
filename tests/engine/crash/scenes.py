# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Representative syncs: what both replicas hold, and what people did to them since.

Each scene makes its trees and returns what the session over them is like. Every version of a
file has contents of its own, so that it can be told where each has gone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.engine.trees import Link, Pair, write_tree

_LONG_AGO = 1_600_000_000


@dataclass(frozen=True)
class Like:
    """How a session over a scene goes when nothing disturbs it.

    exit: its exit code; None for 0 or 1, whichever it is. policy: fields of Policy. tune:
    attributes of engine modules, so that a tiny tree takes the way of a large one. keeps: what is
    displaced stays beyond the next session. exact: a crash leaves no trace after the next run;
    else it may cost a conflict, but nothing that anybody wrote.
    """

    exit: int | None = 0
    policy: dict[str, Any] = field(default_factory=dict)
    tune: dict[str, Any] = field(default_factory=dict)
    keeps: bool = True
    exact: bool = True


Make = Callable[[Pair], Like]
SCENES: dict[str, Make] = {}


def scene(make: Make) -> Make:
    SCENES[make.__name__] = make
    return make


def _both(pair: Pair, tree: dict[str, Any]) -> None:
    """Let both replicas hold and agree on a tree."""
    write_tree(pair.a, tree)
    result = pair.sync()
    assert result.exit == 0, result.report


def age(pair: Pair) -> None:
    """Give every file and link a time in the past, so that nothing depends on the clock."""
    for root in pair.roots:
        for number, path in enumerate(sorted(root.rglob("*"))):
            if ".pairsync" not in path.parts and (path.is_symlink() or path.is_file()):
                when = _LONG_AGO + number
                os.utime(path, (when, when), follow_symlinks=False)


def _edit(path: Path, text: str) -> None:
    """As editors do: another file of this name."""
    new = path.with_name("new~")
    new.write_text(text)
    new.rename(path)


@scene
def new(pair: Pair) -> Like:
    _both(pair, {"kept": "kept"})
    write_tree(pair.a, {"f": "new f", "d/g": "new g", "d/e/h": "new h", "empty": None})
    write_tree(pair.a, {"l": Link("kept"), "d/m": Link("/nowhere")})
    (pair.a / "d/g").chmod(0o755)
    (pair.a / "d/e").chmod(0o555)
    return Like()


@scene
def replace(pair: Pair) -> Like:
    _both(pair, {"f": "old f", "d/g": "old g", "d/h": "old h", "kept": "kept", "l": Link("old")})
    _edit(pair.a / "f", "new f")
    _edit(pair.a / "d/g", "new g, longer than before")
    (pair.a / "d/h").chmod(0o600)
    (pair.a / "l").unlink()
    (pair.a / "l").symlink_to("new")
    return Like()


@scene
def delete(pair: Pair) -> Like:
    _both(pair, {"f": "f", "d/g": "g", "d/e/h": "h", "d/l": Link("g"), "kept/k": "k"})
    (pair.a / "f").unlink()
    shutil.rmtree(pair.a / "d")
    return Like(policy={"max_delete": 100})


@scene
def types(pair: Pair) -> Like:
    """A directory becomes a file, a file a directory, a link a file, and one directory a link."""
    _both(pair, {"d/g": "g", "d/e/h": "h", "f": "a file", "l": Link("f"), "m/i": "i", "kept": "k"})
    shutil.rmtree(pair.a / "d")
    (pair.a / "d").write_text("a file now")
    (pair.a / "f").unlink()
    (pair.a / "l").unlink()
    write_tree(pair.a, {"f/g": "inside g", "f/e/h": "inside h", "l": "a file, once a link"})
    shutil.rmtree(pair.a / "m")
    (pair.a / "m").symlink_to("f")
    return Like(policy={"max_delete": 100})


@scene
def both_ways(pair: Pair) -> Like:
    """New, replaced, deleted and other permissions in each direction; a conflict is kept."""
    old = {"f": "old f", "g": "old g", "x": "old x", "y": "old y", "c": "old c", "e/p": "p"}
    _both(pair, {**old, "q": "q", "kept": "kept"})
    _edit(pair.a / "f", "new f of a")
    _edit(pair.b / "g", "new g of b")
    (pair.a / "x").unlink()
    (pair.b / "y").unlink()
    (pair.a / "e/p").chmod(0o600)
    (pair.b / "q").chmod(0o600)
    _edit(pair.a / "c", "a's c")
    _edit(pair.b / "c", "b's other c")
    write_tree(pair.a, {"n/a": "new of a", "same": "same"})
    write_tree(pair.b, {"m/b": "new of b", "same": "same"})
    return Like(exit=1)


@scene
def preferred(pair: Pair) -> Like:
    """Conflicts that the policy decides: the losers are in the backup."""
    _both(pair, {"c": "old c", "d/g": "old g", "gone": "old gone", "kept": "kept"})
    _edit(pair.a / "c", "a's c")
    _edit(pair.b / "c", "b's other c")
    _edit(pair.b / "d/g", "b's g")
    shutil.rmtree(pair.a / "d")
    (pair.a / "gone").unlink()
    _edit(pair.b / "gone", "edited while it was deleted")
    return Like(policy={"prefer": "a", "max_delete": 100})


@scene
def first(pair: Pair) -> Like:
    """No base: equal files are adopted, others are brought over, unequal ones are conflicts."""
    write_tree(pair.a, {"same": "same", "d/same": "same below", "d/a": "only a", "c": "a's c"})
    write_tree(pair.b, {"same": "same", "d/same": "same below", "d/b": "only b", "c": "b's c!"})
    write_tree(pair.b, {"l": Link("same"), "e/f": "only b, too"})
    return Like(exit=1)


@scene
def first_into_nothing(pair: Pair) -> Like:
    """The other root does not exist yet."""
    write_tree(pair.a, {"f": "f", "d/g": "g"})
    pair.b.rmdir()
    return Like()


@scene
def pointer(pair: Pair) -> Like:
    """A training run's new checkpoint: what points to it comes after it, what is old goes last."""
    _both(pair, {"run/checkpoint": "ckpt-1", "run/ckpt-1.index": "i1", "run/ckpt-1.data": "d1"})
    write_tree(pair.a, {"run/ckpt-2.index": "i2", "run/ckpt-2.data": "data 2"})
    _edit(pair.a / "run/checkpoint", "ckpt-2")
    (pair.a / "run/ckpt-1.index").unlink()
    (pair.a / "run/ckpt-1.data").unlink()
    return Like(policy={"max_delete": 100})


@scene
def moved(pair: Pair) -> Like:
    _both(pair, {"d/f": "f", "d/e/g": "g", "h": "h", "kept": "kept"})
    (pair.a / "d").rename(pair.a / "n")
    (pair.b / "h").rename(pair.b / "i")
    return Like(policy={"max_delete": 100})


@scene
def brief(pair: Pair) -> Like:
    """What is displaced is kept until the next session only."""
    from pairsync.model.policy import Retention

    _both(pair, {"f": "old f", "g": "old g", "kept": "kept"})
    _edit(pair.a / "f", "new f")
    (pair.b / "g").unlink()
    return Like(policy={"backup": Retention(enabled=False)}, keeps=False)


@scene
def large(pair: Pair) -> Like:
    """Files in pieces, a directory that is filled in place, and several batches."""
    _both(pair, {"f": "old f " * 20, "kept": "kept"})
    _edit(pair.a / "f", "new f " * 20)
    write_tree(pair.a, {"d/g": "g " * 50, "d/e/h": "h " * 50, "d/e/i": "i", "d/e/j/k": "k"})
    (pair.a / "d/e").chmod(0o750)
    tune = {
        "replica.send.WHOLE_LIMIT": 40,
        "replica.send.PIECE": 64,
        "replica.units.MOST_ENTRIES": 2,
        "replica.receive.BATCH_FILES": 1,
    }
    return Like(tune=tune)


@scene
def weak(pair: Pair) -> Like:
    """A file system that cannot exchange two names: there is a moment without either."""
    _both(pair, {"f": "old f", "g": "g", "d/h": "h", "kept": "kept"})
    _edit(pair.a / "f", "new f")
    (pair.a / "g").unlink()
    write_tree(pair.a, {"n": "new n", "e/m": "new m"})
    shutil.rmtree(pair.a / "d")
    (pair.a / "d").write_text("a file now")
    tune = {"replica.fsops.RENAME_EXCHANGE": 1 << 30}
    return Like(policy={"max_delete": 100}, tune=tune, exact=False)


@scene
def little(pair: Pair) -> Like:
    """One of each in one direction, and a deletion in the other: for sweeps of many errors."""
    _both(pair, {"f": "old f", "x": "old x", "y": "y", "kept": "kept"})
    _edit(pair.a / "f", "new f")
    (pair.a / "x").unlink()
    (pair.b / "y").unlink()
    write_tree(pair.a, {"d/n": "new n"})
    return Like()


# Between them they have every kind of change, in both directions; the others take a night.
ALWAYS = ("both_ways", "types", "first")
OTHERS = tuple(name for name in SCENES if name not in ALWAYS)
