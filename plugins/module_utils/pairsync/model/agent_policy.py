# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the holder of one pair's key may do with this host: `pairsync.policy/1`, strictly read.

The file is named by the forced command of the key, so no session has a say in it. Where it comes
from and who may write it is the matter of replica/policy_file.py; replica/policed.py enforces it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

from .errors import PairsyncError

SCHEMA = "pairsync.policy/1"
_REPAIR = "install the key again with `pair_key`, or correct the file"


@dataclass(frozen=True)
class AgentPolicy:
    """What a key opens.

    label: the pair's name, for messages. roots: absolute paths without symlinks, the only ones
    that may be opened. receive, send: whether the peer's changes are taken, and contents given.
    pair, replica: the ids of the pair and of the peer's replica, "" while nobody knows them.
    keep, days: the least the backup keeps, whatever a session wants: so many versions of a path,
    and every version that is younger than so many days. max_delete: the largest share of the base
    in percent that one session may delete. entries, bytes: the most that one session may bring
    (0: no limit).
    """

    label: str
    roots: tuple[str, ...]
    receive: bool = True
    send: bool = True
    pair: str = ""
    replica: str = ""
    keep: int = 10
    days: int = 7
    max_delete: int = 100
    entries: int = 0
    bytes: int = 0


def parse_agent_policy(text: bytes, name: str) -> AgentPolicy:
    """Read a policy; raise PairsyncError `policy` naming the file and the key that is wrong."""
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _wrong(name, f"it is not JSON ({error})") from error
    try:
        _check(data, {"schema", "label", "roots"}, {*_SECTIONS, *_FLAGS}, "")
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema is not {SCHEMA!r}")
        values: dict[str, Any] = {
            "label": _text(data["label"], "label"),
            "roots": _roots(data["roots"]),
            **{flag: _flag(data[flag], flag) for flag in _FLAGS if flag in data},
        }
        for section, readers in _SECTIONS.items():
            part = data.get(section, {})
            _check(part, set(), set(readers), section)
            for key, read in readers.items():
                if key in part:
                    values[key] = read(part[key], f"{section}.{key}")
    except ValueError as error:
        raise _wrong(name, str(error)) from error
    return AgentPolicy(**values)


def _wrong(name: str, what: str) -> PairsyncError:
    return PairsyncError("policy", f"the policy {name} is refused: {what}", _REPAIR)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that occurs twice could mean either value, and is refused."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _check(data: Any, needed: set[str], others: set[str], where: str) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where or 'it'} is not an object")  # noqa: TRY004 - caught with the others
    prefix = f"{where}." if where else ""
    for key in data:
        if key not in needed | others:
            raise ValueError(f"{prefix}{key} is no key of a policy")
    for key in sorted(needed - data.keys()):
        raise ValueError(f"{prefix}{key} is missing")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{where} is not a text")
    return value


def _roots(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("roots is not a list of paths")
    for path in value:
        parts = path.split("/") if isinstance(path, str) else []
        if len(parts) < 2 or parts[0] or any(one in ("", ".", "..") for one in parts[1:]):
            raise ValueError(f"roots: {path!r} is not an absolute path without `.`, `..` and `//`")
        if "\0" in path:
            raise ValueError("roots: a path holds a zero byte")
    return tuple(value)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where} is not true or false")  # noqa: TRY004 - caught with the others
    return value


def _id(value: Any, where: str) -> str:
    if not isinstance(value, str) or not (value.isascii() and value.isalnum()) or len(value) > 64:
        raise ValueError(f"{where} is not an id")
    return value


def _number(low: int, high: int) -> Callable[[Any, str], int]:
    def read(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{where} is not a whole number from {low} to {high}")
        return value

    return read


_FLAGS = ("receive", "send")
_SECTIONS: dict[str, dict[str, Callable[[Any, str], Any]]] = {
    "peer": {"pair": _id, "replica": _id},
    "backup": {"keep": _number(1, 10**6), "days": _number(0, 10**5)},
    "limits": {
        "max_delete": _number(0, 100),
        "entries": _number(0, 2**53),
        "bytes": _number(0, 2**53),
    },
}
