# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A person at each end of a pair, and sessions in between, as a state machine for hypothesis.

Every write has contents that nothing else has, so that what becomes of each can be told. The
machine keeps its own idea of the base: what both sides agreed on after a session.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pairsync.model.entry import DIR, Entry, same_contents
from tests.engine import minis
from tests.engine.minis import all_paths, changed, held_tops, inside, undisturbed
from tests.engine.trees import (
    STATE,
    Connect,
    Pair,
    Result,
    both_local,
    contents,
    entries,
    fingerprints,
    quiet,
    written,
)

SIDES = st.sampled_from("ab")
PATHS = st.sampled_from(["f", "g", "d", "d/f", "d/g", "d/e", "d/e/f", "d/e/l"])
POLICIES = st.sampled_from([{}, {}, {}, {"prefer": "a"}, {"prefer": "b"}])
FILE_MODES = st.sampled_from([0o600, 0o644, 0o755])
DIR_MODES = st.sampled_from([0o700, 0o755])


class Machine(RuleBasedStateMachine):
    """Subclasses say how the replicas are reached."""

    connect: Connect = staticmethod(both_local)

    def __init__(self) -> None:
        super().__init__()
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.pair = Pair(Path(tempfile.mkdtemp(prefix="pairsync-", dir=place)), self.connect)
        self.base: dict[str, Entry] = {}
        self.tokens = 0
        self.degraded = False

    def teardown(self) -> None:
        self.pair.remove()

    def token(self) -> bytes:
        self.tokens += 1
        return b"tok-%06d\n" % self.tokens

    def root(self, side: str) -> Path:
        return self.pair.a if side == "a" else self.pair.b

    def spot(self, side: str, path: str) -> Path | None:
        """Where a path lies, if its directory is one."""
        spot = self.root(side) / path
        parent = spot.parent
        return spot if parent.is_dir() and not parent.is_symlink() else None

    # -- what people do ---------------------------------------------------------------------------

    @initialize(shape=st.sampled_from(["empty", "one", "both"]))
    def begin(self, shape):
        if shape != "empty":
            self.write("a", "f")
            self.make_dir("a", "d")
            self.write("a", "d/f")
            self.make_dir("a", "d/e")
            self.write("a", "d/e/f")
        if shape == "both":
            shutil.copytree(self.pair.a, self.pair.b, dirs_exist_ok=True)

    @rule(side=SIDES, path=PATHS)
    def write(self, side, path):
        """In place: the same inode."""
        spot = self.spot(side, path)
        if spot and (not spot.exists() or spot.is_file()) and not spot.is_symlink():
            spot.write_bytes(self.token())

    @rule(side=SIDES, path=PATHS)
    def write_as_editors_do(self, side, path):
        spot = self.spot(side, path)
        if spot and (spot.is_symlink() or spot.is_file() or not spot.exists()):
            new = spot.with_name("new~")
            new.write_bytes(self.token())
            new.rename(spot)

    @rule(path=PATHS)
    def write_the_same_on_both(self, path):
        data = self.token()
        for side in "ab":
            spot = self.spot(side, path)
            if spot and not spot.is_dir() and not spot.is_symlink():
                spot.write_bytes(data)

    @rule(side=SIDES, path=PATHS)
    def append(self, side, path):
        spot = self.spot(side, path)
        if spot and spot.is_file() and not spot.is_symlink():
            with spot.open("ab") as stream:
                stream.write(self.token())

    @rule(side=SIDES, path=PATHS, size=st.integers(0, 8))
    def truncate(self, side, path, size):
        spot = self.spot(side, path)
        if spot and spot.is_file() and not spot.is_symlink():
            os.truncate(spot, min(size, spot.stat().st_size))

    @rule(side=SIDES, path=PATHS)
    def rewrite_and_put_the_time_back(self, side, path):
        spot = self.spot(side, path)
        if spot and spot.is_file() and not spot.is_symlink():
            before = spot.stat()
            data = self.token().ljust(before.st_size, b".")[: before.st_size]
            with spot.open("r+b") as stream:
                stream.write(data)
            os.utime(spot, ns=(before.st_atime_ns, before.st_mtime_ns))

    @rule(side=SIDES, path=PATHS)
    def delete(self, side, path):
        spot = self.spot(side, path)
        if spot and spot.is_symlink():
            spot.unlink()
        elif spot and spot.is_dir():
            shutil.rmtree(spot)
        elif spot:
            spot.unlink(missing_ok=True)

    @rule(side=SIDES, path=PATHS)
    def make_dir(self, side, path):
        spot = self.spot(side, path)
        if spot and not os.path.lexists(spot):
            spot.mkdir()

    @rule(side=SIDES, old=PATHS, new=PATHS)
    def rename(self, side, old, new):
        source, target = self.spot(side, old), self.spot(side, new)
        if source and target and os.path.lexists(source) and not inside(new, old):
            with contextlib.suppress(IsADirectoryError, NotADirectoryError, OSError):
                source.rename(target)

    @rule(side=SIDES, path=PATHS, text=st.sampled_from(["f", "../f", "/nowhere", "d"]))
    def make_link(self, side, path, text):
        spot = self.spot(side, path)
        if spot and not os.path.lexists(spot):
            spot.symlink_to(text)

    @rule(side=SIDES, path=PATHS, mode=FILE_MODES, dir_mode=DIR_MODES)
    def change_mode(self, side, path, mode, dir_mode):
        spot = self.spot(side, path)
        if spot and spot.exists() and not spot.is_symlink():
            spot.chmod(dir_mode if spot.is_dir() else mode)

    @rule(side=SIDES, path=PATHS, seconds=st.integers(-1000, 1000))
    def touch(self, side, path, seconds):
        """Moving the times of a file is no change."""
        spot = self.spot(side, path)
        if spot and spot.exists() and not spot.is_symlink():
            now = spot.stat().st_mtime_ns + seconds * 10**9
            os.utime(spot, ns=(now, now))

    @rule(side=SIDES, path=PATHS)
    def swap_type(self, side, path):
        spot = self.spot(side, path)
        if not spot or not os.path.lexists(spot):
            return
        was_dir = spot.is_dir() and not spot.is_symlink()
        self.delete(side, path)
        if was_dir:
            self.write(side, path)
        else:
            spot.mkdir()
            (spot / "inner").write_bytes(self.token())

    # -- what happens to the state ----------------------------------------------------------------

    @rule(sides=st.sampled_from(["a", "b", "ab"]))
    def lose_the_base(self, sides):
        lost = False
        for side in sides:
            for file in self.pair.base_files(self.root(side)):
                file.unlink()
                lost = True
        if lost:
            self.base = {}

    @rule(side=SIDES)
    def lose_the_index(self, side):
        for file in (self.root(side) / STATE).glob("index.sqlite*"):
            file.unlink()

    # -- sessions ---------------------------------------------------------------------------------

    @rule(policy=POLICIES)
    def sync(self, policy):
        a, b = entries(self.pair.a), entries(self.pair.b)
        texts = written(self.pair.a) | written(self.pair.b)
        was = (fingerprints(self.pair.a), fingerprints(self.pair.b))
        result = self.session(policy)
        self.check(a, b, was, result, texts, policy)
        self.check_idempotence(policy)

    def session(self, policy) -> Result:
        """One session; a root that was emptied is confirmed, once nothing was done."""
        was = [fingerprints(root) for root in self.pair.roots]
        result = self.pair.sync(max_delete=100, **policy)
        if result.error == "root_emptied":
            assert was == [fingerprints(root) for root in self.pair.roots]
            digest = result.report["plan_digest"]
            result = self.pair.sync(max_delete=100, confirm=digest, **policy)
        assert not result.error, result.report["error"]
        return result

    def check(self, a, b, was, result: Result, texts: set[bytes], policy) -> None:
        new_a, new_b = entries(self.pair.a), entries(self.pair.b)
        now = (fingerprints(self.pair.a), fingerprints(self.pair.b))
        report = result.report
        left = self.left_over(result)
        assert not any(item.result == "failed" for item in result.run.outcomes), report["items"]

        # P1: what anybody wrote is in a replica or in a backup, byte for byte.
        lost = texts - contents(self.pair.a) - contents(self.pair.b)
        assert not lost, lost

        # P4, and the exit code says which of the two it is.
        assert result.exit == (1 if left else 0), report
        if not left:
            assert new_a == new_b

        for path in all_paths(self.base, a, b):
            on_a, on_b = changed(self.base, a, path), changed(self.base, b, path)
            if not on_a and not on_b:
                # P6
                assert was[0].get(path) == now[0].get(path) or self.moved_dir(path, new_a), path
                assert was[1].get(path) == now[1].get(path) or self.moved_dir(path, new_b), path
            elif on_a and on_b and minis.equal(a.get(path), b.get(path)):
                # P8
                assert was[0].get(path) == now[0].get(path) or self.moved_dir(path, new_a), path
                assert was[1].get(path) == now[1].get(path) or self.moved_dir(path, new_b), path
                assert path not in left or held_tops(self.base, a, b), path
        if undisturbed(self.base, a, b):
            for path in all_paths(self.base, a, b):
                # P5
                if changed(self.base, a, path) and not changed(self.base, b, path):
                    assert new_b.get(path) == a.get(path), path
                if changed(self.base, b, path) and not changed(self.base, a, path):
                    assert new_a.get(path) == b.get(path), path
        if not policy:
            self.check_conflicts(a, b, new_a, new_b, left)
        self.check_report(a, b, new_a, new_b, result)
        self.check_backup(was, (new_a, new_b), (a, b))
        self.check_base(new_a, new_b, left)

    def check_conflicts(self, a, b, new_a, new_b, left: set[str]) -> None:
        """P7, P9, P10, P11: what both changed differently is listed, and stays."""
        for path in all_paths(self.base, a, b):
            before, one, other = self.base.get(path), a.get(path), b.get(path)
            both = not same_contents(before, one) and not same_contents(before, other)
            if both and not same_contents(one, other):
                assert path in left, path
                assert same_contents(new_a.get(path), one), path
                assert same_contents(new_b.get(path), other), path
        tops = held_tops(self.base, a, b)
        for tree, new in ((a, new_a), (b, new_b)):
            for path, entry in tree.items():
                if any(path == top or inside(path, top) for top in tops):
                    assert new.get(path) == entry, path

    def check_report(self, a, b, new_a, new_b, result: Result) -> None:
        """P12, P37: what is at a path was at it, on one side; what changed is what is told."""
        for old, new, other, way in ((a, new_a, b, "b->a"), (b, new_b, a, "a->b")):
            told = {
                part.path.decode()
                for outcome in result.run.outcomes
                if outcome.item.decision == way and outcome.result == "done"
                for part in outcome.item.parts
            }
            for path in all_paths(old, new):
                now = new.get(path)
                assert same_contents(now, old.get(path)) or same_contents(now, other.get(path)), (
                    path
                )
                assert (path in told) == (not minis.equal(old.get(path), now)), (path, way)
        for outcome in result.run.outcomes:
            waits = outcome.item.decision in ("a->b", "b->a") and outcome.result != "done"
            assert not waits or outcome.reason, outcome

    def check_backup(self, was, new, old) -> None:
        """P32: the very object that was replaced or deleted is in the backup, as it was."""
        for root, prints, tree, before in zip(self.pair.roots, was, new, old, strict=True):
            for path, entry in before.items():
                if entry.kind == DIR or same_contents(entry, tree.get(path)):
                    continue
                layers = [
                    *root.glob(f"{STATE}/backup/*"),
                    *root.glob(f"{STATE}/backup/*/{STATE}/*"),
                ]
                kept = [layer / path for layer in layers if os.path.lexists(layer / path)]
                inode, mode, *__, mtime_ns, ___ = prints[path]
                assert (inode, mode, mtime_ns) in {
                    (found.st_ino, found.st_mode, found.st_mtime_ns)
                    for found in map(os.lstat, kept)
                }, path

    def check_base(self, new_a, new_b, left: set[str]) -> None:
        """P4, P7, P8: both bases are one, and hold what both sides agree on."""
        bases = [self.pair.base(root) for root in self.pair.roots]
        assert bases[0] == bases[1]
        base = {path: entry._replace(mtime_ns=0) for path, entry in bases[0].items()}
        for path in all_paths(self.base, base, new_a, new_b):
            one, other = new_a.get(path), new_b.get(path)
            if path not in left and minis.equal(one, other):
                assert base.get(path) == one, path
            elif path in left and not same_contents(one, other):
                assert same_contents(base.get(path), self.base.get(path)), path
        self.base = base

    def check_idempotence(self, policy) -> None:
        """P3: the second session plans nothing, and touches no inode, time or base."""
        was = [fingerprints(root) for root in self.pair.roots]
        commits = [self.pair.commit(root) for root in self.pair.roots]
        assert commits[0] == commits[1]
        result = self.session(policy)
        assert quiet(result), result.report["items"]
        assert was == [fingerprints(root) for root in self.pair.roots]
        assert commits == [self.pair.commit(root) for root in self.pair.roots]

    @staticmethod
    def left_over(result: Result) -> set[str]:
        """Paths that the session left as they were, notes excepted."""
        return {
            part.path.decode()
            for outcome in result.run.outcomes
            if outcome.result != "done" and not outcome.item.note
            for part in outcome.item.parts
        }

    @staticmethod
    def moved_dir(path: str, tree: dict[str, Entry]) -> bool:
        """A directory's own times change with what is done in it."""
        return path in tree and tree[path].kind == DIR

    @invariant()
    def no_litter(self):
        """P15: nothing of ours is left outside the state directory, nor in the stage."""
        for root in self.pair.roots:
            stage = root / STATE / "stage"
            assert not stage.exists() or not list(stage.iterdir())
