# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn an inventory host into the way to it, for OpenSSH, Fabric and the engine alike.

Ansible's variables (and its configuration: `remote_user`, `ssh_common_args`, …) come first;
OpenSSH's own configuration supplies the rest, read by ssh itself (openssh.py). A variable that
cannot be honoured is refused by name: leaving it out would reach another account or another host.

Which way leads from host a to host b (the direct route) is not the controller's business: its ssh
configuration, identities and jump hosts never enter that leg. The peer uses b's long form in
pairs.yml (`address`, `user`, `port`, `jump`, `identity`, `ssh_args`, `binary`); what is not said
there comes from b's `ansible_host`, `ansible_port` and `ansible_user`, and without those from b's
inventory name and the peer's own ssh configuration. With an `address` in the long form,
`ansible_port` does not apply, since it belongs to the other address. Without an `identity` there,
the pair's own key (module pair_key) is named in that leg, and used where it exists.
"""

from __future__ import annotations

import getpass
import hashlib
import ipaddress
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..module_utils.pairsync.model.errors import UsageError
from ..module_utils.pairsync.model.spec import SCHEMA
from .topology import CONTROLLER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .topology import Pair
    from .trees import Replica

_SSH = ("ssh", "ansible.builtin.ssh", "ansible.legacy.ssh", "smart")
_LOCAL = ("local", "ansible.builtin.local", "ansible.legacy.local")

# Variables with which Ansible would get in and a session could not, and what to do instead.
_WITH_KEYS = "let the host accept a key (ssh-copy-id) and remove the variable"
_WITH_FILE = "put the key into a file and name it in ansible_ssh_private_key_file"
_REFUSED = {
    "ansible_password": _WITH_KEYS,
    "ansible_ssh_pass": _WITH_KEYS,
    "ansible_ssh_password": _WITH_KEYS,
    "ansible_private_key": _WITH_FILE,
    "ansible_ssh_private_key": _WITH_FILE,
    "ansible_ssh_pkcs11_provider": "name the provider in the ssh configuration (PKCS11Provider)",
}

_ARGUMENTS = ("ssh_args", "ssh_common_args", "ssh_extra_args")


@dataclass(frozen=True)
class Reach:
    """How the controller reaches one inventory host.

    host: its inventory name. local: it is the controller itself; nothing below matters then.
    address, user, port, identity: what Ansible's variables say, "" or 0 where they are silent and
    ssh decides. ssh_args: further arguments of ssh, from Ansible's three variables for them.
    """

    host: str
    local: bool = False
    address: str = ""
    user: str = ""
    port: int = 0
    identity: str = ""
    ssh_args: tuple[str, ...] = ()
    executable: str = "ssh"

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments of ssh that come before the destination."""
        return (
            *self.ssh_args,
            *(("-p", str(self.port)) if self.port else ()),
            *(("-l", self.user) if self.user else ()),
            *(("-i", self.identity) if self.identity else ()),
        )

    def argv(self, *options: str) -> list[str]:
        """Return the ssh command up to and including the destination: append the remote command.

        options go first, where ssh lets them win over the rest (`-o BatchMode=yes`, `-T`).
        """
        return [self.executable, *options, *self.options, "--", self.address or self.host]


def reach(host: str, variables: Mapping[str, Any], user: str = "") -> Reach:
    """Return the way from the controller to an inventory host.

    variables: the host's, templated, as `hostvars[host]` has them. user: the account to be, ""
    for the one that the inventory names. Raises UsageError for what cannot be honoured.
    """
    if is_local(host, variables):
        _refuse(host, variables)
        if user and user != getpass.getuser():
            raise UsageError(
                f"{host} is this machine, its replica is {user}'s, and you are {getpass.getuser()}",
                f"run the command as {user}",
            )
        return Reach(host=host, local=True)
    _refuse(host, variables)
    options = _ssh_options(host, variables)
    address = str(options["host"] or host)
    if address.startswith("-") or not address.isprintable() or " " in address:
        raise UsageError(f"{host}: ansible_host {address!r} is no address", "correct the inventory")
    return Reach(
        host=host,
        address=address,
        user=user or str(options["remote_user"] or ""),
        port=int(options["port"] or 0),
        identity=str(options["private_key_file"] or ""),
        ssh_args=tuple(_split(host, options)),
        executable=str(options["ssh_executable"] or "ssh"),
    )


def is_local(host: str, variables: Mapping[str, Any]) -> bool:
    """Tell whether an inventory host is the controller; raise UsageError for other connections."""
    connection = _variable(host, variables, "ansible_connection")
    if connection is None:
        if host == CONTROLLER:
            return True
        from ansible import constants

        connection = constants.DEFAULT_TRANSPORT
    if connection in _LOCAL:
        return True
    if connection not in _SSH:
        raise UsageError(
            f"{host}: ansible_connection is {connection}, and sessions go over ssh only",
            "set it to ssh for this host, or leave the host out of pairs.yml",
        )
    return False


def pair_spec(
    pair: Pair,
    inventory: Mapping[str, Mapping[str, Any]],
    route: Literal["direct", "relay"] = "direct",
) -> dict[str, Any]:
    """Return the `pairsync.spec/1` of a pair for the machine on which its session runs.

    inventory: host name to variables, such as Ansible's hostvars. `direct` is for host a: its
    replica is local there and b is written as a reaches it. `relay`, and a pair whose host a is
    the controller, is for the controller: both are written as it reaches them. Raises UsageError.
    """
    a, b = pair.a, pair.b
    for host in pair.hosts:
        if host not in inventory and host != CONTROLLER:
            raise UsageError(f"the inventory has no host {host}", "add it to hosts.yml")
    variables = {host: variables_of(inventory, host) for host in pair.hosts}
    if route == "relay":
        replicas = [_from_controller(pair, one, variables[one.host]) for one in (a, b)]
    elif is_local(a.host, variables[a.host]):
        seen = _from_controller(pair, b, variables[b.host])
        # The controller is b's peer here, so the long form is meant for it and wins.
        seen = {**seen, **b.as_written(), **({} if seen.get("local") else _key_of(pair))}
        replicas = [_from_controller(pair, a, variables[a.host]), seen]
    else:
        replicas = [_here(a), _from_peer(pair, b, variables[b.host])]
    return {
        "schema": SCHEMA,
        "tree": pair.tree,
        "replicas": dict(zip(pair.hosts, replicas, strict=True)),
        "route": route,
        **pair.policy,
    }


def session_reach(
    pair: Pair,
    inventory: Mapping[str, Mapping[str, Any]],
    route: Literal["direct", "relay"] = "direct",
) -> Reach:
    """Return the way to the machine on which the session of a pair runs; raises UsageError."""
    if route == "relay":
        return Reach(host=CONTROLLER, local=True)
    host = pair.a.host
    return reach(host, variables_of(inventory, host), pair.a.user or pair.user)


def replica_reach(
    pair: Pair, replica: Replica, inventory: Mapping[str, Mapping[str, Any]]
) -> Reach:
    """Return the way to the host of one of a pair's replicas; raises UsageError."""
    variables = variables_of(inventory, replica.host)
    return reach(replica.host, variables, replica.user or pair.user)


def variables_of(inventory: Mapping[str, Mapping[str, Any]], host: str) -> Mapping[str, Any]:
    """Return what an inventory, or Ansible's hostvars, says of a host; nothing when unknown."""
    # Ansible's hostvars answer get() for an unknown host with a marker, not with the default.
    return inventory[host] if host in inventory else {}  # noqa: SIM401 - not the same here


def _here(replica: Replica) -> dict[str, Any]:
    return {"path": replica.path, "local": True}


def _from_controller(pair: Pair, replica: Replica, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Write a replica as the controller reaches it, by the long form's account and binary."""
    way = reach(replica.host, variables, replica.user or pair.user)
    if way.local:
        return _here(replica)
    return _filled(
        path=replica.path,
        address=way.address if way.address != replica.host else "",
        user=way.user,
        port=way.port,
        identity=way.identity,
        binary=replica.binary,
        ssh_args=list(way.ssh_args),
    )


def _from_peer(pair: Pair, replica: Replica, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Write replica b as host a reaches it."""
    host = replica.host
    written = replica.as_written()
    if is_local(host, variables):
        if not replica.address:
            raise UsageError(
                f"{pair.name}: {pair.a.host} would have to reach {host}, which is this machine",
                f"write {host} first in pairs.yml, or `route: relay`, or give it an `address:`",
            )
        return {**_filled(user=pair.user), **written, **_key_of(pair)}
    _refuse(host, variables)
    options = _ssh_options(host, variables)
    named = {"user": pair.user or options["remote_user"]}
    if not replica.address:
        address = str(options["host"] or host)
        if _is_loopback(address):
            raise UsageError(
                f"{pair.name}: for {pair.a.host}, ansible_host {address} of {host} is itself",
                f"give {host} the `address:` by which {pair.a.host} knows it, or `route: relay`",
            )
        named["address"] = address if address != host else ""
        named["port"] = int(options["port"] or 0)
    return {**_filled(**named), **written, **_key_of(pair)}


def key_name(pair: Pair) -> str:
    """Return the name of a pair's own key: the pair's, as far as a file can have it."""
    name = re.sub(r"[^A-Za-z0-9_.+@=-]", "_", pair.name)
    if name == pair.name and name[0] not in ".+@=-":
        return name
    return f"pair_{name}_{hashlib.sha256(pair.name.encode()).hexdigest()[:8]}"


def _key_of(pair: Pair) -> dict[str, str]:
    return {} if pair.b.identity else {"key": key_name(pair)}


def _filled(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == CONTROLLER


def _refuse(host: str, variables: Mapping[str, Any]) -> None:
    """Raise UsageError for the first variable that a session could not honour."""
    for name, following in _REFUSED.items():
        # Presence is enough: a password may be encrypted, and nobody needs it decrypted for this.
        if name in variables:
            raise UsageError(
                f"{host}: {name} is set, and a session logs in with keys only", following
            )
    become = _variable(host, variables, "ansible_become")
    if become not in (None, False, "", "false", "False", "no", "0", 0):
        raise UsageError(
            f"{host}: ansible_become is set, and a session runs as the account it logs in to",
            "remove it from the inventory (plays that need it say `become: true`) and name the"
            " account as `user:` of the tree",
        )


def _variable(host: str, variables: Mapping[str, Any], name: str) -> Any:
    if name not in variables:
        return None
    try:
        return variables[name]
    except Exception as error:  # whatever a template may raise
        raise UsageError(
            f"{host}: the variable {name} has no value: {error}", "correct it in the inventory"
        ) from error


def _ssh_options(host: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of Ansible's ssh plugin for a host, by Ansible's own rules."""
    from ansible import constants
    from ansible.plugins.loader import connection_loader

    # Loading the class is what makes its options known to Ansible's configuration.
    connection_loader.get("ssh", class_only=True)
    config = constants.config
    names = config.get_plugin_vars("connection", "ssh")
    given = {name: _variable(host, variables, name) for name in names if name in variables}
    given["inventory_hostname"] = host
    options: dict[str, Any] = {}
    wanted = ("host", "port", "remote_user", "private_key_file", "ssh_executable", *_ARGUMENTS)
    for option in wanted:
        value, origin = config.get_config_value_and_origin(
            option, plugin_type="connection", plugin_name="ssh", variables=given
        )
        # Ansible's default arguments (compression, its control sockets) are for its own traffic.
        options[option] = None if option in _ARGUMENTS and origin == "default" else value
    return options


def _split(host: str, options: Mapping[str, Any]) -> list[str]:
    arguments: list[str] = []
    for name in _ARGUMENTS:
        try:
            arguments += shlex.split(str(options[name] or ""))
        except ValueError as error:
            raise UsageError(
                f"{host}: ansible_{name} is no list of arguments: {error}",
                "close its quotes",
            ) from error
    return arguments
