# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON in calls and replies: how each value is written, and checked when it is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar, Union

from ..model.errors import CODES, PairsyncError, ProtocolError, UsageError
from ..model.spec import parse_policy, policy_json
from ..replica.interface import BaseState, Beginning, Opened, Peer
from .limits import MOST_DIGITS, MOST_NESTING, MOST_SIZE

T = TypeVar("T")
Tuple = TypeVar("Tuple", bound=NamedTuple)

MOST_COVERAGE = 1 << 20  # characters: all ignore rules of a pair
_MOST_TEXT = 8192
_MOST_NAME = 255  # characters of a host's, a user's or a version's name
_MOST_PEERS = 10_000
_MOST_LEVELS = 4096  # directories above a root
_PEER_KEYS = ("pair", "id", "label", "host", "path")

_COMMIT = re.compile(r"[0-9a-f]{32}")
_SUM = re.compile(r"[0-9a-f]{64}")
_BUILD = re.compile(r"[0-9a-f]{64}|source")
_PLAIN = re.compile(r"[0-9A-Za-z-]{1,64}")


def encode(value: Mapping[str, Any]) -> bytes:
    """One JSON object."""
    return json.dumps(value, separators=(",", ":")).encode()


def decode(payload: bytes, host: str) -> dict[str, Any]:
    """One JSON object; anything else is a ProtocolError.

    Stricter than JSON: no key comes twice, numbers are finite and of a sensible length, and there
    are few levels, so that nobody who gets the value has to think of these.
    """
    try:
        value = json.loads(
            payload,
            object_pairs_hook=_object,
            parse_int=_whole_number,
            parse_float=_fraction,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{host} sent a message that is not JSON", host) from error
    if not isinstance(value, dict):
        raise ProtocolError(f"{host} sent a message that is not an object", host)
    level: list[Any] = [value]
    for __ in range(MOST_NESTING):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return value
    raise ProtocolError(f"{host} sent a message of too many levels", host)


def _inside(value: Union[dict[str, Any], list[Any]]) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value
    return [one for one in inner if isinstance(one, (dict, list))]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key comes twice")
    return value


def _whole_number(text: str) -> int:
    # Checked before it is made: the time for that grows with the square of the digits.
    if len(text) > MOST_DIGITS:
        raise ValueError("a number that is too long")
    return int(text)


def _fraction(text: str) -> float:
    value = float(text) if len(text) <= 2 * MOST_DIGITS else math.inf
    if not math.isfinite(value):
        raise ValueError("a number that is none")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


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


def number(value: Mapping[str, Any], key: str, host: str, most: int) -> int:
    """A number that counts something, up to most."""
    found = field(value, key, int, host)
    if not 0 <= found <= most:
        raise ProtocolError(f"{host} sent a message in which `{key}` is out of range", host)
    return found


def name(value: Mapping[str, Any], key: str, host: str) -> str:
    """A short text that people will read."""
    return printable(field(value, key, str, host, _MOST_NAME))


def path(value: Mapping[str, Any], key: str, host: str) -> str:
    """A path as the file system of the other end may have it: any bytes but NUL."""
    found = field(value, key, str, host)
    try:
        sound = b"\0" not in found.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        sound = False
    if not sound or not found:
        raise ProtocolError(f"{host} sent a path that cannot be one", host)
    return found


def identifier(
    value: Mapping[str, Any], key: str, host: str, form: re.Pattern[str], *, needed: bool = True
) -> str:
    """An id of the given form; may be empty unless it is needed."""
    found = field(value, key, str, host, most=128)
    if form.fullmatch(found) is None and (found or needed):
        raise ProtocolError(f"{host} sent an id with characters that are not allowed", host)
    return found


def commit(value: Mapping[str, Any], host: str) -> str:
    """The id of a commit."""
    return identifier(value, "commit", host, _COMMIT)


def checksum(value: Mapping[str, Any], host: str) -> str:
    """The checksum of a base."""
    return identifier(value, "checksum", host, _SUM)


def build(value: Mapping[str, Any], host: str) -> str:
    """The digest of a binary."""
    return identifier(value, "build", host, _BUILD)


def plain(value: Mapping[str, Any], key: str, host: str) -> str:
    """An id that becomes the name of a file of ours, or a part of it."""
    return identifier(value, key, host, _PLAIN)


def read_opened(value: Mapping[str, Any], host: str) -> Opened:
    """The reply to open and create."""
    ancestors = field(value, "ancestors", list, host)
    former = field(value, "former", list, host)
    peers = field(value, "peers", list, host)
    if (
        len(ancestors) > _MOST_LEVELS
        or len(peers) > _MOST_PEERS
        or len(former) > _MOST_PEERS
        or not all(isinstance(one, str) and len(one) <= _MOST_NAME for one in [*ancestors, *former])
    ):
        raise ProtocolError(f"{host} sent a malformed description of its replica", host)
    return Opened(
        host=name(value, "host", host),
        path=path(value, "path", host),
        user=name(value, "user", host),
        version=name(value, "version", host),
        build=build(value, host),
        replica_id=identifier(value, "replica_id", host, _PLAIN, needed=False),
        missing=field(value, "missing", bool, host),
        parent=field(value, "parent", bool, host),
        identity=field(value, "identity", str, host, _MOST_NAME),
        ancestors=tuple(ancestors),
        former=tuple(former),
        peers=tuple(_peer(one, host) for one in peers),
        clock_ns=number(value, "clock_ns", host, MOST_SIZE),
    )


def _peer(value: Any, host: str) -> dict[str, str]:
    """What a replica remembers of another one; what else it says of it is left out."""
    if not isinstance(value, dict):
        raise ProtocolError(f"{host} sent a malformed description of its replica", host)
    known = ((key, value.get(key)) for key in _PEER_KEYS)
    return {key: one for key, one in known if isinstance(one, str) and len(one) <= _MOST_TEXT}


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
    dry_run = field(value, "dry_run", bool, host)
    side = field(value, "side", str, host)
    if side not in ("a", "b"):
        raise ProtocolError(f"{host} sent a side that is neither a nor b", host)
    for one in policy.paths:
        path({"paths": one}, "paths", host)
    return Beginning(
        # Before the first sync a dry run has no id, and leaves nothing behind.
        pair_id=identifier(value, "pair_id", host, _PLAIN, needed=not dry_run),
        side=side,
        label=field(value, "label", str, host),
        peer=Peer(*(field(peer, key, str, host) for key in Peer._fields)),
        policy=policy,
        run=plain(value, "run", host),
        dry_run=dry_run,
    )


def read_base_state(value: Mapping[str, Any], host: str) -> BaseState:
    """The reply to begin."""

    def ident(key: str, form: re.Pattern[str]) -> str:
        return identifier(value, key, host, form, needed=False)

    return BaseState(
        current=ident("current", _COMMIT),
        pending=ident("pending", _COMMIT),
        rows=number(value, "rows", host, MOST_SIZE),
        sound=field(value, "sound", bool, host),
        coverage=coverage(value, "coverage", host),
        current_sum=ident("current_sum", _SUM),
        pending_sum=ident("pending_sum", _SUM),
        pending_coverage=coverage(value, "pending_coverage", host),
    )


def coverage(value: Mapping[str, Any], key: str, host: str) -> str:
    """What a base can speak for, as Coverage.text() writes it; or nothing."""
    found = field(value, key, str, host, MOST_COVERAGE)
    if found:
        decode(found.encode("utf-8", "replace"), host)
    return found


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
