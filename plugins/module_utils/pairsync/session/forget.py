# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forgetting a pair: both bases are set aside, so that the next session is a first sync."""

from __future__ import annotations

from ..model.spec import PairSpec, ReplicaSpec
from ..replica.interface import Opened, Replica
from .opening import pair_id


def forget_pair(spec: PairSpec, a: Replica, b: Replica) -> bool:
    """Forget on both hosts what the pair agreed on; tell whether anything was known.

    Also finds the pair when one replica has lost its id, by what the other one remembers.
    """
    try:
        opened_a, opened_b = a.open(spec.a.path), b.open(spec.b.path)
        pairs = {pair_id(opened_a.replica_id, opened_b.replica_id)}
        pairs |= _remembered(opened_a, opened_b, spec.b) | _remembered(opened_b, opened_a, spec.a)
        pairs.discard("")
        found = [replica.forget(pair) for replica in (a, b) for pair in sorted(pairs)]
    finally:
        a.close()
        b.close()
    return any(found)


def _remembered(one: Opened, other: Opened, place: ReplicaSpec) -> set[str]:
    return {
        str(peer["pair"])
        for peer in one.peers
        if peer.get("path") == other.path
        and (peer.get("host") == other.host or peer.get("label") == place.label)
    }
