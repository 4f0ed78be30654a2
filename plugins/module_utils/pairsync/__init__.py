# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pairsync's engine: keeps pairs of directories the same, in both directions."""

from __future__ import annotations

__version__ = "0.1.0"

# Raised whenever a message changes its meaning; both ends of a session must agree on it.
PROTOCOL = 1
