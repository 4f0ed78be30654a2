# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuse every task that lands on a pair as if it were a machine."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pair
short_description: Refuses tasks that land on a pair
version_added: 0.1.0
author:
  - pairsync contributors (@pairsync)
description:
  - The inventory plugin P(pairsync.fleet.pairs#inventory) presents pairs of hosts as hosts. A play
    for all hosts would run on them too, and reboot a host once for each of its pairs.
  - This connection carries nothing. It fails each task with a sentence that says how to leave pairs
    out.
  - Tasks with C(delegate_to) use the connection of the host they are delegated to, and are not
    affected.
options:
  pair_error:
    description: What is wrong with C(pairs.yml), set by the inventory plugin when it is.
    type: str
    default: ""
    vars:
      - name: pair_error
  pair:
    description: The pair's name.
    type: str
    default: a pair
    vars:
      - name: inventory_hostname
seealso:
  - plugin: pairsync.fleet.pairs
    plugin_type: inventory
"""

from typing import Any, NoReturn

from ansible.errors import AnsibleError
from ansible.plugins.connection import ConnectionBase


class Connection(ConnectionBase):
    transport = "pairsync.fleet.pair"
    has_pipelining = True

    def _connect(self) -> NoReturn:
        wrong = self.get_option("pair_error")
        if wrong:
            raise AnsibleError(str(wrong))
        raise AnsibleError(
            f"{self.get_option('pair')} is a pair of hosts, not a machine: nothing can run on it;"
            ' write `hosts: "all:!sync_pairs"` in the play, or delegate the task'
            ' (`delegate_to: "{{ pair_session_host }}"`)'
        )

    def exec_command(self, *_args: Any, **_options: Any) -> NoReturn:
        self._connect()

    def put_file(self, *_args: Any) -> NoReturn:
        self._connect()

    def fetch_file(self, *_args: Any) -> NoReturn:
        self._connect()

    def close(self) -> None:
        # There is nothing to close, and Ansible calls this after every refusal.
        self._connected = False
