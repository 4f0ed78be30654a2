# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a base can speak for: the paths that the sessions which made it looked at.

A path without a row is new when the base covers it; otherwise it was never synced, as when an
ignore rule was taken away or only another subtree was synced so far, and nothing may be deleted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from .entry import is_below
from .pathspec import PathSet
from .policy import Policy


@dataclass(frozen=True)
class Coverage:
    """ignore: rules in force when the base was made. paths: subtrees synced; none means all."""

    ignore: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    nothing: bool = False

    def covers(self, path: bytes) -> bool:
        """Tell whether the base would have a row for a path, had there been something."""
        if self.nothing:
            return False
        scope = [one.encode("utf-8", "surrogateescape") for one in self.paths]
        if scope and not any(path == one or is_below(path, one) for one in scope):
            return False
        rules = _compiled(self.ignore)
        parts = path.split(b"/")
        return not any(rules.matches(b"/".join(parts[:end])) for end in range(1, len(parts) + 1))

    def after(self, policy: Policy) -> Coverage:
        """The coverage once a session under a policy was recorded on top of this."""
        if not policy.paths:
            return Coverage(policy.ignore)
        if self.nothing:
            return Coverage(policy.ignore, policy.paths)
        ignore = tuple(dict.fromkeys((*self.ignore, *policy.ignore)))
        if not self.paths:
            return Coverage(ignore)
        return Coverage(ignore, tuple(dict.fromkeys((*self.paths, *policy.paths))))

    def text(self) -> str:
        """How it is stored beside a base."""
        if self.nothing:
            return ""
        return json.dumps({"ignore": self.ignore, "paths": self.paths})


@lru_cache(maxsize=8)
def _compiled(rules: tuple[str, ...]) -> PathSet:
    return PathSet(rules)


NOTHING = Coverage(nothing=True)


def parse_coverage(text: str) -> Coverage:
    """Read what Coverage.text wrote; what cannot be read covers nothing."""
    try:
        data = json.loads(text)
        return Coverage(tuple(map(str, data["ignore"])), tuple(map(str, data["paths"])))
    except (ValueError, KeyError, TypeError):
        return NOTHING
