# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The index: a cache of digests by fingerprint, one row per directory. May be lost at any time.

Not made durable: after a power cut a damaged index is thrown away, and what it held is hashed
again. SQLite itself does not see when a page of a row is an older one, so that each row has a
checksum. A row is only believed when the fingerprint agrees exactly.

`agreements` holds, for each pair, a hash over a directory's listing and its base row as they were
when nothing in it differed: when both still give that hash, its entries need not be compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import fsops, store
from .rows import Listing

NAME = "index.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS directories
    (path BLOB PRIMARY KEY, seen BLOB NOT NULL, digests BLOB NOT NULL, sum INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS agreements
    (pair TEXT, path BLOB, mark BLOB NOT NULL, PRIMARY KEY (pair, path)) WITHOUT ROWID;
"""


@dataclass
class Index:
    """What the index says of one root, for one pair: listings and marks, by directory."""

    listings: dict[bytes, Listing] = field(default_factory=dict)
    marks: dict[bytes, bytes] = field(default_factory=dict)


def agreement(listing: Listing, base_row: bytes) -> bytes:
    """The mark of a directory in which nothing differs from the base."""
    size = len(listing.seen).to_bytes(8, "big")
    return hashlib.sha256(size + listing.seen + listing.digests + base_row).digest()


def _sum(path: bytes, seen: bytes, digests: bytes) -> int:
    return zlib.crc32(digests, zlib.crc32(seen, zlib.crc32(path)))


@contextlib.contextmanager
def _opened(state_fd: int) -> Iterator[sqlite3.Connection]:
    try:
        database = store.connect(state_fd, NAME, _SCHEMA, durable=False)
        database.execute("SELECT count(sum) FROM directories").fetchone()
    except sqlite3.DatabaseError as error:
        if not store.is_damaged(error):
            raise
        for name in (NAME, f"{NAME}-journal"):
            with contextlib.suppress(FileNotFoundError):
                fsops.unlink(state_fd, name.encode())
        database = store.connect(state_fd, NAME, _SCHEMA, durable=False)
    try:
        yield database
    finally:
        database.close()


def load(state_fd: int, pair: str) -> Index:
    """All rows by directory; empty when there is no index or it is damaged."""
    try:
        with _opened(state_fd) as database:
            rows = database.execute("SELECT path, seen, digests, sum FROM directories")
            listings = {
                path: Listing(seen, digests)
                for path, seen, digests, total in rows
                if total == _sum(path, seen, digests)
            }
            marks = database.execute("SELECT path, mark FROM agreements WHERE pair = ?", (pair,))
            return Index(listings, dict(marks))
    except (sqlite3.DatabaseError, OSError, TypeError):
        return Index()


def save(state_fd: int, pair: str, changed: Index, gone: set[bytes]) -> None:
    """Write changed rows and marks, and drop those of directories that are gone.

    A full disk or a damaged file only costs time at the next scan, so errors end here.
    """
    if not changed.listings and not changed.marks and not gone:
        return
    with contextlib.suppress(sqlite3.DatabaseError, OSError), _opened(state_fd) as database:
        database.execute("BEGIN")
        doomed = [(path,) for path in gone]
        database.executemany("DELETE FROM directories WHERE path = ?", doomed)
        database.executemany("DELETE FROM agreements WHERE path = ?", doomed)
        database.executemany(
            "INSERT OR REPLACE INTO directories VALUES (?, ?, ?, ?)",
            [
                (path, row.seen, row.digests, _sum(path, row.seen, row.digests))
                for path, row in changed.listings.items()
            ],
        )
        database.executemany(
            "INSERT OR REPLACE INTO agreements VALUES (?, ?, ?)",
            [(pair, path, mark) for path, mark in changed.marks.items()],
        )
        database.execute("COMMIT")
