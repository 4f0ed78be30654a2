# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read pairs.yml and check all of it that can be checked without an inventory.

Every mistake is one sentence with file, line, what was found and what was expected. Which hosts
exist is not known here: topology.py checks that, with the lines kept for it.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..module_utils.pairsync.model.errors import UsageError
from ..module_utils.pairsync.model.policy import ROUTES, Policy
from ..module_utils.pairsync.model.spec import parse_policy, parse_spec
from .trees import PairsFile, PairsFileError, Replica, Tree, suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PLUGIN = "pairsync.fleet.pairs"
TOPOLOGIES = ("star", "chain", "ring", "mesh")

POLICY_KEYS = tuple(one.name for one in fields(Policy))
_COMMON_KEYS = (*POLICY_KEYS, "route", "user")
_PAIR_KEYS = ("replicas", *_COMMON_KEYS)
_MANY_KEYS = ("hosts", "path", "topology", "hub", *_COMMON_KEYS)
_REPLICA_KEYS = ("path", "address", "user", "port", "jump", "binary", "identity", "ssh_args")

# What may stand in a pair's name, `a+b@tree`, and in a pattern of Ansible's.
_TREE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST_NAME = re.compile(r"[^\s+@:,/\[\]*?!&~-][^\s+@:,/\[\]*?]*")


def read_pairs_file(file: Path) -> PairsFile:
    """Read and check pairs.yml; raise PairsFileError for the first mistake in it."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise PairsFileError(
            file, 0, f"the file cannot be read: {error.strerror}", "check its path and permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise PairsFileError(file, 0, "the file is not UTF-8", "save it as UTF-8") from error
    return parse_pairs_file(text, file)


def parse_pairs_file(text: str, file: Path) -> PairsFile:
    """Check the contents of a pairs.yml that is, or will be, `file`."""
    return _Reader(file).read(text)


def plain(value: Any) -> Any:
    """Return a value that ruamel.yaml has read as Python's own types."""
    if isinstance(value, dict):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


class _Reader:
    """Reads one file; only the place of what is wrong makes it a class."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self, text: str) -> PairsFile:
        data = self._load(text)
        if data is None:
            raise self._error(0, "the file is empty", f"write `plugin: {PLUGIN}` and `trees:`")
        if not isinstance(data, dict):
            raise self._error(1, f"a mapping is expected, not {_kind(data)}", "write `trees:`")
        self._known(data, ("plugin", "defaults", "trees"), "")
        if data.get("plugin") != PLUGIN:
            found = f"plugin is {data['plugin']!r}" if "plugin" in data else "plugin is missing"
            raise self._error(_line(data, "plugin"), found, f"write `plugin: {PLUGIN}`")
        defaults, default_lines = self._defaults(data)
        if "trees" not in data:
            raise self._error(0, "trees is missing", "write `trees:` and below it what to sync")
        trees = self._mapping(data, "trees", "trees")
        if not trees:
            raise self._error(_line(data, "trees"), "trees has no tree", "write at least one")
        return PairsFile(
            self.file,
            tuple(self._tree(trees, name, defaults, default_lines) for name in trees),
        )

    def _load(self, text: str) -> Any:
        from ruamel.yaml import YAML
        from ruamel.yaml.constructor import DuplicateKeyError
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        try:
            return YAML().load(text)
        except DuplicateKeyError as error:
            # "found duplicate key "gpu1" with value …": the name is all that helps.
            name = str(error.problem).split('"')[1]
            raise self._error(
                error.problem_mark.line + 1,
                f"{name} is written twice",
                "keep one; a pair needs two hosts of different names",
            ) from error
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 0
            raise self._error(
                line, f"this is not YAML: {error.problem}", "check indentation, colons and quotes"
            ) from error
        except YAMLError as error:
            raise self._error(0, f"this is not YAML: {error}", "check the file's text") from error

    def _defaults(self, data: Any) -> tuple[dict[str, Any], dict[str, int]]:
        if "defaults" not in data:
            return {}, {}
        defaults = self._mapping(data, "defaults", "defaults")
        self._known(defaults, _COMMON_KEYS, "defaults")
        self._values(defaults, "defaults")
        return plain(defaults), {key: _line(defaults, key) for key in defaults}

    def _tree(
        self, trees: Any, name: Any, defaults: dict[str, Any], default_lines: dict[str, int]
    ) -> Tree:
        line = _line(trees, name)
        if not isinstance(name, str) or not _TREE_NAME.fullmatch(name):
            raise self._error(
                line,
                f"{name!r} is no name for a tree",
                "use letters, digits, `_`, `.` and `-`, and put quotes around a number",
            )
        where = f"trees.{name}"
        data = self._mapping(trees, name, where)
        if ("replicas" in data) == ("hosts" in data):
            found = "both replicas and hosts" if "hosts" in data else "neither replicas nor hosts"
            for key in data:
                # A misspelt `replicas` is the likelier mistake of the two.
                if not isinstance(key, str) or key not in (*_PAIR_KEYS, *_MANY_KEYS, "profile"):
                    self._known(data, (*_PAIR_KEYS, *_MANY_KEYS), where)
            raise self._error(
                line,
                f"{where} has {found}",
                "write `replicas: {HOST: PATH, HOST: PATH}` or `hosts:` with `path:`",
            )
        if "profile" in data:
            raise self._error(
                _line(data, "profile"),
                f"{where}.profile: this version reads no profiles",
                "write the profile's rules as keys of the tree (ignore, paths, mode, prefer)",
            )
        self._known(data, _PAIR_KEYS if "replicas" in data else _MANY_KEYS, where)
        self._values(data, where)
        merged = _merge(defaults, {key: plain(data[key]) for key in data if key in _COMMON_KEYS})
        common: dict[str, Any] = {
            "name": name,
            "line": line,
            "route": merged.pop("route", ""),
            "user": merged.pop("user", ""),
            "policy": {key: value for key, value in merged.items() if value is not None},
        }
        lines = {**default_lines, **{key: _line(data, key) for key in data}}
        if "replicas" in data:
            return self._two(data, where, common, lines)
        return self._many(data, where, common, lines)

    def _two(self, data: Any, where: str, common: dict[str, Any], lines: dict[str, int]) -> Tree:
        replicas = self._mapping(data, "replicas", f"{where}.replicas")
        if len(replicas) != 2:
            raise self._error(
                _line(data, "replicas"),
                f"{where}.replicas: two hosts are expected, not {len(replicas)}",
                "for more than two write `hosts: [HOST, …]`, `path:` and `topology:`",
            )
        pair = []
        for host in replicas:
            lines[str(host)] = _line(replicas, host)
            pair.append(self._replica(replicas, host, f"{where}.replicas.{host}"))
        return Tree(replicas=tuple(pair), lines=lines, **common)

    def _replica(self, replicas: Any, host: Any, where: str) -> Replica:
        line = _line(replicas, host)
        self._host(host, line, where)
        value = replicas[host]
        if isinstance(value, str):
            value = {"path": value}
        elif isinstance(value, dict):
            if "local" in value:
                raise self._error(
                    _line(value, "local"),
                    f"{where}.local: the inventory says which hosts are this machine",
                    f"write `ansible_connection: local` for {host} in hosts.yml",
                )
            self._known(value, _REPLICA_KEYS, where)
        else:
            raise self._error(line, f"{where}: expected a path, not {_kind(value)}")
        path = value.get("path")
        if not isinstance(path, str) or not path:
            raise self._error(line, f"{where}: expected a path", f"write `{host}: /the/path`")
        self._root(path, line, where)
        address = value.get("address")
        if isinstance(address, str) and re.match(r"-|.*\s", address):
            raise self._error(
                _line(value, "address"), f"{where}.address: {str(address)!r} is no address"
            )
        try:
            other = {"path": "/"}
            parse_spec({"replicas": {host: plain(value), f"{host}-peer": other}})
        except UsageError as error:
            raise self._engine(error, value, where, line) from error
        values = {key: one for key, one in plain(value).items() if one is not None}
        if "ssh_args" in values:
            values["ssh_args"] = tuple(values["ssh_args"])
        return Replica(host=str(host), **values)

    def _many(self, data: Any, where: str, common: dict[str, Any], lines: dict[str, int]) -> Tree:
        hosts = data["hosts"]
        line = lines["hosts"]
        if isinstance(hosts, list):
            hosts = self._hosts(hosts, f"{where}.hosts", lines)
        elif not isinstance(hosts, str) or not hosts:
            raise self._error(
                line, f"{where}.hosts: a group or a list of hosts is expected, not {_kind(hosts)}"
            )
        path = data.get("path")
        if not isinstance(path, str) or not path:
            raise self._error(
                lines.get("path", common["line"]),
                f"{where}.path: expected a path",
                "write the directory that is kept the same on all of them",
            )
        self._root(path, lines["path"], f"{where}.path")
        topology = data.get("topology", "star")
        if topology not in TOPOLOGIES:
            raise self._error(
                lines["topology"],
                f"{where}.topology: {plain(topology)!r} is not one of {', '.join(TOPOLOGIES)}",
                suggestion(str(topology), TOPOLOGIES),
            )
        hub = data.get("hub", "")
        if topology == "star" and (not isinstance(hub, str) or not hub):
            raise self._error(
                lines.get("hub", common["line"]),
                f"{where}.hub: a star needs the host in its middle",
                "write `hub: HOST`, or another `topology:`",
            )
        if topology != "star" and "hub" in data:
            raise self._error(
                lines["hub"],
                f"{where}.hub: a {topology} has no hub",
                "remove it, or write `topology: star`",
            )
        return Tree(
            hosts=hosts if isinstance(hosts, tuple) else str(hosts),
            path=str(path),
            topology=str(topology),
            hub=str(hub),
            lines=lines,
            **common,
        )

    def _hosts(self, hosts: Any, where: str, lines: dict[str, int]) -> tuple[str, ...]:
        """Check a list of hosts, and enter the line of each."""
        names: list[str] = []
        for index, host in enumerate(hosts):
            line = _item_line(hosts, index)
            self._host(host, line, f"{where}[{index}]")
            if host in names:
                raise self._error(
                    line,
                    f"{where}: {host} is written twice",
                    "a host is no pair with itself: keep one",
                )
            names.append(str(host))
            lines[str(host)] = line
        if len(names) < 2:
            raise self._error(
                lines["hosts"],
                f"{where}: expected at least two hosts, not {len(names)}",
                "a pair needs two",
            )
        return tuple(names)

    def _host(self, host: Any, line: int, where: str) -> None:
        if not isinstance(host, str):
            raise self._error(
                line,
                f"{where}: expected a host's name, not {_kind(host)}",
                "put quotes around it",
            )
        if not _HOST_NAME.fullmatch(host):
            raise self._error(
                line,
                f"{where}: {str(host)!r} cannot be part of a pair's name",
                "give the host a plain name in hosts.yml, and its address as `ansible_host:`",
            )

    def _root(self, path: str, line: int, where: str) -> None:
        if not path.startswith(("/", "~")):
            raise self._error(
                line,
                f"{where}: {str(path)!r} is a relative path",
                "begin it with `/` or `~/`",
            )

    def _values(self, data: Any, where: str) -> None:
        """Check the keys that any tree may have: the engine judges them, this finds the line."""
        for key in data:
            value = plain(data[key])
            line = _line(data, key)
            if key == "route" and value not in ROUTES:
                raise self._error(
                    line,
                    f"{where}.route: {value!r} is not one of {', '.join(ROUTES)}",
                    suggestion(str(value), ROUTES),
                )
            if key == "user" and (not isinstance(value, str) or not value):
                raise self._error(line, f"{where}.user: expected an account's name, not {value!r}")
            if key not in POLICY_KEYS:
                continue
            if isinstance(value, list):
                for index, item in enumerate(value):
                    self._judge(
                        key, [item], f"{where}.{key}[{index}]", _item_line(data[key], index)
                    )
            self._judge(key, value, f"{where}.{key}", line)

    def _judge(self, key: str, value: Any, where: str, line: int) -> None:
        try:
            parse_policy({key: value})
        except UsageError as error:
            # The engine starts with the key (and index) that it was given: ours is the full path.
            text = re.sub(rf"^{re.escape(key)}(\[\d+\])?(\.\w+)*: ", "", error.message)
            raise self._error(line, f"{where}: {text}", error.next) from error

    def _engine(self, error: UsageError, value: Any, where: str, line: int) -> PairsFileError:
        found = re.match(r"replicas\.[^.]+\.(\w+)(?:\[\d+\])?: (.*)", error.message, re.DOTALL)
        if found is None or found[1] not in value:
            return self._error(line, f"{where}: {error.message}", error.next)
        return self._error(_line(value, found[1]), f"{where}.{found[1]}: {found[2]}", error.next)

    def _mapping(self, data: Any, key: str, where: str) -> Any:
        value = data[key]
        if not isinstance(value, dict):
            raise self._error(_line(data, key), f"{where}: expected a mapping, not {_kind(value)}")
        return value

    def _known(self, data: Any, known: Sequence[str], where: str) -> None:
        for key in data:
            if key not in known:
                name = f"{where}.{key}" if where else str(key)
                raise self._error(
                    _line(data, key), f"{name}: unknown key", suggestion(str(key), known)
                )

    def _error(self, line: int, message: str, following: str = "") -> PairsFileError:
        return PairsFileError(self.file, line, message, following)


def _merge(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Put a tree's keys over the defaults: lists add up, mappings merge, the rest replaces.

    Lists add up because an ignore rule that is added to one tree must not bring back what the
    defaults leave out.
    """
    merged = dict(defaults)
    for key, value in own.items():
        base = merged.get(key)
        if isinstance(base, list) and isinstance(value, list):
            merged[key] = base + [one for one in value if one not in base]
        elif isinstance(base, dict) and isinstance(value, dict):
            merged[key] = {**base, **value}
        else:
            merged[key] = value
    return merged


def _line(data: Any, key: Any) -> int:
    """Return the line of a key of a mapping that ruamel.yaml has read, from 1."""
    try:
        return int(data.lc.key(key)[0]) + 1
    except (AttributeError, KeyError, TypeError):
        return 0


def _item_line(data: Any, index: int) -> int:
    """Return the line of an item of a list that ruamel.yaml has read, from 1."""
    return int(data.lc.item(index)[0]) + 1


def _kind(value: Any) -> str:
    """Name a YAML value's kind for a person."""
    if value is None:
        return "nothing"
    kinds = ((bool, "true or false"), (dict, "a mapping"), (list, "a list"), (str, "text"))
    for kind, name in kinds:
        if isinstance(value, kind):
            return name
    return f"the value {plain(value)!r}"
