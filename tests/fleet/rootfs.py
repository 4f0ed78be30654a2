# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The root file system of a test host: this machine's, without anything of pairsync or its users.

An overlay of `/` whose writes go to memory; homes and data are plain tmpfs, because an overlay
shows several device numbers where a disk has one.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from pathlib import Path

from tests.fleet.network import run
from tests.mounts import mount, unmount

CHECKOUT = Path(__file__).resolve().parents[2]

# The system itself; everything else at the top level is somebody's data.
SYSTEM = (
    "bin",
    "boot",
    "dev",
    "etc",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "proc",
    "sbin",
    "sys",
    "usr",
    "var",
)

# Empty on every new machine, with their modes.
EMPTY = {
    "data": 0o755, "home": 0o755, "mnt": 0o755, "opt": 0o755, "root": 0o700,
    "run": 0o755, "srv": 0o755, "tmp": 0o1777, "var/tmp": 0o1777,
}  # fmt: skip

# What bootstrap installs, in case this machine has it.
OURS = (
    *(f"usr/bin/{name}" for name in ("pairsync", "home_sync")),
    *(f"usr/local/bin/{name}" for name in ("pairsync", "home_sync")),
    "etc/pairsync", "usr/local/lib/pairsync", "var/lib/pairsync",
)  # fmt: skip

PYTHONS = ("usr/bin/python*", "usr/local/bin/python*", "usr/libexec/platform-python*")

SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
AuthenticationMethods publickey
PermitRootLogin yes
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 200
MaxSessions 200
Subsystem sftp internal-sftp
"""

SSH_CONFIG = """\
Host *
    BatchMode yes
    HashKnownHosts no
"""


class RootFilesystem:
    """One host's root at `path`, writable, in memory, at most `size` (as mount takes it)."""

    def __init__(self, base: Path, size: str = "2g") -> None:
        self.base = base
        self.path = base / "root"
        self._size = size

    def create(self, name: str, hosts_file: str, key: Path) -> str:
        """Build the root; returns the public host key. `key` opens root's account, and others'."""
        self.base.mkdir()
        mount("-t", "tmpfs", "-o", f"size={self._size},mode=755", "pairsync-test", self.base)
        # Shared, so that what is mounted here later appears in the running host as well.
        mount("--make-shared", self.base)
        upper, work, plain = self.base / "upper", self.base / "work", self.base / "plain"
        for directory in (upper, work, plain, self.path):
            directory.mkdir()
        self._hide(upper)
        layers = f"lowerdir=/,upperdir={upper},workdir={work}"
        mount("-t", "overlay", "-o", layers, "overlay", self.path)
        for directory, mode in EMPTY.items():
            source = plain / directory.replace("/", "-")
            source.mkdir()
            source.chmod(mode)
            mount("--bind", source, self.path / directory)
        return self._configure(name, hosts_file, key)

    def remove(self) -> None:
        """Remove the root with everything in it; what is left of a failed start, too."""
        if self.base.exists():
            if os.path.ismount(self.base):
                unmount(self.base)
            shutil.rmtree(self.base)

    def add_user(self, user: str, key: Path) -> None:
        """Create a plain account whose owner can log in, and can log in elsewhere, with `key`."""
        # A star is a password that fits nothing; useradd's default locks the account for sshd.
        options = ("--create-home", "--shell", "/bin/bash", "--password", "*")
        run("chroot", str(self.path), "useradd", *options, user)
        home = self.path / "home" / user
        owner = home.stat()
        self._give_key(home, key, owner.st_uid, owner.st_gid)

    def remove_python(self) -> None:
        """Take every Python out of the host's usual places."""
        for pattern in PYTHONS:
            for found in self.path.glob(pattern):
                found.unlink()

    def _hide(self, upper: Path) -> None:
        """Mark in the overlay's upper layer what of this machine the host must not have."""
        for entry in Path("/").iterdir():
            if entry.name not in SYSTEM and entry.name not in EMPTY:
                _white_out(upper / entry.name)
        for directory, mode in EMPTY.items():
            target = upper / directory
            target.mkdir(parents=True)
            target.chmod(mode)
            os.setxattr(target, "trusted.overlay.opaque", b"y")
        for name in (*OURS, str(CHECKOUT).lstrip("/")):
            hidden = any(above.exists() or above.is_symlink() for above in _above(upper, name))
            if not hidden and os.path.lexists(Path("/") / name):
                _copy_parents(upper, name)
                _white_out(upper / name)

    def _configure(self, name: str, hosts_file: str, key: Path) -> str:
        """Make the root a host of its own: names, keys, daemon configuration."""
        etc = self.path / "etc"
        ssh = etc / "ssh"
        (etc / "hostname").write_text(f"{name}\n", encoding="ascii")
        (etc / "hosts").write_text(hosts_file, encoding="ascii")
        (etc / "machine-id").unlink(missing_ok=True)  # often a link
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n", encoding="ascii")
        shutil.rmtree(ssh, ignore_errors=True)
        ssh.mkdir(mode=0o755)
        (ssh / "sshd_config").write_text(SSHD_CONFIG, encoding="ascii")
        (ssh / "ssh_config").write_text(SSH_CONFIG, encoding="ascii")
        host_key = ssh / "ssh_host_ed25519_key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(host_key))
        (self.path / "run/sshd").mkdir(mode=0o755)
        self._give_key(self.path / "root", key, 0, 0)
        return " ".join(host_key.with_suffix(".pub").read_text(encoding="ascii").split()[:2])

    def _give_key(self, home: Path, key: Path, uid: int, gid: int) -> None:
        """Put the fleet's key pair into a home: it opens this account, and from here the others."""
        ssh = home / ".ssh"
        ssh.mkdir(mode=0o700)
        public = key.with_suffix(".pub")
        for source, target in (
            (key, "id_ed25519"), (public, "id_ed25519.pub"), (public, "authorized_keys"),
        ):  # fmt: skip
            shutil.copy(source, ssh / target)
        for entry in (ssh, *ssh.iterdir()):
            os.chown(entry, uid, gid)


def _above(upper: Path, name: str) -> list[Path]:
    """Return where the layer could already hide `name`: at its top level and at the empty ones."""
    parts = Path(name).parts
    tops = [upper / parts[0]] if parts[0] not in SYSTEM else []
    return tops + [upper / empty for empty in EMPTY if Path(name).is_relative_to(empty)]


def _copy_parents(upper: Path, name: str) -> None:
    """Create the directories above `name` in the layer as they are on this machine."""
    for parent in reversed(Path(name).parents[:-1]):
        target = upper / parent
        if not target.exists():
            below = (Path("/") / parent).stat()
            target.mkdir()
            target.chmod(stat.S_IMODE(below.st_mode))
            os.chown(target, below.st_uid, below.st_gid)


def _white_out(path: Path) -> None:
    """Make an overlay hide the entry of this name in the layers below."""
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
