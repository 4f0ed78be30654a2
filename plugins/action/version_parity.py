# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask every host, and from each pair's session host the other one, which version would answer."""

from __future__ import annotations

import tempfile
from collections import ChainMap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import (
    PairsyncError,
)
from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.spec import parse_spec
from ansible_collections.pairsync.fleet.plugins.plugin_utils import (
    asking,
    binary,
    parity,
    reach,
    topology,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils.parity import Row, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal

    from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.spec import (
        ReplicaSpec,
    )
    from ansible_collections.pairsync.fleet.plugins.plugin_utils.parity import Run
    from ansible_collections.pairsync.fleet.plugins.plugin_utils.topology import Pair

SECONDS = 60.0  # for all hosts together; ssh itself gives up on a silent one after ten


class ActionModule(ActionBase):
    """Runs once on the controller for all hosts; nothing runs on the task's own host."""

    _requires_connection = False
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the rows; failed when one of them is a mismatch."""
        result = super().run(tmp, task_vars)
        self._variables = task_vars or {}
        _spec, options = self.validate_argument_spec(
            {
                "name": {"type": "str", "default": "pairsync"},
                "hosts": {"type": "list", "elements": "str"},
                "pairs": {"type": "list", "elements": "str"},
                "level": {"type": "str", "choices": list(parity.LEVELS), "default": "build"},
                "binary": {"type": "str", "default": ""},
            }
        )
        name, level = options["name"], options["level"]
        if level == "protocol" and name != "pairsync":
            raise AnsibleActionFail(f"{name} has no protocol number: use level: version or build")
        hosts = self._hosts(options["hosts"])
        questions = [self._itself(host, name, options["binary"]) for host in hosts]
        for pair in self._pairs(options["pairs"], hosts):
            questions += self._legs(pair, name, options["binary"])
        rows = asking.all_at_once(
            [question for _late, question in questions], lambda index: questions[index][0], SECONDS
        )
        check_mode = bool(self._task.check_mode)
        rows = parity.compare(rows, level, self._own(name), check_mode=check_mode)
        wrong = parity.mismatches(rows)
        result["rows"] = [parity.as_result(row) for row in rows]
        result["mismatches"] = [parity.as_result(row) for row in wrong]
        result["table"] = parity.table(rows).splitlines()
        result["changed"] = False
        if wrong:
            steps = parity.repairs(wrong)
            result["failed"] = True
            result["repair"] = steps
            result["msg"] = "\n".join(
                [
                    f"{name} does not answer with one {level} on every host and every route:",
                    "",
                    parity.table(rows),
                    *(["", *(f"next: {step}" for step in steps)] if steps else []),
                ]
            )
        return result

    def _hosts(self, wanted: list[str] | None) -> list[str]:
        """Return the hosts to ask: those given, or the machines among those of the play."""
        if wanted is None:
            wanted = self._variables["ansible_play_hosts_all"]
        pairs = self._variables["groups"].get("sync_pairs", [])
        hosts = [str(host) for host in wanted if host not in pairs]
        unknown = [host for host in hosts if host not in self._variables["hostvars"]]
        if unknown:
            raise AnsibleActionFail(f"hosts: {', '.join(unknown)} is not in the inventory")
        return hosts

    def _pairs(self, wanted: list[str] | None, hosts: list[str]) -> list[Pair]:
        """Return the pairs whose routes are tried: those given, or all between HOSTS."""
        hostvars = self._variables["hostvars"]
        known = [str(name) for name in self._variables["groups"].get("sync_pairs", [])]
        unknown = [name for name in wanted or [] if name not in known]
        if unknown:
            raise AnsibleActionFail(f"pairs: {', '.join(unknown)} is not in the inventory")
        names = known if wanted is None else wanted
        for name in names:
            if "pair_error" in hostvars[name]:
                raise AnsibleActionFail(str(hostvars[name]["pair_error"]))
        pairs = [topology.pair_from_variables(hostvars[name]) for name in names]
        return [pair for pair in pairs if wanted is not None or set(pair.hosts) <= set(hosts)]

    def _itself(self, host: str, name: str, path: str) -> tuple[Row, Callable[[], Row]]:
        """Return the row for the case that HOST hangs, and the question to it."""
        run = self._run_on(host, self._variables["hostvars"][host])
        return self._question(host, host, name, path, run)

    def _legs(self, pair: Pair, name: str, path: str) -> list[tuple[Row, Callable[[], Row]]]:
        """Return the questions along the ways that an unattended session of PAIR takes."""
        hostvars, start = self._variables["hostvars"], pair.session_host
        route: Literal["relay", "direct"] = "relay" if pair.route == "relay" else "direct"
        try:
            spec = parse_spec(reach.pair_spec(pair, hostvars, route))
            account = reach.session_reach(pair, hostvars, route).user
        except PairsyncError as error:
            row = Row(host=pair.b.host, seen_from=start, problem="refused", detail=str(error))
            return [(row, lambda: row)]
        overlay = {"ansible_user": account} if account else {}
        if start == topology.CONTROLLER and start not in hostvars:
            overlay["ansible_connection"] = "local"
        run_there = self._run_on(start, ChainMap(overlay, hostvars.get(start, {})))
        questions = []
        for replica in (spec.a, spec.b):
            if replica.local:
                continue

            def over(command: str, replica: ReplicaSpec = replica) -> tuple[int, str, str]:
                return run_there(parity.leg_command(replica, command))

            where = replica.binary or path
            questions.append(self._question(replica.label, start, name, where, over))
        return questions

    def _question(
        self, host: str, seen_from: str, name: str, path: str, run: Run
    ) -> tuple[Row, Callable[[], Row]]:
        """Return what to say when nothing comes, and the question."""
        silent = f"no answer within {SECONDS:.0f} seconds"
        late = Row(host=host, seen_from=seen_from, problem="unreachable", detail=silent)
        return late, partial(parity.ask, host, seen_from, name, path, run)

    def _run_on(self, host: str, variables: Mapping[str, Any]) -> Run:
        """Return the function that runs a command on HOST; VARIABLES are read here and now.

        Templates are resolved before the threads start: Ansible's engine is not made for them.
        """
        try:
            return asking.runner(host, variables, password=self._play_context.password)
        except UnreachableError as error:
            reason = str(error)

        def refuse(_command: str) -> tuple[int, str, str]:
            raise UnreachableError(reason)

        return refuse

    def _own(self, name: str) -> Row | None:
        """Return what this controller would install, if it is ours to install."""
        if name != "pairsync":
            return None
        with tempfile.TemporaryDirectory(prefix="pairsync-") as temporary:
            built = binary.build(Path(temporary, name))
        return Row(
            host="",
            seen_from="",
            version=built.version,
            protocol=built.protocol,
            build=built.digest,
        )
