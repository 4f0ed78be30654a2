# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a replica remembers of its pairs beside the base: peers, status, reports, where it is."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from typing import Any, Optional

from ..model.entry import STATE_NAME
from ..model.errors import PairsyncError
from ..model.report import display
from . import fsops, state
from .base import NAME as BASE_NAME
from .durable import sync_one
from .interface import Peer
from .state import State

KEPT_RUNS = 50
KEPT_ASIDE = 4
_NEW = ".new"
STATUS_SCHEMA = "pairsync.status/1"


def has_pair(held: State, pair: bytes) -> bool:
    """Tell whether the replica has ever been synced as part of a pair."""
    try:
        pairs = fsops.open_dir(held.fd, b"pairs")
    except FileNotFoundError:
        return False
    try:
        fsops.lstat(pairs, pair)
    except FileNotFoundError:
        return False
    else:
        return True
    finally:
        fsops.close(pairs)


def peers(held: State) -> tuple[dict[str, Any], ...]:
    """Who this replica was synced with, once with success."""
    try:
        pairs = fsops.open_dir(held.fd, b"pairs")
    except FileNotFoundError:
        return ()
    found = []
    try:
        for name in sorted(fsops.names(pairs)):
            with contextlib.suppress(OSError):
                pair = fsops.open_dir(pairs, name)
                try:
                    known = state.read_json(pair, b"peer.json")
                finally:
                    fsops.close(pair)
                if known:
                    found.append({"pair": name.decode("ascii", "replace"), **known})
    finally:
        fsops.close(pairs)
    return tuple(found)


def write_peer(pair_fd: int, peer: Peer) -> None:
    """Remember the other replica, so that its disappearance can be told from a first sync."""
    known = {"id": peer.replica_id, "label": peer.label, "host": peer.host, "path": peer.path}
    if state.read_json(pair_fd, b"peer.json") != known:
        state.write_json(pair_fd, b"peer.json", known)


def forget_peer(pair_fd: int) -> None:
    """Forget the other replica, so that another directory in its place is no alarm."""
    with contextlib.suppress(FileNotFoundError):
        fsops.unlink(pair_fd, b"peer.json")


def set_aside(pair_fd: int) -> bool:
    """Move a base out of the way; tell whether there was one. The peer stays known.

    The newest few are kept for whoever wants to know what was wrong with them.
    """
    name, aside = BASE_NAME.encode(), BASE_NAME.encode() + b".aside-"
    with contextlib.suppress(FileNotFoundError):
        fsops.unlink(pair_fd, name + b"-journal")
    try:
        fsops.rename(pair_fd, name, pair_fd, aside + b"%020d" % time.time_ns())
    except FileNotFoundError:
        return False
    for old in sorted(one for one in fsops.names(pair_fd) if one.startswith(aside))[:-KEPT_ASIDE]:
        fsops.unlink(pair_fd, old)
    sync_one(pair_fd)
    return True


def write_status(pair_fd: int, status: dict[str, Any]) -> None:
    """Replace the pair's status file in one step.

    A session that did not finish leaves the time of the last complete scan as it was.
    """
    if status.get("scanned_unix") is None:
        before = state.read_json(pair_fd, b"status.json") or {}
        status = {**status, "scanned_unix": before.get("scanned_unix")}
    state.write_json(pair_fd, b"status.json", status)


def write_log(held: State, run: str, report: Optional[dict[str, Any]]) -> None:
    """Keep a run's report, and only the newest runs."""
    log = held.directory(b"log")
    try:
        if report is not None:
            fd = fsops.create_file(log, run.encode("ascii") + b".json")
            try:
                fsops.write(fd, json.dumps(report).encode() + b"\n")
            finally:
                fsops.close(fd)
        runs = sorted({name.split(b".")[0] for name in fsops.names(log)})
        for old in runs[:-KEPT_RUNS]:
            for name in fsops.names(log):
                if name.split(b".")[0] == old:
                    state.remove_tree(log, name)
    finally:
        fsops.close(log)


def remember_root(state_home: str, replica_id: str, path: bytes) -> None:
    """Note where a replica lies, for `pairsync status` without arguments."""
    directory = os.path.join(state_home, "replicas")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    name = os.path.join(directory, replica_id)
    text = os.fsdecode(path)
    with (
        contextlib.suppress(OSError, ValueError),
        open(name, encoding="utf-8", errors="surrogateescape") as stream,
    ):
        if stream.read() == text:
            return
    new = f"{name}.{secrets.token_hex(4)}{_NEW}"
    with open(new, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(text)
    os.replace(new, name)


def noted_root(state_home: str, replica_id: str) -> bytes:
    """Where a replica was when it was last noted; b"" when it never was."""
    name = os.path.join(state_home, "replicas", os.path.basename(replica_id))
    try:
        with open(name, encoding="utf-8", errors="surrogateescape") as stream:
            return os.fsencode(stream.read())
    except (OSError, ValueError):
        return b""


def known_roots(state_home: str) -> list[str]:
    """The replicas noted on this host."""
    directory = os.path.join(state_home, "replicas")
    roots = []
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(directory)):
            if name.endswith(_NEW):
                continue  # of a session that was cut short
            with (
                contextlib.suppress(OSError),
                open(
                    os.path.join(directory, name), encoding="utf-8", errors="surrogateescape"
                ) as stream,
            ):
                roots.append(stream.read())
    return roots


def read_status(root: str) -> list[dict[str, Any]]:
    """The status of every pair that a root is in.

    Raises PairsyncError when the root is there, but another user's.
    """
    pairs = os.path.join(os.fsencode(root), STATE_NAME, b"pairs")
    try:
        names = sorted(os.listdir(pairs))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        shown = display(os.fsencode(root))
        raise PairsyncError(
            "root_identity",
            f"{shown}/.pairsync cannot be read: {error.strerror}",
            "run as the user who syncs it",
        ) from error
    found = []
    for name in names:
        with (
            contextlib.suppress(OSError, ValueError),
            open(os.path.join(pairs, name, b"status.json"), encoding="utf-8") as stream,
        ):
            status = json.load(stream)
            if isinstance(status, dict):
                found.append(status)
    return found


def read_backup(root: str) -> dict[str, Any]:
    """What is noted of a root's backup (see retention.py); {} where nothing is."""
    name = os.path.join(os.fsencode(root), STATE_NAME, b"backup.json")
    with contextlib.suppress(OSError, ValueError), open(name, encoding="utf-8") as stream:
        note = json.load(stream)
        if isinstance(note, dict):
            return note
    return {}
