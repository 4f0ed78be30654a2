# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of reconcile: finds the pair, and waits for the detached session."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ansible_collections.pairsync.fleet.plugins.module_utils import reports
from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import (
    PairsyncError,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils import reach
from ansible_collections.pairsync.fleet.plugins.plugin_utils.topology import (
    PAIRS_GROUP,
    Pair,
    match_pairs,
    pair_from_variables,
)

MODULE = "pairsync.fleet.reconcile"


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        options = dict(self._task.args)
        if options.get("pair"):
            options["_spec"] = self._spec(options, variables)
        answer = self._session(options, variables)
        if reports.is_overtaken(answer.get("report") or {}) and not self._task.check_mode:
            # Pairs that share a root run at the same time and may bring it the same files.
            again = self._session(options, variables)
            again["changed"] = again.get("changed") or answer.get("changed")
            answer = again
        result.update(answer)
        return result

    def _session(self, options: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Run a session, or attach to the one that runs, and return what the module says of it."""
        attached = False
        asked = dict(options)
        while True:
            answer = self._ask(asked, variables)
            attached = attached or bool(answer.get("attached"))
            directory = answer.get("running")
            if not directory:
                return {**answer, "attached": attached}
            asked["_directory"] = directory

    def _spec(self, options: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return the inventory's specification of the pair; fails with one sentence."""
        hostvars = variables["hostvars"]
        asked = str(options["pair"])
        # A pair's own name needs no look at all the others.
        names = [str(name) for name in (variables.get("groups") or {}).get(PAIRS_GROUP, [])]
        names = [asked] if asked in names else names
        for name in names:
            if "pair_error" in hostvars[name]:
                raise AnsibleActionFail(str(hostvars[name]["pair_error"]))
        try:
            pair = self._pair(
                [pair_from_variables(hostvars[name]) for name in names],
                asked,
                str(options.get("tree") or ""),
            )
            route = options.get("route") or hostvars[pair.name]["pair_route"]
            return reach.pair_spec(pair, hostvars, "relay" if route == "relay" else "direct")
        except PairsyncError as error:
            raise AnsibleActionFail(str(error)) from error

    def _pair(self, pairs: list[Pair], name: str, tree: str) -> Pair:
        """Return the pair that is meant; raises PairsyncError."""
        found = match_pairs(pairs, name, tree or None)
        if len(found) > 1:
            trees = ", ".join(pair.tree for pair in found)
            raise AnsibleActionFail(f"{name} means {len(found)} pairs: say which tree, of {trees}")
        return found[0]

    def _ask(self, options: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Run the module once: it starts the session or finds it, and waits a while for its end."""
        try:
            answer: dict[str, Any] = self._execute_module(
                module_name=MODULE, module_args=options, task_vars=variables
            )
        except AnsibleConnectionFailure as error:
            # Not "unreachable": it is the session host that is, and the pair that fails.
            host = self._task.delegate_to or variables.get("inventory_hostname", "the host")
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else "no answer"
            return {
                "failed": True,
                "msg": f"{host} cannot be reached: {reason}; a session that runs there goes on,"
                " and the same task attaches to it when the host is back",
            }
        return answer
