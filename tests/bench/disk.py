# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the trees of a benchmark lie: a fresh ext4 on the disk, or a directory as it is.

ext4 looks at every inode that was freed in the last minutes before it takes a new one: where trees
have been deleted, making a file takes ten times as long, for all tools and for a long time. And
what others write is flushed with what a tool wrote. Hence a file system of our own where we may.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.mounts import keep_mounts_private, may_mount, mount

DISK = Path("/var/tmp")
SIZE = "32G"  # sparse; a run of all rows fills a fraction of it
# Nothing is left to do in the background while we measure.
MKFS = ("mkfs.ext4", "-q", "-F", "-i", "8192", "-E", "lazy_itable_init=0,lazy_journal_init=0")


@contextlib.contextmanager
def workplace(directory: Path | None) -> Iterator[Path]:
    """An empty directory on a disk, which goes with everything in it on leaving.

    directory: make it there; None: on a fresh ext4 if this process may mount one, else in DISK.
    """
    with tempfile.TemporaryDirectory(prefix="pairsync-bench-", dir=directory or DISK) as name:
        work = Path(name)
        if directory is not None or not may_mount() or shutil.which("mkfs.ext4") is None:
            yield work
            return
        # The kernel unmounts it when this process has ended, however it ends.
        keep_mounts_private()
        image, mounted = work / "disk", work / "mounted"
        mounted.mkdir()
        subprocess.run(["truncate", "--size", SIZE, image], check=True)
        subprocess.run([*MKFS, image], check=True)
        mount("-o", "loop", image, mounted)
        image.unlink()
        try:
            work = mounted / "bench"
            work.mkdir()
            yield work
        finally:
            subprocess.run(["umount", mounted], check=True)
