# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A root on this host: found or made, held open, and told apart from all others."""

from __future__ import annotations

import os
import socket
import time
from typing import Optional

from .. import __version__
from ..model.denied import Denied
from ..model.errors import PairsyncError
from ..model.report import display
from . import fsops, guard, journal, state
from .denylist import denied_in, own_home
from .interface import Opened
from .state import State
from .tree import Tree


class Root:
    """The directory that a replica is, and the state directory in it."""

    def __init__(self, build: str, state_home: str, home: Optional[bytes]) -> None:
        """See LocalReplica."""
        self._build = build
        self._home = own_home() if home is None else home
        self.state_home = state_home
        self.path = b""
        self.fd = -1
        self.tree: Optional[Tree] = None
        self.state: Optional[State] = None
        self.denied = Denied()

    @property
    def shown(self) -> str:
        """The path, for people."""
        return display(self.path)

    def open(self, path: str) -> Opened:
        """Look at the root; change nothing."""
        self.path = os.fsencode(os.path.expanduser(path))
        if not os.path.isabs(self.path):
            self.path = os.path.join(os.getcwdb(), self.path)
        try:
            self.fd = fsops.open_root(self.path)
        except FileNotFoundError:
            parent = os.path.isdir(os.path.dirname(self.path.rstrip(b"/")))
            return self._opened(missing=True, parent=parent)
        except NotADirectoryError as error:
            raise PairsyncError(
                "root_not_dir",
                f"{self.shown} is not a directory",
                "name the directory to sync; single files are synced with `--path`",
            ) from error
        except OSError as error:
            raise PairsyncError(
                "root_missing",
                f"{self.shown} cannot be opened: {error.strerror}",
                "make it readable",
            ) from error
        self.tree = Tree(fsops.duplicate(self.fd))
        self.state = state.find(self.fd)
        if self.state is not None:
            self._check_file_system(self.state)
            if self.state_home:
                noted = journal.noted_root(self.state_home, self.state.replica_id)
                state.check_copies(self.fd, self.state, noted)
        return self._opened(missing=False, parent=True)

    def create(self) -> Opened:
        """Make the root if it is missing, and give it an id if it has none."""
        if self.fd < 0:
            try:
                fsops.make_root(self.path)
            except FileExistsError:
                pass  # by somebody else, since it was looked for
            except OSError as error:
                raise PairsyncError(
                    "root_missing",
                    f"{self.shown} does not exist and cannot be made: {error.strerror}",
                    "make it, for the user who syncs",
                ) from error
            self.fd = fsops.open_root(self.path)
            self.tree = Tree(fsops.duplicate(self.fd))
        if self.state is None:
            self.state = state.find(self.fd)  # both hosts may see one file system
        if self.state is None:
            try:
                self.state = state.create(self.fd, guard.file_system(self.fd))
            except OSError as error:
                raise PairsyncError(
                    "root_identity",
                    f"{self.shown}/.pairsync cannot be made: {error.strerror}",
                    "let the user who syncs write to that directory",
                ) from error
        return self._opened(missing=False, parent=True)

    def _opened(self, *, missing: bool, parent: bool) -> Opened:
        identity = ""
        ancestors: tuple[str, ...] = ()
        real = self.path
        if missing and parent:
            # Known by the same name once it is there, also through a symlink above it.
            above, name = os.path.split(self.path.rstrip(b"/"))
            above_fd = fsops.open_root(above)
            above = fsops.real_path(above_fd)
            fsops.close(above_fd)
            real = os.path.join(above, name)
            inner, outer = guard.lineage(above)
            ancestors = (inner, *outer)
        if not missing:
            real = fsops.real_path(self.fd)
            identity, ancestors = guard.lineage(real)
        if parent:
            own = (os.path.abspath(os.fsencode(self.state_home)),) if self.state_home else ()
            self.denied = denied_in(real, self._home, own)
        # By id as well: two hosts have no other name for a directory that both can see.
        ancestors += tuple(f"replica {one}" for one in state.ids_above(real))
        return Opened(
            host=socket.gethostname(),
            path=os.fsdecode(real),
            user=guard.user_name(),
            version=__version__,
            build=self._build,
            replica_id=self.state.replica_id if self.state is not None else "",
            missing=missing,
            parent=parent,
            identity=identity,
            ancestors=ancestors,
            former=self.state.former if self.state is not None else (),
            peers=journal.peers(self.state) if self.state is not None else (),
            clock_ns=time.time_ns(),
        )

    def _check_file_system(self, held: State) -> None:
        now = guard.file_system(self.fd)
        if not guard.same_file_system(now, held.file_system):
            raise PairsyncError(
                "root_identity",
                f"{self.shown} lies on another file system than before ({now}, not"
                f" {held.file_system})",
                "mount the right one; if it moved for good, run"
                f" `pairsync forget --new-id {self.shown}`",
            )

    def close(self) -> None:
        """Let go of it."""
        for held in (self.tree, self.state):
            if held is not None:
                held.close()
        self.tree = self.state = None
        if self.fd >= 0:
            fsops.close(self.fd)
        self.fd = -1
