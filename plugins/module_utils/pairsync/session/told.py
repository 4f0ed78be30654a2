# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Events of a session on another host: checked, and safe to show, before anything reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Callable

from ..model.errors import EXIT_DONE, EXIT_FATAL, ProtocolError
from ..wire.limits import MOST_SIZE

Check = Callable[[Any], bool]


def read_event(data: bytes, host: str) -> dict[str, Any]:
    """One line of an event stream; raise ProtocolError when a front end could not read it."""
    try:
        event = _printable(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{host} sent something that is no event", host) from error
    if not isinstance(event, dict) or not _text(event.get("event")):
        raise ProtocolError(f"{host} sent something that is no event", host)
    if not _fits(event, _EVENTS.get(event["event"], {})):
        raise ProtocolError(f"{host} sent a malformed event", host)
    return event


def _printable(value: Any) -> Any:
    """The same value, without what a terminal would take for a command."""
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join(char if char.isprintable() else "?" for char in value)
    if isinstance(value, list):
        return [_printable(one) for one in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(one) for key, one in value.items()}
    return value


def _fits(value: Any, fields: Mapping[str, Check]) -> bool:
    return isinstance(value, dict) and all(fits(value.get(key)) for key, fits in fields.items())


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_SIZE


def _seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= MOST_SIZE


def _exit(value: Any) -> bool:
    return _number(value) and EXIT_DONE <= value <= EXIT_FATAL


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(row, dict) and all(map(_number, row.values())) for row in value.values()
    )


def _labels(value: Any) -> bool:
    return _fits(value, {"a": _text, "b": _text})


def _error(value: Any) -> bool:
    return value is None or _fits(
        value, {"code": _text, "message": _text, "next": _text_or_none, "host": _text_or_none}
    )


def _report(value: Any) -> bool:
    return _fits(
        value,
        {
            "error": _error,
            "exit": _exit,
            "dry_run": _flag,
            "collapsed": _flag,
            "counts": _counts,
            "seconds": _seconds,
        },
    )


_ITEM: dict[str, Check] = {
    "path": _text,
    "decision": _text,
    "recommendation": _text,
    "a": _text,
    "b": _text,
    "kind": _text,
    "result": _text,
    "reason": _text_or_none,
}

# What front ends read; other events, and other fields, are passed on as they are.
_EVENTS: dict[str, dict[str, Check]] = {
    "item": _ITEM,
    "result": _ITEM,
    "plan": {"labels": _labels, "summary": _texts},
    "question": {"id": _number, "text": _text, "answers": _texts},
    "progress": dict.fromkeys(("items", "items_total", "bytes", "bytes_total"), _number),
    "warning": {"message": _text},
    "note": {"message": _text},
    "report": {"report": _report},
}
