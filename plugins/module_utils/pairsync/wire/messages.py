# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON in calls and replies: how each value is written, and checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from ..model.errors import CODES, PairsyncError, ProtocolError, UsageError
from ..model.spec import parse_policy, policy_json
from ..replica.interface import BaseState, Beginning, Opened, Peer

T = TypeVar("T")
Tuple = TypeVar("Tuple", bound=NamedTuple)

MOST_COVERAGE = 1 << 20  # characters: all ignore rules of a pair
_MOST_TEXT = 8192


def encode(value: Mapping[str, Any]) -> bytes:
    """One JSON object."""
    return json.dumps(value, separators=(",", ":")).encode()


def decode(payload: bytes, host: str) -> dict[str, Any]:
    """One JSON object; anything else is a ProtocolError."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{host} sent a message that is not JSON", host) from error
    if not isinstance(value, dict):
        raise ProtocolError(f"{host} sent a message that is not an object", host)
    return value


def field(
    value: Mapping[str, Any], key: str, kind: type[T], host: str, most: int = _MOST_TEXT
) -> T:
    """A field of the right type; a text of at most so many characters."""
    found = value.get(key)
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise ProtocolError(f"{host} sent a message in which `{key}` is missing or wrong", host)
    if isinstance(found, str) and len(found) > most:
        raise ProtocolError(f"{host} sent a message in which `{key}` is too long", host)
    return found


def read_opened(value: Mapping[str, Any], host: str) -> Opened:
    """The reply to open and create."""

    def text(key: str) -> str:
        return field(value, key, str, host)

    def flag(key: str) -> bool:
        return field(value, key, bool, host)

    ancestors = field(value, "ancestors", list, host)
    peers = field(value, "peers", list, host)
    if not all(isinstance(one, str) for one in ancestors) or not all(
        isinstance(one, dict) for one in peers
    ):
        raise ProtocolError(f"{host} sent a malformed description of its replica", host)
    return Opened(
        host=text("host"),
        path=text("path"),
        user=text("user"),
        version=text("version"),
        build=text("build"),
        replica_id=text("replica_id"),
        missing=flag("missing"),
        parent=flag("parent"),
        identity=text("identity"),
        ancestors=tuple(ancestors),
        peers=tuple(peers),
        clock_ns=field(value, "clock_ns", int, host),
    )


def write_beginning(beginning: Beginning) -> dict[str, Any]:
    """The arguments of begin."""
    data = beginning._asdict()
    data["peer"] = beginning.peer._asdict()
    data["policy"] = policy_json(beginning.policy)
    return data


def read_beginning(value: Mapping[str, Any], host: str) -> Beginning:
    """The arguments of begin, checked."""
    peer = field(value, "peer", dict, host)
    try:
        policy = parse_policy(field(value, "policy", dict, host))
    except UsageError as error:
        raise ProtocolError(f"{host} sent a policy that is wrong: {error.message}", host) from error
    beginning = Beginning(
        pair_id=field(value, "pair_id", str, host),
        side=field(value, "side", str, host),
        label=field(value, "label", str, host),
        peer=Peer(*(field(peer, key, str, host) for key in Peer._fields)),
        policy=policy,
        run=field(value, "run", str, host),
        dry_run=field(value, "dry_run", bool, host),
    )
    # Both become names of files of ours.
    _plain(beginning.run, host)
    if beginning.pair_id:
        _plain(beginning.pair_id, host)
    return beginning


def _plain(name: str, host: str) -> None:
    if (
        not name
        or len(name) > 64
        or not all(char.isalnum() or char == "-" for char in name)
        or not name.isascii()
    ):
        raise ProtocolError(f"{host} sent an id with characters that are not allowed", host)


def read_base_state(value: Mapping[str, Any], host: str) -> BaseState:
    """The reply to begin."""
    return BaseState(
        current=field(value, "current", str, host),
        pending=field(value, "pending", str, host),
        rows=field(value, "rows", int, host),
        sound=field(value, "sound", bool, host),
        coverage=field(value, "coverage", str, host, MOST_COVERAGE),
        current_sum=field(value, "current_sum", str, host),
        pending_sum=field(value, "pending_sum", str, host),
        pending_coverage=field(value, "pending_coverage", str, host, MOST_COVERAGE),
    )


def write_error(error: PairsyncError) -> dict[str, Any]:
    """A FAIL frame."""
    return {"code": error.code, "message": error.message, "next": error.next}


def read_error(value: Mapping[str, Any], host: str) -> PairsyncError:
    """The error that a peer reports; its text is not trusted to be printable or short."""
    code = field(value, "code", str, host)
    return PairsyncError(
        code if code in CODES else "internal",
        printable(field(value, "message", str, host)),
        printable(field(value, "next", str, host)),
        host,
    )


def printable(text: str) -> str:
    """A peer's text as one line that no terminal misreads, cut to what a sentence may be."""
    return "".join(char if char.isprintable() else "?" for char in text[:1024])
