# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The base: what both replicas of a pair last agreed on, with commits in two steps.

Every commit has a random id and its parent's id. A commit is first written as *pending* on both
hosts; only when both have it is it promoted. If a host stops in between, the next session
compares ids: a pending commit is promoted when the peer has the same one pending or current,
else dropped. Checksums over all rows, those of the pending commit included, and over what is said
about the commits tell a damaged or foreign base from a good one.

One row per directory (see rows.py). `chunks` holds the chunk list of large contents by digest.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Optional

from ..model.entry import DIR, Entry, parent_of
from . import store
from .rows import pack_agreed, unpack_agreed

NAME = "base.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS directories (path BLOB PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pending (path BLOB PRIMARY KEY, data BLOB);
CREATE TABLE IF NOT EXISTS chunks (digest BLOB PRIMARY KEY, list BLOB NOT NULL);
"""
_MODULUS = 1 << 256


@dataclass(frozen=True)
class Commits:
    """Where a base stands.

    rows: entries it holds. sound: its checksum agrees with its rows. coverage: what the sessions
    that made it looked at (see model/coverage.py). *_sum: checksums of the two commits.
    """

    current: str
    pending: str
    rows: int
    sound: bool
    coverage: str
    current_sum: str
    pending_sum: str
    pending_coverage: str


class Base:
    """One replica's base for one pair, held open during a session."""

    def __init__(self, pair_fd: int, pair_id: str) -> None:
        """Open or make the base; raise sqlite3.DatabaseError when it is damaged."""
        self._database = store.connect(pair_fd, NAME, _SCHEMA)
        self._rows: dict[bytes, bytes] = {}
        self._pending: dict[bytes, Optional[bytes]] = {}
        try:
            self._load(pair_id)
        except sqlite3.Error:
            self._database.close()
            raise
        except (TypeError, ValueError) as error:  # a value of another type than was written
            self._database.close()
            raise sqlite3.DatabaseError("a row of the base is damaged") from error

    def _load(self, pair_id: str) -> None:
        self._meta = dict(self._database.execute("SELECT key, value FROM meta"))
        total = 0
        for path, data in self._database.execute("SELECT path, data FROM directories"):
            self._rows[path] = data
            total += _row_sum(path, data)
        self._sum = total % _MODULUS
        if not self._meta:
            self._set_meta({"pair": pair_id, "current": "", "checksum": f"{0:064x}", "rows": "0"})
        meta = self._meta
        self.sound = (
            meta.get("pair") == pair_id
            and meta.get("seal") == _seal(meta)
            and meta.get("checksum") == f"{self._sum:064x}"
            and (not meta.get("pending") or meta["pending_checksum"] == self._sum_after_pending())
        )

    def _sum_after_pending(self) -> str:
        total = self._sum
        for path, data in self._database.execute("SELECT path, data FROM pending"):
            if path in self._rows:
                total -= _row_sum(path, self._rows[path])
            if data is not None:
                total += _row_sum(path, data)
        return f"{total % _MODULUS:064x}"

    @property
    def commits(self) -> Commits:
        """Ids of the current and the pending commit, "" where there is none."""
        meta = self._meta
        return Commits(
            current=meta.get("current", ""),
            pending=meta.get("pending", ""),
            rows=int(meta.get("rows", "0")),
            sound=self.sound,
            coverage=meta.get("coverage", ""),
            current_sum=meta.get("checksum", ""),
            pending_sum=meta.get("pending_checksum", ""),
            pending_coverage=meta.get("pending_coverage", ""),
        )

    def directories(self) -> Iterable[bytes]:
        """All directories that hold base entries."""
        return self._rows.keys()

    def entries(self, directory: bytes) -> dict[bytes, Entry]:
        """The base's entries of one directory by name."""
        data = self._rows.get(directory)
        return unpack_agreed(data) if data else {}

    def entry(self, path: bytes) -> Optional[Entry]:
        """The base's entry at a path."""
        return self.entries(parent_of(path)).get(path.rpartition(b"/")[2])

    def below(self, path: bytes) -> Iterator[tuple[bytes, Entry]]:
        """Every base entry strictly below a directory, each directory's right after itself."""
        # No recursion: trees are deeper than Python's.
        stack = [(path, iter(self.entries(path).items()))]
        while stack:
            directory, left = stack[-1]
            found = next(left, None)
            if found is None:
                stack.pop()
                continue
            name, entry = found
            inner = directory + b"/" + name if directory else name
            yield inner, entry
            if entry.kind == DIR:
                stack.append((inner, iter(self.entries(inner).items())))

    def packed(self, directory: bytes) -> bytes:
        """A directory's packed entries, as the pending commit has them if there is one."""
        return self._pending.get(directory, self._rows.get(directory)) or b""

    def write_pending(
        self, commit: str, rows: Iterable[tuple[bytes, Optional[Entry]]], coverage: str = ""
    ) -> str:
        """Write a commit that is not valid yet, durably; return the checksum it will have."""
        changed = self._changed_directories(rows)
        total, count = self._sum, int(self._meta.get("rows", "0"))
        for path, data in changed.items():
            old = self._rows.get(path)
            if old is not None:
                total -= _row_sum(path, old)
                count -= len(unpack_agreed(old))
            if data is not None:
                total += _row_sum(path, data)
                count += len(unpack_agreed(data))
        checksum = f"{total % _MODULUS:064x}"
        self._pending = changed
        with self._transaction():
            self._database.execute("DELETE FROM pending")
            self._database.executemany("INSERT INTO pending VALUES (?, ?)", list(changed.items()))
            self._write_meta(
                {
                    "pending": commit,
                    "pending_checksum": checksum,
                    "pending_rows": str(count),
                    "pending_coverage": coverage,
                }
            )
        return checksum

    def promote(self) -> None:
        """Make the pending commit the current one, durably."""
        rows = dict(self._database.execute("SELECT path, data FROM pending"))
        gone = [(path,) for path, data in rows.items() if data is None]
        kept = [(path, data) for path, data in rows.items() if data is not None]
        meta = self._meta
        with self._transaction():
            self._database.executemany("DELETE FROM directories WHERE path = ?", gone)
            self._database.executemany(
                "INSERT OR REPLACE INTO directories (path, data) VALUES (?, ?)", kept
            )
            self._database.execute("DELETE FROM pending")
            self._write_meta(
                {
                    "parent": meta.get("current", ""),
                    "current": meta["pending"],
                    "pending": "",
                    "checksum": meta["pending_checksum"],
                    "rows": meta["pending_rows"],
                    "coverage": meta["pending_coverage"],
                }
            )
        self._apply(rows)

    def preview(self) -> None:
        """Look like after promote(), without writing anything: for a dry run."""
        self._apply(dict(self._database.execute("SELECT path, data FROM pending")))

    def _apply(self, rows: dict[bytes, Optional[bytes]]) -> None:
        for path, data in rows.items():
            old = self._rows.pop(path, None)
            if old is not None:
                self._sum -= _row_sum(path, old)
            if data is not None:
                self._rows[path] = data
                self._sum += _row_sum(path, data)
        self._sum %= _MODULUS
        self._pending = {}

    def drop_pending(self) -> None:
        """Forget the pending commit, durably."""
        with self._transaction():
            self._database.execute("DELETE FROM pending")
            self._write_meta({"pending": ""})

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _changed_directories(
        self, rows: Iterable[tuple[bytes, Optional[Entry]]]
    ) -> dict[bytes, Optional[bytes]]:
        """New packed rows of the directories in which rows change; None for an empty one."""
        tables: dict[bytes, dict[bytes, Entry]] = {}

        def table(directory: bytes) -> dict[bytes, Entry]:
            found = tables.get(directory)
            if found is None:
                found = tables[directory] = self.entries(directory)
            return found

        for path, entry in rows:
            name = path.rpartition(b"/")[2]
            entries = table(parent_of(path))
            old = entries.get(name)
            if old is not None and old.kind == DIR and (entry is None or entry.kind != DIR):
                # What was below a directory that is gone is gone with it, ignored rows included.
                for inner, __ in list(self.below(path)):
                    table(parent_of(inner)).pop(inner.rpartition(b"/")[2], None)
            if entry is None:
                entries.pop(name, None)
            else:
                entries[name] = entry
        packed = {
            directory: pack_agreed(entries) if entries else None
            for directory, entries in tables.items()
        }
        return {path: data for path, data in packed.items() if data != self._rows.get(path)}

    def _transaction(self) -> _Transaction:
        return _Transaction(self._database)

    def _write_meta(self, values: dict[str, str]) -> None:
        after = {**self._meta, **values}
        after["seal"] = values["seal"] = _seal(after)
        self._database.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items())
        )
        self._meta = after

    def _set_meta(self, values: dict[str, str]) -> None:
        with self._transaction():
            self._write_meta(values)


class _Transaction:
    """BEGIN … COMMIT, or ROLLBACK when the body raises."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._database.execute("COMMIT")
        elif self._database.in_transaction:  # SQLite itself rolls back when the disk is full
            self._database.execute("ROLLBACK")


def _seal(meta: dict[str, str]) -> str:
    """A hash over what is said about the commits."""
    said = sorted(item for item in meta.items() if item[0] != "seal")
    return hashlib.sha256(repr(said).encode("utf-8", "surrogatepass")).hexdigest()


def _row_sum(path: bytes, data: bytes) -> int:
    # A sum of row hashes, so that a commit changes the checksum without reading all rows.
    return int.from_bytes(hashlib.sha256(path + b"\0" + data).digest(), "big")
