# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real sshd on this machine for one benchmark: own port, keys and configuration.

Nothing of the user's own ssh set-up is read or written. Every client gets one cipher and a
connection of its own.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HOST = "bench"
CIPHER = "aes128-gcm@openssh.com"
# sshd refuses to serve as root without this directory, which Debian makes only for its service.
SEPARATION = Path("/run/sshd")
START_SECONDS = 10

SERVER = """\
ListenAddress 127.0.0.1:{port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
UseDNS no
MaxStartups 100
Ciphers {cipher}
SetEnv {environment}
"""

CLIENT = """\
Host {host}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {directory}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {directory}/known_hosts
  StrictHostKeyChecking yes
  ControlMaster no
  ControlPath none
  BatchMode yes
  LogLevel ERROR
  Ciphers {cipher}
"""


class NoSshError(Exception):
    """sshd cannot be started here; the text says why."""


@dataclass(frozen=True)
class Sshd:
    """A running sshd. config: the client's configuration, in which the host is called HOST."""

    pid: int
    config: Path


@contextlib.contextmanager
def start(directory: Path, environment: Mapping[str, str]) -> Iterator[Sshd]:
    """Start sshd with its files in an empty directory; end it on leaving.

    environment: variables that its sessions get. Raises NoSshError.
    """
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh") is None:
        raise NoSshError("ssh or sshd is missing: apt-get install openssh-client openssh-server")
    directory.mkdir(mode=0o700)
    port = _free_port()
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", HOST, "-f", directory / name],
            check=True,
        )
    host_key = (directory / "host_key.pub").read_text(encoding="ascii")
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}", encoding="ascii")
    values = {
        "directory": directory,
        "port": port,
        "host": HOST,
        "user": getpass.getuser(),
        "cipher": CIPHER,
        "environment": " ".join(f"{name}={value}" for name, value in environment.items()),
    }
    (directory / "sshd_config").write_text(SERVER.format_map(values), encoding="utf-8")
    config = directory / "ssh_config"
    config.write_text(CLIENT.format_map(values), encoding="utf-8")
    if os.geteuid() == 0:
        # Left behind: each connection of every sshd on this machine needs it.
        SEPARATION.mkdir(mode=0o755, exist_ok=True)
    with (directory / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-D", "-e", "-f", directory / "sshd_config"],
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            _await_greeting(process, port, directory / "sshd.log")
            yield Sshd(process.pid, config)
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_greeting(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as one:
            if one.recv(4) == b"SSH-":
                return
        time.sleep(0.05)
    said = log.read_text(errors="replace").strip()
    raise NoSshError(f"{process.args[0]} did not start: {said or 'it said nothing'}")  # type: ignore[index]
