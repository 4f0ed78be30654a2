# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for whole sessions whatever two people did: P13, and properties P25 to P43.

Those of the plan alone are in reconcile/test_properties.py, and P1 to P15 in machine.py.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pairsync.model.entry import same_contents
from pairsync.model.pathspec import PathSet
from pairsync.replica import fsops
from pairsync.replica.local import LocalReplica
from tests.engine.model.edits import PATHS, STEPS, operate_all, scratch
from tests.engine.replica.test_restore import brought, looks
from tests.engine.trees import (
    ENGINE_HOME,
    STATE,
    Link,
    Pair,
    Result,
    agent,
    entries,
    fingerprints,
    quiet,
    read_tree,
    write_tree,
)

BEGINNING = {"f": "1", "g": "22", "d/f": "333", "d/g": "4444", "d/e/f": "55555"}
MIRRORED = {"a->b": "b->a", "b->a": "a->b"}
DAYS = 24 * 3600 * 10**9


def histories(examples):
    """The same histories every time, without a search for a smaller one."""
    return settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        phases=[Phase.generate],
    )  # fmt: skip


def lived(home: Path, steps) -> Pair:
    """A pair that was in step, and what people did since."""
    pair = Pair(home)
    write_tree(pair.a, BEGINNING)
    assert pair.sync().exit == 0
    operate_all(pair.roots, steps)
    return pair


def shape(result: Result) -> list[tuple[object, ...]]:
    """What a plan says, without what only stands for contents in its digest."""
    assert not result.error, result.report["error"]
    items = (outcome.item for outcome in result.run.outcomes)
    return sorted(
        (one.path, one.column, one.a, one.b, one.decision, one.note, len(one.parts))
        for one in items
    )


def sync(pair: Pair, **policy) -> Result:
    """A session that no brake stops."""
    result = pair.sync(max_delete=100, **policy)
    if result.error == "root_emptied":
        result = pair.sync(max_delete=100, confirm=result.report["plan_digest"], **policy)
    assert not result.error, result.report["error"]
    return result


def plan(pair: Pair, **policy) -> list[tuple[object, ...]]:
    """A plan that no guard stops."""
    result = pair.sync(dry_run=True, max_delete=100, **policy)
    if result.error == "root_emptied":
        digest = result.report["plan_digest"]
        result = pair.sync(dry_run=True, max_delete=100, confirm=digest, **policy)
    return shape(result)


# -- P13: who reads meanwhile ----------------------------------------------------------------------

SHAPES = {
    "file": lambda path: path.write_text("old"),
    "large file": lambda path: path.write_bytes(b"new" * (1 << 20)),
    "link": lambda path: path.symlink_to("g"),
    "directory": lambda path: write_tree(path, {"inner": "1", "d/inner": "2"}),
}


@pytest.mark.parametrize("new", ["large file", "link", "directory"])
@pytest.mark.parametrize("old", ["file", "link"])
def test_whoever_reads_sees_the_old_or_the_new(tmp_path, monkeypatch, old, new):
    """P13: before and after every call, also while several files are replaced."""
    pair = Pair(tmp_path)
    SHAPES[old](pair.a / "f")
    write_tree(pair.a, {"g": "1", "h": "2"})
    assert pair.sync().exit == 0
    (pair.a / "f").unlink()
    SHAPES[new](pair.a / "f")
    write_tree(pair.a, {"g": "changed", "h": "changed"})
    whole = [read_tree(root) for root in (pair.b, pair.a)]
    views = []

    def look():
        now = read_tree(pair.b)
        for name in ("f", "g", "h"):
            seen = [{p: v for p, v in tree.items() if p.split("/")[0] == name} for tree in whole]
            found = {path: value for path, value in now.items() if path.split("/")[0] == name}
            assert found in seen, name
            views.append(seen.index(found))

    def looked_at(real):
        def call(*arguments):
            look()
            result = real(*arguments)
            look()
            return result

        return call

    for name, real in vars(fsops).copy().items():
        if isinstance(real, types.FunctionType) and not name.startswith("_"):
            monkeypatch.setattr(fsops, name, looked_at(real))
    result = pair.sync()
    monkeypatch.undo()
    assert result.exit == 0, result.report["error"]
    assert set(views) == {0, 1}


# -- P25, P26: who is a, and everything else that must not matter ----------------------------------


@histories(60)
@given(steps=STEPS)
def test_exchanging_the_sides_mirrors_the_plan(steps):
    """P25, also for a preference, which goes with its side."""
    with scratch() as home:
        pair = lived(home, steps)
        other = Pair(home)
        other.a, other.b = pair.b, pair.a
        for mine, its in (("", ""), ("a", "b")):
            back = [
                (path, column, b, a, MIRRORED.get(decision, decision), *rest)
                for path, column, a, b, decision, *rest in plan(other, prefer=its)
            ]
            assert plan(pair, prefer=mine) == sorted(back)


SURROUNDINGS = [
    ("umask 077", {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "Pacific/Kiritimati"}),
    ("umask 000", {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "TZ": "America/Adak"}),
    ("umask 022", {"PYTHONHASHSEED": "3", "LC_ALL": "POSIX", "TZ": "right/UTC", "LANG": "tr_TR"}),
]
ODD = {
    "naïve/é": "1", "naïve/É": "2", "I": "3", "i": "4", "\u0131": "5", os.fsdecode(b"\xff"): "6",
    " ": "7", "a\nb": "8", "d/checkpoint": "9", "d/model": "10", "link": Link("d/model"),
}  # fmt: skip


def test_the_plan_does_not_depend_on_where_it_is_made(tmp_path):
    """P26: the seed of hashes, the locale, the umask and the time zone."""
    pair = Pair(tmp_path)
    write_tree(pair.a, {**BEGINNING, **ODD})
    assert pair.sync().exit == 0
    write_tree(pair.a, dict.fromkeys(("é", "I", "d/checkpoint", "d/model", "f"), "from a"))
    write_tree(pair.b, {"f": "from b", "naïve/É": "from b", "i": "from b"})
    (pair.b / os.fsdecode(b"\xff")).unlink()
    reports = []
    for line, variables in SURROUNDINGS:
        done = subprocess.run(
            ["sh", "-c", f'{line}; exec "$@"', "sh", sys.executable, "-m", "pairsync", "plan",
             "--json", pair.a, pair.b],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ENGINE_HOME), "HOME": str(tmp_path),
                 **variables},
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        report = json.loads(done.stdout)
        reports.append((report["plan_digest"], report["items"], report["counts"]))
    assert len(reports[0][1]) == 8
    assert reports[1:] == reports[:-1]


@histories(30)
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_the_order_of_a_directory_means_nothing(steps, seed):
    """P26: neither in the plan, nor in what a session leaves."""
    real, names = fsops.list_dir, fsops.names

    def shuffled(found):
        found = list(found)
        random.Random(seed).shuffle(found)
        return found

    with scratch() as home, pytest.MonkeyPatch.context() as patch:
        plain, pair = lived(home / "plain", steps), lived(home / "shuffled", steps)
        before = pair.sync(dry_run=True, max_delete=100).report
        patch.setattr(fsops, "list_dir", lambda fd: shuffled(real(fd)))
        patch.setattr(fsops, "names", lambda fd: shuffled(names(fd)))
        after = pair.sync(dry_run=True, max_delete=100).report
        assert (after["plan_digest"], after["items"]) == (before["plan_digest"], before["items"])
        sync(pair)
        patch.undo()
        sync(plain)
        assert [*map(entries, pair.roots)] == [*map(entries, plain.roots)]


# -- P27, P28: subtrees and ignore rules -----------------------------------------------------------


def is_at_or_below(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith(outer + "/")


@histories(80)
@given(steps=STEPS, top=st.sampled_from(PATHS))
def test_a_session_over_a_subtree_is_a_part_of_the_whole(steps, top):
    """P27: it touches nothing outside, and with the rest afterwards it comes to the same.

    Except inside a directory that the whole would hold as one conflict: seen alone, what is in it
    may well be clear.
    """
    with scratch() as home:
        parts, whole = lived(home / "parts", steps), lived(home / "whole", steps)
        was = [*map(fingerprints, parts.roots)]
        sync(parts, paths=(top,))
        for before, root in zip(was, parts.roots, strict=True):
            now = fingerprints(root)
            for path in before.keys() | now.keys():
                if not is_at_or_below(path, top) and not is_at_or_below(top, path):
                    assert before.get(path) == now.get(path), path
        conflicts = [item for item, (__, result) in sync(whole).items.items() if result != "done"]
        if any(top != path and is_at_or_below(top, path) for path in conflicts):
            return
        sync(parts)
        assert [*map(entries, parts.roots)] == [*map(entries, whole.roots)]
        assert parts.base(parts.a) == whole.base(whole.a)


@histories(80)
@given(steps=STEPS, rule=st.sampled_from(["Name f", "Name e", "Path d", "Path d/g", "Regex d/.*"]))
def test_a_new_ignore_rule_takes_nothing_away(steps, rule):
    """P28: neither at once, nor when it is lifted again.

    Except inside a directory that without the rule is held as one conflict, for what is new in it:
    what the rule hides is no longer new content.
    """
    with scratch() as home:
        pair, other = lived(home / "with", steps), lived(home / "without", steps)
        ignored = PathSet([rule])
        was = [*map(fingerprints, pair.roots)]
        old = [*map(entries, pair.roots)]
        held = [path for path, (__, result) in sync(other).items.items() if result != "done"]
        sync(pair, ignore=(rule,))
        for before, tree, root, plain in zip(was, old, pair.roots, other.roots, strict=True):
            now, new, without = fingerprints(root), entries(root), entries(plain)
            for path in before.keys() | now.keys():
                if hidden(ignored, path):
                    assert before.get(path) == now.get(path), path
            for path, entry in tree.items():
                if hidden(ignored, path) or any(is_at_or_below(path, top) for top in held):
                    continue
                if not same_contents(entry, new.get(path)):
                    assert not same_contents(entry, without.get(path)), path
        was = [*map(read_tree, pair.roots)]
        sync(pair)
        for before, root in zip(was, pair.roots, strict=True):
            after = read_tree(root)
            for path in before:
                if hidden(ignored, path):
                    assert path in after, path
                    assert before[path] == after[path], path


def hidden(rules: PathSet, path: str) -> bool:
    """Whether a rule matches a path, or a directory that it lies in."""
    parts = path.split("/")
    return any(rules.matches("/".join(parts[:end]).encode()) for end in range(1, len(parts) + 1))


# -- P29, P30: times, and what is remembered of files ----------------------------------------------


@histories(40)
@given(steps=STEPS, side=st.sampled_from("ab"), days=st.sampled_from([-9000, -1, 1, 9000]))
def test_times_that_are_all_wrong_change_no_plan(steps, side, days):
    """P29: mtimes of one host, by any constant."""
    with scratch() as home:
        pair = lived(home, steps)
        before = plan(pair)
        root = pair.roots["ab".index(side)]
        for path in sorted(root.rglob("*"), reverse=True):
            if STATE not in path.relative_to(root).parts:
                when = path.lstat().st_mtime_ns + days * DAYS
                os.utime(path, ns=(when, when), follow_symlinks=False)
        assert plan(pair) == before


@pytest.mark.needs("faketime")
@pytest.mark.parametrize("days", ["-4000d", "+4000d"])
def test_a_clock_that_is_all_wrong_changes_nothing(tmp_path, days):
    """P29: the clock of one host."""
    clock = ("env", "NO_FAKE_STAT=1", "faketime", "-f", days)
    pair = Pair(tmp_path / "wrong", lambda: (LocalReplica(), agent(*clock)))
    plain = Pair(tmp_path / "right")
    for one in (pair, plain):
        write_tree(one.a, BEGINNING)
        assert one.sync().exit == 0
        write_tree(one.a, {"f": "from a", "d/g": "from a", "new": "from a"})
        write_tree(one.b, {"f": "from b", "d/e/f": "from b"})
        (one.b / "g").unlink()
    assert plan(pair) == plan(plain)
    assert pair.sync().items == plain.sync().items
    assert [*map(read_tree, pair.roots)] == [*map(read_tree, plain.roots)]
    assert pair.backups() == plain.backups()
    assert quiet(pair.sync())


REWRITES = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(sorted(BEGINNING)),
        st.sampled_from(["in place", "as editors do", "with the time put back"]),
    ),
    max_size=4,
)


@histories(60)
@given(rounds=st.lists(REWRITES, min_size=1, max_size=3))
def test_the_index_changes_no_plan(rounds):
    """P30: with rewrites to the same size right after a scan or a session."""
    with scratch() as home:
        pair = lived(home, [])
        number = 0
        for rewrites in rounds:
            for side, name, how in rewrites:
                number += 1
                rewrite(pair.roots["ab".index(side)] / name, how, number)
            with_index = plan(pair)
            for root in pair.roots:
                for file in (root / STATE).glob("index.sqlite*"):
                    file.unlink()
            assert plan(pair) == with_index
            sync(pair, prefer="a")
            assert read_tree(pair.a) == read_tree(pair.b)


def rewrite(path: Path, how: str, number: int) -> None:
    """Other contents of the same size."""
    before = path.stat()
    data = (b"%d" % number).ljust(before.st_size, b".")[: before.st_size]
    if how == "as editors do":
        new = path.with_name("new~")
        new.write_bytes(data)
        new.rename(path)
    else:
        with path.open("r+b") as stream:
            stream.write(data)
    if how == "with the time put back":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# -- P31, P32, P37: what is shown, done and kept ---------------------------------------------------


@histories(60)
@given(steps=STEPS)
def test_a_plan_writes_nothing_and_is_what_is_done(steps):
    """P31, P37."""
    with scratch() as home:
        pair = lived(home, steps)
        was = [*map(fingerprints, pair.roots)], [*map(state_of, pair.roots)]
        shown = pair.sync(dry_run=True, max_delete=100)
        assert was == ([*map(fingerprints, pair.roots)], [*map(state_of, pair.roots)])
        done = pair.sync(max_delete=100)
        assert done.error == shown.error
        if shown.error == "root_emptied":
            return
        assert not done.error
        assert done.report["plan_digest"] == shown.report["plan_digest"]
        assert {path: decision for path, (decision, __) in done.items.items()} == {
            path: decision for path, (decision, __) in shown.items.items()
        }
        assert set(done.items.values()) <= {
            ("a->b", "done"), ("b->a", "done"), ("conflict", "skipped"),
        }  # fmt: skip


def state_of(root: Path) -> dict[str, object]:
    """Our own state, without what a plan may bring up to date."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in (root / STATE).rglob("*")
        if not path.name.startswith(("index.sqlite", "lock", "probe"))
    }


@histories(60)
@given(steps=STEPS)
def test_what_a_session_took_can_be_given_back(steps):
    """P32: contents, permissions and times of all that a run replaced or deleted."""
    with scratch() as home:
        pair = lived(home, steps)
        was = [*map(looks, pair.roots)]
        run = sync(pair).report["run"]
        for before, root in zip(was, pair.roots, strict=True):
            after = looks(root)
            taken = [path for path in before[0] if before[0][path] != after[0].get(path, after)]
            if not taken:
                continue
            assert {item.result for item in brought(root, run=run).items} <= {"done", "unchanged"}
            now = looks(root)
            for path in taken:
                for then, restored in zip(before, now, strict=True):
                    assert then.get(path) == restored.get(path), path


# -- P38, P40: names, and more than two replicas ---------------------------------------------------

NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in (b".", b"..", STATE.encode())
)


@histories(40)
@given(names=st.sets(NAMES, min_size=1, max_size=8))
def test_any_name_arrives_as_it_is(names):
    """P38."""
    with scratch() as home:
        pair = Pair(home)
        for name in names:
            (pair.a / os.fsdecode(name)).write_bytes(name)
        assert pair.sync().exit == 0
        for root in pair.roots:
            found = {name for name in os.listdir(os.fsencode(root)) if name != STATE.encode()}
            assert found == names
            assert {(root / os.fsdecode(name)).read_bytes() for name in found} == names
        assert quiet(pair.sync())


@pytest.mark.parametrize(
    "links, diameter", [([(0, 1), (0, 2), (0, 3)], 2), ([(0, 1), (1, 2), (2, 3)], 3)]
)
def test_a_star_and_a_chain_come_to_rest(tmp_path, links, diameter):
    """P40: after as many rounds as the longest way has steps, and one more."""
    roots = [tmp_path / f"host{number}" for number in range(4)]
    pairs = []
    for number, root in enumerate(roots):
        write_tree(root, {f"of {number}": "1", "shared/file": "same", f"d{number}/x": "2"})
    for one, other in links:
        pair = Pair(tmp_path / f"{one}{other}")
        pair.a, pair.b = roots[one], roots[other]
        pairs.append(pair)
    settled(pairs, diameter)
    for number, root in enumerate(roots):
        (root / f"of {number}").write_text("changed")
        (root / f"of {(number + 1) % 4}").chmod(0o640)
        (root / f"d{number}/x").unlink()
        os.utime(root / "shared/file", (number, number))
        write_tree(root, {f"d{(number + 1) % 4}/caf\u00e9{number}": "3", f"e{number}": None})
    settled(pairs, diameter)
    trees = [*map(entries, roots)]
    assert trees[1:] == trees[:-1]
    assert {f"of {number}" for number in range(4)} <= trees[0].keys()


def settled(pairs, diameter):
    for __ in range(diameter):
        for pair in pairs:
            assert pair.sync().exit == 0
    was = [fingerprints(root) for pair in pairs for root in pair.roots]
    assert [pair.sync().report["items_total"] for pair in pairs] == [0] * len(pairs)
    assert was == [fingerprints(root) for pair in pairs for root in pair.roots]


# -- P43: what a user may do -----------------------------------------------------------------------

USER = 54_321


@pytest.mark.root
@pytest.mark.needs("setpriv")
def test_a_user_s_session_does_nothing_that_the_user_may_not(tmp_path):
    """P43: neither to files of others, nor with files that are another's afterwards."""
    as_user = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
    tmp_path.chmod(0o755)
    for above in tmp_path.parents:
        if above.stat().st_uid == os.geteuid() and not above.stat().st_mode & 0o001:
            above.chmod(0o711)
    pair = Pair(tmp_path / "pair", lambda: (LocalReplica(), agent(*as_user)))
    os.chown(pair.b, USER, USER)
    names = ("mine/f", "foreign/f", "foreign/doomed", "sticky/f", "sticky/doomed", "mine/g")
    write_tree(pair.a, dict.fromkeys(names, "1"))
    assert pair.sync().exit == 0
    for name in ("foreign", "foreign/f", "foreign/doomed", "sticky/f", "sticky/doomed", "mine/g"):
        os.chown(pair.b / name, 0, 0)
    os.chown(pair.b / "sticky", 0, 0)
    (pair.b / "sticky").chmod(0o1777)
    others = {name: fingerprints(pair.b)[name] for name in names if not name.startswith("mine")}
    write_tree(pair.a, {name: "changed" for name in names if not name.endswith("doomed")})
    write_tree(pair.a, {"foreign/new": "2", "mine/new": "3", "sticky/new": "4"})
    (pair.a / "mine/g").chmod(0o600)
    for name in ("foreign/doomed", "sticky/doomed"):
        (pair.a / name).unlink()
    result = pair.sync()
    assert result.exit == 2
    assert others.items() <= fingerprints(pair.b).items()
    failed = {path for path, (__, became) in result.items.items() if became == "failed"}
    assert failed == {*others, "foreign/new"}
    assert (pair.b / "mine/f").read_text() == (pair.b / "mine/g").read_text() == "changed"
    for name in ("mine/f", "mine/new", "sticky/new"):
        assert (pair.b / name).stat().st_uid == USER
