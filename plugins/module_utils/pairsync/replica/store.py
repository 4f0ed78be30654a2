# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How SQLite is opened here: rollback journal, fully synchronous, no sharing, no mmap.

The caller holds the pair lock or the root lock, so nobody else has the file open.
"""

from __future__ import annotations

import sqlite3


def connect(
    directory_fd: int, name: str, schema: str, *, durable: bool = True
) -> sqlite3.Connection:
    """Open (or make) a database in a held directory; raise sqlite3.DatabaseError if it is damaged.

    durable: False for a cache that may be lost, so that it costs no flush.
    """
    database = sqlite3.connect(
        f"/proc/self/fd/{directory_fd}/{name}", isolation_level=None, check_same_thread=False
    )
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    database.execute(f"PRAGMA journal_mode={'DELETE' if durable else 'TRUNCATE'}")
    database.execute(f"PRAGMA synchronous={'EXTRA' if durable else 'OFF'}")
    database.execute("PRAGMA mmap_size=0")
    database.executescript(schema)
    return database
