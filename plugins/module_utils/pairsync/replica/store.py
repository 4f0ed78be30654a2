# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How SQLite is opened here: rollback journal, fully synchronous, no sharing, no mmap.

The caller holds the pair lock or the root lock, so nobody else has the file open.
"""

from __future__ import annotations

import errno
import sqlite3

from . import fsops

# What SQLite says of a schema that is not ours any more. All other operational errors are the
# system's: no space, no permission, no such directory.
_DAMAGED = (
    "no such ",
    "near ",
    "table ",
    "Could not decode",
    "malformed",
    "unrecognized",
    "unsupported file format",
)


def is_damaged(error: sqlite3.DatabaseError) -> bool:
    """Tell whether an error is about the file itself, and not about the system under it."""
    return not isinstance(error, sqlite3.OperationalError) or str(error).startswith(_DAMAGED)


def connect(
    directory_fd: int, name: str, schema: str, *, durable: bool = True
) -> sqlite3.Connection:
    """Open (or make) a database in a held directory; raise sqlite3.DatabaseError if it is damaged.

    durable: False for a cache that may be lost, so that it costs no flush.
    """
    _check_header(directory_fd, name)
    database = sqlite3.connect(
        f"/proc/self/fd/{directory_fd}/{name}", isolation_level=None, check_same_thread=False
    )
    try:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute(f"PRAGMA journal_mode={'DELETE' if durable else 'TRUNCATE'}")
        database.execute(f"PRAGMA synchronous={'EXTRA' if durable else 'OFF'}")
        database.execute("PRAGMA mmap_size=0")
        database.executescript(schema)
    except UnicodeDecodeError as error:  # what SQLite says of a schema quotes from it
        database.close()
        raise sqlite3.DatabaseError("the file's schema is damaged") from error
    except sqlite3.Error:
        database.close()
        raise
    return database


def _check_header(directory_fd: int, name: str) -> None:
    """Raise sqlite3.DatabaseError for a file that SQLite would open in another way than we do.

    With other version bytes it only reads, or begins a log beside the file.
    """
    try:
        fd = fsops.open_file(directory_fd, name.encode())
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EINVAL, errno.EISDIR):
            raise
        # SQLite would follow a symlink.
        raise sqlite3.DatabaseError(f"{name} is no file") from error
    try:
        header = fsops.read(fd, 20)
    finally:
        fsops.close(fd)
    if header and header[18:] != b"\1\1":
        raise sqlite3.DatabaseError("the file's header is damaged")
