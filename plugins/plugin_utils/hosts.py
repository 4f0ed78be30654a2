# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run modules on other hosts than the task's own, through Ansible's own connections.

A task about a pair concerns two hosts. Whatever the inventory says about each of them (connection,
address, user, password, interpreter) holds as it does for any task there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .reach import variables_of
from .topology import CONTROLLER

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Place:
    """A host to run modules on: its connection, the context for it, its variables."""

    host: str
    connection: Any
    context: Any
    variables: dict[str, Any]


def place_of(
    host: str,
    hostvars: Mapping[str, Mapping[str, Any]],
    task: Any,
    context: Any,
    *,
    account: str = "",
    become: bool = False,
) -> Place:
    """Return the way to run modules on HOST.

    task, context: the action's own, of which this takes passwords, timeouts and become settings.
    account: whom to log in as, "" for the inventory's choice. Raises AnsibleError.
    """
    from ansible import constants
    from ansible.errors import AnsibleError
    from ansible.plugins.loader import become_loader, connection_loader

    known = variables_of(hostvars, host)
    names = [name for name in known if str(name).startswith("ansible_") or name == "environment"]
    variables = {str(name): known[name] for name in names}
    variables["inventory_hostname"] = host
    if host == CONTROLLER and "ansible_connection" not in known:
        variables["ansible_connection"] = "local"
    if account:
        variables["ansible_user"] = account
    own = context.copy()
    own.remote_addr = str(variables.get("ansible_host") or host)
    own.become = become
    kind = variables.get("ansible_connection") or constants.DEFAULT_TRANSPORT
    connection = connection_loader.get(kind, own)
    if connection is None:
        raise AnsibleError(f"{host}: there is no connection plugin {kind!r}")
    if become:
        method = variables.get("ansible_become_method") or task.become_method
        connection.set_become_plugin(become_loader.get(method or constants.DEFAULT_BECOME_METHOD))
    keys = {**task.dump_attrs(), "timeout": own.timeout, "password": own.password}
    keys.pop("retries", None)
    connection.set_options(
        task_keys=keys, var_options=_options("connection", connection, variables)
    )
    shell = connection._shell  # noqa: SLF001 - there is no public name for it
    shell.set_options(task_keys=keys, var_options=_options("shell", shell, variables))
    if connection.become is not None:
        keys["become_pass"] = own.become_pass
        connection.become.set_options(
            task_keys=keys, var_options=_options("become", connection.become, variables)
        )
    return Place(host, connection, own, variables)


def _options(kind: str, plugin: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    from ansible import constants

    names = constants.config.get_plugin_vars(kind, plugin._load_name)  # noqa: SLF001 - as above
    return {name: variables[name] for name in names if name in variables}
