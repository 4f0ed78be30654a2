# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees to measure with, and the proof that two of them are equal."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

FILES_PER_DIRECTORY = 100
STATE = ".pairsync"
# One fixed moment long ago: files that were written a second ago are treated with more care by
# every tool, and are not the usual case.
MTIME_NS = 1_700_000_000_123_456_789


@dataclass(frozen=True)
class Shape:
    """files of size bytes each, in directories of 100 that are in turn in directories of 100."""

    files: int
    size: int

    @property
    def text(self) -> str:
        """As in the table."""
        return f"{self.files:,} files x {self.size:,} B".replace(",", " ")


def make(root: Path, shape: Shape) -> None:
    """Fill a directory that does not exist; one shape always gives the same tree."""
    noise = random.Random(shape.files)
    root.mkdir(parents=True)
    done = 0
    for number in range(-(-shape.files // FILES_PER_DIRECTORY)):
        directory = root / f"part-{number // 100:02d}" / f"step-{number:05d}"
        directory.mkdir(parents=True)
        for place in range(min(FILES_PER_DIRECTORY, shape.files - done)):
            path = f"{directory}/sample-{place:03d}.bin"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(descriptor, noise.randbytes(shape.size))
            os.utime(descriptor, ns=(MTIME_NS, MTIME_NS + done))
            os.close(descriptor)
            done += 1


def warm(root: Path) -> None:
    """Read everything once, so that no run pays for the disk."""
    fingerprint(root)


def fingerprint(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything that has to be equal, by relative path: type, mode, size, mtime in s, contents.

    Seconds, since that is what all of the tools carry. Our own state directory is left out.
    """
    found: dict[str, tuple[object, ...]] = {}
    pending = [""]
    while pending:
        inner = pending.pop()
        with os.scandir(root / inner) as entries:
            for entry in entries:
                path = f"{inner}/{entry.name}" if inner else entry.name
                status = entry.stat(follow_symlinks=False)
                if path == STATE:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                    found[path] = ("directory", stat.S_IMODE(status.st_mode))
                    continue
                with open(entry.path, "rb") as stream:
                    digest = hashlib.blake2b(stream.read(), digest_size=16).digest()
                when = status.st_mtime_ns // 1_000_000_000
                found[path] = (stat.S_IMODE(status.st_mode), status.st_size, when, digest)
    return found


def difference(
    expected: dict[str, tuple[object, ...]], found: dict[str, tuple[object, ...]]
) -> str:
    """One sentence about how two fingerprints differ; empty when they do not."""
    wrong = [
        path
        for path in sorted(expected.keys() | found.keys())
        if expected.get(path) != found.get(path)
    ]
    if not wrong:
        return ""
    first = wrong[0]
    return (
        f"{len(wrong)} paths differ, the first is {first}: "
        f"{expected.get(first, 'absent')} expected, {found.get(first, 'absent')} found"
    )


def remove(path: Path) -> None:
    """Remove a tree, or nothing."""
    shutil.rmtree(path, ignore_errors=True)
