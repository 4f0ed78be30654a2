# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every plan: exhaustively over one path and one directory, at random beyond that.

The names are those of the list of properties: convergence (P4), maximal propagation (P5), do no
harm (P6), no silent conflict (P7), false conflict (P8), edit beats delete (P9), inner change
protects outer delete (P10), type change (P11), unknown is not absent (P20), symmetry (P25) and
determinism (P26).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsync.model.entry import DIR, FILE, LINK, Entry, same_contents
from pairsync.model.plan import A_TO_B, B_TO_A, CONFLICT, EQUAL, ERROR, SKIP, Item
from pairsync.model.policy import MODES, PREFERENCES, Policy
from pairsync.reconcile.actions import actions_of
from pairsync.reconcile.rules import decide
from pairsync.reconcile.tree import reconcile
from tests.engine.minis import (
    SOCKET,
    UNREADABLE,
    Mini,
    all_paths,
    at,
    changed,
    changed_contents,
    changes,
    directory,
    equal,
    file,
    held_tops,
    inside,
    is_same_value,
    items_of,
    lazy,
    lazy_in,
    link,
    outcome,
    plan,
    problem_paths,
    same_or_lazy,
    undisturbed,
    unknown,
)

OTHER = {"a": "b", "b": "a"}
MIRRORED = {A_TO_B: B_TO_A, B_TO_A: A_TO_B}

# Everything that can be at one path.
LEAVES = [None, file("x", mtime=1), file("x", 0o755), file("yy", mtime=2), link("x"), link("y")]
AGREED = [*LEAVES, directory(), directory(0o700)]
IN_BASE = [*AGREED, file("x", None), directory(None)]
ON_SIDE = [*AGREED, lazy(1), lazy(9), UNREADABLE, SOCKET]


def tree_of(top: Entry | None, inner: Entry | None) -> dict[str, Entry]:
    """A tree of `d` and, where that is a directory, `d/f`."""
    tree = {}
    if top is not None:
        tree["d"] = top
        if inner is not None and top.kind == DIR:
            tree["d/f"] = inner
    return tree


def directory_trees(tops: list[Entry | None], inners: list[Entry | None]) -> list[dict[str, Entry]]:
    found = []
    for top, inner in itertools.product(tops, inners):
        tree = tree_of(top, inner)
        if tree not in found:
            found.append(tree)
    return found


BASE_TREES = directory_trees(
    [None, file("x"), directory(), directory(0o700)],
    [None, file("x"), file("x", 0o600), directory()],
)
SIDE_TREES = directory_trees(
    [None, file("x"), file("yy"), link("x"), directory(), directory(0o700), UNREADABLE, SOCKET],
    [None, file("x"), file("yy"), link("x"), directory(), UNREADABLE, SOCKET],
)


def one_path() -> Iterator[tuple[Mini, Mini, Mini]]:
    for base, a, b in itertools.product(IN_BASE, ON_SIDE, ON_SIDE):
        yield tuple({"p": entry} if entry is not None else {} for entry in (base, a, b))


def one_directory() -> Iterator[tuple[Mini, Mini, Mini]]:
    yield from itertools.product(BASE_TREES, SIDE_TREES, SIDE_TREES)


EXHAUSTIVE = pytest.mark.parametrize("space", [one_path, one_directory])

NAMES = ["d", "d/e", "d/e/f", "d/g", "h", "h/i"]


@st.composite
def trees(draw, entries):
    """A tree over NAMES in which everything lies in a directory."""
    tree: dict[str, Entry] = {}
    for name in NAMES:
        parent = name.rpartition("/")[0]
        if not parent or (parent in tree and tree[parent].kind == DIR):
            entry = draw(st.sampled_from(entries))
            if entry is not None:
                tree[name] = entry
    return tree


@st.composite
def histories(draw, *, problems=True, mode_none=True):
    """(base, a, b) in which both sides come from the base by a few changes."""
    base = draw(trees([None, file("x"), link("x"), directory(), directory(0o700), directory()]))
    entries = [None, file("x"), file("x", 0o600), file("yy"), link("y"), directory()]
    if problems:
        entries += [UNREADABLE, SOCKET]
    sides = []
    for __ in "ab":
        side = dict(base)
        for name in draw(st.lists(st.sampled_from(NAMES), max_size=4)):
            entry = draw(st.sampled_from(entries))
            parent = name.rpartition("/")[0]
            if parent and (parent not in side or side[parent].kind != DIR):
                continue
            if entry is None or entry.kind != DIR:
                side = {p: e for p, e in side.items() if not p.startswith(name + "/")}
            if entry is None:
                side.pop(name, None)
            else:
                side[name] = entry
        sides.append(side)
    return base, sides[0], sides[1]


def conflicting(items: list[Item]) -> set[str]:
    return {
        part.path.decode() for item in items if item.decision == CONFLICT for part in item.parts
    }


def touched(items: list[Item]) -> set[str]:
    on_a, on_b = actions_of(items)
    return {action.path.decode() for action in on_a + on_b}


# -- one check for each property ------------------------------------------------------------------


def check_convergence(base: Mini, a: Mini, b: Mini) -> None:
    """P4: without conflicts and problems, both sides and the base are the same afterwards."""
    items = plan(base, a, b, interactive=True)
    if any(item.decision in (CONFLICT, ERROR, SKIP) for item in items):
        return
    if problem_paths(a, b):
        return  # a note: what is special on one side alone stays there
    new_a, new_b = outcome(items, a, b)
    assert same_trees(new_a, new_b)
    # What was lazy has a digest by then.
    assert lazy_in(a, b) or not plan(new_a, new_a, new_b)


def same_trees(one: Mini, other: Mini) -> bool:
    def value(entry: Entry):
        contents = entry.digest or (entry.size, entry.mtime_ns)
        return entry.kind, entry.mode, contents, entry.target

    return {p: value(e) for p, e in one.items()} == {p: value(e) for p, e in other.items()}


def check_propagation(base: Mini, a: Mini, b: Mini) -> None:
    """P5: what one side alone changed is on the other side afterwards."""
    if not undisturbed(base, a, b):
        return
    items = plan(base, a, b)
    new_a, new_b = outcome(items, a, b)
    for path in all_paths(base, a, b):
        for mine, new_mine, other, new_other in ((a, new_a, b, new_b), (b, new_b, a, new_a)):
            if changed(base, mine, path) and not changed(base, other, path):
                assert is_same_value(at(new_other, path), at(mine, path)), path
                assert at(new_mine, path) == at(mine, path), path


def check_no_harm(base: Mini, a: Mini, b: Mini) -> None:
    """P6: nothing is done where neither side changed anything."""
    for path in touched(plan(base, a, b)):
        assert changed(base, a, path) or changed(base, b, path), path


def check_no_silent_conflict(base: Mini, a: Mini, b: Mini) -> None:
    """P7: what both changed differently stays as it is on both, is listed, and keeps its base."""
    items = plan(base, a, b)
    new_a, new_b = outcome(items, a, b)
    listed = {part.path.decode() for item in items for part in item.parts}
    for path in all_paths(base, a, b):
        if problem_paths(a, b) and (unknown(a, path) or unknown(b, path)):
            continue
        one, other, before = at(a, path), at(b, path), at(base, path)
        contents = (
            not same_contents(before, one)
            and not same_contents(before, other)
            and not same_contents(one, other)
        )
        if contents:
            assert path in listed, path
            assert same_or_lazy(at(new_a, path), one), path
            assert same_or_lazy(at(new_b, path), other), path


def check_false_conflict(base: Mini, a: Mini, b: Mini) -> None:
    """P8: what both changed to the same is no transfer and no conflict."""
    if not undisturbed(base, a, b):
        return
    items = plan(base, a, b)
    for path in all_paths(a, b):
        one, other = at(a, path), at(b, path)
        if equal(one, other) and one is not None and changed(base, a, path):
            assert path not in conflicting(items)
            assert path not in touched(items)
            mine = [item for item in items if item.path == path.encode()]
            assert [item.decision for item in mine] == [EQUAL]


def check_edits_survive(base: Mini, a: Mini, b: Mini) -> None:
    """P9, P10: no plan without a preference destroys what the other side has not seen."""
    items = plan(base, a, b)
    for receiver, actions in zip((a, b), actions_of(items), strict=True):
        for action in actions:
            path = action.path.decode()
            assert at(receiver, path) == action.have
            if action.have is None or action.props_only:
                continue
            if action.have.kind == DIR and action.want is not None and action.want.kind == DIR:
                continue
            if changed_contents(base, receiver, path):
                raise AssertionError(f"{path} was edited here, and would be replaced or deleted")


def check_held(base: Mini, a: Mini, b: Mini) -> None:
    """P10: a directory that one side removed and the other used is one conflict, and stays."""
    if problem_paths(a, b):
        return
    items = plan(base, a, b)
    new_a, new_b = outcome(items, a, b)
    tops = held_tops(base, a, b)
    for top in tops:
        if any(inside(top, outer) for outer in tops):
            continue
        over = [i for i in items if i.path == top.encode() or inside(i.path.decode(), top)]
        assert [item.decision for item in over] == [CONFLICT], top
        for tree, new in ((a, new_a), (b, new_b)):
            for path, entry in tree.items():
                if path == top or inside(path, top):
                    assert new[path] == entry, path


def check_unknown(base: Mini, a: Mini, b: Mini) -> None:
    """P20: nothing is replaced or deleted at, above or below what is unknown, on either side."""
    items = plan(base, a, b)
    problems = problem_paths(a, b)
    for actions in actions_of(items):
        for action in actions:
            path = action.path.decode()
            for problem in problems:
                assert path != problem
                assert not inside(path, problem)
                if inside(problem, path):
                    gone = action.want is None or action.want.kind != DIR
                    assert not gone or action.have is None
    for path in problems:
        listed = [item for item in items if item.path == path.encode()]
        errors = [item for item in listed if item.decision == ERROR]
        inside_held = path in conflicting(items)
        notes = items_of(base, a, b)[1]
        noted = any(note.startswith(f"{path}: ") for note in notes)
        below = any(inside(path, other) for other in problems)
        assert errors or noted or inside_held or below, f"nobody hears of {path}"


def check_symmetry(base: Mini, a: Mini, b: Mini) -> None:
    """P25: exchanging the sides mirrors the plan."""
    for interactive in (False, True):
        there = shape(plan(base, a, b, interactive=interactive))
        back = shape(mirrored(plan(base, b, a, interactive=interactive)))
        if interactive:
            # Permissions never agreed on are offered from a to b: that is what a is for.
            there, back = (
                {one for one in side if one[0] not in never_agreed(base, a, b)}
                for side in (there, back)
            )
        assert there == back


def never_agreed(base: Mini, a: Mini, b: Mini) -> set[bytes]:
    return {
        path.encode()
        for path in all_paths(a, b)
        if (entry := base.get(path)) is None or entry.mode is None
        or (at(a, path) and at(a, path).kind != entry.kind)
    }  # fmt: skip


def shape(items: list[Item]) -> set[tuple]:
    return {(i.path, i.a, i.b, i.decision, i.column, i.note, len(i.parts)) for i in items}


def mirrored(items: list[Item]) -> list[Item]:
    return [
        item._replace(a=item.b, b=item.a, decision=MIRRORED.get(item.decision, item.decision))
        for item in items
    ]


def check_determinism(base: Mini, a: Mini, b: Mini) -> None:
    """P26: the order in which a directory lists its names means nothing."""
    shuffled = []
    for tree in (a, b):
        entries = list(changes(base, tree).items())
        random.Random(0).shuffle(entries)
        shuffled.append(dict(entries))
    assert reconcile(*shuffled) == reconcile(changes(base, a), changes(base, b))


def check_totality(base: Mini, a: Mini, b: Mini) -> None:
    """Every policy gives a plan that can be carried out, and no path is decided twice."""
    for mode, prefer in itertools.product(MODES, ("", *PREFERENCES)):
        policy = Policy(mode=mode, prefer=prefer)
        items = plan(base, a, b, policy)
        columns = [(item.path, item.column) for item in items]
        assert len(columns) == len(set(columns))
        new_a, new_b = outcome(items, a, b, strict=mode == "two-way")
        if mode in ("mirror", "push"):
            assert new_a == dict(a)
        if mode == "push":
            for path, entry in b.items():
                if changed_contents(base, b, path) and not prefer:
                    assert same_or_lazy(new_b[path], entry)


def check_first_sync(a: Mini, b: Mini) -> None:
    """P21, and the first sync of every mode: the union; nothing is deleted, nothing replaced."""
    for mode in MODES:
        items = plan({}, a, b, Policy(mode=mode))
        new_a, new_b = outcome(items, a, b)
        for old, new in ((a, new_a), (b, new_b)):
            for path, entry in old.items():
                assert path in new
                if entry.kind in (FILE, LINK):
                    assert same_or_lazy(new[path], entry)


CHECKS = [
    check_convergence,
    check_propagation,
    check_no_harm,
    check_no_silent_conflict,
    check_false_conflict,
    check_edits_survive,
    check_held,
    check_unknown,
    check_symmetry,
    check_determinism,
    check_totality,
]


@EXHAUSTIVE
@pytest.mark.parametrize("check", CHECKS)
def test_property_of_every_small_history(check, space, figure):
    number = 0
    for base, a, b in space():
        number += 1
        try:
            check(base, a, b)
        except AssertionError as error:
            raise AssertionError(f"base {base}\na {a}\nb {b}\n{error}") from error
    figure("plans, every one of a small space, by property", number)


@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=300)
@given(history=histories())
def test_property_of_larger_histories(check, history):
    check(*history)


@EXHAUSTIVE
def test_every_first_sync_deletes_nothing(space):
    for base, a, b in space():
        if not base:
            check_first_sync(a, b)


@settings(max_examples=300)
@given(history=histories())
def test_any_first_sync_deletes_nothing(history):
    check_first_sync(history[1], history[2])


@settings(max_examples=300)
@given(history=histories(problems=False), prefer=st.sampled_from(["a", "b"]))
def test_with_a_preference_for_a_side_one_sync_converges(history, prefer):
    items = plan(*history, Policy(prefer=prefer))
    new_a, new_b = outcome(items, history[1], history[2])
    assert same_trees(new_a, new_b)


def related(one, other):
    """Tell whether two paths are one, or one lies below the other."""
    return one == other or inside(one, other) or inside(other, one)


@settings(max_examples=300)
@given(history=histories(problems=False))
def test_after_a_mirror_b_is_a(history):
    base, a, b = history
    if not base:
        return
    items = plan(base, a, b, Policy(mode="mirror"))
    new_a, new_b = outcome(items, a, b, strict=False)
    assert new_a == a
    never = {item.path.decode() for item in items if item.decision in (SKIP, CONFLICT)}
    for path in all_paths(a, new_b):
        if not any(related(path, top) for top in never):
            assert is_same_value(a.get(path), new_b.get(path)), path


@settings(max_examples=300)
@given(history=histories())
def test_decisions_are_final(history):
    """Deciding twice is deciding once."""
    base, a, b = history
    for mode in MODES:
        policy = Policy(mode=mode)
        items = plan(base, a, b, policy)
        assert decide(items, policy, covers=lambda __: bool(base), interactive=False) == items
