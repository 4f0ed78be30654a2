# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's floors, and what no floor may do; read from the source."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pairsync

ENGINE = Path(pairsync.__file__).resolve().parent
FILES = sorted(ENGINE.rglob("*.py"))

# From top to bottom. A file imports from its own floor and from floors above it.
FLOORS = [
    {"__init__"},
    {"model"},
    {"reconcile"},
    {"replica"},
    {"wire"},
    {"session"},
    {"frontends"},
    {"watch", "profiles", "slurm"},
    {"cli"},
    {"__main__"},
]

# Each follows path strings or symlinks, or changes what other threads of the process see.
BANNED = {
    "os.walk",
    "os.fwalk",
    "os.chdir",
    "os.fchdir",
    "os.removedirs",
    "os.renames",
    "os.path.realpath",
    "shutil.rmtree",
    "shutil.copytree",
    "shutil.move",
    "glob.glob",
    "glob.iglob",
}
BANNED_MODULES = {"tempfile", "pathlib", "pickle", "marshal", "shelve"}

# What a replica's own files go through; fsops.py alone may make them.
SYSTEM_CALLS = {
    *("open", "close", "dup", "dup2", "read", "pread", "write", "pwrite", "truncate", "ftruncate"),
    *("stat", "lstat", "fstat", "statvfs", "fstatvfs", "access", "scandir", "listdir", "readlink"),
    *("mkdir", "makedirs", "rmdir", "symlink", "link", "unlink", "remove", "rename", "replace"),
    *("mknod", "mkfifo", "chmod", "fchmod", "chown", "fchown", "lchown", "utime", "sendfile"),
    *("copy_file_range", "fsync", "fdatasync", "sync", "getxattr", "setxattr", "removexattr"),
}

# Not on a replica, or not on one that a session has open.
ELSEWHERE = {
    # Where the home of a user and the places in it really are, whatever the root.
    "replica/denylist.py": {"os.readlink"},
    # The kernel's tables: what is mounted where, which disk has which UUID, which boot this is.
    "replica/guard.py": {"open", "os.listdir"},
    # A policy lies outside of every replica, and is trusted only as far as its place is.
    "replica/policy_file.py": {"os.open"},
    # The kernel's table of processes.
    "replica/processes.py": {"open", "os.readlink"},
    # The state home, where a host notes its replicas, and what `status` reads without a session.
    "replica/journal.py": {"open", "os.listdir", "os.makedirs", "os.replace"},
}
IN_REPLICA = [file for file in FILES if file.parent.name == "replica" and file.name != "fsops.py"]


def place(file: Path) -> str:
    return file.relative_to(ENGINE).as_posix()


def floor_of(part: str) -> int:
    return next(number for number, parts in enumerate(FLOORS) if part in parts)


def part_of(file: Path) -> str:
    parts = file.relative_to(ENGINE).parts
    return parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[tuple[int, int, str]]:
    """Line, level and module of every import, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, 0, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                yield node.lineno, node.level, node.module
            else:
                for alias in node.names:
                    yield node.lineno, node.level, alias.name


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def names_used(file: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file reaches through a module's name."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Attribute):
            yield node.lineno, dotted(node)
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id


@pytest.mark.parametrize("file", FILES, ids=place)
def test_every_file_is_on_a_floor(file):
    assert any(part_of(file) in parts for parts in FLOORS)


@pytest.mark.parametrize("file", FILES, ids=place)
def test_imports_only_from_its_floor_and_above(file):
    mine = floor_of(part_of(file))
    package = file.relative_to(ENGINE).parts[:-1]
    wrong = []
    for line, level, module in imports(file):
        if level == 0:
            continue
        inside = package[: len(package) - (level - 1)]
        assert level - 1 <= len(package), f"{place(file)}:{line} reaches out of the engine"
        target = (*inside, *module.split("."))[0]
        # `from .. import __version__` names what the package itself holds.
        known = any(target in parts for parts in FLOORS)
        if known and floor_of(target) > mine:
            wrong.append(f"{place(file)}:{line} imports {target}")
        assert known or target in vars(pairsync), f"{place(file)}:{line} imports {target}"
    assert not wrong


@pytest.mark.parametrize("file", FILES, ids=place)
def test_imports_nothing_but_the_standard_library_and_relatives(file):
    wrong = [
        f"{place(file)}:{line} imports {module}"
        for line, level, module in imports(file)
        if level == 0 and module.partition(".")[0] not in sys.stdlib_module_names
    ]
    assert not wrong


@pytest.mark.parametrize("file", FILES, ids=place)
def test_uses_nothing_that_is_banned(file):
    wrong = [
        f"{place(file)}:{line} uses {name}"
        for line, name in names_used(file)
        if name in BANNED
        and not (name == "os.path.realpath" and place(file) in ("cli.py", "replica/guard.py"))
    ]
    wrong += [
        f"{place(file)}:{line} imports {module}"
        for line, __, module in imports(file)
        if module.partition(".")[0] in BANNED_MODULES
    ]
    assert not wrong


@pytest.mark.parametrize("file", FILES, ids=place)
def test_prints_nothing_and_never_exits(file):
    wrong = [
        f"{place(file)}:{line} uses {name}"
        for line, name in names_used(file)
        if name in ("print", "input", "exit", "quit")
        or (name in ("sys.exit", "SystemExit") and place(file) != "__main__.py")
        or (name == "os._exit" and place(file) != "cli.py")
    ]
    assert not wrong


@pytest.mark.parametrize("file", FILES, ids=place)
def test_only_the_command_line_reads_the_environment(file):
    if place(file) == "cli.py":
        return
    names = ("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv")
    wrong = [f"{place(file)}:{line}" for line, name in names_used(file) if name in names]
    assert not wrong


@pytest.mark.parametrize("file", IN_REPLICA, ids=place)
def test_only_fsops_makes_system_calls_on_a_replica(file):
    allowed = ELSEWHERE.get(place(file), set())
    wrong = []
    for line, name in names_used(file):
        module, __, call = name.rpartition(".")
        if (module == "os" and call in SYSTEM_CALLS) or name == "open":
            if name not in allowed:
                wrong.append(f"{place(file)}:{line} calls {name}")
        elif module == "fcntl" or name.startswith("ctypes."):
            wrong.append(f"{place(file)}:{line} calls {name}")
    assert not wrong


@pytest.mark.parametrize("floor", ["model", "reconcile"])
def test_the_pure_floors_do_no_input_or_output(floor):
    pure = {"os", "io", "sys", "socket", "subprocess", "sqlite3", "time", "random", "secrets"}
    wrong = [
        f"{place(file)}:{line} imports {module}"
        for file in FILES
        if part_of(file) == floor
        for line, level, module in imports(file)
        if level == 0 and module.partition(".")[0] in pure
    ]
    assert not wrong


def test_one_name_per_process():
    """With the collection's name as well, every class would exist twice."""
    code = (
        f"import sys; sys.path.insert(0, {str(ENGINE.parent)!r})\n"
        "import pairsync.cli, pairsync.session.run, pairsync.wire.serve\n"
        "import pairsync.frontends.terminal\n"
        "print([name for name in sys.modules if 'ansible' in name])"
    )
    shown = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


def test_runs_on_the_oldest_python(interpreter, tmp_path):
    """Every module is imported by Python 3.9, and a pair is synced by it."""
    python = str(interpreter("3.9"))
    modules = [
        ".".join(("pairsync", *file.relative_to(ENGINE).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for file in FILES
        if file.name != "__main__.py"
    ]
    environment = {
        "PYTHONPATH": str(ENGINE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ["PATH"],
        "PAIRSYNC_STATE": str(tmp_path / "state"),
    }
    code = "import importlib\n" + "\n".join(f"importlib.import_module({m!r})" for m in modules)
    subprocess.run([python, "-W", "error", "-c", code], env=environment, check=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"text")
    command = [python, "-W", "error", "-m", "pairsync", "sync", "--batch"]
    done = subprocess.run(
        [*command, str(tmp_path / "a"), str(tmp_path / "b")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "file").read_bytes() == b"text"
