# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Path specifications as Unison writes them: `Name`, `Path`, `BelowPath` and `Regex`.

Source of the language: the Unison manual, "Path Specification". `*` and `?` match no slash, and
no dot at the start of a component; `[...]` is a character class; `{a,b}` are alternatives; a
backslash quotes the next character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Optional

from .errors import UsageError

_FORMS = ("Name", "Path", "BelowPath", "Regex")
_MOST_ALTERNATIVES = 1000
_NEXT = "write `Name GLOB`, `Path GLOB`, `BelowPath GLOB` or `Regex PATTERN`"


class PathSet:
    """A set of path specifications, compiled into few tests per path."""

    def __init__(self, specs: Iterable[str] = ()) -> None:
        """Compile specs; raise UsageError for one that is malformed."""
        self.specs = tuple(specs)
        names: set[bytes] = set()
        patterns: list[str] = []
        name_patterns: list[str] = []
        expressions: list[re.Pattern[bytes]] = []
        for spec in self.specs:
            form, body = _parse(spec)
            if form == "Regex":
                expressions.append(_expression(body, spec))
                continue
            for glob in _alternatives(body, spec):
                if form == "Name" and not re.search(r"[*?\[\\]", glob):
                    names.add(glob.encode("utf-8", "surrogateescape"))
                elif form == "Name":
                    name_patterns.append(_glob(glob, spec))
                else:
                    below = "(?:/.*)?" if form == "BelowPath" else ""
                    patterns.append(_glob(glob.strip("/"), spec) + below)
        self._names = frozenset(names)
        self._name_pattern = _compiled(name_patterns)
        self._pattern = _compiled(patterns)
        # Each on its own: its flags and group numbers are those its author counted.
        self._expressions = tuple(expressions)

    def __bool__(self) -> bool:
        return bool(self.specs)

    def matches(self, path: bytes) -> bool:
        """Tell whether a path relative to the root is in the set."""
        name = path.rpartition(b"/")[2]
        if name in self._names:
            return True
        if self._name_pattern is not None and self._name_pattern.fullmatch(name):
            return True
        if self._pattern is not None and self._pattern.fullmatch(path):
            return True
        return any(one.fullmatch(path) for one in self._expressions)


def _compiled(patterns: list[str]) -> Optional[re.Pattern[bytes]]:
    if not patterns:
        return None
    # DOTALL: a name may hold a newline, and `*` must match it.
    return re.compile("|".join(patterns).encode("utf-8", "surrogateescape"), re.DOTALL)


def _parse(spec: str) -> tuple[str, str]:
    form, __, body = spec.strip().partition(" ")
    if form not in _FORMS or not body.strip():
        raise UsageError(f"the path specification {spec!r} is malformed", _NEXT)
    return form, body.strip()


def _expression(pattern: str, spec: str) -> re.Pattern[bytes]:
    try:
        return re.compile(pattern.encode("utf-8", "surrogateescape"), re.DOTALL)
    except (re.error, OverflowError, RecursionError, ValueError) as error:
        raise UsageError(f"the path specification {spec!r} is malformed: {error}", _NEXT) from error


def _alternatives(glob: str, spec: str) -> list[str]:
    """Expand `{a,b}` into plain globs, innermost first."""
    done: list[str] = []
    todo = [glob]
    while todo:
        current = todo.pop()
        span = _innermost_braces(current)
        if span is None:
            done.append(current)
        else:
            start, end = span
            todo.extend(
                current[:start] + choice + current[end + 1 :]
                for choice in reversed(current[start + 1 : end].split(","))
            )
        if len(done) + len(todo) > _MOST_ALTERNATIVES:
            raise UsageError(f"the path specification {spec!r} has too many alternatives", _NEXT)
    return done


def _innermost_braces(glob: str) -> Optional[tuple[int, int]]:
    start = -1
    index = 0
    while index < len(glob):
        char = glob[index]
        if char == "\\":
            index += 1
        elif char == "{":
            start = index
        elif char == "}" and start >= 0:
            return start, index
        index += 1
    return None


def _glob(glob: str, spec: str) -> str:
    """Translate one glob without braces into a regular expression over a path."""
    out: list[str] = []
    index = 0
    while index < len(glob):
        char = glob[index]
        first = index == 0 or glob[index - 1] == "/"
        hidden = r"(?!\.)" if first else ""
        if char == "*":
            out.append(hidden + "[^/]*")
        elif char == "?":
            out.append(hidden + "[^/]")
        elif char == "[":
            end = glob.find("]", index + 2)
            if end < 0:
                raise UsageError(f"the path specification {spec!r} has an unclosed `[`", _NEXT)
            body = glob[index + 1 : end]
            negated = body[0] in "!^"
            body = (body[1:] if negated else body).replace("\\", "\\\\").replace("[", "\\[")
            out.append(hidden + ("(?!/)[^" if negated else "[") + body + "]")
            index = end
        elif char == "\\" and index + 1 < len(glob):
            index += 1
            out.append(re.escape(glob[index]))
        else:
            out.append(re.escape(char))
        index += 1
    pattern = "".join(out)
    _expression(pattern, spec)
    return pattern
