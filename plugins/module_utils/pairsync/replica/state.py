# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`.pairsync/` at a replica's root: its id, and the files and directories of our own.

replica.json   the replica's random id, those it had before, and the file system it was made on
lock           who holds the root
index.sqlite   the index
pairs/<id>/    base.sqlite, peer.json (who the other replica is), place.json (which directory the
               base is about), status.json, lock
stage/         what is on its way in     backup/   what was displaced, by run
displaced/, settled/, pinned/            what is noted of that (see late.py)
backup.json    how long it is kept       restore/  who restores from it
log/           reports of runs           probe     what time it is here
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import re
import secrets
import stat
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from ..model.entry import STATE_NAME
from ..model.errors import PairsyncError
from ..model.report import display
from . import fsops, guard
from .durable import sync_one
from .lock import PairLock

_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
REPLICA_SCHEMA = "pairsync.replica/1"

_PLACE = b"place.json"
_KEPT_IDS = 16
_CREATE_SECONDS = 60
_OTHERS_MAY_WRITE = 0o022
# A directory keeps its inode number for life there, and a copy of it has another.
_LASTING_INODES = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "nfs", "nfs4", "lustre"}
)


@dataclass(frozen=True)
class State:
    """A state directory held open, and the id in it."""

    fd: int
    replica_id: str
    file_system: str
    former: tuple[str, ...] = ()

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
    try:
        return fsops.open_dir(parent, name)
    except NotADirectoryError as error:
        raise _planted(parent, name) from error


def _planted(parent: int, name: bytes) -> PairsyncError:
    path = display(os.path.join(fsops.real_path(parent), name))
    return PairsyncError(
        "root_identity",
        f"{path} is not what pairsync made there: somebody else put it there",
        "find out who, and remove it",
    )


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
    if fsops.fstat(fd).st_mode & _OTHERS_MAY_WRITE and guard.keeps_owners(root_fd):
        fsops.close(fd)
        raise PairsyncError(
            "root_identity",
            f"{_shown(root_fd)}/.pairsync can be written by other users, so it proves nothing",
            f"if you trust them, run `chmod 700 {_shown(root_fd)}/.pairsync`",
        )
    for name, status in fsops.list_dir(fd):
        if not isinstance(status, OSError) and stat.S_ISLNK(status.st_mode):
            planted = _planted(fd, name)
            fsops.close(fd)
            raise planted
    marker = read_json(fd, b"replica.json")
    if marker is None:
        fsops.close(fd)
        return None
    replica_id = marker.get("id")
    # An id becomes the name of a file of ours: one that came in an archive must not lead elsewhere.
    if (
        marker.get("schema") != REPLICA_SCHEMA
        or not isinstance(replica_id, str)
        or _ID.fullmatch(replica_id) is None
    ):
        fsops.close(fd)
        raise PairsyncError(
            "root_identity",
            f"{_shown(root_fd)}/.pairsync/replica.json is damaged",
            f"run `pairsync forget --new-id {_shown(root_fd)}`; the next sync deletes nothing",
        )
    return State(fd, replica_id, str(marker.get("file_system", "")), _former(marker))


def create(root_fd: int, file_system: str, former: tuple[str, ...] = ()) -> State:
    """Give a root its state directory and a new random id, durably; former: ids it had before.

    Of sessions that do so at once, one makes the id, and the others find it.
    """
    fd = _opened_dir(root_fd, STATE_NAME)
    try:
        lock = PairLock(fd, _shown(root_fd), _CREATE_SECONDS)
    except BaseException:
        fsops.close(fd)
        raise
    try:
        return find(root_fd) or _created(root_fd, fsops.duplicate(fd), file_system, former)
    finally:
        lock.close()
        fsops.close(fd)


def _created(root_fd: int, fd: int, file_system: str, former: tuple[str, ...]) -> State:
    replica_id = secrets.token_hex(16)
    # The id comes last: once it is there, nobody makes the rest.
    _write(fd, b".gitignore", b"*\n")
    write_json(
        fd,
        b"replica.json",
        {
            "schema": REPLICA_SCHEMA,
            "id": replica_id,
            "file_system": file_system,
            "former": list(former),
        },
    )
    sync_one(root_fd)
    return State(fd, replica_id, file_system, former)


def renew(root_fd: int, file_system: str) -> str:
    """Give a root a new id, and forget every pair it was in; return the id."""
    former: tuple[str, ...] = ()
    with contextlib.suppress(FileNotFoundError):
        fd = fsops.open_dir(root_fd, STATE_NAME)
        former = _former(read_json(fd, b"replica.json") or {}, with_present=True)
        with contextlib.suppress(FileNotFoundError):
            fsops.rename(fd, b"pairs", fd, b"pairs.forgotten-" + secrets.token_hex(4).encode())
        with contextlib.suppress(FileNotFoundError):
            fsops.unlink(fd, b"replica.json")
        fsops.close(fd)
    state = create(root_fd, file_system, former[-_KEPT_IDS:])
    state.close()
    return state.replica_id


def _former(marker: dict[str, Any], *, with_present: bool = False) -> tuple[str, ...]:
    listed = marker.get("former")
    ids = [*(listed if isinstance(listed, list) else ()), marker.get("id") if with_present else ""]
    return tuple(one for one in ids if isinstance(one, str) and one)


def id_at(path: bytes) -> str:
    """The id of the replica whose root is at a path; "" when there is none, or none to be seen."""
    try:
        root = fsops.open_root(path)
    except OSError:
        return ""
    try:
        held = fsops.open_dir(root, STATE_NAME)
    except OSError:
        return ""
    finally:
        fsops.close(root)
    try:
        return str((read_json(held, b"replica.json") or {}).get("id") or "")
    finally:
        fsops.close(held)


def ids_above(path: bytes) -> tuple[str, ...]:
    """The ids of the replicas in which a directory lies, as far as they can be seen."""
    found = []
    while path not in (b"/", b""):
        path = os.path.dirname(path) or b"/"
        found.append(id_at(path))
    return tuple(filter(None, found))


def check_copies(root_fd: int, held: State, noted: bytes) -> None:
    """Raise PairsyncError `replica_cloned` when another directory has the id as well.

    noted: where the replica was at its last session on this host.
    """
    here = fsops.fstat(root_fd)
    try:
        there = fsops.stat_root(noted)
    except OSError:
        return
    same = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    if not same and id_at(noted) == held.replica_id:
        raise PairsyncError(
            "replica_cloned",
            f"{_shown(root_fd)} and {display(noted)} carry the same id:"
            " one is a copy of the other, marker included",
            f"run `pairsync forget --new-id {_shown(root_fd)}`, or with the other one if that"
            " is the copy",
        )


def is_original(pair_fd: int, held: State, root_fd: int) -> bool:
    """Tell whether what a pair agreed on is about this very directory, not one it was copied from.

    A replica that was restored may lack what the backup lacks, which nobody deleted.
    """
    known = (read_json(pair_fd, _PLACE) or {}).get("inode")
    return known is None or known == _inode(held, root_fd)


def note_original(pair_fd: int, held: State, root_fd: int) -> None:
    """From now on, what the pair agrees on is about this directory."""
    now = {"inode": _inode(held, root_fd)}
    if read_json(pair_fd, _PLACE) != now:
        write_json(pair_fd, _PLACE, now)


def _inode(held: State, root_fd: int) -> Optional[int]:
    lasting = held.file_system.partition(" ")[0] in _LASTING_INODES
    return fsops.fstat(root_fd).st_ino if lasting else None


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
    """Replace a JSON file of ours in one step, durably. Raises OSError and PairsyncError."""
    _write(fd, name, json.dumps(data, indent=1, sort_keys=True).encode() + b"\n")


def _write(fd: int, name: bytes, data: bytes) -> None:
    temporary = name + b".new"
    with contextlib.suppress(FileNotFoundError):
        fsops.unlink(fd, temporary)
    file_fd = fsops.create_file(fd, temporary, 0o600)
    try:
        fsops.write(file_fd, data)
        sync_one(file_fd)
    finally:
        fsops.close(file_fd)
    fsops.rename(fd, temporary, fd, name)
    sync_one(fd)


class _Emptied(NamedTuple):
    """A directory of ours that is being removed: held open, its name, and what is left in it."""

    fd: int
    name: bytes
    left: list[bytes]


def remove_tree(parent: int, name: bytes) -> None:
    """Remove a file or a whole directory of our own state, which may be deeper than the stack."""
    if _unlinked(parent, name):
        return
    stack = [_emptied(parent, name)]
    try:
        while stack:
            top = stack[-1]
            if not top.left:
                fsops.close(stack.pop().fd)
                fsops.remove_dir(stack[-1].fd if stack else parent, top.name)
                continue
            inner = top.left.pop()
            if not _unlinked(top.fd, inner):
                stack.append(_emptied(top.fd, inner))
    finally:
        for held in stack:
            fsops.close(held.fd)


def _unlinked(parent: int, name: bytes) -> bool:
    """Remove a name, unless it is a directory's; tell whether it is gone."""
    try:
        fsops.unlink(parent, name)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        return False
    return True


def _emptied(parent: int, name: bytes) -> _Emptied:
    fsops.set_mode_at(parent, name, 0o700)  # a staged directory may be read-only already
    fd = fsops.open_dir(parent, name)
    try:
        return _Emptied(fd, name, fsops.names(fd))
    except BaseException:
        fsops.close(fd)
        raise


def _shown(root_fd: int) -> str:
    return display(fsops.real_path(root_fd))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
