# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiny trees in memory, for the pure floors: written by hand, compared, and changed by a plan.

A mini tree is a mapping of path to entry, `{"d": DIRECTORY, "d/f": file("x")}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from pairsync.model.entry import (
    DIR,
    FILE,
    LINK,
    PROBLEM,
    SPECIAL,
    Change,
    Entry,
    blocked,
    is_below,
    parent_of,
    same_contents,
    same_mode,
    sort_key,
)
from pairsync.model.plan import Item
from pairsync.model.policy import Policy
from pairsync.reconcile.actions import Action, actions_of
from pairsync.reconcile.rules import decide
from pairsync.reconcile.tree import reconcile

Mini = Mapping[str, Entry]


def file(text: str, mode: int | None = 0o644, mtime: int = 0) -> Entry:
    data = text.encode()
    return Entry(FILE, mode, len(data), mtime * 10**9, sha256(data).digest())


def lazy(size: int, mode: int = 0o644, mtime: int = 0) -> Entry:
    return Entry(FILE, mode, size, mtime * 10**9, None)


def link(target: str) -> Entry:
    return Entry(LINK, None, 0, 0, None, target.encode())


def directory(mode: int | None = 0o755) -> Entry:
    return Entry(DIR, mode)


DIRECTORY = directory()
UNREADABLE = Entry(PROBLEM, target=b"cannot be read")
SOCKET = Entry(SPECIAL, target=b"a socket")


def equal(one: Entry | None, other: Entry | None) -> bool:
    """In what is compared: contents, type, target and permissions."""
    return same_contents(one, other) and same_mode(one, other)


def changes(base: Mini, tree: Mini) -> dict[bytes, Change]:
    """What a scan says of a tree: nothing is known below a problem."""
    unknown = [path.encode() for path, entry in tree.items() if blocked(entry)]
    found = {}
    for name in sorted(base.keys() | tree.keys(), key=lambda one: sort_key(one.encode())):
        path = name.encode()
        if any(is_below(path, top) for top in unknown):
            continue
        before, after = base.get(name), tree.get(name)
        if not equal(before, after):
            found[path] = Change(path, before, after)
    return found


def items_of(
    base: Mini, a: Mini, b: Mini, hidden: Iterable[tuple[str, bytes]] = ()
) -> tuple[list[Item], list[str]]:
    return reconcile(changes(base, a), changes(base, b), frozenset(hidden))


def plan(
    base: Mini, a: Mini, b: Mini, policy: Policy | None = None, *, interactive: bool = False
) -> list[Item]:
    """The decided items of a session over two mini trees; no base at all is a first sync."""
    items, __ = items_of(base, a, b)
    return decide(items, policy or Policy(), covers=lambda __: bool(base), interactive=interactive)


def told(items: Iterable[Item]) -> dict[str, str]:
    """A plan in short: path (with its column, where it is but one) to decision."""
    column = {"both": "", "contents": " contents", "props": " props"}
    return {item.path.decode() + column[item.column]: item.decision for item in items}


def apply(tree: Mini, actions: Iterable[Action], *, strict: bool = True) -> dict[str, Entry]:
    """What a replica does with its actions, in the receiver's order; checks that each is possible.

    strict: a directory that has to go must be empty by then; else it stays.
    """
    result = dict(tree)
    actions = list(actions)
    late = [one for one in actions if one.want is None or _empties(one)]
    for action in actions:
        if action not in late:
            _perform(result, action)
    for action in reversed(late):
        inner = [path for path in result if is_below(path.encode(), action.path)]
        assert not (strict and inner), f"{action.path!r} is not empty: {inner}"
        if not inner:
            _perform(result, action)
    for path in result:
        parent = parent_of(path.encode()).decode()
        assert not parent or result[parent].kind == DIR, f"{path} lies in no directory"
    return result


def _empties(action: Action) -> bool:
    return (
        action.have is not None
        and action.have.kind == DIR
        and action.want is not None
        and action.want.kind != DIR
    )


def _perform(tree: dict[str, Entry], action: Action) -> None:
    path = action.path.decode()
    now, have, want = tree.get(path), action.have, action.want
    if action.props_only:
        # The item of the other column may have replaced the contents just before.
        assert now is not None
        assert have is not None
        assert want is not None
        assert now.kind == have.kind
        tree[path] = now._replace(mode=want.mode)
        return
    assert now == have, f"{path} is not what the plan says"
    if want is None:
        del tree[path]
    else:
        tree[path] = want


def outcome(
    items: list[Item], a: Mini, b: Mini, *, strict: bool = True
) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Both trees once the plan has been carried out."""
    on_a, on_b = actions_of(items)
    return apply(a, on_a, strict=strict), apply(b, on_b, strict=strict)


# -- what the tests know of a history, without asking the code under test --------------------------


def at(tree: Mini, path: str) -> Entry | None:
    return tree.get(path)


def changed(base: Mini, tree: Mini, path: str) -> bool:
    """A side that cannot be read at or above a path has changed it for all we know."""
    return unknown(tree, path) or not equal(at(base, path), at(tree, path))


def unknown(tree: Mini, path: str) -> bool:
    return any(
        blocked(entry) and (top == path or path.startswith(top + "/"))
        for top, entry in tree.items()
    )


def is_dir(tree: Mini, path: str) -> bool:
    entry = tree.get(path)
    return entry is not None and entry.kind == DIR


def inside(path: str, top: str) -> bool:
    return is_below(path.encode(), top.encode())


def all_paths(*trees_: Mini) -> list[str]:
    return sorted({path for tree in trees_ for path in tree})


def held_tops(base: Mini, a: Mini, b: Mini) -> list[str]:
    """Directories that one side removed and the other side used, or that only one side made."""
    tops = []
    everything = all_paths(base, a, b)
    for path in everything:
        both_changed = changed(base, a, path) and changed(base, b, path)
        if both_changed and is_dir(a, path) != is_dir(b, path):
            tops.append(path)
        if not is_dir(base, path):
            continue
        for gone, used in ((a, b), (b, a)):
            if is_dir(gone, path) or unknown(gone, path):
                continue
            for inner in everything:
                if inner != path and not inside(inner, path):
                    continue
                news = at(used, inner) is not None and changed(base, used, inner)
                if news and (inner != path or is_dir(used, path) or is_dir(gone, path)):
                    tops.append(path)
    return tops


def problem_paths(a: Mini, b: Mini) -> list[str]:
    return [path for tree in (a, b) for path, entry in tree.items() if blocked(entry)]


def undisturbed(base: Mini, a: Mini, b: Mini) -> bool:
    return not problem_paths(a, b) and not held_tops(base, a, b)


def lazy_in(*trees_: Mini) -> bool:
    return any(e.kind == FILE and e.digest is None for tree in trees_ for e in tree.values())


def is_same_value(one: Entry | None, other: Entry | None) -> bool:
    if one is None or other is None:
        return one is other
    return one._replace(mtime_ns=0) == other._replace(mtime_ns=0)


def same_or_lazy(one: Entry | None, other: Entry | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.kind, one.size, one.digest, one.target) == (
        other.kind,
        other.size,
        other.digest,
        other.target,
    )


def changed_contents(base: Mini, tree: Mini, path: str) -> bool:
    return not same_contents(at(base, path), at(tree, path))
