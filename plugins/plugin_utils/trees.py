# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pairs.yml says, as values, and the error that says where it is wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ..module_utils.pairsync.model.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class PairsFileError(UsageError):
    """pairs.yml is wrong: `file`, `line` (from 1, 0 for the whole file), what and what to do."""

    def __init__(self, file: Path, line: int, message: str, next: str = "") -> None:  # noqa: A002 - the report's own word
        where = f"{file}:{line}" if line else str(file)
        super().__init__(f"{where}: {message}", next)
        self.file = file
        self.line = line


@dataclass(frozen=True)
class Replica:
    """One replica as pairs.yml writes it; address, port, jump, identity, ssh_args: for its peer."""

    host: str
    path: str
    address: str = ""
    user: str = ""
    port: int = 0
    jump: str = ""
    binary: str = ""
    identity: str = ""
    ssh_args: tuple[str, ...] = ()

    def as_written(self) -> dict[str, Any]:
        """Return the long form, without what is empty."""
        values = {key: value for key, value in asdict(self).items() if value and key != "host"}
        return {key: list(one) if isinstance(one, tuple) else one for key, one in values.items()}


@dataclass(frozen=True)
class Tree:
    """One tree of pairs.yml, `defaults` merged in.

    replicas: two for the form `replicas:`, none for the form `hosts:`. hosts: a group's name or a
    list of hosts. route: "" when nothing is said. policy: the policy's keys as parse_spec takes
    them. lines: the line of each key and each host that is written, from 1.
    """

    name: str
    line: int
    replicas: tuple[Replica, ...] = ()
    hosts: str | tuple[str, ...] = ()
    path: str = ""
    topology: str = "star"
    hub: str = ""
    route: str = ""
    user: str = ""
    policy: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)

    def line_of(self, key: str) -> int:
        """Return the line of a key or host, or of the tree where that is not written."""
        return self.lines.get(key, self.line)


@dataclass(frozen=True)
class PairsFile:
    """All of one pairs.yml."""

    file: Path
    trees: tuple[Tree, ...]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `did you mean X?`, or the known names; "" when there are none."""
    names = sorted(set(known))
    close = get_close_matches(name, names, 1)
    if close:
        return f"did you mean {close[0]}?"
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"known: {listed}" if names else ""
