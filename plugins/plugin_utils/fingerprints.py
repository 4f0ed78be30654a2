# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show which host keys a new host has, for comparing them; none is ever accepted here."""

from __future__ import annotations

import subprocess

from ..module_utils.pairsync.model.errors import PairsyncError
from . import rendering
from .openssh import settings

_SECONDS = 5


def show_fingerprint(host: str) -> None:
    """Print the fingerprints of the keys that a host shows; raises PairsyncError.

    A host behind a jump host cannot be asked from here: that is said, and ssh itself will check
    the key.
    """
    chosen = settings(["ssh"], host, host)
    if chosen.jumps or chosen.proxy_command:
        rendering.say(f"{host} is behind a jump host: `ssh {host}` shows its fingerprint.")
        return
    keys = subprocess.run(
        ["ssh-keyscan", "-T", str(_SECONDS), "-p", str(chosen.port), "--", chosen.hostname],
        capture_output=True,
        check=False,
    ).stdout
    if not keys:
        raise PairsyncError(
            "unreachable",
            f"{host} does not answer on port {chosen.port}",
            "check that it is up and that its name is right",
            host,
        )
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", "-"], input=keys, capture_output=True, check=False
    ).stdout
    rendering.say(f"Host keys of {host}, to compare with `ssh-keygen -l -f` on the host itself:")
    for line in shown.decode("utf-8", "replace").splitlines():
        rendering.say(f"  {rendering.escape(line)}")
