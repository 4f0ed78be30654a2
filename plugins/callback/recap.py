# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One table of pairs at the end of a run."""

from __future__ import annotations

DOCUMENTATION = r"""
name: recap
type: aggregate
short_description: A table of what happened to each pair
version_added: 0.1.0
author:
  - pairsync contributors (@pairsync)
description:
  - At the end of a run, prints one line for each pair that M(pairsync.fleet.reconcile) was asked
    to bring up to date.
  - A run without such a task looks as always.
requirements:
  - enable it with C(callbacks_enabled = pairsync.fleet.recap)
"""

from typing import Any

from ansible.plugins.callback import CallbackBase

from ansible_collections.pairsync.fleet.plugins.plugin_utils import rendering

ACTIONS = ("pairsync.fleet.reconcile", "reconcile")


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "pairsync.fleet.recap"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, tuple[str, ...]] = {}

    def v2_runner_on_ok(self, result: Any) -> None:
        self._note(result)

    # Names and signatures are Ansible's.
    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        self._note(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._note(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002 - as above
        if self._rows:
            rows = [self._rows[name] for name in sorted(self._rows)]
            self._display.banner("PAIRS")
            self._display.display(rendering.plain_table(rendering.OUTCOME_COLUMNS, rows))

    def _note(self, result: Any) -> None:
        if result.task.action not in ACTIONS:
            return
        name = result.host.get_name()
        report = result.result.get("report")
        if isinstance(report, dict):
            row = rendering.outcome_row(name, report)
        else:
            row = (name, "failed", *[""] * (len(rendering.OUTCOME_COLUMNS) - 2))
        self._rows[name] = tuple(rendering.escape(cell) for cell in row)
