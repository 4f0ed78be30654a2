# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What both sides record: the same rows, whatever became of each action (P7, P8, P17)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pairsync.model.entry import FILE, blocked
from pairsync.model.plan import A_TO_B, B_TO_A, DONE, FAILED, SKIPPED
from pairsync.model.policy import Policy
from pairsync.reconcile.actions import actions_of
from pairsync.replica.contents import Done, Proof
from pairsync.session.transfer import Way, outcomes_of, recording
from tests.engine.minis import changes, equal, file, plan
from tests.engine.reconcile.test_properties import histories


def carried_out(items, results):
    """Both ways, with a result for every action."""
    on_a, on_b = actions_of(items)
    ways = Way(None, None, A_TO_B, on_b), Way(None, None, B_TO_A, on_a)
    for way in ways:
        for action in way.actions:
            result = results[action.number % len(results)]
            proof = None
            want = action.want
            if result in (DONE, "grew") and want and want.kind == FILE and not action.props_only:
                proof = Proof(want.size, 0, want.digest)
                if result == "grew":
                    longer = file("longer than before")
                    proof = Proof(longer.size, 0, longer.digest, grew=True)
            way.done[action.number] = Done(
                action.number, DONE if result == "grew" else result, "", proof
            )
    return ways


def rows_of(side_changes, received, recorded):
    """What one replica records; see replica.interface.Recording."""
    keep, leave = set(recorded.keep), set(recorded.leave)
    rows = {
        path: change.after
        for path, change in side_changes.items()
        if path not in keep and not blocked(change.after)
    }
    for action, done in received:
        if action.number not in leave and done.result == DONE:
            want = action.want
            if done.proof is not None:
                want = want._replace(size=done.proof.size, digest=done.proof.digest)
            rows[action.path] = want
    rows.update(recorded.rows)
    return {path: entry and entry._replace(mtime_ns=0) for path, entry in rows.items()}


RESULTS = st.lists(st.sampled_from([DONE, DONE, "grew", SKIPPED, FAILED]), min_size=1, max_size=5)
POLICIES = st.sampled_from(
    [Policy(), Policy(prefer="a"), Policy(prefer="b"), Policy(mode="mirror")]
)


@settings(max_examples=1500)
@given(history=histories(), results=RESULTS, policy=POLICIES)
def test_both_sides_record_the_same(history, results, policy):
    base, a, b = history
    items = plan(base, a, b, policy)
    ways = carried_out(items, results)
    for_a, for_b = recording(items, ways, "commit", [], "")
    on_b, on_a = (
        [(action, way.done[action.number]) for action in way.actions] for way in ways
    )  # fmt: skip
    rows_a = rows_of(changes(base, a), on_a, for_a)
    rows_b = rows_of(changes(base, b), on_b, for_b)
    new = [
        {**{p.encode(): e._replace(mtime_ns=0) for p, e in base.items()}, **rows}
        for rows in (rows_a, rows_b)
    ]
    new = [{path: entry for path, entry in rows.items() if entry is not None} for rows in new]
    assert new[0] == new[1]


@settings(max_examples=500)
@given(history=histories(problems=False), results=RESULTS)
def test_what_failed_keeps_its_base(history, results):
    base, a, b = history
    items = plan(base, a, b)
    ways = carried_out(items, results)
    for_a, __ = recording(items, ways, "commit", [], "")
    explicit = dict(for_a.rows)
    for way in ways:
        for action in way.actions:
            if way.done[action.number].result != DONE and action.by_reference:
                assert action.path in for_a.keep
                assert equal(explicit.get(action.path), None)


@settings(max_examples=500)
@given(history=histories(), results=RESULTS)
def test_every_item_has_one_outcome(history, results):
    items = plan(*history)
    outcomes = outcomes_of(items, carried_out(items, results))
    assert [outcome.item for outcome in outcomes] == items
