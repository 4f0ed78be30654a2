#!/usr/bin/python
# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of version_parity; all of the work is done by the action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: version_parity
short_description: Prove that every host, and every route, answers with the same version
version_added: 0.1.0
author:
  - pairsync contributors (@pairsync)
description:
  - Asks the tool on every host who it is, all hosts in parallel, and asks again along the way that
    a session of each pair will take, from its session host over ssh to the other one.
  - Fails with one table when the answers differ, when the tool is missing somewhere, or when a host
    or a route does not work, and says how to mend it. A host that cannot be reached is a row of it.
  - Runs once on the controller, whatever the number of hosts. Hosts need no Python for it.
extends_documentation_fragment:
  - pairsync.fleet.attributes
  - pairsync.fleet.attributes.action
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
  platform:
    support: full
    platforms: linux
  action:
    support: full
  connection:
    support: none
  delegation:
    support: N/A
    details: It asks the hosts itself, over connections of its own.
options:
  name:
    description:
      - The tool's name, as in M(pairsync.fleet.sync_binary).
    type: str
    default: pairsync
  hosts:
    description:
      - The inventory hosts to ask. By default those of the play.
    type: list
    elements: str
  pairs:
    description:
      - The pairs whose routes are tried. By default all pairs between O(hosts).
    type: list
    elements: str
  level:
    description:
      - What has to be equal, V(build) the file byte for byte, V(version) what it says it is,
        V(protocol) what two of them need to work together.
    type: str
    choices: [build, version, protocol]
    default: build
  binary:
    description:
      - The path of the tool on the hosts. By default C(/usr/bin/NAME), and where that does not
        exist C(~/.local/bin/NAME). What a pair says about its replica comes first.
    type: str
    default: ""
seealso:
  - module: pairsync.fleet.sync_binary
"""

EXAMPLES = r"""
- name: Prove that all hosts have the same build
  pairsync.fleet.version_parity:
  run_once: true

- name: Prove that two hosts can work together, and reach each other
  pairsync.fleet.version_parity:
    hosts: [gpu1, gpu2]
    pairs: [gpu1+gpu2@model_dir]
    level: protocol
  run_once: true
"""

RETURN = r"""
rows:
  description: What each host answered, seen from itself and along each route.
  type: list
  elements: dict
  returned: always
  contains:
    host:
      description: The host that was asked.
      type: str
    seen_from:
      description: The host that asked; the same host for itself.
      type: str
    path:
      description: The file that answered.
      type: str
    version:
      description: The version it says it is.
      type: str
    protocol:
      description: The protocol number it speaks.
      type: int
    build:
      description: SHA-256 of the file.
      type: str
    problem:
      description:
        - Empty when all is well. Otherwise V(missing), V(different), V(unreachable), V(refused) for
          anything else it said, or in check mode V(would install).
      type: str
    detail:
      description: The reason, where there is one.
      type: str
mismatches:
  description: The rows because of which it failed.
  type: list
  elements: dict
  returned: always
table:
  description: The rows as lines to print.
  type: list
  elements: str
  returned: always
repair:
  description: The commands that mend it.
  type: list
  elements: str
  returned: failure
  sample: [invoke bootstrap --limit gpu2]
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """State the options; the action plugin never sends this file to a host."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "default": "pairsync"},
            "hosts": {"type": "list", "elements": "str"},
            "pairs": {"type": "list", "elements": "str"},
            "level": {
                "type": "str",
                "choices": ["build", "version", "protocol"],
                "default": "build",
            },
            "binary": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="version_parity runs on the controller, through its action plugin")


if __name__ == "__main__":
    main()
