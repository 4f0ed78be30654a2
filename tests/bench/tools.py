# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools, each at its best settings: how to run them, and what they leave behind."""

from __future__ import annotations

import abc
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.pairsync.fleet.plugins.module_utils import interpreters
from ansible_collections.pairsync.fleet.plugins.plugin_utils import binary
from tests.bench import ssh, trees
from tests.bench.measure import BenchError


@dataclass(frozen=True)
class Tool(abc.ABC):
    """One tool, ready to run.

    binary: its program. work: a directory of its own. config: ssh's configuration. durable: what
    it wrote is on disk when it ends.
    """

    name: str
    binary: Path
    version: str
    work: Path
    config: Path
    durable: bool = False

    @abc.abstractmethod
    def command(self, source: Path, target: Path) -> list[str | Path]:
        """The command line that brings target, on the other side of ssh, in step with source."""

    def forget(self, *roots: Path) -> None:  # noqa: B027 - the usual tool remembers nothing
        """Remove what the tool remembers of any of the roots, so that a first sync is one."""


@dataclass(frozen=True)
class Pairsync(Tool):
    """Installed as on a host: with its modules compiled for the Python that runs it."""

    durable: bool = True

    def command(self, source: Path, target: Path) -> list[str | Path]:
        spec = self.work / "spec.json"
        replicas = {
            "here": {"path": str(source), "local": True},
            ssh.HOST: {
                "path": str(target),
                "binary": str(self.binary),
                "ssh_args": ["-F", str(self.config)],
            },
        }
        fields = {"schema": "pairsync.spec/1", "replicas": replicas}
        spec.write_text(json.dumps(fields), encoding="utf-8")
        return [self.binary, "sync", "--spec", spec, "--batch", "--json"]

    def forget(self, *roots: Path) -> None:
        for root in roots:
            trees.remove(root / trees.STATE)


@dataclass(frozen=True)
class Rsync(Tool):
    """rsync -a; --delete would make it a mirror, and costs it nothing here."""

    def command(self, source: Path, target: Path) -> list[str | Path]:
        rsh = f"ssh -F {self.config}"
        there = f"{ssh.HOST}:{target}/"
        return [self.binary, "-a", f"--exclude=/{trees.STATE}", "-e", rsh, f"{source}/", there]


@dataclass(frozen=True)
class Unison(Tool):
    """In batch mode, without logging and progress; what it remembers is in its work directory."""

    def command(self, source: Path, target: Path) -> list[str | Path]:
        options = [
            "-batch",
            "-auto",
            "-silent",
            "-ui",
            "text",
            "-log=false",
            "-confirmbigdel=false",
        ]
        options += ["-times", "-fastcheck", "true", "-ignore", f"Name {trees.STATE}"]
        options += ["-servercmd", str(self.binary), "-sshargs", f"-F {self.config}"]
        return [self.binary, source, f"ssh://{ssh.HOST}/{target}", *options]

    def forget(self, *__: Path) -> None:
        for archive in (self.work / "unison").iterdir():
            archive.unlink()


def environment(work: Path) -> dict[str, str]:
    """Variables that keep what tools remember inside the directory of the benchmark."""
    return {"XDG_STATE_HOME": str(work / "state"), "UNISON": str(work / "unison")}


def find(work: Path, config: Path) -> tuple[list[Tool], list[str]]:
    """The tools that this machine has, pairsync first, and a remark about each that it lacks."""
    (work / "unison").mkdir()
    tools: list[Tool] = [_pairsync(work, config)]
    missing = []
    for kind, name in ((Rsync, "rsync"), (Unison, "unison")):
        program = shutil.which(name)
        if program is None:
            missing.append(f"{name} is not installed here: its lines are missing")
            continue
        tools.append(kind(name, Path(program), _version(program), work, config))
    return tools, missing


def _pairsync(work: Path, config: Path) -> Pairsync:
    """Build the binary and install it as bootstrap does: the name of its directory matters."""
    built = binary.build(work / "pairsync")
    home = work / f"{built.version}-{built.digest[:8]}"
    home.mkdir()
    path = built.path.rename(home / "pairsync")
    python = interpreters.find("")
    if python is None:
        raise BenchError(interpreters.NONE)
    interpreters.prepare(path, python)
    return Pairsync("pairsync", path, f"{built.version} {built.digest[:8]}", work, config)


def _version(program: str) -> str:
    """The first number with a dot in what --version (Unison: -version) prints."""
    option = "-version" if program.endswith("unison") else "--version"
    said = subprocess.run([program, option], capture_output=True, text=True, check=False).stdout
    return next((word for word in said.split() if word[0].isdigit() and "." in word), "?")


def facts(tools: list[Tool]) -> Mapping[str, str]:
    """The versions of all, by name."""
    return {tool.name: tool.version for tool in tools}
