# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After a session: what a replica records, and knows for the next scan."""

from __future__ import annotations

from typing import Optional

from ..model.entry import FILE, Entry, blocked, parent_of
from ..model.errors import PairsyncError
from . import index
from .base import Base
from .rows import TICK_NS, Listing, Seen, all_known, pack_listing, unpack_listing
from .walk import Scan


def own_rows(
    scan: Scan, learned: dict[bytes, bytes], keep: set[bytes]
) -> dict[bytes, Optional[Entry]]:
    """Base rows of a replica's own changes, and of paths that are ignored now.

    learned: digests found out since the scan. keep: paths whose base row stays as it is.
    """
    rows: dict[bytes, Optional[Entry]] = dict.fromkeys(scan.dropped)
    for path, change in scan.changes.items():
        entry = change.after
        # What is not synced has no row, also where the plan only notes it.
        if path in keep or blocked(entry):
            continue
        if entry is not None and entry.kind == FILE and entry.digest is None:
            digest = learned.get(path)
            if digest is None:
                raise PairsyncError("internal", "a file is to be recorded that was never read")
            entry = entry._replace(digest=digest)
        rows[path] = entry
    return rows


def listings(
    scanned: dict[bytes, Listing],
    landed: dict[bytes, Optional[Seen]],
    learned: dict[bytes, bytes],
    before_ns: int,
) -> tuple[dict[bytes, Listing], set[bytes]]:
    """The index rows of directories in which something landed or was hashed; those that are gone.

    before_ns: files touched at or after this are not trusted (see rows.trusted_digests).
    """
    landed_in: dict[bytes, dict[bytes, Optional[Seen]]] = {}
    for path, now in landed.items():
        landed_in.setdefault(parent_of(path), {})[path.rpartition(b"/")[2]] = now
    changed: dict[bytes, Listing] = {}
    for directory in {*landed_in, *map(parent_of, learned)}:
        listing = scanned.get(directory)
        entries = unpack_listing(listing) if listing is not None else {}
        prefix = directory + b"/" if directory else b""
        for name, one in entries.items():
            racy = max(one.mtime_ns, one.ctime_ns) >= before_ns
            digest = None if racy else learned.get(prefix + name, one.digest)
            entries[name] = Seen(*one[:6], digest)
        for name, now in landed_in.get(directory, {}).items():
            entries.pop(name, None)
            if now is not None:
                entries[name] = _trusted(now)
        changed[directory] = pack_listing(entries)
    return changed, {path for path, now in landed.items() if now is None}


def marks(listings: dict[bytes, Listing], base: Base, keep: set[bytes]) -> dict[bytes, bytes]:
    """The marks of directories that agree with the base now, and of which all digests are trusted.

    keep: paths that do not agree.
    """
    differing = {parent_of(path) for path in keep}
    return {
        path: index.agreement(listing, base.packed(path))
        for path, listing in listings.items()
        if path not in differing and all_known(listing)
    }


def _trusted(now: Seen) -> Seen:
    """Keep a received file's digest only if a write right after its swap would have shown.

    Such a write sets mtime to the time of the swap, so the carried mtime must be clearly older.
    """
    if now.kind == FILE and now.mtime_ns + TICK_NS >= now.ctime_ns:
        return now._replace(digest=None)
    return now
