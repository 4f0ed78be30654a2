# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pair's base during one session: opened, settled, written; set aside when it is damaged."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple
from typing import Optional

from ..model.errors import PairsyncError
from . import journal
from .base import Base
from .interface import BaseState
from .store import is_damaged


class Agreed:
    """The base in a pair's state directory; `base` is None while there is none to trust."""

    def __init__(self, pair_fd: int, pair_id: str, shown: str) -> None:
        """pair_fd: stays the caller's. shown: the root, for messages."""
        self._pair_fd, self._pair_id, self._shown = pair_fd, pair_id, shown
        self.base: Optional[Base] = None

    def open(self) -> BaseState:
        """Read the base, or make one."""
        try:
            self.base = Base(self._pair_fd, self._pair_id)
        except sqlite3.DatabaseError as error:
            if not is_damaged(error):
                raise  # the system's fault, not the file's: the base stays as it is
            return BaseState(sound=False)
        if not self.base.sound:
            return BaseState(sound=False)
        return BaseState(*astuple(self.base.commits))

    def settle(self, verb: str, *, dry_run: bool) -> None:
        """Do with a pending commit, or with all, what both ends' states come to.

        verb: see interface.Replica.scan.
        """
        if verb == "reset":
            self.close()
            if not dry_run:
                journal.set_aside(self._pair_fd)
                self.base = Base(self._pair_fd, self._pair_id)
        elif self.base is None:
            return
        elif dry_run:
            if verb == "promote":
                self.base.preview()
        else:
            with self.writing():
                if verb == "promote":
                    self.base.promote()
                elif verb == "drop":
                    self.base.drop_pending()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Set a base aside whose damage shows only when it is written: it must not stay so."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if not is_damaged(error) or self.base is None:
                raise
            self.close()
            journal.set_aside(self._pair_fd)
            raise PairsyncError(
                "internal",
                f"what {self._shown} and its peer agreed on is damaged, and was set aside: {error}",
                "run the same command again: it compares everything anew, and deletes nothing",
            ) from error

    def close(self) -> None:
        """Close the base."""
        if self.base is not None:
            self.base.close()
            self.base = None
