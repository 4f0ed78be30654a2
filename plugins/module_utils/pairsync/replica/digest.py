# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests of contents: a function of the bytes alone.

Up to 4 MiB: SHA-256. Above: SHA-256 over the SHA-256s of consecutive 1 MiB leaves, so that
large files can be hashed in parallel and an append reuses the leaves before it.
"""

from __future__ import annotations

import hashlib
from typing import Optional

from . import fsops

LEAF = 1 << 20
FLAT_LIMIT = 4 << 20


class Digester:
    """Hashes contents of a known length, fed in order.

    Every feed but the last must hold a whole number of leaves when the length is above 4 MiB.
    """

    def __init__(self, size: int, prefix: int = 0) -> None:
        """size: length of the contents, in bytes; prefix: of the part that is hashed as well."""
        self._tree = size > FLAT_LIMIT
        self._hash = hashlib.sha256()
        self._prefix_tree = prefix > FLAT_LIMIT
        self._prefix_left = prefix
        self._prefix_hash = hashlib.sha256()

    def feed(self, data: bytes) -> None:
        """Add the next bytes."""
        if not self._tree:
            self._hash.update(data)
            self._feed_prefix(data, b"")
            return
        for start in range(0, len(data), LEAF):
            leaf = data[start : start + LEAF]
            digest = hashlib.sha256(leaf).digest()
            self._hash.update(digest)
            self._feed_prefix(leaf, digest)

    def _feed_prefix(self, data: bytes, digest: bytes) -> None:
        """Add what belongs to the prefix; digest: of data, when that is one leaf."""
        if not self._prefix_left:
            return
        part = data[: self._prefix_left]
        self._prefix_left -= len(part)
        if not self._prefix_tree:
            self._prefix_hash.update(part)
        elif len(part) == len(data):
            self._prefix_hash.update(digest)  # an append reuses the leaves before it
        else:
            self._prefix_hash.update(hashlib.sha256(part).digest())

    def prefix_digest(self) -> Optional[bytes]:
        """The digest of the prefix alone; None while it is not complete."""
        return self._prefix_hash.digest() if not self._prefix_left else None

    def digest(self) -> bytes:
        """The digest of everything fed, 32 bytes."""
        return self._hash.digest()


def digest_bytes(data: bytes) -> bytes:
    """The digest of contents held in memory."""
    if len(data) <= FLAT_LIMIT:
        return hashlib.sha256(data).digest()
    digester = Digester(len(data))
    digester.feed(data)
    return digester.digest()


def digest_file(fd: int, size: int) -> Optional[bytes]:
    """The digest of the next size bytes of an open file; None when it ends before that."""
    digester = Digester(size)
    left = size
    while left:
        data = fsops.read(fd, min(LEAF, left))
        if not data:
            return None
        digester.feed(data)
        left -= len(data)
        if left and len(data) < LEAF:
            return None
    return digester.digest()
