# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Present each pair of pairs.yml as an Ansible host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pairs
short_description: Presents each pair of hosts that is kept in sync as a host
version_added: 0.1.0
author:
  - pairsync contributors (@pairsync)
description:
  - Reads a C(pairs.yml) that says which directories are kept the same on which hosts, and adds one
    host per pair, named C(A+B@TREE). C(--limit), C(--forks), retries and the recap then work per
    pair.
  - Pairs are in the group C(sync_pairs), in one group per tree (C(tree_TREE)) and in one per host
    (C(pairs_with_HOST)). They come in rounds in which no directory occurs twice, so that a hub is
    not queued for.
  - A pair is not a machine. Its connection P(pairsync.fleet.pair#connection) refuses every task
    that lands on it; use C(delegate_to) with C(pair_session_host), and C(all:!sync_pairs) as the
    hosts of plays for machines.
  - The file lies in an inventory directory beside the files that name the hosts. Inventory files
    load in name order, so C(hosts.yml) is read before C(pairs.yml).
  - The whole file is checked before a host is added. On a mistake there is one host
    C(pairs_yml_is_wrong) whose variable C(pair_error) says what is wrong and where, so that the run
    fails even where Ansible only warns of inventories that it cannot read.
notes:
  - "Variables of a pair: C(pair_name), C(pair_a) and C(pair_b) (inventory hosts), C(pair_tree),
    C(pair_round) (from 0), C(pair_route) (V(direct) or V(relay)), C(pair_session_host) (the host
    that runs the session: host a, or C(localhost) for a relayed pair) and C(pair_definition) (both
    replicas and the policy as written, with the defaults)."
options:
  plugin:
    description: Marks the file as a source of this plugin.
    type: str
    required: true
    choices: [pairsync.fleet.pairs]
  defaults:
    description:
      - Keys of a tree, apart from those that say where it is, that hold for every tree.
      - A tree's own lists are added to the lists here, its mappings are merged into these, anything
        else of its own wins.
    type: dict
    default: {}
  trees:
    description:
      - What is kept in sync, by a name of your choice.
      - A tree has C(replicas), two hosts with a path each, or C(hosts) (a group, or a list of
        hosts) with C(path) and C(topology) (V(star), which needs C(hub), V(chain), V(ring) or
        V(mesh)).
      - "A replica's long form is a mapping with C(path) and C(address), C(port), C(user), C(jump),
        C(identity), C(ssh_args), C(binary): how the other host of the pair reaches it. The
        controller uses its own inventory variables and takes only C(user) and C(binary) from here."
      - "Everything else is the pair's policy, with the meaning that M(pairsync.fleet.reconcile)
        gives it: C(mode), C(prefer), C(ignore), C(paths), C(last), C(growing), C(max_delete),
        C(backup), C(lock_wait), C(timeout), C(route), C(user)."
      - "C(backup) is V(true), V(false) (what is displaced is kept until the pair's next run), or a
        mapping: C(keep) versions of a path (10), C(days) (30), C(max_size) (V(10%) of the file
        system) and C(min_free) (V(0)), both a number of bytes, V(50G), or a share. The newest
        version of a path always stays."
    type: dict
    required: true
seealso:
  - module: pairsync.fleet.reconcile
  - plugin: pairsync.fleet.pair
    plugin_type: connection
"""

EXAMPLES = r"""
# inventories/site/pairs.yml, beside hosts.yml
plugin: pairsync.fleet.pairs
defaults:
  ignore: ["Name *.tmp"]
trees:
  # Two hosts: the pair is gpu1+gpu2@model_dir
  model_dir:
    replicas:
      gpu1: /data/model
      gpu2: /data/model
    ignore: ["Name *.lock", "Path cache"]
  # All hosts of a group with one in the middle: login1+login2@homes, login1+login3@homes
  homes:
    hosts: login_nodes
    path: "~/shared"
    topology: star
    hub: login1
  # The long form says how laptop reaches gpu1
  code:
    replicas:
      laptop: {path: ~/src/app}
      gpu1: {path: /home/me/app, user: me, address: 10.1.0.2, jump: bastion}
    mode: mirror

# ansible-playbook pairsync.fleet.sync -i inventories/site --limit pairs_with_gpu2
# ansible-playbook pairsync.fleet.sync -i inventories/site --limit tree_model_dir
# ansible-playbook pairsync.fleet.sync -i inventories/site --limit 'gpu1+*'
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import (
    UsageError,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils.pairs_file import read_pairs_file
from ansible_collections.pairsync.fleet.plugins.plugin_utils.topology import (
    CONTROLLER,
    PAIRS_GROUP,
    Pair,
    compile_pairs,
)

_ERROR_HOST = "pairs_yml_is_wrong"
_CONNECTION = "pairsync.fleet.pair"


class InventoryModule(BaseInventoryPlugin):
    NAME = "pairsync.fleet.pairs"

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and Path(path).name in ("pairs.yml", "pairs.yaml")

    def parse(self, inventory: Any, loader: Any, path: str, cache: Any = True) -> None:  # noqa: FBT002 - Ansible's signature
        super().parse(inventory, loader, path, cache)
        try:
            pairs = self._pairs(path)
        except UsageError as error:
            self._add(_ERROR_HOST, [PAIRS_GROUP], _error_variables(str(error)))
            # Invoke's tasks report the variable themselves; a second account of it is noise.
            if not getattr(loader, "reads_pair_error", False):
                raise AnsibleParserError(str(error)) from error
            return
        for pair in pairs:
            self._add(pair.name, pair.groups(), pair.variables())

    def _pairs(self, path: str) -> tuple[Pair, ...]:
        """Return all pairs of the file, so that nothing is added before all of it is right."""
        known = self.inventory.groups
        pairs_group = known.get(PAIRS_GROUP)
        taken = {host.name for host in pairs_group.get_hosts()} if pairs_group else set()
        groups = {
            name: [host.name for host in group.get_hosts() if host.name not in taken]
            for name, group in known.items()
        }
        hosts = [name for name in self.inventory.hosts if name not in taken]
        # Hosts of no other group become children of `all` only when everything has been read.
        groups["all"] = hosts
        pairs = compile_pairs(read_pairs_file(Path(path)), hosts, groups)
        for pair in pairs:
            if pair.name in taken:
                raise UsageError(
                    f"{path}: the pair {pair.name} is in another pairs.yml of this inventory too",
                    "give one of the two trees another name",
                )
        return pairs

    def _add(self, name: str, groups: list[str], variables: dict[str, Any]) -> None:
        for group in groups:
            self.inventory.add_group(group)
            self.inventory.add_host(name, group=group)
        for key, value in {**variables, "ansible_connection": _CONNECTION}.items():
            self.inventory.set_variable(name, key, value)


def _error_variables(text: str) -> dict[str, Any]:
    return {"pair_error": text, "pair_session_host": CONTROLLER, "pair_route": "direct"}
