# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody who saves files while a session replaces them, in a process of their own.

`python -m tests.engine.crash.editor ROOT HOW SEED FILE...` says `ready`, waits until the session
begins to receive or to displace files, saves each of the files once as HOW says, one after the
other, and then says what it has saved, one token in a line.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.engine.trees import STATE

PATIENCE = 60.0  # seconds


def by_rename(path: Path, data: bytes) -> None:
    """As editors save: a new file takes the name."""
    new = path.with_name(path.name + "~")
    new.write_bytes(data)
    new.rename(path)


def append(path: Path, data: bytes) -> None:
    """As programs log: at the end of what is there."""
    with path.open("ab") as stream:
        stream.write(data)


def truncate(path: Path, data: bytes) -> None:
    """As scripts write: in place, from the beginning."""
    path.write_bytes(data)


def delete_and_create(path: Path, data: bytes) -> None:
    """As some tools do: the name is free in between."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


EDITS: dict[str, Callable[[Path, bytes], None]] = {
    "by_rename": by_rename,
    "append": append,
    "truncate": truncate,
    "delete_and_create": delete_and_create,
}


def token(seed: str, name: str) -> bytes:
    """What nobody else writes."""
    return f"<{seed} {name}>".encode()


def main(root: Path, how: str, seed: str, names: list[str]) -> None:
    """Save all files once, each at a moment of its own."""
    chance = random.Random(seed)
    # Now when the first file is displaced, now a little before.
    sign = root / STATE / chance.choice(["stage", "displaced"])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    end = time.monotonic() + PATIENCE
    while not any(sign.rglob("*")) and time.monotonic() < end:
        pass
    for name in names:
        for __ in range(chance.randrange(500)):
            pass  # microseconds, for which sleep() is too slow
        EDITS[how](root / name, token(seed, name))
    sys.stdout.writelines(token(seed, name).decode() + "\n" for name in names)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
