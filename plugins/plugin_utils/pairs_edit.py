# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Add pairs and ignore rules to pairs.yml, and hosts to the hosts.yml beside it.

ruamel.yaml says where the file's parts lie; lines are put in between, and nothing else of the file
changes: comments, order, quotes and indentation stay. (Writing the whole file anew from the loaded
data would move the comments that stand after a tree's last line.) Every result is read back and
compared with what was meant before it replaces the file.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..module_utils.pairsync.model.errors import UsageError
from ..module_utils.pairsync.model.pathspec import PathSet
from ..module_utils.pairsync.model.spec import parse_location
from .pairs_file import PLUGIN, parse_pairs_file, plain, read_pairs_file
from .topology import CONTROLLER
from .trees import PairsFileError, suggestion

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ..module_utils.pairsync.model.spec import ReplicaSpec

_HEADER = "---\n# What is kept in sync; `invoke pairs` lists the pairs that this makes.\n"
_HOSTS_HEADER = "---\n# The hosts of pairs.yml: anything that ssh reaches with a key.\n"


@dataclass(frozen=True)
class AddedPair:
    """What add_pair did: the pair's name, the hosts it entered in hosts.yml, and whether at all."""

    name: str
    tree: str
    hosts: tuple[str, ...]
    changed: bool


def add_pair(
    file: Path,
    location_a: str,
    location_b: str,
    tree: str | None = None,
    known: Collection[str] = (),
) -> AddedPair:
    """Enter a pair of `HOST:PATH` locations in pairs.yml, and unknown hosts in hosts.yml beside it.

    A PATH alone is on this machine. Files and directories are created when they are missing. tree:
    its name, by default that of a's directory. known: hosts that other inventory files define.
    Adding what is there already changes nothing. Raises UsageError, for a taken name too.
    """
    ends = [_end(location_a), _end(location_b)]
    if ends[0].label == ends[1].label:
        raise UsageError(
            f"{location_a} and {location_b} are on one host, and a pair in pairs.yml has two",
            "run `invoke sync PATH PATH` for two directories of one host",
        )
    source = read_pairs_file(file) if file.exists() else None
    hosts_file = _hosts_file(file.parent)
    listed = _hosts(hosts_file)
    new = {one.label for one in ends} - {*known, *listed}
    replicas = {one.label: _replica(one, listed.get(one.label, {}), new=new) for one in ends}
    trees = {one.name: one for one in source.trees} if source else {}
    name = tree or _free_name(ends[0].path, trees, replicas)
    pair = f"{ends[0].label}+{ends[1].label}@{name}"
    if name in trees:
        if _written(trees[name]) == replicas:
            return AddedPair(pair, name, (), changed=False)
        raise PairsFileError(
            file,
            trees[name].line,
            f"there is a tree {name} with other replicas",
            "choose another name",
        )
    text = file.read_text(encoding="utf-8") if source else f"{_HEADER}plugin: {PLUGIN}\n"
    text = _insert(file, text, ("trees", name), {"replicas": replicas})
    parse_pairs_file(text, file)
    missing = {one.label: _host_variables(one) for one in ends if one.label in new}
    hosts_text = hosts_file.read_text(encoding="utf-8") if hosts_file.exists() else _HOSTS_HEADER
    for label, variables in missing.items():
        hosts_text = _insert(hosts_file, hosts_text, ("all", "hosts", label), variables or None)
    if missing:
        _write(hosts_file, hosts_text)
    _write(file, text)
    return AddedPair(pair, name, tuple(missing), changed=True)


def add_ignore(file: Path, tree: str, rule: str) -> bool:
    """Add an ignore rule to a tree of pairs.yml; return False when it has it already.

    Raises UsageError for a malformed rule, an unknown tree, and a file that is wrong itself.
    """
    PathSet([rule])
    source = read_pairs_file(file)
    found = [one for one in source.trees if one.name == tree]
    if not found:
        names = [one.name for one in source.trees]
        raise PairsFileError(file, 0, f"there is no tree {tree}", suggestion(tree, names))
    if rule in found[0].policy.get("ignore", ()):
        return False
    text = _insert(file, file.read_text(encoding="utf-8"), ("trees", tree, "ignore"), [rule])
    parse_pairs_file(text, file)
    _write(file, text)
    return True


def _end(location: str) -> ReplicaSpec:
    """Read a location; a path alone becomes an absolute one on this machine."""
    end = parse_location(location)
    if end.label:
        return end
    path = end.path if end.path.startswith("~") else str(Path(end.path).absolute())
    return parse_location(f"{CONTROLLER}:{path}")


def _replica(end: ReplicaSpec, variables: Mapping[str, Any], *, new: Collection[str]) -> Any:
    """Return what pairs.yml says of a location: what hosts.yml says or will say is left out."""
    extra = (
        {}
        if end.label in new
        else {
            key: one
            for key in ("user", "port")
            if (one := getattr(end, key)) and variables.get(f"ansible_{key}") != one
        }
    )
    return {"path": end.path, **extra} if extra else end.path


def _written(tree: Any) -> dict[str, Any]:
    """Return a tree's replicas in the form of _replica."""
    short = {one.host: one.as_written() for one in tree.replicas}
    return {host: one["path"] if set(one) == {"path"} else one for host, one in short.items()}


def _host_variables(end: ReplicaSpec) -> dict[str, Any]:
    if end.label == CONTROLLER:
        python = "{{ ansible_playbook_python }}"
        return {"ansible_connection": "local", "ansible_python_interpreter": python}
    values = {"ansible_user": end.user, "ansible_port": end.port}
    return {key: one for key, one in values.items() if one}


def _free_name(path: str, trees: Mapping[str, Any], replicas: Mapping[str, Any]) -> str:
    """Return a tree's name after its directory; the name of a tree that is the same already."""
    last = path.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", last).strip("._-~") or "home"
    candidate, number = name, 1
    while candidate in trees and _written(trees[candidate]) != replicas:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _hosts_file(directory: Path) -> Path:
    for name in ("hosts.yml", "hosts.yaml"):
        if (directory / name).exists():
            return directory / name
    return directory / "hosts.yml"


def _hosts(file: Path) -> dict[str, dict[str, Any]]:
    """Return the hosts of a YAML inventory, in whichever group, with their own variables."""
    if not file.exists():
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML().load(file.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        reason = str(getattr(error, "problem", None) or error)
        raise PairsFileError(file, 0, f"this is not YAML: {reason}", "correct it first") from error
    found: dict[str, dict[str, Any]] = {}
    todo = list(data.values()) if isinstance(data, dict) else []
    while todo:
        group = todo.pop()
        if isinstance(group, dict):
            for host, variables in (group.get("hosts") or {}).items():
                found.setdefault(str(host), {}).update(plain(variables) or {})
            todo.extend((group.get("children") or {}).values())
    return found


def _insert(file: Path, text: str, keys: Sequence[str], value: Any) -> str:
    """Return the text with a value put at the place that the keys lead to.

    A list is appended to the list that is there. Raises PairsFileError where the file's form does
    not allow it (an alias as a value, for instance).
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    wanted = _put(plain(YAML().load(text)) or {}, keys, value)
    edited = _edited(text, keys, value)
    try:
        right = plain(YAML().load(edited)) == wanted
    except YAMLError:
        right = False
    if not right:
        raise PairsFileError(
            file, 0, f"the file's form leaves no place for {'.'.join(keys)}", "add it by hand"
        )
    return edited


def _put(data: Any, keys: Sequence[str], value: Any) -> Any:
    """Return loaded data with a value added: what the edited text has to say."""
    if not keys:
        return [*data, *value] if isinstance(value, list) and data else value
    data = data or {}
    return {**data, keys[0]: _put(data.get(keys[0]), keys[1:], value)}


def _edited(text: str, keys: Sequence[str], value: Any) -> str:
    from ruamel.yaml import YAML

    if text and not text.endswith("\n"):
        text += "\n"
    node = YAML().compose(text)
    rest = list(keys)
    if node is None or not isinstance(node.value, list):
        return text + _block(_nested(rest, value), 0)
    parent_column = -2
    while rest and isinstance(node.value, list):
        found = [(key, one) for key, one in node.value if key.value == rest[0]]
        if not found:
            break
        key, node = found[0]
        parent_column = key.start_mark.column
        rest.pop(0)
    addition = _nested(rest, value)
    if not isinstance(node.value, list):
        # A key without a value (`hosts:`): the value goes below it.
        return _after(text, node, _block(addition, parent_column + 2))
    if node.flow_style:
        return _into_flow(text, node, addition)
    if not node.value:
        return text
    last = node.value[-1][1] if isinstance(node.value[-1], tuple) else node.value[-1]
    return _after(text, last, _block(addition, node.start_mark.column))


def _nested(keys: Sequence[str], value: Any) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value


def _block(value: Any, column: int) -> str:
    """Return a value as block YAML, indented."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 4096
    stream = io.StringIO()
    yaml.dump(value, stream)
    lines = stream.getvalue().splitlines()
    if isinstance(value, list):
        lines = [line.removeprefix("  ") for line in lines]
    return "".join(f"{' ' * column}{line}".rstrip() + "\n" for line in lines)


def _after(text: str, node: Any, addition: str) -> str:
    """Put lines below the last line of a node, before blank lines and comments that follow it."""
    lines = text.splitlines(keepends=True)
    line = _last_line(node, lines)
    return "".join([*lines[: line + 1], addition, *lines[line + 1 :]])


def _last_line(node: Any, lines: Sequence[str]) -> int:
    """Return the index of the last line with anything of the node on it."""
    if isinstance(node.value, list) and node.value and not node.flow_style:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last, lines)
    line = int(node.end_mark.line)
    if node.end_mark.column == 0 and line > node.start_mark.line:
        # A block of text ends where the next line starts; blank lines do not belong to it.
        line -= 1
        while line > node.start_mark.line and not lines[line].strip():
            line -= 1
    return line


def _into_flow(text: str, node: Any, addition: Any) -> str:
    """Put an item or a key into `[…]` or `{…}`."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = True
    yaml.width = 4096
    stream = io.StringIO()
    yaml.dump(addition, stream)
    inner = stream.getvalue().strip()[1:-1]
    if not node.value:
        start = node.start_mark.index + 1
        return text[:start] + inner + text[node.end_mark.index - 1 :]
    last = node.value[-1][1] if isinstance(node.value[-1], tuple) else node.value[-1]
    return f"{text[: last.end_mark.index]}, {inner}{text[last.end_mark.index :]}"


def _write(file: Path, text: str) -> None:
    """Replace a file as a whole, with the mode it has; create it and its directory if missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Replace what a link leads to, never the link.
    target = file.resolve()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
