# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`.pairsync/` at a replica's root: its id, and the files and directories of our own.

replica.json   the replica's random id and the file system it was made on
lock           who holds the root
index.sqlite   the index
pairs/<id>/    base.sqlite, peer.json (who the other replica is), status.json, lock
stage/         what is on its way in     backup/   what was displaced, by run
log/           events and reports of runs
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import secrets
from dataclasses import dataclass
from typing import Any, Optional

from ..model.entry import STATE_NAME
from ..model.errors import PairsyncError
from ..model.report import display
from . import fsops

REPLICA_SCHEMA = "pairsync.replica/1"


@dataclass(frozen=True)
class State:
    """A state directory held open, and the id in it."""

    fd: int
    replica_id: str
    file_system: str

    def directory(self, *names: bytes) -> int:
        """Open (making what is missing) a directory below; the caller closes it."""
        fd = self.fd
        for name in names:
            inner = _opened_dir(fd, name)
            if fd != self.fd:
                fsops.close(fd)
            fd = inner
        return fd

    def close(self) -> None:
        """Close the held directory."""
        fsops.close(self.fd)


def _opened_dir(parent: int, name: bytes) -> int:
    with contextlib.suppress(FileExistsError):
        fsops.make_dir(parent, name, 0o700)
    return fsops.open_dir(parent, name)


def find(root_fd: int) -> Optional[State]:
    """The state of a root, or None when it has no id yet.

    Raises PairsyncError when the directory belongs to another user or is damaged.
    """
    try:
        fd = fsops.open_dir(root_fd, STATE_NAME)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PairsyncError(
            "root_identity",
            f"{_shown(root_fd)}/.pairsync cannot be opened: {error.strerror}",
            "make it a directory of the user who syncs, or move it away",
        ) from error
    owner = fsops.fstat(fd).st_uid
    if owner != os.geteuid():
        fsops.close(fd)
        raise PairsyncError(
            "root_identity",
            f"{_shown(root_fd)} is synced by user {_user(owner)},"
            f" and this is user {_user(os.geteuid())}",
            f"run as {_user(owner)}, or set `user: {_user(owner)}` for this tree",
        )
    marker = read_json(fd, b"replica.json")
    if marker is None:
        fsops.close(fd)
        return None
    replica_id = marker.get("id")
    if marker.get("schema") != REPLICA_SCHEMA or not isinstance(replica_id, str) or not replica_id:
        fsops.close(fd)
        raise PairsyncError(
            "root_identity",
            f"{_shown(root_fd)}/.pairsync/replica.json is damaged",
            f"run `pairsync forget --new-id {_shown(root_fd)}`; the next sync deletes nothing",
        )
    return State(fd, replica_id, str(marker.get("file_system", "")))


def create(root_fd: int, file_system: str) -> State:
    """Give a root its state directory and a new random id, durably."""
    fd = _opened_dir(root_fd, STATE_NAME)
    replica_id = secrets.token_hex(16)
    # The id comes last: once it is there, nobody makes the rest.
    _write(fd, b".gitignore", b"*\n")
    write_json(
        fd,
        b"replica.json",
        {"schema": REPLICA_SCHEMA, "id": replica_id, "file_system": file_system},
    )
    fsops.sync_file(root_fd)
    return State(fd, replica_id, file_system)


def renew(root_fd: int, file_system: str) -> str:
    """Give a root a new id, and forget every pair it was in; return the id."""
    with contextlib.suppress(FileNotFoundError):
        fd = fsops.open_dir(root_fd, STATE_NAME)
        with contextlib.suppress(FileNotFoundError):
            fsops.rename(fd, b"pairs", fd, b"pairs.forgotten-" + secrets.token_hex(4).encode())
        with contextlib.suppress(FileNotFoundError):
            fsops.unlink(fd, b"replica.json")
        fsops.close(fd)
    state = create(root_fd, file_system)
    state.close()
    return state.replica_id


def read_json(fd: int, name: bytes) -> Optional[dict[str, Any]]:
    """A JSON object from a file of ours; None when it is missing, {} when it is damaged."""
    try:
        file_fd = fsops.open_file(fd, name)
    except FileNotFoundError:
        return None
    except OSError:
        return {}
    try:
        data = json.loads(fsops.read(file_fd, 1 << 20))
    except ValueError:
        return {}
    finally:
        fsops.close(file_fd)
    return data if isinstance(data, dict) else {}


def write_json(fd: int, name: bytes, data: dict[str, Any]) -> None:
    """Replace a JSON file of ours in one step, durably."""
    _write(fd, name, json.dumps(data, indent=1, sort_keys=True).encode() + b"\n")


def _write(fd: int, name: bytes, data: bytes) -> None:
    temporary = name + b".new"
    with contextlib.suppress(FileNotFoundError):
        fsops.unlink(fd, temporary)
    file_fd = fsops.create_file(fd, temporary, 0o600)
    try:
        fsops.write(file_fd, data)
        fsops.sync_file(file_fd)
    finally:
        fsops.close(file_fd)
    fsops.rename(fd, temporary, fd, name)
    fsops.sync_file(fd)


def remove_tree(parent: int, name: bytes) -> None:
    """Remove a file or a whole directory of our own state."""
    try:
        fsops.unlink(parent, name)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
    else:
        return
    fsops.set_mode_at(parent, name, 0o700)  # a staged directory may be read-only already
    fd = fsops.open_dir(parent, name)
    try:
        for inner in fsops.names(fd):
            remove_tree(fd, inner)
    finally:
        fsops.close(fd)
    fsops.remove_dir(parent, name)


def _shown(root_fd: int) -> str:
    return display(fsops.real_path(root_fd))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
