# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How old the pairs are, asked from their hosts: `pairsync status --json` on each, once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..module_utils.pairsync.model.errors import EXIT_FATAL, PairsyncError
from . import reach, rendering
from .runs import Options, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .reach import Reach
    from .runs import Runner
    from .topology import Pair

STATUS_COLUMNS = ("pair", "in step", "last run", "exit", "conflicts", "problem")

# Hosts that are asked at the same time.
_WORKERS = 16


@dataclass(frozen=True)
class Status:
    """What is known of one pair. age, finished: seconds ago, None for never. exit: of the last run.

    problem: why it is not known, or what ended the last run, "" when all is well.
    """

    age: float | None = None
    finished: float | None = None
    exit: int = EXIT_FATAL
    conflicts: int = 0
    problem: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the columns after the pair's name."""
        return (
            rendering.ago(self.age),
            rendering.ago(self.finished),
            str(self.exit),
            str(self.conflicts),
            self.problem,
        )


def statuses(
    pairs: Sequence[Pair], inventory: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Pair, Status]]:
    """Yield every pair with its status, in their order; a host's error becomes its pairs'."""
    ways: dict[Pair | str, Reach | PairsyncError] = {}
    for pair in pairs:
        try:
            # Both hosts know; a is asked, also for a relayed pair.
            ways[pair.name] = reach.session_reach(pair, inventory)
        except PairsyncError as error:
            ways[pair.name] = error
    hosts = {way: pair for pair in pairs if not isinstance(way := ways[pair.name], PairsyncError)}
    with running(inventory, Options()) as runner, ThreadPoolExecutor(_WORKERS) as workers:
        asked = dict(
            zip(hosts, workers.map(lambda way: _known(runner, way, hosts[way]), hosts), strict=True)
        )
    for pair in pairs:
        way = ways[pair.name]
        answer = way if isinstance(way, PairsyncError) else asked[way]
        yield pair, _status(pair, answer)


def _known(runner: Runner, way: Reach, pair: Pair) -> list[dict[str, Any]] | PairsyncError:
    """Return the pairs that a host knows, or why it does not say."""
    try:
        answer = json.loads(runner.ask(way, pair.a.binary, ["status", "--json"]))
        return list(answer["pairs"])
    except PairsyncError as error:
        return error
    except (ValueError, LookupError, TypeError):
        return PairsyncError(
            "protocol",
            f"{way.host} answers with what is no status",
            "run `invoke parity`",
            way.host,
        )


def _status(pair: Pair, answer: list[dict[str, Any]] | PairsyncError) -> Status:
    if isinstance(answer, PairsyncError):
        return Status(problem=str(answer))
    one = _entry(pair, answer)
    if one is None:
        return Status(problem="never synced")
    error = one.get("error") or {}
    return Status(
        age=one.get("age_seconds"),
        finished=_finished(one),
        exit=int(one.get("exit", EXIT_FATAL)),
        conflicts=int(one.get("conflicts") or 0),
        problem=str(error.get("message") or ""),
    )


def _entry(pair: Pair, answer: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return what a's host says of this pair.

    Names are labels only: where no entry has them, the one is meant that has both directories.
    """
    names = {f"{one.host}:{one.path}" for one in (pair.a, pair.b)}
    directories = []
    for one in answer:
        known = one.get("pair") or {}
        if {known.get("a"), known.get("b")} == names:
            return one
        shown = {"a": known.get("a"), "b": known.get("b"), one.get("side"): one.get("root")}
        ends = [str(shown["a"]), str(shown["b"])]
        paths = [pair.a.path, pair.b.path]
        if any(all(map(_is_at, ends, order)) for order in (paths, paths[::-1])):
            directories.append(one)
    return directories[0] if len(directories) == 1 else None


def _is_at(shown: str, path: str) -> bool:
    """Say whether a shown replica can be at a path as pairs.yml writes it, from `~` or absolute."""
    return shown.partition(":")[2] == path or shown.endswith(path.rstrip("/").removeprefix("~"))


def _finished(one: Mapping[str, Any]) -> float | None:
    """Return how long ago the last run ended, by the host's own clock; None when not known."""
    try:
        return float(one["age_seconds"]) + float(one["scanned_unix"]) - float(one["finished_unix"])
    except (LookupError, TypeError):
        return None
