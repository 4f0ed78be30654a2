# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compile the trees of pairs.yml to pairs, and find pairs by what people type.

The names of pairs and of their groups are made here and nowhere else. How a host is reached is the
matter of reach.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

from ..module_utils.pairsync.model.errors import PairsyncError, UsageError
from .trees import PairsFile, PairsFileError, Replica, Tree, suggestion

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

PAIRS_GROUP = "sync_pairs"
CONTROLLER = "localhost"


@dataclass(frozen=True)
class Pair:
    """Two replicas on two inventory hosts, and what pairs.yml says about them.

    route: direct, relay, auto, or "" when pairs.yml does not say. user: the account that owns the
    tree, "" for the connection's user. round: pairs of one round have no root in common, from 0.
    policy: the policy's keys as `pairsync.spec/1` has them.
    """

    a: Replica
    b: Replica
    tree: str
    route: str = ""
    user: str = ""
    round: int = 0
    policy: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`a+b@tree`: the pair's name as an Ansible host."""
        return f"{self.a.host}+{self.b.host}@{self.tree}"

    @property
    def hosts(self) -> tuple[str, str]:
        """The two inventory hosts, a first."""
        return self.a.host, self.b.host

    @property
    def session_host(self) -> str:
        """The inventory host on which an unattended session runs."""
        return CONTROLLER if self.route == "relay" else self.a.host

    def groups(self) -> list[str]:
        """Return the inventory groups the pair is in."""
        from ansible.inventory.group import to_safe_group_name

        names = (f"tree_{self.tree}", *(f"pairs_with_{host}" for host in self.hosts))
        safe = (str(to_safe_group_name(name, force=True, silent=True)) for name in names)
        return [PAIRS_GROUP, *safe]

    def variables(self) -> dict[str, Any]:
        """Return the pair's variables as an Ansible host; pair_from_variables reads them back."""
        definition: dict[str, Any] = {
            "replicas": {one.host: one.as_written() for one in (self.a, self.b)},
            **self.policy,
        }
        definition.update({key: one for key in ("route", "user") if (one := getattr(self, key))})
        return {
            "pair_name": self.name,
            "pair_a": self.a.host,
            "pair_b": self.b.host,
            "pair_tree": self.tree,
            "pair_round": self.round,
            "pair_route": "relay" if self.route == "relay" else "direct",
            "pair_session_host": self.session_host,
            "pair_definition": definition,
        }


def pair_from_variables(variables: Mapping[str, Any]) -> Pair:
    """Return the pair whose inventory variables these are."""
    policy = dict(variables["pair_definition"])
    written = policy.pop("replicas")
    a, b = (
        Replica(
            host=host, **{**written[host], "ssh_args": tuple(written[host].get("ssh_args", ()))}
        )
        for host in (variables["pair_a"], variables["pair_b"])
    )
    return Pair(
        a=a,
        b=b,
        tree=variables["pair_tree"],
        route=policy.pop("route", ""),
        user=policy.pop("user", ""),
        round=int(variables["pair_round"]),
        policy=policy,
    )


def compile_pairs(
    source: PairsFile, hosts: Collection[str], groups: Mapping[str, Sequence[str]]
) -> tuple[Pair, ...]:
    """Return the pairs of pairs.yml in their order, round by round.

    hosts: the names the inventory knows; groups: their members in inventory order. Raises
    PairsFileError for a host or group that is not there, and for mirrors that chase each other.
    """
    pairs: list[Pair] = []
    for tree in source.trees:
        compiled = _compile(source, tree, hosts, groups)
        pairs.extend(compiled)
        _check_mirrors(source, tree, pairs)
    return in_rounds(pairs)


def in_rounds(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Number the rounds so that no root occurs twice in one, and sort the pairs by them.

    Every pair takes the first round in which both its roots are free: at most one less than twice
    as many rounds as the busiest root has pairs, and the same for the same input.
    """
    taken: dict[tuple[str, str], set[int]] = {}
    numbered = []
    for pair in pairs:
        busy = [taken.setdefault(_root(one), set()) for one in (pair.a, pair.b)]
        number = next(
            n for n in range(len(busy[0]) + len(busy[1]) + 1) if not any(n in one for one in busy)
        )
        for one in busy:
            one.add(number)
        numbered.append(replace(pair, round=number))
    return tuple(sorted(numbered, key=lambda pair: pair.round))


def match_pairs(pairs: Sequence[Pair], text: str, tree: str | None = None) -> tuple[Pair, ...]:
    """Return the pairs that a person means by `gpu1:gpu2` (either order) or by a pair's name.

    Without a tree every tree of the two hosts is meant. Raises PairsyncError with the code
    `unknown_pair`, and `usage` for text that names no pair at all.
    """
    named = [pair for pair in pairs if pair.name == text and tree in (None, pair.tree)]
    if named:
        return tuple(named)
    hosts, at, of = text.replace("+", ":").partition("@")
    tree = of if at and tree is None else tree
    parts = hosts.split(":")
    if len(parts) != 2 or not all(parts):
        raise UsageError(f"{text!r} names no pair", "write HOST:HOST, for example gpu1:gpu2")
    if parts[0] == parts[1]:
        raise UsageError(f"{text}: a host is no pair with itself", "name two hosts")
    for host in parts:
        known = {one for pair in pairs for one in pair.hosts}
        if host not in known:
            raise PairsyncError(
                "unknown_pair",
                f"no pair has a host {host}",
                suggestion(host, known) or "add a pair to pairs.yml",
            )
    between = [pair for pair in pairs if set(pair.hosts) == set(parts)]
    if not between:
        others = ", ".join(
            sorted({":".join(pair.hosts) for pair in pairs if parts[0] in pair.hosts})
        )
        raise PairsyncError(
            "unknown_pair",
            f"{parts[0]} and {parts[1]} are no pair",
            f"the pairs of {parts[0]} are {others}",
        )
    found = tuple(pair for pair in between if tree in (None, pair.tree))
    if not found:
        raise PairsyncError(
            "unknown_pair",
            f"{parts[0]} and {parts[1]} have no tree {tree}",
            suggestion(str(tree), (pair.tree for pair in between)),
        )
    return found


def _compile(
    source: PairsFile, tree: Tree, hosts: Collection[str], groups: Mapping[str, Sequence[str]]
) -> list[Pair]:
    ends: Iterable[tuple[Replica, Replica]]
    if tree.replicas:
        for one in tree.replicas:
            _check_host(source, tree, one.host, hosts)
        a, b = tree.replicas
        ends = [(a, b)]
    else:
        members = _members(source, tree, hosts, groups)
        if tree.hub and tree.hub not in members:
            raise PairsFileError(
                source.file,
                tree.line_of("hub"),
                f"trees.{tree.name}.hub: {tree.hub} is not one of the tree's hosts",
                suggestion(tree.hub, members),
            )
        ends = [
            (Replica(host=x, path=tree.path), Replica(host=y, path=tree.path))
            for x, y in _edges(tree.topology, members, tree.hub)
        ]
    return [
        Pair(a=a, b=b, tree=tree.name, route=tree.route, user=tree.user, policy=tree.policy)
        for a, b in ends
    ]


def _members(
    source: PairsFile, tree: Tree, hosts: Collection[str], groups: Mapping[str, Sequence[str]]
) -> Sequence[str]:
    where = f"trees.{tree.name}.hosts"
    if isinstance(tree.hosts, tuple):
        for host in tree.hosts:
            _check_host(source, tree, host, hosts)
        return tree.hosts
    if tree.hosts not in groups:
        raise PairsFileError(
            source.file,
            tree.line_of("hosts"),
            f"{where}: the inventory has no group {tree.hosts}",
            _unknown(tree.hosts, groups),
        )
    members = groups[tree.hosts]
    if len(members) < 2:
        raise PairsFileError(
            source.file,
            tree.line_of("hosts"),
            f"{where}: of group {tree.hosts} the inventory has {len(members) or 'no'} host",
            "a pair needs two",
        )
    return members


def _edges(topology: str, hosts: Sequence[str], hub: str) -> list[tuple[str, str]]:
    """Return the pairs of hosts: the hub first in a star, the earlier one first elsewhere."""
    if topology == "star":
        return [(hub, host) for host in hosts if host != hub]
    if topology == "mesh":
        return list(combinations(hosts, 2))
    chain = list(pairwise(hosts))
    # Two hosts in a ring are one pair, not two.
    closing = [(hosts[-1], hosts[0])] if topology == "ring" and len(hosts) > 2 else []
    return chain + closing


def _check_host(source: PairsFile, tree: Tree, host: str, hosts: Collection[str]) -> None:
    # Ansible knows its own machine by these names without an inventory.
    if host not in hosts and host != CONTROLLER:
        raise PairsFileError(
            source.file,
            tree.line_of(host),
            f"trees.{tree.name}: the inventory has no host {host}",
            _unknown(host, hosts),
        )


def _unknown(name: str, known: Iterable[str]) -> str:
    order = (
        "inventory files load in name order, so hosts.yml is read before pairs.yml,"
        " and what a later file adds is not known here"
    )
    hint = suggestion(name, known)
    return f"{hint} ({order})" if hint else order


def _check_mirrors(source: PairsFile, tree: Tree, pairs: Sequence[Pair]) -> None:
    """Refuse mirrors in a circle: each would be overwritten by the next for ever."""
    sources: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for pair in pairs:
        if pair.policy.get("mode") == "mirror":
            sources.setdefault(_root(pair.b), set()).add(_root(pair.a))
    try:
        TopologicalSorter(sources).prepare()
    except CycleError as error:
        circle = " -> ".join(f"{host}:{path}" for host, path in error.args[1])
        raise PairsFileError(
            source.file,
            tree.line,
            f"trees.{tree.name}: mirrors go round in a circle, {circle}",
            "use mode two-way, or another topology",
        ) from error


def _root(replica: Replica) -> tuple[str, str]:
    return replica.host, replica.path.rstrip("/") or "/"
