# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session says about a replica besides its items."""

from __future__ import annotations

import os
import shlex

from ..model.report import display

# More are counted.
_MOST_LATE = 20


def late_writes(place: str, root: str, late: list[bytes]) -> list[str]:
    """Sentences about displaced files that a program went on writing into.

    place: what the replica is called; root: where it lies on its host; late: run and path, as
    interface.Scanned has them.
    """
    told = []
    for run, __, path in (one.partition(b"/") for one in late[:_MOST_LATE]):
        # Quoted for a shell, unless that would hide what the name is.
        shown = display(path)
        name = shlex.quote(shown) if os.fsencode(shown) == path else shown
        told.append(
            f"{place}: late write: {shown} was written to after it had been replaced or deleted;"
            f" `pairsync restore {shlex.quote(display(os.fsencode(root)))} {name}"
            f" --run {display(run)}` brings that version back"
        )
    if len(late) > _MOST_LATE:
        told.append(f"{place}: late writes into {len(late) - _MOST_LATE} more displaced files")
    return told
