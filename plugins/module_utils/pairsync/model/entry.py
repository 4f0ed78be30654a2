# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is at a path: a file, a directory, a symlink, or something that cannot be synced.

Entry and Change are tuples, not dataclasses: a first sync makes hundreds of thousands of them,
and a tuple takes a fifth of the time.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

FILE = 1
DIR = 2
LINK = 3
PROBLEM = 4  # cannot be read or stored: unknown, never "absent"
SPECIAL = (
    5  # device, socket, pipe or foreign mount: not synced; a note unless something depends on it
)

KIND_NAMES = {
    FILE: "file",
    DIR: "directory",
    LINK: "symlink",
    PROBLEM: "problem",
    SPECIAL: "special",
}

PERMISSION_BITS = 0o777  # set-id and sticky bits are never taken from a peer

# What Unicode lets a comparison pass over, beside the characters of category Cf.
_IGNORABLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0") | {
    chr(code) for code in range(0xFE00, 0xFE10)
}

_NOT_ASCII = bytes(range(128, 256))

STATE_NAME = b".pairsync"  # the directory of our own state; at any depth never scanned or written


class Entry(NamedTuple):
    """One path's value.

    mode: permission bits, or None where both replicas have never agreed on them (and for links).
    size: bytes; 0 for anything but files. mtime_ns: nanoseconds since the epoch; carried with
    contents, never evidence of a change. digest: SHA-256 of a file's contents (see digest.py for
    large files), None while nobody has needed it ("lazy"). target: a symlink's text; the reason
    for a PROBLEM or SPECIAL entry.
    """

    kind: int
    mode: Optional[int] = None
    size: int = 0
    mtime_ns: int = 0
    digest: Optional[bytes] = None
    target: bytes = b""


class Change(NamedTuple):
    """An entry compared with the base: `before` is the base's, `after` the replica's."""

    path: bytes
    before: Optional[Entry]
    after: Optional[Entry]
    # A pointer file that moved while its directory was listed: left for the next round.
    unsettled: bool = False


def same_contents(one: Optional[Entry], other: Optional[Entry]) -> bool:
    """Tell whether two entries agree in type and contents (not permissions).

    A lazy digest agrees with nothing, not even another lazy one.
    """
    if one is None or other is None:
        return one is other
    if one.kind != other.kind:
        return False
    if one.kind == FILE:
        return one.digest is not None and one.digest == other.digest
    return one.kind == DIR or (one.kind == LINK and one.target == other.target)


def same_mode(one: Optional[Entry], other: Optional[Entry]) -> bool:
    """Tell whether two entries agree in permissions; links and absent entries have none."""
    if one is None or other is None or LINK in (one.kind, other.kind):
        return True
    return one.mode == other.mode


def is_dir(entry: Optional[Entry]) -> bool:
    """Tell whether an entry is a directory."""
    return entry is not None and entry.kind == DIR


def blocked(entry: Optional[Entry]) -> bool:
    """Tell whether an entry is unknown to us: unreadable, unstorable or not a syncable type."""
    return entry is not None and entry.kind >= PROBLEM


def status(change: Optional[Change]) -> str:
    """Name a change as reports do: unchanged, new, changed, props, deleted or problem."""
    if change is None:
        return "unchanged"
    if blocked(change.after):
        return "problem"
    if change.after is None:
        return "deleted" if change.before is not None else "unchanged"
    if change.before is None:
        return "new"
    if not same_contents(change.before, change.after):
        return "changed"
    return "unchanged" if same_mode(change.before, change.after) else "props"


def sort_key(path: bytes) -> bytes:
    """Order paths by components, so that what is below a directory directly follows it.

    NUL cannot occur in a name and sorts before every byte that can.
    """
    return path.replace(b"/", b"\0")


def parent_of(path: bytes) -> bytes:
    """The directory of a path relative to its root; the root itself is the empty path."""
    return path.rpartition(b"/")[0]


def is_state_name(name: bytes) -> bool:
    """Tell whether a file system may take a name for that of our state directory."""
    if name.isascii():
        return len(name) == len(STATE_NAME) and name.lower() == STATE_NAME
    # Of its letters only the s has a counterpart that is not ASCII: nearly all names end here.
    rest = name.translate(None, _NOT_ASCII).lower()
    return rest in (STATE_NAME, b".pairync") and fold(name) == STATE_NAME


def fold(path: bytes) -> bytes:
    """A path without what some file systems overlook: case, composition, invisible characters."""
    if path.isascii():
        return path.lower()
    import unicodedata  # rarely needed, and every start would pay for it

    text = path.decode("utf-8", "surrogateescape")
    visible = "".join(
        char
        for char in unicodedata.normalize("NFD", text)
        if unicodedata.category(char) != "Cf" and char not in _IGNORABLE
    )
    return unicodedata.normalize("NFD", visible.casefold()).encode("utf-8", "surrogateescape")


def is_below(path: bytes, top: bytes) -> bool:
    """Tell whether path lies strictly below top."""
    return path.startswith(top + b"/") if top else bool(path)
