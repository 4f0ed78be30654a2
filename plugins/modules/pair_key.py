#!/usr/bin/python
# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host's part of a pair's key; which host does what, the action plugin decides."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pair_key
short_description: Gives a pair a key of its own, which opens that pair and nothing else
version_added: 0.1.0
author:
  - pairsync contributors (@pairsync)
description:
  - Makes a key on host a of a pair, and lets it in on host b for sessions of that pair only.
  - Whoever steals it gets no shell, no other directory, no forwarding, and cannot destroy backups.
  - The key never leaves host a. On host b it is one line in C(authorized_keys), with C(restrict),
    a forced command and the address it may come from. What it may do there is in a policy file that
    sessions cannot change.
  - Host b's keys are read over the connection that Ansible has already verified, and pinned for the
    pair on host a.
  - Afterwards the key is tried out from host a. Where it does not open pairsync, or opens more, it
    is taken away again and the task fails with the reason.
  - Sessions on the direct route use the key from then on by themselves, unless C(pairs.yml) names
    an C(identity) for host b.
  - The task reaches both hosts itself, whatever host it is for.
extends_documentation_fragment:
  - pairsync.fleet.attributes
  - pairsync.fleet.attributes.action
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Shows lines, policies and public keys; there is nothing secret in them.
  idempotent:
    support: partial
    details: V(state=rotated) makes a new key every time.
  platform:
    support: full
    platforms: linux
  action:
    support: full
  connection:
    support: none
  delegation:
    support: N/A
    details: It reaches both hosts of the pair over connections of its own.
options:
  pair:
    description:
      - The pair, by its name (V(gpu1+gpu2@model_dir)) or its two hosts (V(gpu1:gpu2)).
    type: str
    required: true
  tree:
    description:
      - Which tree, when the two hosts have several.
    type: str
  state:
    description:
      - V(present) makes and installs the key, and repairs what is missing of it.
      - V(rotated) replaces it by a new one. The old one opens nothing afterwards.
      - V(absent) takes away the key, its line and its policy.
    type: str
    choices: [present, absent, rotated]
    default: present
  scope:
    description:
      - Whose the policy is. V(system) is C(/etc/pairsync/pairs/NAME.json), which only root can
        change, V(user) is C(~/.config/pairsync/pairs/NAME.json) of the account on host b.
      - V(auto) is V(system) where the task is root on host b (use C(become)), else V(user).
    type: str
    choices: [auto, system, user]
    default: auto
  from_address:
    description:
      - The addresses or patterns that the key may come from, as sshd takes them after C(from=).
      - By default what host b's sshd sees when host a logs in; where host a cannot log in yet, the
        address by which host a would reach host b.
    type: list
    elements: str
  receive:
    description:
      - Whether the key may bring changes to host b.
    type: bool
    default: true
  send:
    description:
      - Whether the key may take contents from host b.
    type: bool
    default: true
  backup_keep:
    description:
      - How many versions of a path host b's backup keeps at least, whatever a session says.
    type: int
    default: 10
  backup_days:
    description:
      - How many days host b's backup keeps every version, whatever a session says and however many
        there are.
    type: int
    default: 7
  max_delete:
    description:
      - The largest share of host b's replica in percent that one session may delete, also with a
        confirmed plan.
    type: int
    default: 100
  max_entries:
    description:
      - The most changes that one session may bring to host b; V(0) is no limit.
    type: int
    default: 0
  max_bytes:
    description:
      - The most bytes that one session may bring to host b; V(0) is no limit.
    type: int
    default: 0
  binary:
    description:
      - The path of pairsync on host b. By default where C(sync_binary) installs it.
    type: path
  _part:
    description: What one of the two hosts is to do, from the action plugin.
    type: dict
seealso:
  - module: pairsync.fleet.sync_binary
  - module: pairsync.fleet.reconcile
"""

EXAMPLES = r"""
- name: Give a pair its key, with a policy that only root can change
  pairsync.fleet.pair_key:
    pair: gpu1+gpu2@model_dir
  become: true

- name: Give every pair of the inventory its key, in a play with hosts sync_pairs
  pairsync.fleet.pair_key:
    pair: "{{ inventory_hostname }}"

- name: Replace the key of one pair
  pairsync.fleet.pair_key:
    pair: gpu1+gpu2@model_dir
    state: rotated

- name: Let the archive take what the workstation has, and give nothing back
  pairsync.fleet.pair_key:
    pair: desk:archive
    send: false
    backup_days: 90
"""

RETURN = r"""
key:
  description: The key's path on host a.
  type: str
  returned: when there is a key
  sample: /home/me/.ssh/pairsync/gpu1+gpu2@model_dir
public_key:
  description: Its public half.
  type: str
  returned: when there is a key
account:
  description: The account on host b that the key opens.
  type: str
  returned: when there is a key
authorized_keys:
  description: The file on host b that lets the key in.
  type: str
  returned: when there is a key
policy:
  description: The policy file on host b.
  type: str
  returned: when there is a key
from_address:
  description: The addresses that the key may come from.
  type: list
  elements: str
  returned: when there is a key
pinned:
  description: How many host keys of host b are pinned on host a.
  type: int
  returned: when there is a key
skipped_reason:
  description: Why a pair has no use for a key.
  type: str
  returned: for pairs on one machine, and pairs that are relayed
"""

import json
import os
import pwd
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.pairsync.fleet.plugins.module_utils import (
    authorized,
    homefiles,
    keyring,
)
from ansible_collections.pairsync.fleet.plugins.module_utils.authorized import AccessError
from ansible_collections.pairsync.fleet.plugins.module_utils.keyring import KeyFaultError
from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.session.opening import pair_id

UNMADE = "ssh-ed25519 (a new key)"


def replica_id(root: str) -> str:
    """Return the id of the replica at ROOT, "" while it has none."""
    try:
        return str(json.loads(Path(root, ".pairsync", "replica.json").read_bytes()).get("id", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def make_key(module: AnsibleModule, part: dict[str, Any]) -> dict[str, Any]:
    """On host a: see that there is a key, and for a rotation the one that follows."""
    key = keyring.key_of(part["name"])
    # What a rotation that was cut short has left is not taken for a new key.
    made = [key.following] if part["rotate"] and key.public else [] if key.public else [key]
    for one in made if not module.check_mode else []:
        one.make(f"pairsync:{part['name']}")
    return {
        "changed": bool(made),
        "key": str(key.path),
        "public_key": key.public,
        "next_key": key.following.public if key.following in made else "",
        "account": keyring.account(part["plain"]),
        "replica": replica_id(from_home(part["root"], pwd.getpwuid(os.geteuid()))),
        # Where nothing is to be made, the address is known already.
        "source": keyring.source_address(part["plain"]) if key in made else "",
    }


def find_account(__: AnsibleModule, part: dict[str, Any]) -> dict[str, Any]:
    """On host a: whom a session logs in as."""
    return {"account": keyring.account(part["plain"])}


def see_source(__: AnsibleModule, part: dict[str, Any]) -> dict[str, Any]:
    """On host a: as whom and from where sshd on host b sees it."""
    return {"source": keyring.source_address(part["plain"])}


def let_in(module: AnsibleModule, part: dict[str, Any]) -> dict[str, Any]:
    """On host b: the line for each of the keys and the policy; without keys, neither."""
    user = account_of(module, part["account"])
    scope = module.params["scope"]
    if scope == "auto":
        scope = "system" if os.geteuid() == 0 else "user"
    if scope == "system" and os.geteuid() != 0:
        raise AccessError("scope: system needs root on the other host: run it with become: true")
    name, keys = part["name"], part["keys"]
    sshd = authorized.sshd_for(user.pw_name, "")
    file = authorized.keys_file(sshd, user)
    policy = authorized.policy_path(name, scope, user)
    inside = Path(user.pw_dir) in file.parents
    with homefiles.acting_as(user if inside else pwd.getpwuid(os.geteuid())):
        text = homefiles.read(file)
    own = authorized.own_lines(text, name)
    sources = module.params["from_address"] or part["from"] or authorized.sources_of(own)
    wanted, lines = "", []
    if keys:
        authorized.check_sshd(sshd)
        if not sources:
            return {"changed": False, "no_source": True}
        with homefiles.acting_as(user):
            root = os.path.realpath(os.path.join(user.pw_dir, from_home(part["root"], user)))
            known = replica_id(root)
        peer = {}
        if known and part["replica"]:
            peer = {"pair": pair_id(known, part["replica"]), "replica": part["replica"]}
        wanted = authorized.policy_text(part["label"], root, policy_of(module.params), peer)
        binary = module.params["binary"] or installed(user, part["binaries"])
        lines = [authorized.line_of(name, one or UNMADE, sources, binary, policy) for one in keys]
    policy_user = pwd.getpwuid(0) if scope == "system" else user
    with homefiles.acting_as(policy_user):
        before = homefiles.read(policy)
    changed = own != lines or before != wanted
    if changed and not module.check_mode:
        if wanted:
            with homefiles.acting_as(policy_user):
                authorized.write_policy(policy, wanted)
        with homefiles.acting_as(user if inside else pwd.getpwuid(os.geteuid())):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            homefiles.edit(file, lambda now: authorized.with_lines(now, name, lines))
        if not wanted:
            with homefiles.acting_as(policy_user):
                authorized.write_policy(policy, "")
    return {
        "changed": changed,
        "authorized_keys": str(file),
        "policy": str(policy),
        "from_address": sources,
        "host_keys": authorized.host_keys(sshd),
        "before": view(file, own, policy, before),
        "after": view(file, lines, policy, wanted),
    }


def policy_of(params: dict[str, Any]) -> dict[str, Any]:
    """Return the flags and sections of the policy that the options say."""
    return {
        "receive": params["receive"],
        "send": params["send"],
        "backup": {"keep": params["backup_keep"], "days": params["backup_days"]},
        "limits": {
            "max_delete": params["max_delete"],
            "entries": params["max_entries"],
            "bytes": params["max_bytes"],
        },
    }


def account_of(module: AnsibleModule, name: str) -> pwd.struct_passwd:
    """Return the account that the key is for, which this process must be able to act for."""
    own = pwd.getpwuid(os.geteuid())
    try:
        user = pwd.getpwnam(name) if name else own
    except KeyError as error:
        raise AccessError(f"there is no account {name} on this host") from error
    if own.pw_uid not in (user.pw_uid, 0):
        raise AccessError(
            f"the key is for {name}'s account, and Ansible is {own.pw_name} on this host:"
            " run it with become: true"
        )
    del module
    return user


def from_home(path: str, user: pwd.struct_passwd) -> str:
    """Return PATH with a leading `~` meaning the home of USER."""
    return user.pw_dir + path[1:] if path == "~" or path.startswith("~/") else path


def installed(user: pwd.struct_passwd, places: list[str]) -> str:
    """Return the first of PLACES that holds the binary; raises AccessError."""
    for place in places:
        path = from_home(place, user)
        if os.access(path, os.X_OK):
            return path
    raise AccessError(
        f"pairsync is not installed on {os.uname().nodename}:"
        " run ansible-playbook pairsync.fleet.bootstrap for this host"
    )


def view(file: Path, lines: list[str], policy: Path, text: str) -> str:
    """Return what diff mode compares."""
    parts = [f"{file}:\n", *(f"{line}\n" for line in lines)] if lines else []
    return "".join([*parts, f"{policy}:\n{text}" if text else ""])


def suspect(module: AnsibleModule, part: dict[str, Any]) -> dict[str, Any]:
    """On host b: why sshd may ignore the key."""
    user = account_of(module, part["account"])
    sshd = authorized.sshd_for(user.pw_name, "")
    file = authorized.keys_file(sshd, user)
    return {"reason": authorized.suspicions(sshd, user, file, part["from"])}


def settle(module: AnsibleModule, part: dict[str, Any]) -> dict[str, Any]:
    """On host a: pin the host keys, and try the key out; `problem` says what is wrong with it."""
    key = keyring.key_of(part["name"])
    text = keyring.known_hosts_text(part["name"], part["host_keys"])
    before = homefiles.read(key.known_hosts)
    problem = ""
    if not module.check_mode:
        if before != text:
            homefiles.edit(key.known_hosts, lambda __: text)
        try:
            keyring.prove(part["argv"], key.following if part["rotate"] else None)
        except KeyFaultError as error:
            problem = str(error)
        else:
            if part["rotate"]:
                key.take_place()
    return {
        "changed": before != text,
        "problem": problem,
        "public_key": key.public,
        "before": f"{key.known_hosts}:\n{before}" if before else "",
        "after": f"{key.known_hosts}:\n{text}",
    }


def drop_key(module: AnsibleModule, part: dict[str, Any]) -> dict[str, Any]:
    """On host a: remove the key and what belongs to it."""
    key = keyring.key_of(part["name"])
    there = key.path.exists() or key.known_hosts.exists() or key.following.path.exists()
    if not module.check_mode:
        key.remove()
    return {"changed": there, "before": f"{key.path}\n" if there else "", "after": ""}


PARTS = {
    "make_key": make_key,
    "find_account": find_account,
    "see_source": see_source,
    "let_in": let_in,
    "suspect": suspect,
    "settle": settle,
    "drop_key": drop_key,
}


def main() -> None:
    """Do the part that the action plugin asks this host for."""
    module = AnsibleModule(
        argument_spec={
            "pair": {"type": "str", "required": True},
            "tree": {"type": "str"},
            "state": {
                "type": "str",
                "choices": ["present", "absent", "rotated"],
                "default": "present",
            },
            "scope": {"type": "str", "choices": ["auto", "system", "user"], "default": "auto"},
            "from_address": {"type": "list", "elements": "str"},
            "receive": {"type": "bool", "default": True},
            "send": {"type": "bool", "default": True},
            "backup_keep": {"type": "int", "default": 10},
            "backup_days": {"type": "int", "default": 7},
            "max_delete": {"type": "int", "default": 100},
            "max_entries": {"type": "int", "default": 0},
            "max_bytes": {"type": "int", "default": 0},
            "binary": {"type": "path"},
            "_part": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    part = module.params["_part"]
    if not part:
        module.fail_json(msg="pair_key runs on the controller, through its action plugin")
    try:
        answer = PARTS[part["do"]](module, part)
    except (AccessError, KeyFaultError) as error:
        module.fail_json(msg=str(error))
    except (OSError, TimeoutError) as error:
        module.fail_json(msg=f"the files of the key cannot be changed: {error}")
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
