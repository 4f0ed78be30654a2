# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What no session may touch on this host: what lets people in, and what runs without being asked.

Every host finds this out for itself, from its table of users and never from its environment. Where
such a place is a symlink, or lies behind one, the link and what it leads to are denied as well.
A shell's start-up files are not: who may write a home can run code in it.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator
from typing import Optional

from ..model.denied import Denied
from ..model.entry import STATE_NAME, fold, is_below
from ..model.errors import UsageError
from ..model.report import display

IN_HOME = (
    b".ssh",
    b".config/pairsync",
    b".config/systemd",
    b".local/bin/home_sync",
    b".local/bin/pairsync",
    b".local/lib/pairsync",
    b".local/state/pairsync",
)
ON_HOST = (
    b"/etc/pairsync",
    b"/opt/pairsync",
    b"/usr/bin/home_sync",
    b"/usr/bin/pairsync",
    b"/usr/local/bin/home_sync",
    b"/usr/local/bin/pairsync",
)
_MOST_LINKS = 40  # as in the kernel


def own_home() -> Optional[bytes]:
    """The home of the user whom this process runs as; None when nobody knows that user."""
    try:
        return os.fsencode(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return None


def denied_in(root: bytes, home: Optional[bytes], more: Iterable[bytes] = ()) -> Denied:
    """The deny list of a root, given its real path.

    home: of the user who syncs. more: further places of this process, such as its state home.
    Raises UsageError when the root itself lies in a denied place, or in the state of a replica.
    """
    if STATE_NAME in fold(root).split(b"/"):
        raise UsageError(
            f"{display(root)} lies in the state of a replica, which is never synced",
            f"name another directory, none that is called {os.fsdecode(STATE_NAME)}",
        )
    found = set()
    for place in _real(_places(home, more)):
        if root == place or is_below(root, place):
            raise UsageError(
                f"{display(root)} lies in {display(place)}, which decides who may log in to this"
                " host or what runs on it",
                "name another directory; a home can be synced, and leaves that out by itself",
            )
        if is_below(place, root.rstrip(b"/")):
            found.add(place[len(root.rstrip(b"/")) + 1 :])
    return Denied(tuple(found))


def _places(home: Optional[bytes], more: Iterable[bytes]) -> Iterator[bytes]:
    yield from ON_HOST
    yield from more
    # Where the running engine lies, if it is one file.
    archive = getattr(globals().get("__loader__"), "archive", None)
    if archive is not None:
        yield os.path.abspath(os.fsencode(archive))
    homes = {home}
    if os.geteuid() == 0:
        # Root's session reaches every home.
        homes.update(os.fsencode(user.pw_dir) for user in pwd.getpwall())
    for one in homes:
        if one:
            for name in IN_HOME:
                yield os.path.join(one, name)


def _real(places: Iterable[bytes]) -> Iterator[bytes]:
    """Where each place really is, and every symlink that leads there, by absolute real paths."""
    known: dict[bytes, Optional[bytes]] = {}
    for place in places:
        links = 0
        real = b""
        todo = place.split(b"/")[::-1]
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                real = real.rpartition(b"/")[0]
                continue
            path = real + b"/" + part
            if path not in known:
                known[path] = _link_text(path)
            target = known[path]
            if target is None or links == _MOST_LINKS:
                real = path
                continue
            links += 1
            yield path
            if target.startswith(b"/"):
                real = b""
            todo += target.split(b"/")[::-1]
        if real:
            yield real


def _link_text(path: bytes) -> Optional[bytes]:
    """Where a symlink leads; None for anything else, and for what cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return None
