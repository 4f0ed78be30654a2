# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What travels from the replica that sends to the one that receives, as plain values."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

# Files up to this size travel in one record; larger ones in pieces.
WHOLE_LIMIT = 256 << 10
PIECE = 1 << 20  # a whole number of leaves, so that pieces can be hashed as they come


class Proof(NamedTuple):
    """What the sender vouches for: exactly these bytes were in the file that was scanned.

    size in bytes, mtime_ns in nanoseconds, digest as in digest.py. grew: the file only grew
    since it was scanned, and this is the prefix that was read.
    """

    size: int
    mtime_ns: int
    digest: bytes
    grew: bool = False


class Whole(NamedTuple):
    """A whole file. number: the action it is for."""

    number: int
    proof: Proof
    data: bytes


class Begin(NamedTuple):
    """A large file begins; size is the most that will come, in bytes."""

    number: int
    size: int


class Piece(NamedTuple):
    """The next bytes of the large file that began."""

    number: int
    data: bytes


class End(NamedTuple):
    """The large file is complete."""

    number: int
    proof: Proof


class Unsent(NamedTuple):
    """A file that is not sent, or not to its end. failed: an error, not just a change."""

    number: int
    reason: str
    failed: bool


Record = Union[Whole, Begin, Piece, End, Unsent]


class Done(NamedTuple):
    """What became of one action on the receiving replica.

    result: one of plan.DONE, SKIPPED, FAILED, HELD. proof: of the contents that arrived, for a
    file that was done.
    """

    number: int
    result: str
    reason: str = ""
    proof: Optional[Proof] = None

    @property
    def size(self) -> int:
        """Bytes of contents that were received."""
        return self.proof.size if self.proof is not None else 0
