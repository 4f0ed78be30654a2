# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the second of two versions of a file is called that lie beside each other."""

from __future__ import annotations

import os
import re
import stat
from typing import Optional

from . import fsops
from .digest import digest_bytes, digest_file

NAME_MAX = 255


def copy_name(directory: int, lies_at: bytes, name: bytes, replica: bytes) -> bytes:
    """`STEM.conflict-REPLICA-DIGEST8.EXT` for an object, so that the same gets the same name.

    directory, lies_at: where it is now; name: the one it cannot have; replica: who has it.
    Raises OSError when it cannot be read.
    """
    stem, extension = os.path.splitext(name)
    who = re.sub(rb"[^A-Za-z0-9._-]", b"-", replica)[:64] or b"replica"
    middle = b".conflict-%s-%s" % (who, _digest(directory, lies_at)[:4].hex().encode())
    extension = extension[:32]
    return stem[: NAME_MAX - len(middle) - len(extension)] + middle + extension


def _digest(directory: int, name: bytes) -> bytes:
    """The digest of a file's contents or a link's text; of a directory, something of its own."""
    status = fsops.lstat(directory, name)
    if stat.S_ISLNK(status.st_mode):
        return digest_bytes(fsops.read_link(directory, name))
    found: Optional[bytes] = None
    if stat.S_ISREG(status.st_mode):
        fd = fsops.open_file(directory, name)
        try:
            found = digest_file(fd, status.st_size)
        finally:
            fsops.close(fd)
    return found or digest_bytes(b"%d" % status.st_ino)
