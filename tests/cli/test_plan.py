# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`plan` writes nothing and says what `sync` then does; a second `sync` writes nothing either."""

from __future__ import annotations

import os

import pytest

from tests.cli.trees import contents, trace, traces


def facts(report):
    return {
        item["path"]: (item["decision"], item["a"], item["b"], item["kind"])
        for item in report["items"]
    }


def change_a_little(a, b):
    (a / "file").write_text("changed on a\n")
    (b / "new").write_text("new on b\n")
    (b / "run.sh").unlink()
    (a / "sub/more").mkdir()
    (a / "sub/more/deep").write_text("deep\n")


def test_a_plan_before_the_first_sync_writes_nothing_at_all(pairsync, pair, tmp_path):
    a, b = pair
    before = traces(a, state=True), traces(b, state=True), sorted(os.listdir(tmp_path))
    plan = pairsync("plan", "--json", a, b).report
    assert (traces(a, state=True), traces(b, state=True), sorted(os.listdir(tmp_path))) == before
    assert plan["base"] == "first"
    done = pairsync("sync", "--batch", "--json", a, b).report
    assert facts(done) == facts(plan)
    assert contents(a) == contents(b)


def test_a_plan_for_a_replica_that_is_missing_does_not_make_it(pairsync, pair, tmp_path):
    a, __ = pair
    ran = pairsync("plan", "--json", a, tmp_path / "missing")
    assert ran.code == 1
    assert ran.report["notes"] == [f"{tmp_path}/missing would be created"]
    assert not (tmp_path / "missing").exists()
    assert not (a / ".pairsync").exists()


def test_a_plan_of_a_known_pair_writes_nothing_but_the_index(pairsync, synced):
    a, b = synced
    change_a_little(a, b)

    def all_but_the_index(root):
        kept = traces(root, state=True)
        # The lock is taken, the index brought up to date, the clock read from a file of ours.
        for name in (b"", b"/lock", b"/probe", b"/index.sqlite", b"/index.sqlite-journal"):
            kept.pop(b".pairsync" + name, None)
        return {
            path: one
            for path, one in kept.items()
            if not (path.startswith(b".pairsync/pairs/") and path.endswith(b"/lock"))
        }

    before = all_but_the_index(a), all_but_the_index(b)
    plan = pairsync("plan", "--json", a, b).report
    assert (all_but_the_index(a), all_but_the_index(b)) == before
    again = pairsync("plan", "--json", a, b).report
    assert again["plan_digest"] == plan["plan_digest"]
    done = pairsync("sync", "--batch", "--json", a, b).report
    assert facts(done) == facts(plan)
    assert done["plan_digest"] == plan["plan_digest"]


def test_a_second_sync_has_nothing_to_do_and_writes_nothing(pairsync, synced):
    a, b = synced
    change_a_little(a, b)
    assert pairsync("sync", "--batch", a, b).code == 0

    def written():
        bases = [path for root in synced for path in root.glob(".pairsync/pairs/*/base.sqlite")]
        assert len(bases) == 2
        return traces(a), traces(b), [(trace(base), base.read_bytes()) for base in bases]

    before = written()
    ran = pairsync("sync", "--batch", a, b)
    assert ran.code == 0
    assert ran.out.startswith("Nothing to do: replicas have not changed")
    assert written() == before
    report = pairsync("sync", "--batch", "--json", a, b).report
    assert (report["items_total"], report["items"], report["counts"]) == (0, [], {})
    assert written() == before


def test_the_plan_that_was_approved_is_the_one_that_is_done(pairsync, synced):
    a, b = synced
    change_a_little(a, b)
    digest = pairsync("plan", "--json", a, b).report["plan_digest"]
    ran = pairsync("sync", "--batch", "--json", "--confirm", digest, a, b)
    assert ran.code == 0
    assert contents(a) == contents(b)


@pytest.mark.parametrize("late", ["contents", "new", "nothing of this pair"])
def test_a_plan_that_is_no_longer_the_approved_one_is_refused(pairsync, synced, late):
    a, b = synced
    change_a_little(a, b)
    digest = pairsync("plan", "--json", a, b).report["plan_digest"]
    if late == "contents":
        (a / "file").write_text("changed once more\n")
    elif late == "new":
        (a / "late").write_text("late\n")
    else:
        digest = "0" * 64
    before = contents(a), contents(b)
    ran = pairsync("sync", "--batch", "--json", "--confirm", digest, a, b)
    assert ran.code == 3
    assert ran.report["error"]["code"] == "mass_change"
    assert f"--confirm {ran.report['plan_digest']}" in ran.report["error"]["next"]
    assert (contents(a), contents(b)) == before


def test_surplus_goes_in_a_first_mirror_only_when_its_plan_was_approved(pairsync, pair):
    a, b = pair
    (b / "surplus").write_text("only on b\n")
    words = ["--json", "--mode", "mirror", a, b]
    digest = pairsync("plan", *words).report["plan_digest"]
    assert pairsync("sync", "--batch", "--confirm", digest, *words).code == 0
    assert contents(a) == contents(b)
    assert not (b / "surplus").exists()
