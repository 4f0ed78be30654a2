# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choose the Python that runs an installed pairsync binary, and compile its modules for it.

A zip archive of sources is compiled anew at every start. Beside the binary, `compiled-TAG` holds
the modules for the Python whose cache tag is TAG, and `python` names the interpreters to use, one
path a line: in a home that several hosts share, each of them adds its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .installation import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

NAMES = (*(f"python3.{minor}" for minor in range(14, 8, -1)), "python3")
SYSTEM = "/usr/local/bin:/usr/bin:/bin"
PLATFORM = "/usr/libexec/platform-python"
NONE = (
    "pairsync: no Python 3.9 or newer on this host; install one"
    " (Debian, Ubuntu: apt-get install python3; RHEL, Fedora: dnf install python3.11)"
)

_ASK = """
import os, sys
if sys.version_info >= (3, 9):
    print(os.path.realpath(sys.executable))
    print(sys.implementation.cache_tag)
"""
# Runs in the chosen interpreter, which need not be the one that runs the module. Tracebacks show
# the names inside the archive, so that the files do not depend on where they are made.
_COMPILE = """
import os, py_compile, sys, zipfile
binary, out = sys.argv[1:]
with zipfile.ZipFile(binary) as archive:
    for name in archive.namelist():
        if name.startswith("pairsync/") and name.endswith(".py"):
            source = os.path.join(out, name)
            os.makedirs(os.path.dirname(source), exist_ok=True)
            with open(source, "wb") as stream:
                stream.write(archive.read(name))
            py_compile.compile(source, cfile=source + "c", dfile=name, doraise=True)
            os.chmod(source + "c", 0o444)
            os.unlink(source)
for folder, _, _ in os.walk(out):
    os.chmod(folder, 0o755)
"""


@dataclass(frozen=True)
class Python:
    """An interpreter that is new enough: its resolved path and its cache tag (`cpython-311`)."""

    path: str
    tag: str


def is_pairsync(binary: Path) -> bool:
    """Return whether the file BINARY is an executable that the collection built."""
    try:
        with zipfile.ZipFile(binary) as archive:
            return "pairsync/__init__.py" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def ask(command: str) -> Python | None:
    """Return the interpreter that COMMAND starts, or None when it starts none or an older one.

    A version manager's stand-in exists, is executable and only prints an error: asking is the
    only proof.
    """
    try:
        answer = subprocess.run(
            [command, "-I", "-c", _ASK],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = os.fsdecode(answer.stdout).splitlines()
    if answer.returncode != 0 or len(lines) != 2 or not os.access(lines[0], os.X_OK):
        return None
    return Python(path=lines[0], tag=lines[1])


def find(search: str) -> Python | None:
    """Return the first usable interpreter of this host in the launcher's order, None without one.

    System directories come before SEARCH (as in PATH) and before the interpreter of this process:
    one in somebody's virtual environment or home may be gone tomorrow.
    """
    for directories in (SYSTEM, search):
        for name in NAMES:
            command = shutil.which(name, path=directories)
            python = ask(command) if command else None
            if python:
                return python
    return ask(PLATFORM) or ask(sys.executable)


def recorded(directory: Path) -> list[str]:
    """Return the interpreters that the version directory DIRECTORY names."""
    try:
        return (directory / "python").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def is_ready(binary: Path) -> bool:
    """Return whether the launcher of BINARY finds a Python here whose modules are compiled."""
    paths = recorded(binary.parent)
    usable = next((path for path in paths if os.access(path, os.X_OK)), None)
    python = ask(usable) if usable else None
    return python is not None and compiled(binary, python).is_dir()


def compiled(binary: Path, python: Python) -> Path:
    """Return the directory of the modules of BINARY compiled for PYTHON."""
    return binary.parent / f"compiled-{python.tag}"


def prepare(binary: Path, python: Python) -> None:
    """Compile the modules of BINARY for PYTHON, record PYTHON; CalledProcessError when it fails."""
    target = compiled(binary, python)
    if not target.is_dir():
        staged = target.with_name(f".{target.name}.{os.getpid()}")
        staged.mkdir()
        try:
            subprocess.run(
                [python.path, "-I", "-c", _COMPILE, str(binary), str(staged)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
            )
            staged.rename(target)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    # The launcher takes the first that exists; another host's may not exist here.
    others = [path for path in recorded(binary.parent) if path != python.path]
    text = "".join(f"{path}\n" for path in [python.path, *others])
    write_atomically(binary.parent / "python", text)
