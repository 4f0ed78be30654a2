# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module says about check mode, diff mode and the rest, in one wording."""

from __future__ import annotations


class ModuleDocFragment:
    """The descriptions; each module only says how far it supports them."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and tell what it would change, without changing anything.
  diff_mode:
    description: Returns what was or would be changed, when in diff mode.
  idempotent:
    description: Run again with the same options, it changes nothing and says so.
  platform:
    description: The operating systems on which it works.
    platforms: linux
"""

    ACTION = r"""
options: {}
attributes:
  action:
    description: Has a part that runs on the controller.
  connection:
    description: Uses the connection of the target to run something there.
  delegation:
    description: Can be used together with C(delegate_to).
"""
