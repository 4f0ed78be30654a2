# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a replica's specification to a replica: in this process, or an agent behind ssh.

The transport is the system's OpenSSH, so that ssh_config, jump hosts, agents and certificates
work as users expect. The remote command depends on neither PATH nor the kind of login shell.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import threading
from dataclasses import replace
from typing import IO, NamedTuple, cast

from ..model.errors import EXIT_FATAL, PairsyncError, UsageError
from ..model.spec import ReplicaSpec
from ..replica.interface import Replica
from ..replica.local import LocalReplica
from ..wire.frames import FrameReader, FrameWriter
from ..wire.handshake import await_agent, first_line, greet
from ..wire.remote import RemoteReplica

SYSTEM_BINARY = "/usr/bin/pairsync"
USER_BINARY = "~/.local/bin/pairsync"
KEYS = "~/.ssh/pairsync"  # the keys of pairs, and beside each the host keys that it trusts
LOCAL_BINARY = "/usr/local/bin/pairsync"  # where /usr is read-only
NO_PYTHON = "pairsync: no Python 3.9 or newer"  # what the launcher says; see plugin_utils/binary.py

NOT_FOUND = 127
_SSH_FAILED = 255
# AES-GCM first: two to three times as fast as OpenSSH's first choice on processors with AES.
_CIPHERS = (
    "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,"
    "aes256-ctr,aes192-ctr,aes128-ctr"
)
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./~-]+")
_MOST_STDERR = 16 << 10


class Local(NamedTuple):
    """What this process knows of itself, for replicas and handshakes."""

    build: str = "source"
    state_home: str = ""


def connect(spec: ReplicaSpec, local: Local, *, batch: bool) -> Replica:
    """Make a replica; raise PairsyncError when its host cannot be used.

    batch: nobody is there to answer a question of ssh, so it must not ask any.
    """
    if spec.local:
        return LocalReplica(local.build, local.state_home)
    *likely, last = remote_commands(spec.binary)
    for command in likely:
        try:
            return _connect(spec, [command, "agent"], local, batch=batch)
        except PairsyncError as error:
            if error.code != "binary_missing":
                raise
    return _connect(spec, [last, "agent"], local, batch=batch)


def remote_commands(binary: str = "") -> list[str]:
    """Where to look for the binary on a host, in order; one command word each."""
    if binary:
        if _PLAIN_WORD.fullmatch(binary) is None:
            raise UsageError(
                f"binary: {binary!r} holds characters that a remote shell would interpret"
            )
        return [binary]
    return [SYSTEM_BINARY, USER_BINARY, LOCAL_BINARY]


def ssh_argv(spec: ReplicaSpec, *, batch: bool) -> list[str]:
    """The ssh command line that reaches a replica's host, without the remote command."""
    # The user's own arguments come first: OpenSSH takes the first value of an option.
    argv = ["ssh", *spec.ssh_args, "-T", "-e", "none"]
    options = {
        "BatchMode": "yes" if batch else "no",
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": "15",
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
        "ForwardAgent": "no",
        "ClearAllForwardings": "yes",
        "Ciphers": _CIPHERS,
    }
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    if spec.user:
        argv += ["-l", spec.user]
    if spec.port:
        argv += ["-p", str(spec.port)]
    if spec.key:
        argv += _key_options(spec.key)
    elif spec.identity:
        argv += ["-i", spec.identity]
    if spec.jump:
        argv += ["-J", spec.jump]
    return [*argv, "--", spec.address or spec.label]


def _key_options(name: str) -> list[str]:
    """The options of ssh with which a pair's key, and the host keys pinned for it, count alone."""
    options = {
        "IdentityFile": f"{KEYS}/{name}",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "HostKeyAlias": name,
        "UserKnownHostsFile": f"{KEYS}/{name}.known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        # A connection that is shared was opened with another key.
        "ControlPath": "none",
    }
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def _has_key(spec: ReplicaSpec) -> bool:
    """Tell whether the pair has a key of its own on this machine."""
    return bool(spec.key) and os.path.exists(os.path.expanduser(f"{KEYS}/{spec.key}"))


class StderrTail:
    """Keeps the end of what a process says on its standard error."""

    def __init__(self, stream: IO[bytes]) -> None:
        """stream: unbuffered, so that a read returns what is there."""
        self._data = bytearray()
        self._stream = stream
        self._thread = threading.Thread(target=self._run, name="ssh says", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for data in iter(lambda: self._stream.read(4096), b""):
            self._data += data
            del self._data[:-_MOST_STDERR]

    def text(self) -> str:
        """All of it, once the process has ended; made printable."""
        self._thread.join(2)
        text = bytes(self._data).decode("utf-8", "replace")
        return "\n".join(
            "".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines()
        )


def start_ssh(spec: ReplicaSpec, command: list[str], *, batch: bool) -> subprocess.Popen[bytes]:
    """Start ssh with three unbuffered pipes; command: words for the remote shell.

    Raises PairsyncError when there is no ssh.
    """
    try:
        return subprocess.Popen(
            [*ssh_argv(spec if _has_key(spec) else replace(spec, key=""), batch=batch), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            # Without a person, an interrupt is for the session alone: it ends ssh in order.
            start_new_session=batch,
        )
    except FileNotFoundError as error:
        raise PairsyncError(
            "unreachable",
            "there is no ssh on this machine",
            "install OpenSSH's client (Debian: `apt-get install openssh-client`,"
            " RHEL: `dnf install openssh-clients`)",
        ) from error


def _connect(spec: ReplicaSpec, command: list[str], local: Local, *, batch: bool) -> RemoteReplica:
    process = start_ssh(spec, command, batch=batch)
    to_agent, from_agent = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    said = StderrTail(cast("IO[bytes]", process.stderr))
    read_fd = from_agent.fileno()
    reader = FrameReader(read_fd, spec.label)
    writer = FrameWriter(to_agent.fileno(), spec.label)

    def hang_up() -> str:
        # Its output is left to end by itself: a thread may still be reading it.
        to_agent.close()
        end_ssh(process)
        return said.text()

    nonce = secrets.token_hex(16)
    try:
        greet(writer, nonce, local.build)
        await_agent(read_fd, reader, nonce, spec.label, local.build)
    except EOFError as error:
        code = process.wait()
        writer.close()
        raise explain(spec, command[0], code, said.text(), error.args[0]) from error
    except BaseException:
        writer.close()
        hang_up()
        raise
    return RemoteReplica(reader, writer, spec.label, hang_up)


def end_ssh(process: subprocess.Popen[bytes]) -> None:
    """What runs behind ssh ends when its input does; what does not is ended."""
    for patience, end in ((5.0, process.terminate), (2.0, process.kill)):
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            end()
        else:
            return
    process.wait()


_SSH_SAYS = (
    (
        "host_key",
        ("host key verification failed", "host identification has changed", "host key is known"),
    ),
    (
        "auth",
        ("permission denied", "too many authentication failures", "no supported authentication"),
    ),
    (
        "unreachable",
        (
            "could not resolve",
            "connection refused",
            "timed out",
            "no route to host",
            "network is unreachable",
            "connection closed",
            "connection reset",
            "closed by remote host",
            "not responding",
        ),
    ),
)


def classify_ssh(said: str) -> str:
    """The error code for what ssh said when it failed."""
    text = said.lower()
    for code, signs in _SSH_SAYS:
        if any(sign in text for sign in signs):
            return code
    return "unreachable"


def explain(spec: ReplicaSpec, binary: str, code: int, said: str, printed: bytes) -> PairsyncError:
    """Why there was no answer from an agent."""
    host = spec.label
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("debug")]
    last = lines[-1].strip() if lines else ""
    if NO_PYTHON in said:
        return PairsyncError(
            "python",
            f"{host} has no Python 3.9 or newer",
            "install one there (Debian: `apt-get install python3`, RHEL: `dnf install python3.11`)",
            host,
        )
    if code == NOT_FOUND:
        return PairsyncError(
            "binary_missing",
            f"pairsync is not installed on {host}",
            f"run `invoke bootstrap --limit {host}`",
            host,
        )
    if code == _SSH_FAILED:
        kind = classify_ssh(said)
        return PairsyncError(
            kind,
            f"ssh to {host} failed: {last or 'no reason given'}",
            (_KEY_ADVICE if _has_key(spec) else _ADVICE).get(kind, _ADVICE[kind]).format(host=host),
            host,
        )
    if _has_key(spec) and code == EXIT_FATAL and last.startswith("pairsync: "):
        # The confined agent, in a sentence of its own.
        return PairsyncError("policy", f"{host} refused: {last[len('pairsync: ') :]}", "", host)
    if printed:
        return PairsyncError(
            "noise",
            f"the login shell on {host} prints text into the connection: {first_line(printed)!r}",
            "let its start-up files print only when the shell is interactive",
            host,
        )
    return PairsyncError(
        "protocol",
        f"the agent on {host} ended with status {code}: {last or 'it said nothing'}",
        f"run `ssh {host} {binary} --version` to see why",
        host,
    )


_ADVICE = {
    "host_key": "check that it is the right host, then put its key into known_hosts",
    "auth": "install a key for that account, or load it into the agent:"
    " `ssh {host} true` must work without a question",
    "unreachable": "check name, network and that sshd runs: `ssh {host} true` must work",
}
# Where the pair's own key was used.
_KEY_ADVICE = {
    "host_key": "if {host} was set up anew, install the pair's key again:"
    " `ansible-playbook pairsync.fleet.keys`",
    "auth": "install the pair's key again: `ansible-playbook pairsync.fleet.keys`",
}
