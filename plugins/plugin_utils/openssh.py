# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask ssh for its settings, and open Fabric connections that follow them.

`ssh -G` is asked rather than any parser of ours or Paramiko's: `Include`, `Match` and defaults then
mean the same to Fabric as to OpenSSH. Host keys are verified against the files that ssh names,
and an unknown one is refused.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..module_utils.pairsync.model.errors import PairsyncError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .reach import Reach

_CONNECT_SECONDS = 15


@dataclass(frozen=True)
class Settings:
    """What ssh makes of a destination: `ssh -G`.

    identities: key files that exist. agent: whether keys of the agent may be offered.
    known_hosts: files that exist. host_key_alias: the name to look the key up by, "" for the
    address. jumps: hosts of ProxyJump, first hop first. timeout: for connecting, in seconds.
    """

    hostname: str
    user: str
    port: int
    identities: tuple[str, ...]
    agent: bool
    known_hosts: tuple[str, ...]
    host_key_alias: str
    jumps: tuple[str, ...]
    proxy_command: str
    timeout: int

    @property
    def known_name(self) -> str:
        """The name by which known_hosts lists the host."""
        if self.host_key_alias:
            return self.host_key_alias
        return self.hostname if self.port == 22 else f"[{self.hostname}]:{self.port}"


def settings(command: Sequence[str], destination: str, host: str) -> Settings:
    """Return what `command` (ssh and its options) means for a destination.

    host: the name for messages. Raises UsageError when ssh refuses its configuration.
    """
    try:
        answer = subprocess.run(
            [*command, "-G", "--", destination],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no {command[0]} on this machine",
            "install the OpenSSH client (Debian, Ubuntu: apt-get install openssh-client;"
            " RHEL, Fedora: dnf install openssh-clients)",
        ) from error
    if answer.returncode != 0:
        said = answer.stderr.strip().splitlines() or ["no reason given"]
        raise UsageError(f"{host}: ssh refuses its configuration: {said[-1]}", "correct it")
    values: dict[str, list[str]] = {}
    for line in answer.stdout.splitlines():
        key, _blank, value = line.partition(" ")
        values.setdefault(key.lower(), []).append(value)
    return _settings({key: one[0] for key, one in values.items()}, values.get("identityfile", []))


def settings_of(way: Reach) -> Settings:
    """Return what ssh makes of the way to an inventory host; raises UsageError."""
    return settings([way.executable, *way.options], way.address or way.host, way.host)


def connect(way: Reach) -> Any:
    """Return an open fabric.Connection to a host; the caller closes it.

    Raises PairsyncError: `unreachable`, `host_key`, `auth`, each naming the host (or jump host).
    """
    chosen = settings_of(way)
    return _open(way, chosen, _gateway(way, chosen))


def _open(way: Reach, chosen: Settings, gateway: Any) -> Any:
    """Connect through a gateway: an open connection, a command, or None for straight."""
    import paramiko  # type: ignore[import-untyped]  # it ships no types

    connection = _connection(way, chosen, gateway)
    try:
        connection.open()
    except paramiko.BadHostKeyException as error:
        raise PairsyncError(
            "host_key",
            f"{way.host} shows another host key than the one known as {chosen.known_name}",
            "find out why; if the host was reinstalled, remove the old key with"
            f" `ssh-keygen -R '{chosen.known_name}'` and connect with ssh once",
            way.host,
        ) from error
    except paramiko.AuthenticationException as error:
        raise PairsyncError(
            "auth",
            f"{way.host} accepts none of the keys offered to it",
            "check with ssh as the same user, or add a key with ssh-copy-id",
            way.host,
        ) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        reason = _reason(error)
        raise PairsyncError(
            "unreachable",
            f"{way.host} cannot be reached: {reason}",
            "check that it is up and that ssh reaches it",
            way.host,
        ) from error
    return connection


def _connection(way: Reach, chosen: Settings, gateway: Any) -> Any:
    """Return a fabric.Connection that is not open yet."""
    import fabric
    import paramiko

    connection = fabric.Connection(
        host=chosen.hostname,
        user=chosen.user,
        port=chosen.port,
        # Settled by ssh already: no ssh configuration and no fabric.yaml may have a second opinion.
        config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
        gateway=gateway,
        connect_timeout=chosen.timeout,
        connect_kwargs={
            "allow_agent": chosen.agent,
            "look_for_keys": False,
            "key_filename": list(chosen.identities),
        },
    )
    known = paramiko.HostKeys()
    for file in chosen.known_hosts:
        known.load(file)
    # Paramiko looks keys up by the address alone: it gets what is known by the right name, no more.
    address = chosen.hostname if chosen.port == 22 else f"[{chosen.hostname}]:{chosen.port}"
    for kind, key in (known.lookup(chosen.known_name) or {}).items():
        connection.client.get_host_keys().add(address, kind, key)
    connection.client.set_missing_host_key_policy(_refusal(way.host, chosen.known_name))
    return connection


def _gateway(way: Reach, chosen: Settings) -> Any:
    """Return the open connection or command through which to reach a host, None for straight."""
    from .reach import Reach

    if chosen.proxy_command:
        return chosen.proxy_command
    gateway = None
    for hop in chosen.jumps:
        user, port, address = _hop(hop, way.host)
        # Like ssh, which hands only the configuration file on to its jump hosts.
        jump = Reach(
            host=f"{way.host}'s jump host {address}",
            address=address,
            user=user,
            port=port,
            ssh_args=_configuration_file(way.ssh_args),
            executable=way.executable,
        )
        own = settings_of(jump)
        # The first hop may have jump hosts of its own; one that names itself is a wildcard's work.
        if gateway is None and hop not in own.jumps:
            gateway = _gateway(jump, own)
        gateway = _open(jump, own, gateway)
    return gateway


def _hop(text: str, host: str) -> tuple[str, int, str]:
    """Split `[user@]host[:port]` or `ssh://…` of a ProxyJump."""
    match = re.fullmatch(r"(?:ssh://)?(?:(.+)@)?(\[[^\]]+\]|[^:@]+)(?::(\d+))?/?", text.strip())
    if match is None:
        raise UsageError(f"{host}: ssh names the jump host {text!r}", "correct ProxyJump")
    return match[1] or "", int(match[3] or 0), match[2].strip("[]")


def _configuration_file(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return `-F FILE` from the arguments of ssh, if it is there."""
    for index, argument in enumerate(arguments):
        if argument == "-F":
            return tuple(arguments[index : index + 2])
        if argument.startswith("-F"):
            return (argument,)
    return ()


def _settings(values: Mapping[str, str], identities: Sequence[str]) -> Settings:
    def tokens(text: str) -> str:
        """Expand what `ssh -G` leaves in file names."""
        meanings = {
            "%": "%",
            "d": str(Path.home()),
            "h": values["hostname"],
            "i": str(os.getuid()),
            "n": values.get("host", values["hostname"]),
            "p": values["port"],
            "r": values["user"],
            "u": getpass.getuser(),
        }
        expanded = re.sub(r"%(.)", lambda match: meanings.get(match[1], match[0]), text)
        return str(Path(expanded).expanduser())

    def files(text: str) -> list[str]:
        """Split a list of files: ssh prints a blank in a name like one between names."""
        whole = tokens(text)
        return [whole] if Path(whole).is_file() else [tokens(one) for one in text.split()]

    def said(key: str) -> str:
        value = values.get(key, "")
        return "" if value == "none" else value

    keys = [tokens(one) for one in identities]
    hosts = files(values.get("userknownhostsfile", "")) + files(
        values.get("globalknownhostsfile", "")
    )
    return Settings(
        hostname=values["hostname"],
        user=values["user"],
        port=int(values["port"]),
        identities=tuple(one for one in keys if Path(one).is_file()),
        agent=values.get("identitiesonly") != "yes" and values.get("identityagent") != "none",
        known_hosts=tuple(one for one in hosts if Path(one).is_file()),
        host_key_alias=said("hostkeyalias"),
        jumps=tuple(one for one in said("proxyjump").split(",") if one),
        proxy_command=said("proxycommand"),
        timeout=int(said("connecttimeout") or 0) or _CONNECT_SECONDS,
    )


def _refusal(host: str, name: str) -> Any:
    """Return the policy for unknown host keys: none is accepted, and nobody is asked."""
    import paramiko

    class Refusal(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko is untyped
        def missing_host_key(self, _client: Any, _hostname: str, key: Any) -> None:
            raise PairsyncError(
                "host_key",
                f"the host key of {host} is not known ({name}, {key.get_name()} {key.fingerprint})",
                "compare it with the host's own, then connect with ssh once and accept it",
                host,
            )

    return Refusal()


def _reason(error: BaseException) -> str:
    """Return the plainest words for why a connection failed."""
    errors = getattr(error, "errors", None)
    if errors:
        error = next(iter(errors.values()))
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
