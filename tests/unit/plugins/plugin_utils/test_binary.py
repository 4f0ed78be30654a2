# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host binary: the same bytes everywhere, and a launcher that finds a Python or says so."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils import binary

PATH = "/usr/bin:/bin"


@pytest.fixture
def package(tmp_path):
    """A small engine: it says where it runs from, and what it was called with."""
    directory = tmp_path / "sources" / "pairsync"
    (directory / "inner").mkdir(parents=True)
    (directory / "__init__.py").write_text('__version__ = "1.2.3"\nPROTOCOL = 7\n')
    (directory / "inner" / "__init__.py").write_text("")
    (directory / "cli.py").write_text(
        "import json, sys\n"
        "def main():\n"
        "    sys.stdout.write(json.dumps({'argv': sys.argv, 'file': __file__,"
        " 'isolated': sys.flags.isolated, 'python': sys.executable, 'stdin': sys.stdin.read()}))\n"
        "    return 5\n"
    )
    return directory


def call(command, *words, **environment):
    """Run COMMAND with WORDS and nothing of this process's environment."""
    return subprocess.run(
        [command, *words],
        env={"PATH": PATH, **environment},
        input="lines for the program",
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_build_says_what_it_is(package, tmp_path):
    built = binary.build(tmp_path / "out" / "pairsync", package)
    assert (built.version, built.protocol) == ("1.2.3", 7)
    assert built.digest == hashlib.sha256(built.path.read_bytes()).hexdigest()
    assert [path.name for path in built.path.parent.iterdir()] == ["pairsync"]


def test_the_archive_holds_sources_alone(package, tmp_path):
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "cli.cpython-311.pyc").write_bytes(b"machine")
    (package / "notes.txt").write_text("not code")
    (package / ".#cli.py").write_text("an editor's lock")
    with zipfile.ZipFile(binary.build(tmp_path / "pairsync", package).path) as archive:
        names = archive.namelist()
        assert names == [
            "__main__.py",
            "pairsync/__init__.py",
            "pairsync/cli.py",
            "pairsync/inner/__init__.py",
        ]
        assert {(info.compress_type, info.date_time) for info in archive.infolist()} == {
            (zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))
        }


def test_the_same_sources_elsewhere_give_the_same_digest(package, tmp_path):
    first = binary.build(tmp_path / "one", package)
    shutil.copytree(package, tmp_path / "another place" / "pairsync")
    os.utime(tmp_path / "another place" / "pairsync" / "cli.py", (1, 1))
    assert binary.build(tmp_path / "two", tmp_path / "another place" / "pairsync").digest == (
        first.digest
    )


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_every_python_builds_the_same_bytes(version, interpreter, tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from binary import build; build(Path(sys.argv[2]), Path(sys.argv[3]))\n"
    )
    engine, out = binary.engine(), tmp_path / "pairsync"
    folder = Path(binary.__file__).parent
    command = [interpreter(version), "-I", "-B", "-c", code, folder, out, engine]
    subprocess.run(command, check=True)
    assert out.read_bytes() == binary.build(tmp_path / "here", engine).path.read_bytes()


def test_sources_without_a_version_are_refused(tmp_path):
    with pytest.raises(binary.BuildError, match="cannot be read"):
        binary.build(tmp_path / "out", tmp_path)
    (tmp_path / "__init__.py").write_text("__version__ = '1'\n")
    with pytest.raises(binary.BuildError, match="states no __version__ and PROTOCOL"):
        binary.build(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_program_gets_arguments_input_and_its_exit_code_out(package, tmp_path):
    built = binary.build(tmp_path / "pairsync", package)
    done = call(built.path, "a b", "$c")
    answer = json.loads(done.stdout)
    assert done.returncode == 5
    assert answer["argv"] == [str(built.path), "a b", "$c"]
    assert answer["stdin"] == "lines for the program"
    assert answer["isolated"] == 1


def test_a_link_is_resolved_before_python_starts(package, tmp_path):
    built = binary.build(tmp_path / "versions" / "pairsync", package)
    link = tmp_path / "home_sync"
    link.symlink_to("versions/pairsync")
    assert json.loads(call(link).stdout)["argv"] == [str(built.path)]


@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_the_variable_names_the_python(version, interpreter, package, tmp_path):
    built = binary.build(tmp_path / "pairsync", package)
    python = str(interpreter(version))
    answer = json.loads(call(built.path, PAIRSYNC_PYTHON=python).stdout)
    assert os.path.realpath(answer["python"]) == os.path.realpath(python)


def test_a_variable_that_names_no_python_is_an_error(package, tmp_path):
    built = binary.build(tmp_path / "pairsync", package)
    done = call(built.path, PAIRSYNC_PYTHON="/nowhere/python3")
    assert done.returncode == 3
    assert done.stderr.startswith("pairsync: no Python 3.9 or newer on this host at PAIRSYNC_PYTHO")


def commands_without_python(directory):
    """Fill DIRECTORY with what the launcher needs besides Python."""
    directory.mkdir()
    for name in ("sh", "readlink"):
        (directory / name).symlink_to(shutil.which(name, path=PATH))


def test_stand_ins_that_only_print_an_error_are_passed_over(package, tmp_path):
    built = binary.build(tmp_path / "pairsync", package)
    commands_without_python(tmp_path / "bin")
    for name in ("python3.14", "python3.9"):
        shim = tmp_path / "bin" / name
        shim.write_text("#!/bin/sh\necho command not found >&2\nexit 127\n")
        shim.chmod(0o755)
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    done = call(built.path, PATH=str(tmp_path / "bin"))
    assert (done.returncode, done.stderr) == (5, "")


def test_no_python_is_one_sentence_and_exit_3(package, tmp_path):
    built = binary.build(tmp_path / "pairsync", package)
    commands_without_python(tmp_path / "bin")
    done = call(built.path, PATH=str(tmp_path / "bin"))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("pairsync: no Python 3.9 or newer on this host; install one ")
    assert done.stderr.count("\n") == 1
    assert "apt-get install python3" in done.stderr


def test_an_installed_version_names_its_python_and_its_compiled_modules(package, tmp_path):
    built = binary.build(tmp_path / "1.2.3-0123abcd" / "pairsync", package)
    (built.path.parent / "python").write_text(f"/nowhere/python3\n{sys.executable}\n")
    modules = built.path.parent / f"compiled-{sys.implementation.cache_tag}"
    shutil.copytree(package, modules / "pairsync")
    commands_without_python(tmp_path / "bin")
    answer = json.loads(call(built.path, PATH=str(tmp_path / "bin")).stdout)
    assert answer["file"] == str(modules / "pairsync" / "cli.py")
    assert answer["stdin"] == "lines for the program"


def test_beside_a_binary_that_was_just_put_somewhere_nothing_is_trusted(package, tmp_path):
    built = binary.build(tmp_path / "downloads" / "pairsync", package)
    (built.path.parent / "python").write_text("/bin/false\n")
    assert call(built.path).returncode == 5


@pytest.mark.root
def test_modules_of_another_user_are_not_run(package, tmp_path):
    built = binary.build(tmp_path / "pairsync", package)
    tag = json.loads(call(built.path).stdout)["python"]
    tag = subprocess.check_output(
        [tag, "-c", "import sys; print(sys.implementation.cache_tag)"], text=True
    ).strip()
    modules = tmp_path / f"compiled-{tag}"
    (modules / "pairsync").mkdir(parents=True)
    (modules / "pairsync" / "__init__.py").write_text("raise SystemExit('taken over')\n")
    os.chown(modules, 65534, 65534)
    assert call(built.path).returncode == 5
