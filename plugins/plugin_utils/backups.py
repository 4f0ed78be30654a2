# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the backup of a replica on any host holds, and bringing it back there.

The installed binary does it (`pairsync history`, `pairsync restore`); this file finds out which
replica is meant, goes to its host, and passes on what is said there.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..module_utils.pairsync.model.errors import EXIT_FATAL, PairsyncError, UsageError
from ..module_utils.pairsync.model.spec import parse_location
from . import parity, reach, rendering
from .runs import NOT_FOUND, Options, missing_binary, running
from .trees import suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .reach import Reach
    from .runs import Runner
    from .topology import Pair


@dataclass(frozen=True)
class Place:
    """One replica and the way from here to its host."""

    host: str
    path: str
    way: Reach
    binary: str = ""

    @property
    def shown(self) -> str:
        """`HOST:PATH`, or the path alone on this machine."""
        return rendering.escape(f"{self.host}:{self.path}" if self.host else self.path)


def place_at(text: str, inventory: Mapping[str, Mapping[str, Any]]) -> Place:
    """Return the replica at a location as typed, HOST:PATH or a path here; raises UsageError.

    A host of the inventory is reached as that says, any other as ssh knows it.
    """
    location = parse_location(text)
    host = location.label
    if location.local:
        path = str(Path(location.path).expanduser().absolute())
        return Place("", path, reach.Reach(host="this machine", local=True))
    if host in inventory and not location.port:
        way = reach.reach(host, inventory[host], location.user)
    else:
        way = reach.Reach(host=host, address=host, user=location.user, port=location.port)
    return Place(host, location.path, way)


def places_of(
    pairs: Sequence[Pair], inventory: Mapping[str, Mapping[str, Any]], host: str = ""
) -> list[Place]:
    """Return the replicas of pairs, each once; those on one host if it is named.

    Raises UsageError for a host that has none.
    """
    found: dict[tuple[str, str], Place] = {}
    for pair in pairs:
        for one in (pair.a, pair.b):
            if host in ("", one.host) and (one.host, one.path) not in found:
                way = reach.replica_reach(pair, one, inventory)
                found[one.host, one.path] = Place(one.host, one.path, way, one.binary)
    if not found:
        hosts = (name for pair in pairs for name in pair.hosts)
        raise UsageError(f"none of these pairs has a replica on {host}", suggestion(host, hosts))
    return list(found.values())


def the_one(places: Sequence[Place]) -> Place:
    """Return the only place; raises UsageError that says how to name one of several."""
    if len(places) == 1:
        return places[0]
    listed = ", ".join(place.shown for place in places[:10])
    raise UsageError(
        f"several replicas are meant: {listed}", "name one with --host, and its tree with --tree"
    )


def run(
    command: str,
    places: Sequence[Place],
    words: Sequence[str],
    inventory: Mapping[str, Mapping[str, Any]],
    *,
    as_json: bool,
) -> int:
    """Run `pairsync COMMAND ROOT WORDS` for each place and show it; return the worst exit code."""
    worst = 0
    with running(inventory, Options()) as runner:
        for place in places:
            if len(places) > 1 and not as_json:
                rendering.say(f"\n{place.shown}")
            try:
                code = _run(runner, place, [command, place.path, *words], as_json=as_json)
            except PairsyncError as error:
                code = error.exit_code
                text = f"pairsync: {rendering.escape(error.sentence())}"
                rendering.say(text, sys.stderr)
            worst = max(worst, code)
    return worst


def _run(runner: Runner, place: Place, words: list[str], *, as_json: bool) -> int:
    for binary in parity.remote_commands(place.binary):
        process = runner.start(place.way, binary, words + (["--json"] if as_json else []))
        for line in process.lines():
            rendering.say(_with_host(line, place) if as_json else rendering.escape(line))
        code = process.finish()
        if code == NOT_FOUND:
            continue
        if code == EXIT_FATAL:
            rendering.say(rendering.escape(f"{place.shown}: {process.last_words()}"), sys.stderr)
        elif code not in range(EXIT_FATAL):
            raise PairsyncError(
                "unreachable",
                f"{place.shown}: {words[0]} ended early: {process.last_words() or code}",
                "run the same command again",
                place.host,
            )
        return code
    raise missing_binary(place.way)


def _with_host(line: str, place: Place) -> str:
    """Check and pass on an answer, with the host it came from; raises PairsyncError."""
    try:
        return json.dumps({"host": place.host or None, **json.loads(line)})
    except (ValueError, TypeError) as error:
        raise PairsyncError(
            "protocol", f"{place.shown} answers with what is no JSON", "run `invoke parity`"
        ) from error
