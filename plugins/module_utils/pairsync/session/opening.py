# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first phase: are the replicas what they were, and what did they last agree on.

Nothing is written before every guard here has been passed.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from ..model.coverage import NOTHING, Coverage, parse_coverage
from ..model.errors import PairsyncError
from ..model.spec import PairSpec, ReplicaSpec
from ..replica.interface import BaseState, Opened, Replica


class Bases(NamedTuple):
    """How each base is settled, and what it then is: ok, first or degraded."""

    verb_a: str
    verb_b: str
    commit: str
    state: str
    coverage: Coverage = NOTHING


def pair_id(one: str, other: str) -> str:
    """The pair's id: the hash of both replica ids, in sorted order; "" when one has none yet."""
    if not one or not other:
        return ""
    return hashlib.sha256("\n".join(sorted((one, other))).encode()).hexdigest()[:32]


def check_roots(spec: PairSpec, a: Opened, b: Opened) -> None:
    """Refuse roots that cannot be synced with each other; raise PairsyncError."""
    if a.missing and b.missing:
        raise PairsyncError(
            "root_missing",
            f"neither {spec.a.display} nor {spec.b.display} exists",
            "check the paths; one of them must exist",
        )
    _check_overlap(spec, a, b)
    _check_known(spec.a, a, b)
    _check_known(spec.b, b, a)
    for replica, opened in ((spec.a, a), (spec.b, b)):
        if opened.missing and not opened.parent:
            raise PairsyncError(
                "root_missing",
                f"{replica.display} does not exist, and neither does its parent directory",
                "check the path, or make the parent directory",
                replica.label,
            )


def _check_overlap(spec: PairSpec, a: Opened, b: Opened) -> None:
    check_nested(spec, a, b)
    if a.identity and a.identity == b.identity:
        raise PairsyncError(
            "root_overlap",
            f"{spec.a.display} and {spec.b.display} are the same directory",
            "name two different directories",
        )


def check_nested(spec: PairSpec, a: Opened, b: Opened) -> None:
    """Refuse a root that lies in the other one, by its place or by the other one's id."""
    for outer, inner in (((spec.a, a), (spec.b, b)), ((spec.b, b), (spec.a, a))):
        # One that is missing has no identity, but what it would lie in has.
        place, marker = outer[1].identity, f"replica {outer[1].replica_id}"
        if (place and place in inner[1].ancestors) or marker in inner[1].ancestors:
            raise PairsyncError(
                "root_overlap",
                f"{inner[0].display} lies inside {outer[0].display}",
                "name two directories of which neither contains the other",
            )


def _check_known(replica: ReplicaSpec, opened: Opened, other: Opened) -> None:
    """A replica that the other side remembers must not have vanished or lost its id."""
    if opened.replica_id:
        _check_replaced(replica, opened, other)
        return
    peer = remembered(replica, opened, other)
    if peer is None:
        return
    known = known_as(peer)
    before = "" if known in (replica.display, replica.root) else f" (as {known})"
    forget = f"run `pairsync forget` for this pair{before}"
    if opened.missing:
        raise PairsyncError(
            "root_missing",
            f"{replica.display} was synced before{before}, and is not there now",
            f"mount or restore it; to start anew, {forget} and make the directory",
            replica.label,
        )
    raise PairsyncError(
        "root_identity",
        f"{replica.display} was synced before{before}, and is another directory now"
        " (its .pairsync is gone)",
        f"mount or restore the right one; if this is meant, {forget}:"
        " the next sync then deletes nothing",
        replica.label,
    )


def _check_replaced(replica: ReplicaSpec, opened: Opened, other: Opened) -> None:
    """A replica must not stand where the other side knows another one."""
    if replaced(replica, opened, other) is not None:
        raise PairsyncError(
            "root_identity",
            f"{replica.display} was synced before, and is another replica now (its id is not the"
            " one that is remembered)",
            "mount or restore the right one; if this is meant, run `pairsync forget` for this"
            " pair: the next sync then deletes nothing",
            replica.label,
        )


def replaced(place: ReplicaSpec, opened: Opened, other: Opened) -> Optional[Mapping[str, Any]]:
    """What the other side remembers of the replica that was at this place before another one.

    None for one that it knows, wherever it was, and for one that was given its id by a person.
    """
    fitting = []
    if opened.replica_id == other.replica_id:
        return None  # a copied marker, or one file system: that is told apart later
    for peer in other.peers:
        if peer.get("id") == opened.replica_id:
            return None
        here = peer.get("path") == opened.path and peer.get("host") == opened.host
        if here and same_label(place, peer) and peer.get("id") not in opened.former:
            fitting.append(peer)
    return fitting[0] if fitting else None


def remembered(place: ReplicaSpec, opened: Opened, other: Opened) -> Optional[Mapping[str, Any]]:
    """What the other side remembers of this replica, by its place; None when it knows it not.

    Host and label must both agree. One alone is enough (a host was renamed, or is reached by
    another alias) unless that fits several.
    """
    near = []
    for peer in other.peers:
        if peer.get("path") != opened.path:
            continue
        same_host = peer.get("host") == opened.host
        if same_host and same_label(place, peer):
            return peer
        # Without a label it is said to be on the machine of the session, whichever that was.
        here = place.label or opened.host == other.host
        if same_host or (here and peer.get("label") == place.label):
            near.append(peer)
    return near[0] if len(near) == 1 else None


def same_label(place: ReplicaSpec, peer: Mapping[str, Any]) -> bool:
    """Tell whether a remembered replica can be meant by a label; without one it can."""
    known = peer.get("label")
    return not place.label or not known or place.label == known


def known_as(peer: Mapping[str, Any]) -> str:
    """The name by which a replica is remembered, as text that is safe to print."""
    label, path = str(peer.get("label") or ""), str(peer.get("path"))
    return ReplicaSpec(label, path, local=not label).display


def same_file_system(spec: PairSpec, a: Replica, b: Replica) -> bool:
    """With one id at both ends: True if both hosts see one directory, else PairsyncError."""
    nonce = secrets.token_hex(16)
    a.shares(nonce, write=True)
    found = b.shares(nonce, write=False)
    # Who finds it takes it away: what a still has, b has not seen, whatever it says.
    if not a.shares(nonce, write=False) and found:
        return True
    raise PairsyncError(
        "replica_cloned",
        f"{spec.a.display} and {spec.b.display} carry the same id, but are different directories",
        f"one is a copy of the other, marker included: run `pairsync forget --new-id {spec.b.root}`"
        f" on {spec.b.label or 'this host'}",
    )


def settle_bases(a: BaseState, b: BaseState) -> Bases:
    """Decide what to do with pending commits, and whether the bases belong together."""
    if not (a.sound and b.sound):
        return Bases("reset", "reset", "", "degraded")
    verb_a, commit_a = _settled(a, b)
    verb_b, commit_b = _settled(b, a)
    if commit_a != commit_b:
        return Bases("reset", "reset", "", "degraded")
    if not commit_a.id:
        return Bases(verb_a, verb_b, "", "first")
    return Bases(verb_a, verb_b, commit_a.id, "ok", parse_coverage(commit_a.coverage))


class _Commit(NamedTuple):
    """A commit as one replica has it: with other rows, one id is not the same commit."""

    id: str = ""
    checksum: str = ""
    coverage: str = ""


def _settled(one: BaseState, other: BaseState) -> tuple[str, _Commit]:
    """What to do with one's pending commit, and the commit that is current then."""
    current, pending = _commits(one)
    if not pending.id:
        return "keep", current
    return ("promote", pending) if pending in _commits(other) else ("drop", current)


def _commits(state: BaseState) -> tuple[_Commit, _Commit]:
    current = _Commit(state.current, state.current_sum, state.coverage)
    pending = _Commit(state.pending, state.pending_sum, state.pending_coverage)
    return current if current.id else _Commit(), pending if pending.id else _Commit()
