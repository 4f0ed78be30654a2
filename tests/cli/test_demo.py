# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first command that a new user types, as root, in a place that is thrown away."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# /usr and /opt are written to in memory only, and only as this process sees them.
APART = """\
set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/home"
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$1/upper,workdir=$1/work" /usr
mount -t tmpfs none /opt
export HOME="$1/home"
shift
for command; do sh -c "$command"; done
"""


@pytest.mark.root
def test_bootstrap_and_sync_in_one_invocation(tmp_path):
    invoke = shlex.join([sys.executable, "-m", "invoke", "--search-root", str(ROOT)])
    demo = "$HOME/pairsync-demo"
    commands = [
        f"{invoke} bootstrap sync --pair left:right",
        "pairsync --version",
        f"diff -r --exclude=.pairsync {demo}/left {demo}/right && test -e {demo}/left/checkpoint",
        f"{invoke} sync --pair left:right",
        f"{invoke} sync {demo}/left {demo}/right",
        f"{invoke} status",
    ]
    environment = {key: one for key, one in os.environ.items() if key != "PAIRSYNC_INVENTORY"}
    result = subprocess.run(
        ["unshare", "--mount", "bash", "-c", APART, "apart", tmp_path, *commands],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    first, _version, later = result.stdout.partition("pairsync 0.")
    assert "new file ---->            checkpoint" in first
    assert later.count("nothing to do") == 2
    assert not list(tmp_path.iterdir())
