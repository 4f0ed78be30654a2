# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PairSpec: everything a session needs to know about a pair, and how it is read and written.

The JSON form, `pairsync.spec/1`, has the keys of a tree in pairs.yml. Locations on the command
line are `PATH`, `HOST:PATH` and `ssh://[USER@]HOST[:PORT]/[/]PATH`, as Unison writes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Callable

from .errors import UsageError
from .pathspec import PathSet
from .policy import MODES, PREFERENCES, ROUTES, Policy, Retention, amount_of
from .report import display

SCHEMA = "pairsync.spec/1"
_SAME = "#2"  # after the label of a host that holds both replicas: keys must differ


@dataclass(frozen=True)
class ReplicaSpec:
    """One replica and how the session reaches it.

    label: the host's name in all output. path: the root on its host, `~` meaning the user's home.
    local: the root is on the machine on which the session runs; nothing below matters then.
    binary: the agent's path on the host, "" for the usual places. ssh_args: further arguments of
    OpenSSH. key: the name of the pair's own key on the machine of the session, used if it is there.
    """

    label: str
    path: str
    local: bool = False
    address: str = ""
    user: str = ""
    port: int = 0
    jump: str = ""
    binary: str = ""
    identity: str = ""
    ssh_args: tuple[str, ...] = ()
    key: str = ""

    @property
    def display(self) -> str:
        """`HOST:PATH`, or the path alone on this machine, as text that is safe to print."""
        where = f"{self.label}:{self.path}" if self.label or not self.local else self.path
        return display(where.encode("utf-8", "surrogateescape"))

    @property
    def root(self) -> str:
        """The path alone, as text that is safe to print."""
        return display(self.path.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True)
class PairSpec:
    """Two replicas and their policy."""

    a: ReplicaSpec
    b: ReplicaSpec
    tree: str = ""
    policy: Policy = field(default_factory=Policy)
    route: str = "direct"


def parse_location(text: str) -> ReplicaSpec:
    """Read a location from a command line; raise UsageError when it is malformed."""
    if text.startswith("ssh://"):
        match = re.fullmatch(r"ssh://(?:([^@/]+)@)?(\[[^\]]+\]|[^:/@]+)(?::(\d+))?(?:/(.*))?", text)
        if match is None:
            raise UsageError(
                f"{text!r} is not a location",
                "write ssh://[USER@]HOST[:PORT]//ABSOLUTE or ssh://HOST/RELATIVE-TO-HOME",
            )
        user, host, port, path = match.groups()
        host = host.strip("[]")
        _check_host(host, text)
        return ReplicaSpec(
            label=host, path=_from_home(path or ""), user=user or "", port=int(port or 0)
        )
    host, colon, path = text.partition(":")
    if colon and "/" not in host:
        user, __, host = host.rpartition("@")
        _check_host(host, text)
        return ReplicaSpec(label=host, path=_from_home(path), user=user)
    if not text:
        raise UsageError("a location is empty", "write PATH, HOST:PATH or ssh://HOST//PATH")
    return ReplicaSpec(label="", path=text, local=True)


def _check_host(host: str, text: str) -> None:
    # A host that begins with a dash would reach ssh as an option.
    if not host or host.startswith("-") or re.search(r"[\s\x00-\x1f]", host):
        raise UsageError(f"{text!r} names no host", "write HOST:PATH or ssh://HOST//PATH")


def _from_home(path: str) -> str:
    """A remote path as typed: absolute, `~/…`, or relative to the home directory."""
    if path.startswith(("/", "~")):
        return path
    return f"~/{path}" if path else "~"


def parse_spec(data: Mapping[str, Any]) -> PairSpec:
    """Read `pairsync.spec/1`; raise UsageError that names the key in question."""
    if not isinstance(data, Mapping):
        raise UsageError("the specification is not a JSON object")
    schema = data.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise UsageError(f"schema: {schema!r} is not known here", f"write {SCHEMA!r}")
    replicas = data.get("replicas")
    if not isinstance(replicas, Mapping) or len(replicas) != 2:
        raise UsageError(
            "replicas: exactly two are expected", 'write {"HOST": "PATH", "HOST": "PATH"}'
        )
    _refuse_unknown(data, ("schema", "tree", "replicas", "route", *_POLICY_KEYS), "")
    a, b = (_replica(str(label), value) for label, value in replicas.items())
    if b.label == a.label + _SAME:
        b = replace(b, label=a.label)
    return PairSpec(
        a=a,
        b=b,
        tree=_text(data.get("tree", ""), "tree"),
        policy=parse_policy(data),
        route=_choice(data.get("route", "direct"), ROUTES, "route"),
    )


def parse_policy(data: Mapping[str, Any]) -> Policy:
    """Read the policy keys of a specification; keys of other things are not looked at."""
    values: dict[str, Any] = {}
    for key, read in _POLICY_KEYS.items():
        if data.get(key) is not None:
            values[key] = read(data[key], key)
    policy = Policy(**values)
    for rules in (policy.ignore, policy.last, policy.growing):
        PathSet(rules)
    return policy


def spec_json(spec: PairSpec) -> dict[str, Any]:
    """Write a PairSpec as `pairsync.spec/1`; parse_spec reads it back."""
    default = Policy()
    a, b = spec.a, spec.b
    if a.label == b.label:
        b = replace(b, label=b.label + _SAME, address=b.address or b.label)
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "replicas": {one.label: _replica_json(one) for one in (a, b)},
        "route": spec.route,
    }
    if spec.tree:
        data["tree"] = spec.tree
    for key in _POLICY_KEYS:
        value = getattr(spec.policy, key)
        if value != getattr(default, key):
            data[key] = _plain(value)
    return data


def _plain(value: Any) -> Any:
    """A policy value as JSON has it."""
    if isinstance(value, Retention):
        return asdict(value)
    return list(value) if isinstance(value, tuple) else value


_REPLICA_KEYS: dict[str, Callable[[Any, str], Any]] = {}


def _replica(label: str, value: Any) -> ReplicaSpec:
    where = f"replicas.{label}"
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: a path or a mapping with `path` is expected")
    _refuse_unknown(value, tuple(_REPLICA_KEYS), where)
    if not value.get("path"):
        raise UsageError(f"{where}.path: a path is expected")
    fields = {
        key: read(value[key], f"{where}.{key}")
        for key, read in _REPLICA_KEYS.items()
        if value.get(key) is not None
    }
    if not fields.get("local"):
        _check_host(label, f"replicas.{label}")
        if fields.get("address"):
            _check_host(fields["address"], f"{where}.address")
    return ReplicaSpec(label=label, **fields)


def _replica_json(replica: ReplicaSpec) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key in _REPLICA_KEYS:
        value = getattr(replica, key)
        if value:
            data[key] = list(value) if isinstance(value, tuple) else value
    return data


def _refuse_unknown(data: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            close = get_close_matches(str(key), known, 1)
            name = f"{where}.{key}" if where else str(key)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            raise UsageError(f"{name}: unknown key", hint)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise UsageError(f"{where}: text is expected, not {value!r}")
    return value


def _key_name(value: Any, where: str) -> str:
    # It becomes the name of a file, and an argument of ssh.
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+@=-]*", value) is None:
        raise UsageError(f"{where}: {value!r} is not the name of a key")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{where}: true or false is expected, not {value!r}")
    return value


def _number(low: int, high: int) -> Callable[[Any, str], int]:
    def read(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(
                f"{where}: a whole number from {low} to {high} is expected, not {value!r}"
            )
        return value

    return read


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise UsageError(f"{where}: a list is expected, not {value!r}")
    return tuple(_text(one, f"{where}[{index}]") for index, one in enumerate(value))


def _paths(value: Any, where: str) -> tuple[str, ...]:
    return tuple(
        _relative(one, f"{where}[{index}]") for index, one in enumerate(_texts(value, where))
    )


def _relative(path: str, where: str) -> str:
    parts = path.strip("/").split("/")
    if path.startswith("/") or not path or any(part in ("", ".", "..") for part in parts):
        raise UsageError(
            f"{where}: {path!r} is not a path relative to the root",
            "write it without `/` in front, `.` or `..`",
        )
    return "/".join(parts)


def _choice(value: Any, choices: tuple[str, ...], where: str) -> str:
    if value not in choices:
        raise UsageError(f"{where}: {value!r} is not one of {', '.join(choices)}")
    return str(value)


def _mode(value: Any, where: str) -> str:
    return _choice(value, MODES, where)


def _preference(value: Any, where: str) -> str:
    return "" if value == "" else _choice(value, PREFERENCES, where)


def _amount(value: Any, where: str) -> str:
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    try:
        amount_of(text, 1)
    except ValueError as error:
        raise UsageError(
            f"{where}: {value!r} is no amount", "write a number of bytes, 50G, or 10% of the disk"
        ) from error
    return text


def _retention(value: Any, where: str) -> Retention:
    if isinstance(value, bool):
        return Retention(enabled=value)
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: a mapping such as {{keep: 10, days: 30}} is expected")
    _refuse_unknown(value, tuple(_RETENTION_KEYS), where)
    fields = {key: _RETENTION_KEYS[key](one, f"{where}.{key}") for key, one in value.items()}
    return Retention(**fields)


_RETENTION_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "enabled": _flag,
    "keep": _number(1, 10**6),
    "days": _number(0, 10**6),
    "max_size": _amount,
    "min_free": _amount,
}

_REPLICA_KEYS.update(
    path=_text,
    local=_flag,
    address=_text,
    user=_text,
    port=_number(1, 65535),
    jump=_text,
    binary=_text,
    identity=_text,
    ssh_args=_texts,
    key=_key_name,
)

_POLICY_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "mode": _mode,
    "prefer": _preference,
    "ignore": _texts,
    "last": _texts,
    "growing": _texts,
    "paths": _paths,
    "max_delete": _number(0, 100),
    "backup": _retention,
    "lock_wait": _number(0, 86400),
    "timeout": _number(0, 10**7),
}


def policy_json(policy: Policy) -> dict[str, Any]:
    """Write a policy as the mapping that parse_policy reads."""
    return {key: _plain(getattr(policy, key)) for key in _POLICY_KEYS}
