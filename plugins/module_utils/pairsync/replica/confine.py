# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session may do to a replica: only what fits what the replica itself has scanned.

The plan was made elsewhere, of what both ends said. This is the receiver's own account of it: a
peer that lies about the base, about its own tree or about the plan gets nothing moved here that
this host did not see, and nothing beside the paths that the session is about.
"""

from __future__ import annotations

from typing import Optional

from ..model.entry import DIR, FILE, LINK, Entry, is_dir, parent_of, sort_key
from ..model.errors import ProtocolError
from ..model.plan import FAILED, SKIPPED
from ..model.report import display
from ..reconcile.actions import Action
from .base import Base
from .contents import Done
from .rows import Lookup
from .swap import CHANGED
from .walk import Rules, Scan


def refused(actions: list[Action], scan: Scan, rules: Rules) -> dict[int, Done]:
    """Results of the actions that must not be tried, by number.

    Raises ProtocolError for a list that no session makes: the peer is not one of ours.
    """
    found: dict[int, Done] = {}
    lookup = Lookup(scan.listings)
    made: dict[bytes, Optional[Action]] = {}  # by path: what this list says about directories
    before = b""
    last: Optional[Action] = None
    for action in actions:
        path = action.path
        key = sort_key(path)
        if action.number in found or (last is not None and not _follows(last, action, before, key)):
            raise ProtocolError(f"the session's list of actions is out of order at {display(path)}")
        if rules.leaves_out(path):
            raise ProtocolError(f"the session is not about {display(path)}, which it wants changed")
        above = made.get(parent_of(path))
        if above is not None and not is_dir(above.want) and action.want is not None:
            raise ProtocolError(f"{display(path)} lies below what the session makes no directory")
        result = _refusal(action, above, scan, rules, lookup, found)
        if result is not None:
            found[action.number] = result
        if not action.props_only:
            made[path] = action
        last, before = action, key
    _check_numbers(actions)
    return found


def _check_numbers(actions: list[Action]) -> None:
    if len({action.number for action in actions}) != len(actions):
        raise ProtocolError("the session gave two actions one number")


def _follows(last: Action, action: Action, before: bytes, key: bytes) -> bool:
    """Paths only rise; one that comes twice has its contents and its permissions apart."""
    if key == before:
        return last.props_only != action.props_only
    return key > before


def _refusal(
    action: Action,
    above: Optional[Action],
    scan: Scan,
    rules: Rules,
    lookup: Lookup,
    found: dict[int, Done],
) -> Optional[Done]:
    path, have = action.path, action.have
    if rules.denied.refuses(path, have, action.want):
        reason = "never written by a sync: it decides who may log in, or what runs there"
        return Done(action.number, FAILED, reason)
    if above is not None and above.number in found:
        return found[above.number]._replace(number=action.number)
    directory = parent_of(path)
    if directory and directory not in scan.listings and (above is None or not is_dir(above.want)):
        # Beyond a mount, a symlink or a directory that could not be read; or it has gone.
        return Done(action.number, FAILED, "its directory is not there")
    if have is None:
        return Done(action.number, SKIPPED, CHANGED) if action.props_only else None
    seen = lookup.seen(path)
    if seen is None or seen.kind != have.kind:
        return Done(action.number, SKIPPED, CHANGED)
    return None


def check_rows(rows: list[tuple[bytes, Optional[Entry]]], about: set[bytes], base: Base) -> None:
    """Check base rows that a session wants written; raise ProtocolError.

    about: the paths that the replica changed at, or was changed at.
    """
    directory, names = b"", base.entries(b"")
    for path, entry in rows:
        if parent_of(path) != directory:
            directory = parent_of(path)
            names = base.entries(directory)
        if path not in about and path.rpartition(b"/")[2] not in names:
            raise ProtocolError(f"the session records {display(path)}, which it was not about")
        if entry is not None and entry.kind not in (DIR, LINK):
            _check_file_row(path, entry)


def _check_file_row(path: bytes, entry: Entry) -> None:
    if entry.kind != FILE or entry.digest is None:
        raise ProtocolError(f"the session records {display(path)} without its contents")
