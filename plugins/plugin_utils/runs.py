# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring pairs up to date from the controller: where a session runs, by which route.

A session runs where the pair's replica a is, or here when it relays or is local. This file decides
that, starts the installed binary there, and returns reports; following.py shows them.
"""

from __future__ import annotations

import json
import shlex
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..module_utils.pairsync.model.errors import EXIT_FATAL, PairsyncError, UsageError
from ..module_utils.pairsync.model.spec import parse_location
from . import openssh, parity, reach, remote, rendering
from .following import Follower
from .topology import Pair
from .trees import Replica

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .reach import Reach

# What keeps host a from host b, and not the controller: the reasons for which `auto` relays.
_RELAYABLE = ("unreachable", "auth")

# How a shell says that there is no such program.
NOT_FOUND = 127


@dataclass(frozen=True)
class Options:
    """What the user asked for, for every pair of a run.

    interactive: there is somebody to ask. route: direct, relay, auto, or "" for what pairs.yml
    says.
    policy: keys of the specification that replace the pair's. confirm: the digest of a plan that
    has been looked at.
    """

    dry_run: bool = False
    interactive: bool = False
    route: str = ""
    confirm: str = ""
    policy: Mapping[str, Any] | None = None


class Runner:
    """Runs sessions one after another, over one connection per host; made by `running`.

    left: the user said `q` or pressed Ctrl-C: no further pair is wanted.
    """

    def __init__(self, inventory: Mapping[str, Mapping[str, Any]], options: Options) -> None:
        self._inventory = inventory
        self._options = options
        self.connections: dict[Reach, Any] = {}
        self.left = False

    def run(self, pair: Pair) -> dict[str, Any]:
        """Run one pair's session and return its report; an error before it is a report as well."""
        try:
            return self._run(pair)
        except PairsyncError as error:
            return failed(error)

    def _run(self, pair: Pair) -> dict[str, Any]:
        route = self._options.route or pair.route or ("auto" if self._options.interactive else "")
        if route == "relay" or self._is_reversed(pair):
            return self._session(pair, "relay")
        report = self._session(pair, "direct")
        error = report.get("error") or {}
        if (
            route == "auto"
            and not report.get("plan_digest")
            and error.get("code") in _RELAYABLE
            and error.get("host") == pair.b.host
            and not self.left
        ):
            rendering.say(
                f"{rendering.escape(error.get('message'))}: relaying through this machine instead"
            )
            return self._session(pair, "relay")
        return report

    def _is_reversed(self, pair: Pair) -> bool:
        """Say whether only b is on this machine, so that the session can only run here."""
        a, b = (reach.is_local(host, self._inventory.get(host, {})) for host in pair.hosts)
        return b and not a

    def _session(self, pair: Pair, route: Any) -> dict[str, Any]:
        """Run the session by one route; raises PairsyncError when it ends without a report."""
        spec = reach.pair_spec(pair, self._inventory, route)
        spec.update(self._options.policy or {})
        way = reach.session_reach(pair, self._inventory, route)
        words = ["plan" if self._options.dry_run else "sync", "--spec", "-", "--events"]
        if not self._options.interactive:
            words.append("--batch")
        if self._options.confirm:
            words += ["--confirm", self._options.confirm]
        relayed = sum(not one.get("local") for one in spec["replicas"].values()) == 2
        follower = Follower(interactive=self._options.interactive, relayed=relayed)
        binary = pair.a.binary if route == "direct" else ""
        process, code = self._follow(way, binary, words, json.dumps(spec), follower)
        self.left = self.left or follower.left
        if follower.report is not None:
            return follower.report
        if follower.left:
            raise PairsyncError(
                "interrupted", "the session was interrupted", "run the same command again", way.host
            )
        raise _no_report(way, code, process.last_words())

    def _follow(
        self, way: Reach, binary: str, words: Sequence[str], spec: str, follower: Follower
    ) -> tuple[remote.Process, int]:
        """Start the binary from the first place it is in, and follow it to its end."""
        for place in parity.remote_commands(binary):
            process = self.start(way, place, words)
            process.send(spec)
            follower.follow(process)
            code = process.finish()
            if code != NOT_FOUND:
                return process, code
        raise missing_binary(way)

    def ask(self, way: Reach, binary: str, words: Sequence[str]) -> str:
        """Return what a command of the installed binary prints; raises PairsyncError."""
        for place in parity.remote_commands(binary):
            process = self.start(way, place, words)
            lines = list(process.lines())
            code = process.finish()
            if code == 0:
                return "\n".join(lines)
            if code != NOT_FOUND:
                raise _no_report(way, code, process.last_words())
        raise missing_binary(way)

    def start(self, way: Reach, place: str, words: Sequence[str]) -> remote.Process:
        """Start a command of the binary at place, here or on a host; raises PairsyncError."""
        if way.local:
            path = Path(place).expanduser()
            if not path.exists():
                return remote.NotThere()
            return remote.LocalProcess([str(path), *words])
        if way not in self.connections:
            self.connections[way] = openssh.connect(way)
        # The place is left unquoted, so that any shell expands its `~`.
        return remote.RemoteProcess(self.connections[way], f"{place} {shlex.join(words)}")


@contextmanager
def running(inventory: Mapping[str, Mapping[str, Any]], options: Options) -> Iterator[Runner]:
    """Yield a Runner, and close its connections in the end."""
    runner = Runner(inventory, options)
    try:
        yield runner
    finally:
        for connection in runner.connections.values():
            connection.close()


def failed(error: PairsyncError) -> dict[str, Any]:
    """Return the report of a session that did not come about."""
    return {"exit": EXIT_FATAL, "error": error.as_json(), "counts": {}, "items": []}


def missing_binary(way: Reach) -> PairsyncError:
    """Return the error for a host on which nothing of ours is installed."""
    if way.local:
        return PairsyncError(
            "binary_missing", "pairsync is not installed on this machine", "run `invoke bootstrap`"
        )
    return PairsyncError(
        "binary_missing",
        f"pairsync is not installed on {way.host}",
        f"run `invoke bootstrap --limit {way.host}`",
        way.host,
    )


def _no_report(way: Reach, code: int, reason: str) -> PairsyncError:
    """Return the error for a session that ended without saying how."""
    where = "this machine" if way.local else way.host
    if code == -1:
        return PairsyncError(
            "unreachable",
            f"the connection to {where} was lost",
            "run the same command again: it goes on where this one stopped",
            way.host,
        )
    if reason.startswith("pairsync: "):
        return PairsyncError("usage", reason.removeprefix("pairsync: "), host=way.host)
    return PairsyncError(
        "internal",
        f"the session on {where} gave no report: {reason or f'it ended with exit code {code}'}",
        f"look at `pairsync --version` on {where}, and run `invoke bootstrap` when it is another",
        way.host,
    )


def pair_of_locations(a: str, b: str) -> tuple[Pair, dict[str, dict[str, Any]]]:
    """Return the pair of two locations as typed, and the inventory that they make.

    Raises UsageError.
    """
    replicas: list[Replica] = []
    inventory: dict[str, dict[str, Any]] = {}
    for text in (a, b):
        location = parse_location(text)
        path = str(Path(location.path).absolute()) if location.local else location.path
        if location.local and location.path.startswith("~"):
            path = location.path
        label = location.label or Path(path).name or "root"
        while label in inventory:
            label += "'"
        replicas.append(
            Replica(
                host=label,
                path=path,
                address=location.label if label != location.label else "",
                user=location.user,
                port=location.port,
            )
        )
        inventory[label] = {"ansible_connection": "local" if location.local else "ssh"}
        if not location.local:
            inventory[label]["ansible_host"] = location.label
            if location.port:
                inventory[label]["ansible_port"] = location.port
    if a == b:
        raise UsageError(f"{a} is named twice", "name two directories")
    return Pair(a=replicas[0], b=replicas[1], tree=""), inventory
