# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pair allows: mode, preferences, ignore rules, pointer and growing files, guards."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass

MODES = ("two-way", "mirror", "push")
PREFERENCES = ("a", "b", "newer", "older")
ROUTES = ("direct", "relay", "auto")

# Files that training frameworks rewrite to point at the checkpoint that is complete.
DEFAULT_LAST = (
    "Name checkpoint",
    "Name latest",
    "Name last_checkpoint",
    "Name latest_checkpoint",
    "Name latest_checkpointed_iteration.txt",
    "Name latest_universal",
    "Name *.safetensors.index.json",
    "Name pytorch_model.bin.index.json",
)
DEFAULT_GROWING = ("Name events.out.tfevents.*", "Name *.log")

_AMOUNT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,3})?)(%|[KMGTP]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}

# A deletion of this many entries or fewer never trips the brake on mass change.
SMALL_DELETION = 20


def amount_of(text: str, whole: int) -> int:
    """The bytes that `10%` (of whole), `50G` or `1048576` means; ValueError for anything else."""
    match = _AMOUNT.fullmatch(text)
    if match is None or (match[2] == "%" and float(match[1]) > 100):
        raise ValueError(text)
    number = float(match[1]) if "." in match[1] else int(match[1])
    return int(number * whole // 100 if match[2] == "%" else number * _UNITS[match[2]])


@dataclass(frozen=True)
class Retention:
    """How long the backup keeps displaced objects; the newest version of a path always.

    enabled: False keeps them only until the pair's next session. keep: versions of one path.
    days: age after which a version may go. max_size: what the backup may take, and min_free: what
    it leaves to others, both as amount_of() reads them.
    """

    enabled: bool = True
    keep: int = 10
    days: int = 30
    max_size: str = "10%"
    min_free: str = "0"


@dataclass(frozen=True)
class Policy:
    """One pair's rules; the same on both hosts.

    prefer: who wins a conflict, or "" to leave conflicts. last: path specifications of pointer
    files, swapped in after everything else. growing: files that travel as the prefix that was
    read. paths: restricts the session to these subtrees. max_delete: the largest share of the
    base, in percent, that one session may delete on a replica. lock_wait: seconds to wait for a
    holder that makes no progress. timeout: seconds after which the session gives up, 0 for never.
    """

    mode: str = "two-way"
    prefer: str = ""
    ignore: tuple[str, ...] = ()
    last: tuple[str, ...] = DEFAULT_LAST
    growing: tuple[str, ...] = DEFAULT_GROWING
    paths: tuple[str, ...] = ()
    max_delete: int = 50
    backup: Retention = Retention()
    lock_wait: int = 60
    timeout: int = 0

    def digest(self) -> str:
        """Hash of the rules that shape a plan, as lower-case hexadecimal."""
        rules = asdict(self)
        for unrelated in ("lock_wait", "timeout"):
            del rules[unrelated]
        text = json.dumps(rules, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
