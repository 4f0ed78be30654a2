# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of decisions, row by row, on trees small enough to see at a glance."""

from __future__ import annotations

import pytest

from pairsync.model.entry import Entry
from pairsync.model.policy import Policy
from pairsync.reconcile.actions import actions_of, too_many_deletions
from pairsync.reconcile.rules import decide
from tests.engine.minis import (
    DIRECTORY,
    SOCKET,
    UNREADABLE,
    directory,
    file,
    items_of,
    lazy,
    link,
    plan,
    told,
)

X, Y, Z = file("x"), file("y"), file("z")
PRIVATE = file("x", 0o600)
OPEN = file("x", 0o755)
FX, FY, D = {"f": X}, {"f": Y}, {"d": DIRECTORY}
DX = {**D, "d/x": X}
DXY = {**DX, "d/y": Y}

ROWS = {
    # name: base, a, b, decisions
    "nothing at all": ({}, {}, {}, {}),
    "unchanged": (FX, FX, FX, {}),
    "changed on a": (FX, FY, FX, {"f": "a->b"}),
    "changed on b": (FX, FX, FY, {"f": "b->a"}),
    "new on a": ({}, FX, {}, {"f": "a->b"}),
    "deleted on a": (FX, {}, FX, {"f": "a->b"}),
    "changed to the same": (FX, FY, FY, {"f": "equal"}),
    "new and the same": ({}, FX, FX, {"f": "equal"}),
    "changed differently": (FX, FY, {"f": Z}, {"f": "conflict"}),
    "new and different": ({}, FX, FY, {"f": "conflict"}),
    "lazy contents agree with nothing": ({}, {"f": lazy(1)}, {"f": lazy(1)}, {"f": "conflict"}),
    "deleted on both": (FX, {}, {}, {"f": "equal"}),
    "deleted, changed": (FX, {}, FY, {"f": "conflict"}),
    "deleted, permissions changed": (FX, {}, {"f": PRIVATE}, {"f": "conflict"}),
    "deleted, type changed": (FX, {}, {"f": link("x")}, {"f": "conflict"}),
    "deleted, became a directory": (FX, {}, {"f": DIRECTORY, "f/y": Y}, {"f": "conflict"}),
    "type changed on a": (FX, {"f": link("x")}, FX, {"f": "a->b"}),
    "type changed on both": (FX, {"f": link("x")}, {"f": DIRECTORY}, {"f": "conflict"}),
    "same target": ({"l": link("x")}, {"l": link("y")}, {"l": link("y")}, {"l": "equal"}),
    "other target": ({}, {"l": link("x")}, {"l": link("y")}, {"l": "conflict"}),
    "file to directory": (FX, {"f": DIRECTORY, "f/y": Y}, FX, {"f": "a->b", "f/y": "a->b"}),
    "directory to file": (DX, {"d": Y}, DX, {"d": "a->b", "d/x": "a->b"}),
    "directories descend": (D, {**D, "d/1": X}, {**D, "d/2": X}, {"d/1": "a->b", "d/2": "b->a"}),
    "new directories are one": ({}, {**D, "d/1": X}, D, {"d": "equal", "d/1": "a->b"}),
    "directory deleted": (DX, {}, DX, {"d": "a->b", "d/x": "a->b"}),
    "directory deleted on both": (DX, {}, {}, {"d": "equal", "d/x": "equal"}),
    "directory deleted, emptied": (DX, {}, D, {"d": "a->b", "d/x": "equal"}),
    "directory deleted, edit below": (DXY, {}, {**DXY, "d/x": Z}, {"d": "conflict"}),
    "directory deleted, news below": (DX, {}, {**DX, "d/new": Y}, {"d": "conflict"}),
    "directory deleted, chmod": (DX, {}, {**DX, "d": directory(0o700)}, {"d": "conflict"}),
    "directory deleted, problem below": (DX, {}, {**DX, "d/x": UNREADABLE}, {"d": "conflict"}),
    "directory deleted, pipe below": (DX, {}, {**DX, "d/pipe": SOCKET}, {"d": "conflict"}),
    "directory replaced, edit below": (DX, {"d": Y}, {**D, "d/x": Z}, {"d": "conflict"}),
    "new directory, new file": ({}, DX, {"d": Y}, {"d": "conflict"}),
    "problem": (FX, FX, {"f": UNREADABLE}, {"f": "error"}),
    "problem, deleted": (FX, {}, {"f": UNREADABLE}, {"f": "error"}),
    "problem, changed": (FX, FY, {"f": UNREADABLE}, {"f": "error"}),
    "problem on both": (FX, {"f": UNREADABLE}, {"f": UNREADABLE}, {"f": "error"}),
    "new problem": ({}, {}, {"f": UNREADABLE}, {"f": "error"}),
    "problem above": (DX, {**D, "d/x": Y}, {"d": UNREADABLE}, {"d": "error", "d/x": "skip"}),
    "deletion below a problem": (DX, D, {"d": UNREADABLE}, {"d": "error", "d/x": "skip"}),
    "a pipe is a note": ({}, {}, {"p": SOCKET}, {}),
    "a pipe where a file was": (FX, FX, {"f": SOCKET}, {"f": "error"}),
    "a pipe where a file is new": ({}, FX, {"f": SOCKET}, {"f": "error"}),
    "permissions changed on a": (FX, {"f": PRIVATE}, FX, {"f props": "a->b"}),
    "permissions changed alike": (FX, {"f": OPEN}, {"f": OPEN}, {"f props": "equal"}),
    "permissions changed on both": (FX, {"f": OPEN}, {"f": PRIVATE}, {"f props": "conflict"}),
    "both columns one way": (FX, {"f": file("y", 0o600)}, FX, {"f": "a->b"}),
    "both columns, two ways": (
        FX, FY, {"f": PRIVATE}, {"f contents": "a->b", "f props": "b->a"},
    ),
    "contents in conflict, permissions not": (
        FX, FY, {"f": file("z", 0o600)}, {"f contents": "conflict", "f props": "b->a"},
    ),
    "permissions never agreed on": (
        {}, FX, {"f": OPEN}, {"f contents": "equal", "f props": "skip"},
    ),
    "never agreed on as a file": (
        {"f": link("x")}, FX, {"f": OPEN}, {"f contents": "equal", "f props": "skip"},
    ),
    "never agreed on, still": (
        {"f": file("x", None)}, FX, {"f": OPEN}, {"f props": "skip"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("base, a, b, decisions", ROWS.values(), ids=ROWS.keys())
def test_two_way(base, a, b, decisions):
    assert told(plan(base, a, b)) == decisions


def test_a_held_conflict_holds_every_change_below_it():
    (item,) = plan(DXY, {}, {**DXY, "d/x": Z})
    assert [part.path for part in item.parts] == [b"d", b"d/x", b"d/y"]
    assert item.reason == "deleted on a, but d/x changed on the other side"
    assert actions_of([item]) == ([], [])


@pytest.mark.parametrize("policy", [Policy(prefer="a"), Policy(prefer="b"), Policy("mirror")])
def test_no_policy_decides_over_what_is_unknown(policy):
    assert told(plan(DX, {}, {**DX, "d/x": UNREADABLE}, policy)) == {"d": "conflict"}


@pytest.mark.parametrize("prefer", ["b", "newer", "older"])
@pytest.mark.parametrize("mode", ["mirror", "push"])
def test_no_preference_changes_a_in_one_way_modes(mode, prefer):
    policy = Policy(mode=mode, prefer=prefer)
    items = plan({}, {"f": file("x", mtime=100)}, {"f": file("y", mtime=200)}, policy)
    assert actions_of(items)[0] == []


def test_what_lies_beside_a_held_conflict_goes_on():
    base = {**DX, "e": DIRECTORY, "e/y": Y}
    b = {**base, "d/x": Z}
    assert told(plan(base, {}, b)) == {"d": "conflict", "e": "a->b", "e/y": "a->b"}


def test_a_held_conflict_is_decided_as_a_whole():
    on_a, on_b = actions_of(plan(DX, {}, {**DX, "d/new": Y}, Policy(prefer="a")))
    assert on_a == []
    assert [(one.path, one.want) for one in on_b] == [
        (b"d", None), (b"d/new", None), (b"d/x", None),
    ]  # fmt: skip
    on_a, on_b = actions_of(plan(DX, {}, {**DX, "d/new": Y}, Policy(prefer="b")))
    assert on_b == []
    assert [one.path for one in on_a] == [b"d", b"d/new", b"d/x"]


def test_the_note_says_what_is_not_synced():
    items, notes = items_of({}, {}, {"d": DIRECTORY, "d/p": SOCKET})
    assert told(items) == {"d": "b->a"}
    assert notes == ["d/p: a socket on b, not synced"]


def test_ignored_content_keeps_its_directory():
    items, __ = items_of(DX, {}, DX, hidden=[("b", b"d")])
    assert told(items) == {"d contents": "skip", "d/x": "a->b"}
    assert items[0].note
    assert items[0].reason == "kept: ignored content"


# -- modes and preferences ------------------------------------------------------------------------


MODES = {
    # mode, base, a, b: decisions
    "mirror undoes an edit": ("mirror", FX, FX, FY, {"f": "a->b"}),
    "mirror undoes a deletion": ("mirror", FX, FX, {}, {"f": "a->b"}),
    "mirror decides a conflict": ("mirror", FX, FY, {"f": Z}, {"f": "a->b"}),
    "mirror, first: surplus": ("mirror", {}, {}, FX, {"f": "skip"}),
    "mirror, first: unequal": ("mirror", {}, FX, FY, {"f": "conflict"}),
    "mirror, first: permissions": (
        "mirror", {}, FX, {"f": OPEN}, {"f contents": "equal", "f props": "a->b"},
    ),
    "mirror, later: new on b": ("mirror", {"g": X}, {"g": X}, {"g": X, **FX}, {"f": "a->b"}),
    "mirror never overrules a problem": ("mirror", FX, FY, {"f": UNREADABLE}, {"f": "error"}),
    "push": ("push", FX, FY, FX, {"f": "a->b"}),
    "push deletes": ("push", FX, {}, FX, {"f": "a->b"}),
    "push leaves b's own": ("push", FX, FX, FY, {"f": "skip"}),
    "push leaves conflicts": ("push", FX, FY, {"f": Z}, {"f": "conflict"}),
}  # fmt: skip


@pytest.mark.parametrize("mode, base, a, b, decisions", MODES.values(), ids=MODES.keys())
def test_modes(mode, base, a, b, decisions):
    assert told(plan(base, a, b, Policy(mode=mode))) == decisions


def test_what_b_did_is_a_note_for_a_push():
    (item,) = plan(FX, FX, FY, Policy(mode="push"))
    assert item.note


def test_a_confirmed_first_mirror_deletes_the_surplus():
    items, __ = items_of({}, FX, {"f": Y, "g": Z})
    policy = Policy(mode="mirror")
    decided = decide(items, policy, covers=lambda __: False, interactive=False, confirmed=True)
    assert told(decided) == {"f": "a->b", "g": "a->b"}


def test_a_person_is_offered_permissions_never_agreed_on():
    items = plan({}, FX, {"f": OPEN}, interactive=True)
    assert told(items) == {"f contents": "equal", "f props": "a->b"}


def by_time(prefer, a: Entry | None, b: Entry | None, offset_s=0, uncertainty_s=0.0):
    base = FX
    items, __ = items_of(base, {"f": a} if a else {}, {"f": b} if b else {})
    decided = decide(
        items,
        Policy(prefer=prefer),
        covers=lambda __: True,
        interactive=False,
        clock_offset_ns=offset_s * 10**9,
        clock_uncertainty_ns=int(uncertainty_s * 10**9),
    )
    return decided[0].decision


def test_the_newer_one_wins():
    early, late = file("y", mtime=100), file("z", mtime=103)
    assert by_time("newer", early, late) == "b->a"
    assert by_time("newer", late, early) == "a->b"
    assert by_time("older", early, late) == "a->b"


def test_clocks_are_compared_by_their_offset():
    early, late = file("y", mtime=100), file("z", mtime=103)
    assert by_time("newer", early, late, offset_s=60) == "a->b"
    assert by_time("newer", early, late, offset_s=3) == "conflict"
    assert by_time("newer", early, late, uncertainty_s=5) == "conflict"


def test_a_missing_path_never_wins_by_time():
    assert by_time("newer", None, file("z", mtime=1)) == "conflict"
    assert by_time("older", None, file("z", mtime=1)) == "conflict"


# -- the brake ------------------------------------------------------------------------------------


def test_the_brake_on_mass_change():
    """P24"""
    base = {f"f{number}": X for number in range(40)}
    few = dict(list(base.items())[21:])
    actions = actions_of(plan(base, few, base))[1]
    assert len(actions) == 21
    assert too_many_deletions(actions, 40, 50) == 21
    assert too_many_deletions(actions, 40, 53) == 0
    assert too_many_deletions(actions[:20], 20, 50) == 0  # small enough to be meant
    assert too_many_deletions(actions, 40, 100) == 0
