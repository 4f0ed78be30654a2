# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that differ from real ones only in sharing a kernel, and the fleet they belong to.

Each has its own network, process, mount and host-name namespaces, its own root file system, boot id
and machine id, and a real sshd. They reach each other by name; only this machine reaches them.
Everything ends with the process that started it, also when that is killed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.fleet.network import Network, run
from tests.fleet.rootfs import RootFilesystem
from tests.mounts import mount

START_SECONDS = 20

# The first process of a host. It says `ready`, waits until its cable is plugged in, becomes sshd.
BOOT = """\
set -e
root=$1
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --bind "$root/run/boot_id" "$root/proc/sys/kernel/random/boot_id"
hostname "$2"
echo ready
read -r _
exec chroot "$root" /usr/sbin/sshd -D -e
"""


class Host:
    """One host of a fleet: `name` is what others and ssh call it, `address` its IPv4 address."""

    def __init__(self, fleet: Fleet, name: str, number: int, size: str) -> None:
        self.name = name
        self.address = fleet.network.address(number)
        self._fleet = fleet
        self._number = number
        self._root = RootFilesystem(fleet.network.directory / name, size)
        self._process: subprocess.Popen[str] | None = None

    def path(self, path: str) -> Path:
        """Return where this machine sees a path of the host; also when the host is stopped.

        Symlinks with absolute targets lead out of the host: follow them on the host, not here.
        """
        return self._root.path / path.lstrip("/")

    def ssh(self, *options: str, user: str = "root") -> list[str]:
        """Return the ssh command line that reaches the host; the remote command follows it."""
        return ["ssh", "-F", str(self._fleet.ssh_config), "-l", user, *options, self.name]

    def run(
        self,
        command: str | Sequence[str],
        *,
        user: str = "root",
        check: bool = True,
        timeout: float = 60,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command (shell text, or words) on the host over ssh.

        Raises CalledProcessError, with what the command said as a note, unless `check` is false;
        TimeoutExpired after `timeout` seconds. ssh's own failures have exit code 255.
        """
        text = command if isinstance(command, str) else shlex.join(command)
        result = subprocess.run(
            [*self.ssh(user=user), text],
            input=stdin, capture_output=True, text=True, errors="surrogateescape",
            timeout=timeout, check=False,
        )  # fmt: skip
        if check and result.returncode != 0:
            error = subprocess.CalledProcessError(
                result.returncode, f"{self.name}: {text}", result.stdout, result.stderr
            )
            error.add_note(f"{result.stdout}{result.stderr}".strip())
            raise error
        return result

    def put(self, source: Path, target: str) -> None:
        """Copy a file or tree of this machine to a path of the host, owned by root there."""
        self.path(target).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, self.path(target))

    def get(self, source: str, target: Path) -> None:
        """Copy a file or tree of the host to this machine."""
        copy = shutil.copytree if self.path(source).is_dir() else shutil.copy2
        copy(self.path(source), target)

    def mount(self, target: str, *, kind: str = "tmpfs", options: str = "") -> None:
        """Mount a new file system on the host, running or not: `size=8m` makes a small disk."""
        self.path(target).mkdir(parents=True, exist_ok=True)
        mount("-t", kind, *(("-o", options) if options else ()), "pairsync-test", self.path(target))

    def bind(self, source: Path, target: str | None = None) -> None:
        """Show a directory of this machine on the host, read-only, at `target` or its own path."""
        where = self.path(target or str(source))
        where.mkdir(parents=True, exist_ok=True)
        mount("--bind", "-o", "ro", source, where)

    def remove_python(self) -> None:
        """Leave the host without any Python."""
        self._root.remove_python()

    def use_python(self, interpreter: Path) -> None:
        """Make an interpreter of this machine (`PREFIX/bin/pythonX.Y`) the host's only python3."""
        self._root.remove_python()
        self.bind(interpreter.parent.parent)
        self.path("/usr/bin/python3").symlink_to(interpreter)

    def cut(self) -> None:
        """Pull the network cable: packets are lost, nobody is told."""
        self._fleet.network.switch(self._number, up=False)

    def join(self) -> None:
        """Put the network cable back."""
        self._fleet.network.switch(self._number, up=True)

    def stop(self) -> None:
        """Switch the host off, at once and with all its processes. Its disk stays."""
        if self._process is None:
            return
        # With its first process the kernel ends all others of the host, before it reports the end.
        first = self._first_process()
        os.kill(first, signal.SIGKILL) if first else self._process.kill()
        self._process.wait(timeout=10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._process = None
        self._fleet.network.unplug(self._number)

    def start(self) -> None:
        """Switch the host on, and wait until it answers on its ssh port."""
        self.begin_start()
        self.finish_start()

    def create(self, hosts_file: str, key: Path) -> str:
        """Build the host's disk; returns its public host key. For Fleet."""
        return self._root.create(self.name, hosts_file, key)

    def add_user(self, user: str, key: Path) -> None:
        """Create a plain account. For Fleet."""
        self._root.add_user(user, key)

    def remove(self) -> None:
        """Switch the host off and remove its disk. For Fleet."""
        self.stop()
        self._root.remove()

    def begin_start(self) -> None:
        """Start the host's first process. For Fleet, which starts several at once."""
        runtime = self.path("/run")
        for entry in runtime.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        (runtime / "sshd").mkdir(mode=0o755)
        (runtime / "boot_id").write_text(f"{uuid.uuid4()}\n", encoding="ascii")
        spaces = ("--mount", "--propagation=slave", "--net", "--pid", "--uts", "--ipc")
        with self._log().open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "unshare", *spaces, "--fork", "--kill-child",
                 "bash", "-c", BOOT, "boot", self._root.path, self.name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                # Ctrl-C is for the tests, which then stop their hosts in order.
                start_new_session=True,
            )  # fmt: skip

    def finish_start(self) -> None:
        """Plug the host in and wait for its sshd; raises RuntimeError with the host's log."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError(f"{self.name} has not been started: call begin_start first.")
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{self.name} did not start:\n{self._log().read_text()}")
        self._fleet.network.plug(self._number, process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self.address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not answer:\n{self._log().read_text()}")
            time.sleep(0.02)

    def _log(self) -> Path:
        return self._fleet.network.directory / f"{self.name}.log"

    def _first_process(self) -> int:
        """Return the process id, as this machine counts, of the host's process 1."""
        pid = self._process.pid if self._process else 0
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        except FileNotFoundError:
            return 0
        return int(children[0]) if children else 0


class Fleet:
    """Running hosts on a network of their own. Use it in a `with`, or call `close`.

    `users` are plain accounts that every host gets, each with a home and the fleet's key; `size` is
    each disk's limit as mount takes it. `ssh_config` and `known_hosts` are for this machine's ssh.
    """

    def __init__(
        self, names: Iterable[str], *, users: Iterable[str] = (), size: str = "2g"
    ) -> None:
        self.network = Network()
        self.directory = self.network.directory
        self.key = self.directory / "key"
        self.ssh_config = self.directory / "ssh_config"
        self.known_hosts = self.directory / "known_hosts"
        self.hosts = {
            name: Host(self, name, number, size) for number, name in enumerate(names, start=11)
        }
        try:
            self._create(tuple(users))
            for host in self.hosts.values():
                host.begin_start()
            for host in self.hosts.values():
                host.finish_start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def host(self, name: str) -> Host:
        """Return the host of this name."""
        return self.hosts[name]

    def close(self) -> None:
        """Stop every host and leave nothing: no process, mount, interface or file."""
        try:
            for master in (self.directory / "cp").glob("*"):
                run("ssh", "-o", f"ControlPath={master}", "-O", "exit", "-", check=False)
            for host in self.hosts.values():
                host.remove()
        finally:
            self.network.close()

    def write_inventory(
        self,
        directory: Path,
        *,
        names: Iterable[str] | None = None,
        groups: Mapping[str, Iterable[str]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write `directory`/hosts.yml with these hosts (all by default), and return the directory.

        `variables` are added to every host's connection variables, or replace them.
        """
        connection = {
            "ansible_user": "root",
            "ansible_ssh_common_args": f"-F {self.ssh_config}",
            # A master connection of an earlier fleet with the same addresses must not be found.
            "ansible_control_path_dir": str(self.directory / "cp"),
            "ansible_python_interpreter": "/usr/bin/python3",
            **(variables or {}),
        }
        chosen = list(self.hosts if names is None else names)
        inventory = {
            "all": {
                "vars": connection,
                "hosts": {name: {"ansible_host": self.hosts[name].address} for name in chosen},
                "children": {
                    group: {"hosts": {member: {} for member in members}}
                    for group, members in (groups or {}).items()
                },
            }
        }
        directory.mkdir(parents=True, exist_ok=True)
        # JSON is YAML, and needs no library.
        (directory / "hosts.yml").write_text(json.dumps(inventory, indent=2), encoding="utf-8")
        return directory

    def _create(self, users: tuple[str, ...]) -> None:
        """Make the fleet's keys and name tables, and every host's disk with them."""
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fleet", "-f", str(self.key))
        names = ["127.0.0.1 localhost", f"{self.network.address(1)} controller"]
        names += [f"{host.address} {name}" for name, host in self.hosts.items()]
        hosts_file = "".join(f"{line}\n" for line in names)
        keys = {name: host.create(hosts_file, self.key) for name, host in self.hosts.items()}
        known = "".join(
            f"{name},{host.address} {keys[name]}\n" for name, host in self.hosts.items()
        )
        self.known_hosts.write_text(known, encoding="ascii")
        for host in self.hosts.values():
            for user in users:
                host.add_user(user, self.key)
            for home in (host.path("/root"), *host.path("/home").iterdir()):
                target = home / ".ssh/known_hosts"
                target.write_text(known, encoding="ascii")
                os.chown(target, home.stat().st_uid, home.stat().st_gid)
        self._write_ssh_config()

    def _write_ssh_config(self) -> None:
        """Write what this machine's ssh needs to reach the hosts by name."""
        lines = [f"Host {name}\n    HostName {host.address}\n" for name, host in self.hosts.items()]
        options = {
            "User": "root", "IdentityFile": self.key, "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.known_hosts, "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes", "BatchMode": "yes", "ConnectTimeout": 5,
            "LogLevel": "ERROR",
        }  # fmt: skip
        lines += ["Host *\n", *(f"    {name} {value}\n" for name, value in options.items())]
        self.ssh_config.write_text("".join(lines), encoding="ascii")


def _answers(address: str) -> bool:
    """Say whether an ssh daemon answers at this address."""
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
