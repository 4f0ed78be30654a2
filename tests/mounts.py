# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts that vanish with the process that made them."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

CLONE_NEWNS = 0x00020000
CAP_SYS_ADMIN = 21


def may_mount() -> bool:
    """Say whether this process may mount: root in a container often may not."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return os.geteuid() == 0 and bool(int(effective, 16) >> CAP_SYS_ADMIN & 1)


def keep_mounts_private() -> None:
    """Give the calling thread, and what it starts from now on, a mount namespace of its own.

    What tests mount is then seen by them and their children only, and the kernel removes it when
    the last of them is gone, also after SIGKILL. Mounts made outside still appear inside.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare of the mount namespace failed")
    mount("--make-rslave", "/")


def mount(*arguments: str | Path) -> None:
    """Run mount(8); raises CalledProcessError with its message in `stderr`."""
    _run("mount", *arguments)


def unmount(target: Path) -> None:
    """Detach everything mounted at and below `target`, busy or not."""
    _run("umount", "--recursive", "--lazy", target)


def _run(*command: str | Path) -> None:
    """Run a system command whose failure should show what it said."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr.strip())
        raise
