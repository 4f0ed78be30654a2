#!/usr/bin/python
# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring one pair up to date with the pairsync that is installed on the session host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reconcile
short_description: Bring one pair of directories up to date
version_added: 0.1.0
author:
  - pairsync contributors (@pairsync)
description:
  - Runs one session over one pair with the C(pairsync) that is installed on the host the task
    runs on, and returns its report. Nobody is ever asked anything.
  - The session runs detached. When the connection to the controller is lost it goes on, and the
    same task run again attaches to it instead of starting a second one.
  - The task belongs on the pair's session host, which a pair in the inventory names in the variable
    C(pair_session_host) (host a, or the controller for a relayed pair), as in the examples.
extends_documentation_fragment:
  - pairsync.fleet.attributes
  - pairsync.fleet.attributes.action
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
  platform:
    support: full
    platforms: linux
  action:
    support: full
  connection:
    support: full
  delegation:
    support: full
options:
  pair:
    description:
      - The pair's host name in the inventory, for example V(gpu1+gpu2@model_dir).
      - V(gpu1:gpu2) is the pair of these two hosts; with more than one tree between them, O(tree)
        says which.
    type: str
  a:
    description:
      - Replica a, for a pair that is in no inventory, as V(PATH) on the host the task runs on, or
        V(HOST:PATH) or V(ssh://USER@HOST:PORT//PATH) as reached from there.
    type: str
  b:
    description:
      - Replica b, written like O(a).
    type: str
  tree:
    description:
      - The tree of the pair in C(pairs.yml).
    type: str
  mode:
    description:
      - V(two-way) leaves conflicts as they are, V(mirror) makes b a copy of a, V(push) changes only
        what b has not changed itself.
      - By default what C(pairs.yml) says, else V(two-way).
    type: str
    choices: [two-way, mirror, push]
  prefer:
    description:
      - Who wins a conflict. What loses is kept in the replica's backup.
    type: str
    choices: [a, b, newer, older]
  ignore:
    description:
      - Rules for what is left out, as V(Name *.tmp) or V(Path cache), in addition to those of the
        tree.
    type: list
    elements: str
  paths:
    description:
      - Only these paths below the roots.
    type: list
    elements: str
  route:
    description:
      - V(direct) means that the host the task runs on holds replica a and reaches b over ssh,
        V(relay) that it reaches both over ssh.
      - By default what C(pairs.yml) says, else V(direct). Where the session runs is decided by
        C(delegate_to).
    type: str
    choices: [direct, relay]
  user:
    description:
      - The account that owns the replicas. The task has to run as it, and it is the one that logs
        in to b.
    type: str
  backup:
    description:
      - Whether what is replaced or deleted is kept in the backup. With V(false) it is kept until
        the next session only.
    type: bool
  max_delete:
    description:
      - The largest share of a replica, in percent, that one session may delete without O(confirm).
    type: int
  confirm:
    description:
      - RV(report.plan_digest) of the plan that somebody has looked at, for what no session does
        unasked.
    type: str
  lock_wait:
    description:
      - Seconds to wait for another session that makes no progress.
    type: int
  timeout:
    description:
      - Seconds after which the session gives up; V(0) means never.
    type: int
  fail_on:
    description:
      - V(conflict) fails the task when anything was left in conflict or skipped, V(error) only when
        something failed.
      - In check mode conflicts never fail the task, so that the plan is shown.
    type: str
    choices: [conflict, error]
    default: conflict
  items_max:
    description:
      - How many items are returned, failed and conflicting ones first. RV(report_path) has all.
    type: int
    default: 200
  engine:
    description:
      - What brings the replicas up to date.
    type: str
    choices: [pairsync]
    default: pairsync
  binary:
    description:
      - The installed pairsync, when it is in none of the usual places (C(/usr/bin),
        C(/usr/local/bin), C(~/.local/bin)).
    type: path
  _spec:
    description:
      - The pair's specification. The controller's part of the module sets it from O(pair).
    type: dict
  _directory:
    description:
      - Where the session's files are. The controller's part of the module sets it while it waits.
    type: str
seealso:
  - module: pairsync.fleet.sync_binary
  - module: pairsync.fleet.version_parity
"""

EXAMPLES = r"""
# In a play with `hosts: sync_pairs` and `gather_facts: false`: all pairs, in parallel.
- name: Bring this pair of the inventory up to date
  pairsync.fleet.reconcile:
    pair: "{{ inventory_hostname }}"
  delegate_to: "{{ pair_session_host }}"

- name: Let the newer side win conflicts in one directory
  pairsync.fleet.reconcile:
    pair: gpu1+gpu2@model_dir
    prefer: newer
    paths: [logs]
  delegate_to: gpu1

- name: Two directories that are in no inventory
  pairsync.fleet.reconcile:
    a: /data/model
    b: gpu2:/data/model
    fail_on: error
  delegate_to: gpu1
"""

RETURN = r"""
report:
  description:
    - The session's report, C(pairsync.report/1), with at most O(items_max) items.
  type: dict
  returned: when a session ran
  contains:
    pair:
      description: Both replicas as C(HOST:PATH), and the pair's id.
      type: dict
    exit:
      description:
        - V(0) means nothing is left to do, V(1) something is in conflict or was skipped, V(2)
          something failed, V(3) a fatal error.
      type: int
    plan_digest:
      description: The digest by which this plan can be approved.
      type: str
    counts:
      description: How many items there are, by decision and by result.
      type: dict
    items_total:
      description: How many items the session had.
      type: int
    items:
      description: The items, failed and conflicting ones first.
      type: list
      elements: dict
    error:
      description: The fatal error, with its code, host, message and next step.
      type: dict
  sample:
    schema: pairsync.report/1
    pair: {a: "gpu1:/data/model", b: "gpu2:/data/model", id: 0f3a}
    exit: 0
    counts: {"b->a": {done: 5}}
    items_total: 5
report_path:
  description:
    - Where on the session host the full report is. A file that ends in C(.events.jsonl) holds it as
      its last line.
  type: str
  returned: when a session ran
  sample: /data/model/.pairsync/log/20261121T120059Z-6b9ad358.json
attached:
  description: Whether the session had been started by an earlier run of the task.
  type: bool
  returned: always
"""

import os
import pwd
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.pairsync.fleet.plugins.module_utils import jobs, reports
from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import UsageError
from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.spec import (
    parse_location,
    parse_spec,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# One look at the job lasts so long, in seconds; then the controller asks again.
PATIENCE = 30.0

# Options that are keys of a specification under the same name.
POLICY = ("mode", "prefer", "paths", "route", "backup", "max_delete", "lock_wait", "timeout")


def spec_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the session's specification: the inventory's or that of a and b, options on top.

    Errors: UsageError, naming the option.
    """
    spec = dict(params["_spec"] or _spec_of_locations(params["a"], params["b"]))
    for option in POLICY:
        if params[option] is not None:
            spec[option] = params[option]
    if params["ignore"]:
        spec["ignore"] = [*(spec.get("ignore") or []), *params["ignore"]]
    if params["user"]:
        spec["replicas"] = {
            label: replica if replica.get("local") else {**replica, "user": params["user"]}
            for label, replica in spec["replicas"].items()
        }
    parse_spec(spec)
    return spec


def _spec_of_locations(a: str, b: str) -> dict[str, Any]:
    """Return the specification of two locations as they are written on a command line."""
    replicas: dict[str, dict[str, Any]] = {}
    for side, text in (("a", a), ("b", b)):
        location = parse_location(text)
        label = location.label or os.uname().nodename.split(".")[0]
        if label in replicas:
            label = f"{label}-{side}"
        replicas[label] = {"path": location.path}
        if location.local:
            replicas[label]["local"] = True
            continue
        # The label may be another one than the host.
        replicas[label]["address"] = location.label
        for key in ("user", "port"):
            if getattr(location, key):
                replicas[label][key] = getattr(location, key)
    return {"schema": "pairsync.spec/1", "replicas": replicas}


def installed(module: AnsibleModule) -> str:
    """Return the path of the binary on this host; fails when there is none."""
    places = [module.params["binary"]] if module.params["binary"] else jobs.binaries()
    for place in places:
        if os.access(place, os.X_OK):
            return place
    module.fail_json(
        msg=f"pairsync is not installed on {os.uname().nodename} (looked for {', '.join(places)}):"
        " run ansible-playbook pairsync.fleet.bootstrap for this host, or name the file in binary"
    )
    return ""


def check_user(module: AnsibleModule) -> None:
    """Fail when the task does not run as the account that owns the replicas."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    if module.params["user"] not in (None, user):
        module.fail_json(
            msg=f"the replicas belong to {module.params['user']}, but the task runs as {user}:"
            f" set become: true and become_user: {module.params['user']}"
        )


def finish(
    module: AnsibleModule, spec: Mapping[str, Any], job: jobs.Job, *, attached: bool
) -> None:
    """Return the report of a session that has ended, as the module's result."""
    report = jobs.report_of(job)
    if report is None:
        reason = jobs.last_words(job) or "it wrote nothing to say why"
        module.fail_json(
            msg=f"the session ended without a report: {reason}; run the task again,"
            f" and look at {job.file('stderr')} if that does not help",
            attached=attached,
        )
        return
    conflicts_fail = module.params["fail_on"] == "conflict" and not module.check_mode
    result = {
        "changed": reports.is_changed(report),
        "failed": report["exit"] >= 2 or (report["exit"] == 1 and conflicts_fail),
        "msg": reports.sentence(report),
        "report": reports.trimmed(report, module.params["items_max"]),
        "report_path": jobs.report_path(spec, str(report.get("run")), job),
        "attached": attached,
    }
    if module._diff:  # noqa: SLF001 - there is no public way to ask
        result["diff"] = reports.diff(report)
    for warning in report.get("warnings") or []:
        module.warn(warning)
    module.exit_json(**result)


def main() -> None:
    """Start or find the session, wait a while, and return the report or that it still runs."""
    module = AnsibleModule(
        argument_spec={
            "pair": {"type": "str"},
            "a": {"type": "str"},
            "b": {"type": "str"},
            "tree": {"type": "str"},
            "mode": {"type": "str", "choices": ["two-way", "mirror", "push"]},
            "prefer": {"type": "str", "choices": ["a", "b", "newer", "older"]},
            "ignore": {"type": "list", "elements": "str"},
            "paths": {"type": "list", "elements": "str"},
            "route": {"type": "str", "choices": ["direct", "relay"]},
            "user": {"type": "str"},
            "backup": {"type": "bool"},
            "max_delete": {"type": "int"},
            "confirm": {"type": "str"},
            "lock_wait": {"type": "int"},
            "timeout": {"type": "int"},
            "fail_on": {"type": "str", "choices": ["conflict", "error"], "default": "conflict"},
            "items_max": {"type": "int", "default": 200},
            "engine": {"type": "str", "choices": ["pairsync"], "default": "pairsync"},
            "binary": {"type": "path"},
            "_spec": {"type": "dict"},
            "_directory": {"type": "str"},
        },
        required_together=[("a", "b")],
        required_one_of=[("pair", "a")],
        mutually_exclusive=[("pair", "a")],
        supports_check_mode=True,
    )
    check_user(module)
    try:
        spec = spec_of(module.params)
    except UsageError as error:
        module.fail_json(msg=str(error))
    command = [installed(module), "plan" if module.check_mode else "sync"]
    command += ["--spec", "-", "--events", "--batch"]
    if module.params["confirm"]:
        command += ["--confirm", module.params["confirm"]]
    job = jobs.job_of(spec, dry_run=module.check_mode, state_home=jobs.state_home())
    attached = False
    if module.params["_directory"]:
        job = jobs.Job(module.params["_directory"], job.name)
    else:
        try:
            attached = not jobs.start(job, command, spec)
        except OSError as error:
            module.fail_json(msg=f"the session cannot be started with {command[0]}: {error}")
    if not jobs.wait(job, PATIENCE):
        module.exit_json(changed=False, attached=attached, running=job.directory)
    finish(module, spec, job, attached=attached)


if __name__ == "__main__":
    main()
