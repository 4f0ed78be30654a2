# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of pair_key: which host does what, in which order, and what if it fails.

A new key is let in before it is tried, and tried before it is kept; an old one goes only when the
new one works. A run that was cut short anywhere is completed by the next one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import (
    PairsyncError,
)
from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.spec import parse_spec
from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.session.connect import (
    remote_commands,
    ssh_argv,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils import hosts, reach
from ansible_collections.pairsync.fleet.plugins.plugin_utils.topology import (
    PAIRS_GROUP,
    Pair,
    match_pairs,
    pair_from_variables,
)

MODULE = "pairsync.fleet.pair_key"


class FailedPartError(Exception):
    """One host's part failed; the text says which and why."""


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        self._variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, self._variables)
        self._diffs: list[dict[str, str]] = []
        self._changed = False
        try:
            pair = self._pair()
            reason = self._needless(pair)
            if reason:
                result.update(changed=False, skipped_reason=f"{pair.name}: {reason}")
            else:
                result.update(self._work(pair))
        except AnsibleConnectionFailure as error:
            # Not "unreachable": it is one of the hosts that is, and the pair that fails.
            result.update(failed=True, msg=_last_line(error), changed=self._changed)
        except (PairsyncError, FailedPartError) as error:
            result.update(failed=True, msg=str(error), changed=self._changed)
        if self._task.diff and self._diffs:
            result["diff"] = self._diffs
        return result

    def _pair(self) -> Pair:
        """Return the pair that is meant; fails with one sentence."""
        hostvars = self._variables["hostvars"]
        asked = str(self._task.args.get("pair") or "")
        names = [str(name) for name in self._variables["groups"].get(PAIRS_GROUP, [])]
        names = [asked] if asked in names else names
        for name in names:
            if "pair_error" in hostvars[name]:
                raise AnsibleActionFail(str(hostvars[name]["pair_error"]))
        known = [pair_from_variables(hostvars[name]) for name in names]
        found = match_pairs(known, asked, str(self._task.args.get("tree") or "") or None)
        if len(found) > 1:
            trees = ", ".join(pair.tree for pair in found)
            raise AnsibleActionFail(f"{asked} means {len(found)} pairs: say which tree, of {trees}")
        return found[0]

    def _needless(self, pair: Pair) -> str:
        """Return why a pair needs no key, "" when it does."""
        hostvars = self._variables["hostvars"]
        a, b = (reach.is_local(host, reach.variables_of(hostvars, host)) for host in pair.hosts)
        if a and b:
            return "both replicas are on this machine"
        if pair.route == "relay" or b:
            return "it is relayed, so that neither host logs in to the other"
        if pair.b.identity:
            return "pairs.yml names an identity for it"
        return ""

    def _work(self, pair: Pair) -> dict[str, Any]:
        """Do what the task says; returns the result, or raises what is wrong."""
        hostvars = self._variables["hostvars"]
        spec = parse_spec(reach.pair_spec(pair, hostvars))
        way = reach.session_reach(pair, hostvars)
        self._here = hosts.place_of(
            pair.a.host, hostvars, self._task, self._play_context, account=way.user
        )
        self._there = hosts.place_of(
            pair.b.host, hostvars, self._task, self._play_context, become=bool(self._task.become)
        )
        options = self._task.args
        name = reach.key_name(pair)
        about = {
            "name": name,
            "argv": ssh_argv(spec.b, batch=True),
            "plain": ssh_argv(replace(spec.b, key="", identity=""), batch=True),
            "root": spec.a.path,
            "rotate": options.get("state") == "rotated",
        }
        self._access = {
            "name": name,
            "label": pair.name,
            "account": spec.b.user,
            "root": spec.b.path,
            "replica": "",
            "from": [],
            "binaries": remote_commands(spec.b.binary),
        }
        if options.get("state") == "absent":
            return self._remove(about)
        return self._install(about)

    def _install(self, about: dict[str, Any]) -> dict[str, Any]:
        """Make the key, let it in, try it out; take it away again when it is not what it should."""
        made = self._on(self._here, {"do": "make_key", **about})
        rotate = bool(made["next_key"])
        keys = [made["next_key"], made["public_key"]] if rotate else [made["public_key"]]
        self._access.update(account=made["account"], replica=made["replica"])
        if made["source"]:
            self._access["from"] = [made["source"]]
        try:
            let_in = self._let_in(about, keys)
        except FailedPartError:
            if made["changed"] and not rotate:
                self._on(self._here, {**about, "do": "drop_key"})
            raise
        part = {**about, "do": "settle", "host_keys": let_in["host_keys"], "rotate": rotate}
        settled = self._on(self._here, part)
        if settled["problem"]:
            raise FailedPartError(self._undo(about, made, let_in, settled["problem"]))
        if rotate:
            self._on(self._there, {"do": "let_in", **self._access, "keys": [settled["public_key"]]})
        return {
            "changed": self._changed,
            "key": made["key"],
            "public_key": settled["public_key"],
            "account": made["account"],
            "authorized_keys": let_in["authorized_keys"],
            "policy": let_in["policy"],
            "from_address": let_in["from_address"],
            "pinned": len(let_in["host_keys"]),
        }

    def _let_in(self, about: dict[str, Any], keys: list[str]) -> dict[str, Any]:
        part = {"do": "let_in", **self._access, "keys": keys}
        answer = self._on(self._there, part)
        if answer.get("no_source"):
            seen = self._on(self._here, {"do": "see_source", **about})["source"]
            self._access["from"] = part["from"] = [seen]
            answer = self._on(self._there, part)
        if not answer["host_keys"]:
            raise FailedPartError(f"{self._there.host} shows no host keys in /etc/ssh to pin")
        return answer

    def _undo(
        self, about: dict[str, Any], made: dict[str, Any], let_in: dict[str, Any], problem: str
    ) -> str:
        """Take away what this run has let in; return why, in one sentence."""
        asked = {"do": "suspect", **self._access, "from": let_in["from_address"]}
        reason = self._on(self._there, asked)["reason"]
        what = f"{about['name']}: {problem}"
        if not (let_in["changed"] or made["changed"]) and "does not open" in problem:
            return f"{what} ({reason}); nothing was changed"
        # What worked before a rotation still does.
        kept = [made["public_key"]] if made["next_key"] and "ignores" not in problem else []
        self._on(self._there, {"do": "let_in", **self._access, "keys": kept})
        if not kept:
            self._on(self._here, {**about, "do": "drop_key"})
        return f"{what} ({reason}); it was taken away again"

    def _remove(self, about: dict[str, Any]) -> dict[str, Any]:
        """Remove the key at both ends: first where it opens something."""
        try:
            if not self._access["account"]:
                made = self._on(self._here, {"do": "find_account", **about})
                self._access["account"] = made["account"]
        except AnsibleConnectionFailure:
            pass  # a host that is gone for good is a reason to remove its key
        self._on(self._there, {"do": "let_in", **self._access, "keys": []})
        self._on(self._here, {**about, "do": "drop_key"})
        return {"changed": self._changed}

    def _on(self, place: hosts.Place, part: dict[str, Any]) -> dict[str, Any]:
        """Run one part on one host and return its answer; raises FailedPartError."""
        task = self._task.copy()
        task.delegate_to = None
        known = (self._loader, self._templar, self._shared_loader_obj)
        action = ActionModule(task, place.connection, place.context, *known)
        try:
            answer: dict[str, Any] = action._execute_module(
                module_name=MODULE,
                module_args={**task.args, "_part": part},
                task_vars=dict(place.variables),
            )
        except AnsibleConnectionFailure as error:
            raise AnsibleConnectionFailure(
                f"{place.host} cannot be reached: {_last_line(error)}"
            ) from error
        except AnsibleError as error:
            raise FailedPartError(f"{place.host}: {error}") from error
        finally:
            place.connection.close()
        if answer.get("failed"):
            raise FailedPartError(f"{place.host}: {answer.get('msg')}")
        if answer.get("changed"):
            self._changed = True
        if answer.get("before", "") != answer.get("after", ""):
            self._diffs.append(
                {
                    "before_header": place.host,
                    "after_header": place.host,
                    "before": answer["before"],
                    "after": answer["after"],
                }
            )
        return answer


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else "no answer"
