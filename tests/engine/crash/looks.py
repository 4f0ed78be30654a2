# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on disk after a session, and how it may differ from what an undisturbed one leaves."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pairsync.model.entry import DIR, FILE, LINK, Entry
from pairsync.replica.digest import digest_bytes
from tests.engine.trees import STATE, Pair, walk

# An entry: its kind, its contents or target (None for a directory), its permissions, its time.
Spot = tuple[int, Any, int, int]
Tree = Mapping[str, Spot]

# Of our own: by run, or left where flock does not work; what the next write replaces, and what
# SQLite keeps empty while a base is open.
_COMES_AND_GOES = ("backup/", "log/", "displaced", "settled", "lease", "pairs/<id>/lease")
_PASSING = (".new", "-journal")


class Look(NamedTuple):
    """Both replicas. bases and ours only where they were asked for.

    backups: contents and targets of what was displaced. ours: the names in the state directory.
    """

    trees: tuple[Tree, Tree]
    backups: tuple[frozenset[Any], frozenset[Any]]
    bases: tuple[Mapping[str, Any], ...] = ()
    commits: tuple[str, ...] = ()
    ours: tuple[tuple[str, ...], ...] = ()


def look(pair: Pair, *, bases: bool = False) -> Look:
    """bases: after a session that has ended well; else a base is not to be touched."""
    seen = Look(
        tuple(_tree(root) for root in pair.roots), tuple(_backup(root) for root in pair.roots)
    )
    if not bases:
        return seen
    return seen._replace(
        bases=tuple(base_rows(pair, root) for root in pair.roots),
        commits=tuple(pair.commit(root) for root in pair.roots),
        ours=tuple(_ours(root) for root in pair.roots),
    )


def base_rows(pair: Pair, root: Path) -> dict[str, Entry]:
    """What a base holds, apart from times, which are no evidence."""
    return {path: entry._replace(mtime_ns=0) for path, entry in pair.base(root).items()}


def entry_of(spot: Spot) -> Entry:
    """An entry as a base holds it."""
    kind, held, mode, __ = spot
    if kind == stat.S_IFREG:
        return Entry(FILE, mode, len(held), 0, digest_bytes(held))
    if kind == stat.S_IFLNK:
        return Entry(LINK, None, 0, 0, None, os.fsencode(held))
    return Entry(DIR, mode)


def _tree(root: Path) -> Tree:
    return {name: _spot(path, status) for name, path, status in walk(root)} if root.exists() else {}


def _spot(path: Path, status: os.stat_result) -> Spot:
    kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
    if kind == stat.S_IFREG:
        return kind, path.read_bytes(), mode, status.st_mtime_ns
    if kind == stat.S_IFLNK:
        return kind, os.readlink(path), 0, status.st_mtime_ns
    return kind, None, mode, 0


def _leaves(top: Path) -> Iterator[Any]:
    for path in top.rglob("*"):
        if path.is_symlink():
            yield os.readlink(path)
        elif path.is_file():
            yield path.read_bytes()


def _backup(root: Path) -> frozenset[Any]:
    return frozenset(_leaves(root / STATE / "backup"))


def _ours(root: Path) -> tuple[str, ...]:
    """The names of our own, with ids made alike, and without those that come and go."""
    state = root / STATE
    found = set()
    for path in state.rglob("*"):
        name = path.relative_to(state).as_posix()
        name = re.sub("[0-9a-f]{32}", "<id>", name)
        if not name.startswith(_COMES_AND_GOES) and not name.endswith(_PASSING):
            found.add(name)
    return tuple(sorted(found))


def _versions(tree: Tree) -> Counter[Any]:
    return Counter(spot[1] for spot in tree.values() if spot[1] is not None)


def lost(before: Look, pair: Pair) -> list[str]:
    """Versions that were in a replica before, and are in neither replica nor in a backup now."""
    now = look(pair)
    there = {*_versions(now.trees[0]), *_versions(now.trees[1]), *now.backups[0], *now.backups[1]}
    return [
        f"lost on {side}: {path} = {spot[1]!r}"
        for side, tree in zip("ab", before.trees, strict=True)
        for path, spot in tree.items()
        if spot[1] is not None and spot[1] not in there
    ]


def mixtures(before: Look, after: Look, pair: Pair) -> list[str]:
    """Paths that hold what no undisturbed replica held there, before or after."""
    found = []
    for side, tree in zip("ab", look(pair).trees, strict=True):
        for path, spot in tree.items():
            good = [one.get(path) for one in (*before.trees, *after.trees)]
            if not any(one is not None and one[:2] == spot[:2] for one in good):
                found.append(f"{path} of {side} is {spot[1]!r}, which nobody wrote there")
    return found


def complaints(before: Look, after: Look, now: Look) -> list[str]:
    """How what is there now differs from what an undisturbed session has left."""
    found = []
    for place, side in enumerate("ab"):
        found += _differences(f"the tree of {side}", after.trees[place], now.trees[place])
        found += _differences(f"the base of {side}", after.bases[place], now.bases[place])
        displaced = _displaced(before.trees[place], after.trees[place])
        found += [f"no backup on {side} of {one!r}" for one in displaced - now.backups[place]]
        if after.ours[place] != now.ours[place]:
            odd = set(after.ours[place]) ^ set(now.ours[place])
            found.append(f"our own files of {side} differ: {sorted(odd)}")
    if now.commits[0] != now.commits[1]:
        found.append(f"the commits differ: {now.commits}")
    return found


def _displaced(before: Tree, after: Tree) -> set[Any]:
    """What a replica held at a path, and holds there no more."""
    return {
        spot[1]
        for path, spot in before.items()
        if spot[1] is not None and (path not in after or after[path][:2] != spot[:2])
    }


def _differences(what: str, wanted: Mapping[str, Any], got: Mapping[str, Any]) -> list[str]:
    return [
        f"{what}: {path} is {got.get(path)}, not {wanted.get(path)}"
        for path in sorted({*wanted, *got})
        if wanted.get(path) != got.get(path)
    ]
