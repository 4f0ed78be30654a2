# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a long session while it runs: commits of what is done so far.

New files appear batch by batch, and a first sync of a terabyte takes hours: what both sides have
by then is recorded every LAG_SECONDS, in commits like the last one. Such a commit says less than
it could, never more: it holds only what is new or was found equal, and of new directories not the
permissions, which they get last. It covers no path that the base did not cover before, so that
what it leaves out is never taken for a deletion.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Callable, Optional

from ..model.entry import DIR, FILE, Entry, is_dir, parent_of
from ..model.plan import A_TO_B, B_TO_A, BOTH, DONE, EQUAL, PROPS, Item, Part
from ..reconcile.actions import Action, agreed
from .both import PATIENCE_SECONDS
from .transfer import Way

LAG_SECONDS = 30.0

Row = tuple[bytes, Optional[Entry]]


class SoFar:
    """What is done of a plan, each part told once."""

    def __init__(self, items: list[Item], ways: tuple[Way, Way]) -> None:
        """items, ways: of the session; the ways learn what is done from other threads."""
        self._left = [(item, part) for item in items if _counts(item) for part in item.parts]
        self._ways = ways
        self._actions: dict[bytes, tuple[Action, Way]] = {
            action.path: (action, way)
            for way in ways
            for action in way.actions
            if action.have is None and action.want is not None and action.by_reference
        }
        # A row below a directory that has none would be taken for a file whose directory is new
        # on both sides: these come first.
        self._awaited = {
            part.path
            for item in items
            for part in item.parts
            if (is_dir(part.a) or is_dir(part.b)) and not is_dir(part.base)
        }

    def rows(self) -> list[Row]:
        """Base rows of what was done since the last call, in path order."""
        for way in self._ways:
            way.collect()
        found: list[Row] = []
        left = []
        for item, part in self._left:
            rows = [] if parent_of(part.path) in self._awaited else list(self._row(item, part))
            if rows:
                self._awaited.discard(part.path)
                found.extend(rows)
            else:
                left.append((item, part))
        self._left = left
        return found

    def _row(self, item: Item, part: Part) -> Iterator[Row]:
        if item.decision == EQUAL:
            yield part.path, agreed(part.base, part, item)
            return
        action, way = self._actions.get(part.path, (None, None))
        if action is None or way is None or action.want is None:
            return
        done = way.done.get(action.number)
        if done is None or done.result != DONE:
            return
        want, proof = action.want, done.proof
        if want.kind == DIR:
            yield part.path, want._replace(mode=None)
        elif want.kind != FILE:
            yield part.path, want
        elif proof is not None and not proof.grew:
            yield part.path, want._replace(size=proof.size, digest=proof.digest)


class Lagging:
    """Records what is done so far, in a thread of its own, while its body runs."""

    def __init__(
        self,
        items: list[Item],
        ways: tuple[Way, Way],
        save: Callable[[list[Row]], None],
        stop: Callable[[], None],
        abandon: Callable[[], None],
    ) -> None:
        """save: brings rows into both bases. stop: ends the session, when that has failed.

        abandon: called when a save that hangs is left alone.
        """
        self._items, self._ways = items, ways
        self._save, self._stop, self._abandon = save, stop, abandon
        self._over = threading.Event()
        # Not join(): once that was interrupted, Python takes the thread for one that has ended.
        self._ended = threading.Event()
        self._error: Optional[Exception] = None
        self._thread = threading.Thread(target=self._run, name="lagging record", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: object, *__: object) -> None:
        self._over.set()
        try:
            # A commit that is being written comes to its end, unless the session has failed.
            self._ended.wait(None if kind is None else PATIENCE_SECONDS)
        except BaseException:
            self._stop()
            self._ended.wait(PATIENCE_SECONDS)
            raise
        finally:
            if not self._ended.is_set():
                self._abandon()

    def check(self) -> None:
        """Raise what went wrong here, if that is what ended the session."""
        error = self._error
        if error is not None and getattr(error, "code", "") != "interrupted":
            raise error

    def _run(self) -> None:
        so_far: Optional[SoFar] = None
        try:
            while not self._over.wait(LAG_SECONDS):
                so_far = so_far or SoFar(self._items, self._ways)
                rows = so_far.rows()
                if rows and not self._over.is_set():
                    self._save(rows)
        except Exception as error:
            self._error = error
            self._stop()
        finally:
            self._ended.set()


def _counts(item: Item) -> bool:
    """Tell whether an item can be recorded before the end: it is equal, or one new entry."""
    if item.decision == EQUAL:
        return item.column != PROPS
    return item.decision in (A_TO_B, B_TO_A) and item.column == BOTH and len(item.parts) == 1
