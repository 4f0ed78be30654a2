# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forgetting a pair: both bases are set aside, so that the next session is a first sync."""

from __future__ import annotations

from ..model.spec import PairSpec, ReplicaSpec
from ..replica.interface import Opened, Replica
from .opening import pair_id, remembered, replaced, same_label


def forget_pair(spec: PairSpec, a: Replica, b: Replica) -> bool:
    """Forget on both hosts what the pair agreed on; tell whether anything was known.

    Also finds the pair when one replica has lost its id, by what the other one remembers.
    """
    try:
        opened_a, opened_b = a.open(spec.a.path), b.open(spec.b.path)
        pairs = {pair_id(opened_a.replica_id, opened_b.replica_id)}
        pairs |= {_named(spec.b, opened_b, opened_a), _named(spec.a, opened_a, opened_b)}
        pairs.discard("")
        found = [replica.forget(pair) for replica in (a, b) for pair in sorted(pairs)]
    finally:
        a.close()
        b.close()
    return any(found)


def _named(place: ReplicaSpec, opened: Opened, other: Opened) -> str:
    """The pair in which the other side remembers the replica of this name; "" for none.

    A replica that has its id says itself which pair is meant, unless it stands where another one
    was; what is remembered under another label is another pair.
    """
    find = replaced if opened.replica_id else remembered
    peer = find(place, opened, other)
    if peer is None or not same_label(place, peer):
        return ""
    pair = str(peer.get("pair"))
    # Said by the other host, and a file's name here.
    return pair if pair.isascii() and pair.isalnum() else ""
