# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The side of a pair's key that logs in: the key itself, the host keys it trusts, the proof.

`~/.ssh/pairsync/NAME` is the key, `NAME.pub` its public half, `NAME.known_hosts` the other host's
keys, `NAME.next` a key that is about to take its place. The private half is made here, and neither
read nor sent by anything but ssh.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional

from . import homefiles

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS = 60.0  # for one look at the other host


class KeyFaultError(Exception):
    """A key cannot be made, or does not do what it should; the text is one sentence."""


class Key(NamedTuple):
    """A pair's key on this host."""

    path: Path

    @property
    def public_file(self) -> Path:
        """Its public half."""
        return self.path.with_name(f"{self.path.name}.pub")

    @property
    def known_hosts(self) -> Path:
        """The host keys that count when it is used."""
        return self.path.with_name(f"{self.path.name}.known_hosts")

    @property
    def following(self) -> Key:
        """The key that is to take its place."""
        return Key(self.path.with_name(f"{self.path.name}.next"))

    @property
    def public(self) -> str:
        """Type and key in one line, without a comment; "" when there is no key."""
        if not self.path.exists():
            return ""
        return " ".join(homefiles.read(self.public_file).split()[:2])

    def make(self, comment: str) -> None:
        """Make the key; raises KeyFaultError."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"]
        done = _run([*command, str(self.path)])
        if done.returncode != 0:
            raise KeyFaultError(f"ssh-keygen cannot make {self.path}: {_last_line(done)}")

    def take_place(self) -> None:
        """Put the following key into this one's place."""
        self.following.public_file.replace(self.public_file)
        self.following.path.replace(self.path)

    def remove(self) -> bool:
        """Remove the key and what belongs to it; tell whether there was anything."""
        there = False
        for key in (self, self.following):
            for path in (key.path, key.public_file, key.known_hosts):
                there = there or path.exists()
                path.unlink(missing_ok=True)
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()
        return there


def key_of(name: str) -> Key:
    """Return the key of the pair NAME in this user's home."""
    return Key(Path.home() / ".ssh" / "pairsync" / name)


def known_hosts_text(name: str, host_keys: Sequence[str]) -> str:
    """Return the lines that make HOST_KEYS (type and key) those of NAME."""
    return "".join(f"{name} {key}\n" for key in sorted(set(host_keys)))


def account(argv: Sequence[str]) -> str:
    """Return the account that the ssh command ARGV logs in to; raises KeyFaultError."""
    return _settings(argv)["user"]


def source_address(argv: Sequence[str]) -> str:
    """Return the address of this host as the sshd behind ARGV sees it; raises KeyFaultError.

    ARGV: a way without the pair's key, such as the user's own. Where nobody is let in by it yet, it
    is the address from which this host would connect.
    """
    done = _run([*argv, 'echo "pairsync $SSH_CONNECTION"'])
    for line in done.stdout.splitlines():
        words = line.split()
        if words[:1] == ["pairsync"] and len(words) == 5:
            return words[1]
    settings = _settings(argv)
    if "proxyjump" in settings or "proxycommand" in settings:
        raise KeyFaultError(
            "the address from which the other host sees this one cannot be known, since the way"
            " there leads through a jump host: say it in from_address"
        )
    try:
        found = socket.getaddrinfo(settings["hostname"], settings["port"], type=socket.SOCK_DGRAM)
        family, kind, protocol, __, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise KeyFaultError(f"{settings['hostname']} cannot be reached: {error}") from error


def _settings(argv: Sequence[str]) -> dict[str, str]:
    """Return what ssh makes of the command ARGV: `ssh -G`."""
    done = _run([argv[0], "-G", *argv[1:]])
    pairs = (line.partition(" ") for line in done.stdout.splitlines())
    settings = {name: value for name, __, value in pairs}
    if done.returncode != 0 or "user" not in settings:
        raise KeyFaultError(f"ssh cannot say how it would log in: {_last_line(done)}")
    return settings


def prove(argv: Sequence[str], next_key: Optional[Key] = None) -> None:
    """See that the key opens the agent behind ARGV, and nothing else; raises KeyFaultError.

    next_key: the key to try instead of the one that ARGV names.
    """
    if next_key is not None:
        own = f"{next_key.path.name[: -len('.next')]}"
        argv = [
            f"IdentityFile={next_key.path}"
            if word.startswith("IdentityFile=") and word.endswith(f"/{own}")
            else word
            for word in argv
        ]
    done = _run([*argv, "pairsync", "--version", "--json"])
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if done.returncode != 0 or answer.get("name") != "pairsync":
        said = _last_line(done) or f"it ended with {done.returncode}"
        raise KeyFaultError(f"the key does not open the other host's pairsync: {said}")
    if "pairsync-shell" in _run([*argv, "echo pairsync-shell"]).stdout:
        raise KeyFaultError("the key opens a shell on the other host: sshd ignores its command=")
    # The first bytes of an answer of sftp's would be a length and a version.
    if _run([*argv[:-2], "-s", *argv[-2:], "sftp"], b"\0\0\0\5\1\0\0\0\3").stdout:
        raise KeyFaultError("the key opens sftp on the other host: sshd ignores its command=")
    forwarding = _run([*argv[:-2], "-W", "127.0.0.1:22", *argv[-2:]])
    if forwarding.stdout or "connect failed" in forwarding.stderr:
        raise KeyFaultError("the key opens connections from the other host: sshd ignores restrict")


def _run(command: Sequence[str], data: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run COMMAND in a known language; what takes too long has failed."""
    try:
        done = subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise KeyFaultError(
            f"there is no {command[0]} on this host: install OpenSSH's client"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise KeyFaultError(f"the other host did not answer within {SECONDS:.0f} s") from error
    texts = (data.decode("utf-8", "replace") for data in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(list(command), done.returncode, *texts)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else ""
