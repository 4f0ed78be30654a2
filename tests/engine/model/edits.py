# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two people do to a pair between two sessions, as a list of steps for hypothesis.

The same steps give the same trees wherever they are done, so that what becomes of them can be
compared: between two ways of syncing, or with another program.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import strategies as st

PATHS = ["f", "g", "d", "d/f", "d/g", "d/e", "d/e/f"]
OPERATIONS = ["write", "write", "delete", "make_dir", "rename", "link", "chmod", "swap"]

STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(OPERATIONS),
        st.sampled_from(PATHS),
        st.sampled_from(PATHS),
    ),
    max_size=6,
)


def operate(root: Path, operation: str, path: str, other: str, token: bytes) -> None:
    """One edit of a person; nothing when it is not possible there."""
    spot, target = root / path, root / other
    if not is_dir(spot.parent):
        return
    there = os.path.lexists(spot)
    if operation == "write" and not is_dir(spot):
        spot.unlink(missing_ok=True)
        spot.write_bytes(token)
    elif operation == "delete":
        remove(spot)
    elif operation == "make_dir" and not there:
        spot.mkdir()
    elif operation == "rename" and there and not os.path.lexists(target) and is_dir(target.parent):
        if not other.startswith(path + "/"):
            spot.rename(target)
    elif operation == "link" and not there:
        spot.symlink_to("nowhere")
    elif operation == "chmod" and there and not spot.is_symlink() and not is_dir(spot):
        spot.chmod(0o600 if spot.stat().st_mode & 0o077 else 0o644)
    elif operation == "swap" and there:
        was_dir = is_dir(spot)
        remove(spot)
        if was_dir:
            spot.write_bytes(token)
        else:
            spot.mkdir()
            (spot / "inner").write_bytes(token)


def operate_all(roots: tuple[Path, Path], steps: list[tuple[str, str, str, str]]) -> None:
    """Do all steps, each write with contents that nothing else has."""
    for number, (side, operation, path, other) in enumerate(steps):
        operate(roots["ab".index(side)], operation, path, other, b"tok-%06d\n" % number)


def is_dir(spot: Path) -> bool:
    return spot.is_dir() and not spot.is_symlink()


def remove(spot: Path) -> None:
    if is_dir(spot):
        shutil.rmtree(spot)
    else:
        spot.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory for one example, in memory where that is possible."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    home = Path(tempfile.mkdtemp(prefix="pairsync-", dir=place))
    try:
        yield home
    finally:
        shutil.rmtree(home)
