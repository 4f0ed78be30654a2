# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The index: a cache of digests by fingerprint, one row per directory. May be lost at any time.

Not made durable: after a power cut a damaged index is thrown away, and what it held is hashed
again. A row is only believed when the fingerprint agrees exactly.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from . import fsops, store
from .rows import Listing

NAME = "index.sqlite"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS directories"
    " (path BLOB PRIMARY KEY, seen BLOB NOT NULL, digests BLOB NOT NULL) WITHOUT ROWID;"
)


@contextlib.contextmanager
def _opened(state_fd: int) -> Iterator[sqlite3.Connection]:
    try:
        database = store.connect(state_fd, NAME, _SCHEMA, durable=False)
        database.execute("SELECT count(*) FROM directories").fetchone()
    except sqlite3.DatabaseError:
        for name in (NAME, f"{NAME}-journal"):
            with contextlib.suppress(FileNotFoundError):
                fsops.unlink(state_fd, name.encode())
        database = store.connect(state_fd, NAME, _SCHEMA, durable=False)
    try:
        yield database
    finally:
        database.close()


def load(state_fd: int) -> dict[bytes, Listing]:
    """All rows by directory; empty when there is no index or it is damaged."""
    try:
        with _opened(state_fd) as database:
            rows = database.execute("SELECT path, seen, digests FROM directories")
            return {path: Listing(seen, digests) for path, seen, digests in rows}
    except (sqlite3.DatabaseError, OSError):
        return {}


def save(state_fd: int, changed: dict[bytes, Listing], gone: set[bytes]) -> None:
    """Write changed rows and drop those of directories that are gone.

    A full disk or a damaged file only costs time at the next scan, so errors end here.
    """
    if not changed and not gone:
        return
    with contextlib.suppress(sqlite3.DatabaseError, OSError), _opened(state_fd) as database:
        database.execute("BEGIN")
        database.executemany("DELETE FROM directories WHERE path = ?", [(path,) for path in gone])
        database.executemany(
            "INSERT OR REPLACE INTO directories VALUES (?, ?, ?)",
            [(path, row.seen, row.digests) for path, row in changed.items()],
        )
        database.execute("COMMIT")
