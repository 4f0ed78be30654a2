# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sync_binary as Ansible runs it, into directories of the test."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils import binary

COLLECTIONS = Path(binary.__file__).parents[5]
ANSIBLE = Path(sys.executable).with_name("ansible")
TOOL = "#!/bin/sh\n# {note}\necho tool {version}\n"


@pytest.fixture
def sync_binary(tmp_path):
    """A function that runs the module: options as keywords, `check=True` for check mode."""
    (tmp_path / "ansible.cfg").touch()

    def run(*, check=False, **options):
        options = {"prefix": str(tmp_path / "opt"), "bin_dir": str(tmp_path / "bin"), **options}
        command = [ANSIBLE, "host", "--inventory", "host,", "--connection", "local", "--diff"]
        command += ["--module-name", "pairsync.fleet.sync_binary", "--args", json.dumps(options)]
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        }
        done = subprocess.run(
            [*command, "--check"] if check else command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        shown, brace, answer = done.stdout.partition("=> {")
        assert brace, done.stdout + done.stderr
        return {**json.loads("{" + answer), "shown": shown}

    return run


@pytest.fixture
def tool(tmp_path):
    """A function that writes an executable called tool, of the version it says it is."""

    def write(version, note=""):
        path = tmp_path / f"tool-{version}{note}"
        path.write_text(TOOL.format(version=version, note=note))
        return path

    return write


@pytest.fixture
def build(tmp_path):
    """A function that builds a small pairsync of a version; it can be told to wait for input."""

    def make(version):
        package = tmp_path / f"sources-{version}" / "pairsync"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f'__version__ = "{version}"\nPROTOCOL = 1\n')
        (package / "late.py").write_text(f'TEXT = "{version}"\n')
        (package / "cli.py").write_text(
            "import sys\n"
            "from . import __version__\n"
            "def main():\n"
            "    sys.stdout.write(f'pairsync {__version__}\\n')\n"
            "    sys.stdout.flush()\n"
            "    if 'wait' in sys.argv:\n"
            "        sys.stdin.read()\n"
            "        from .late import TEXT\n"
            "        sys.stdout.write(f'still {TEXT} from {__file__}\\n')\n"
            "    return 0\n"
        )
        return binary.build(tmp_path / f"pairsync-{version}", package).path

    return make


def digest(path):
    """Return the SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def links(directory):
    """Return {name: target} of the links in DIRECTORY."""
    return {path.name: os.readlink(path) for path in sorted(directory.iterdir())}


def test_check_mode_foretells_the_first_installation(sync_binary, tool, tmp_path):
    options = {"name": "tool", "src": str(tool("1.0")), "version": "1.0"}
    foretold = sync_binary(check=True, **options)
    assert foretold["changed"]
    assert not (tmp_path / "opt").exists()
    assert not (tmp_path / "bin").exists()
    done = sync_binary(**options)
    for key in ("changed", "path", "links", "version", "digest", "shown"):
        assert done[key] == foretold[key], key
    assert f"+{tmp_path}/bin/tool -> {done['path']}\n" in done["shown"]
    assert links(tmp_path / "bin") == {"tool": done["path"]}
    assert done["digest"] == digest(done["path"]) == digest(options["src"])
    assert Path(done["path"]).stat().st_mode & 0o777 == 0o555


def test_installing_again_changes_nothing(sync_binary, tool):
    options = {"name": "tool", "src": str(tool("1.0"))}
    assert sync_binary(**options)["changed"]
    assert not sync_binary(check=True, **options)["changed"]
    again = sync_binary(**options)
    assert not again["changed"]
    assert again["version"] == "1.0"
    assert "previous" not in again


def test_an_upgrade_keeps_one_version_and_goes_back_to_it(sync_binary, tool, tmp_path):
    paths = [sync_binary(name="tool", src=str(tool(version)))["path"] for version in ("1.0", "2.0")]
    third = sync_binary(name="tool", src=str(tool("3.0")))
    assert third["previous"] == {"version": "2.0", "path": paths[1]}
    assert not Path(paths[0]).exists()
    back = {"name": "tool", "state": "rolled_back"}
    assert sync_binary(check=True, **back)["version"] == "2.0"
    done = sync_binary(**back)
    assert (done["changed"], done["version"]) == (True, "2.0")
    assert links(tmp_path / "bin") == {"tool": paths[1]}
    assert not sync_binary(**back)["changed"]
    # What was wrong with 3.0 is not what a newer version goes back to.
    fourth = sync_binary(name="tool", src=str(tool("4.0")))
    assert fourth["previous"]["version"] == "2.0"


def test_rolling_back_what_has_no_past_is_refused(sync_binary, tool):
    refused = sync_binary(name="tool", state="rolled_back")
    assert "no tool is linked" in refused["msg"]
    sync_binary(name="tool", src=str(tool("1.0")))
    refused = sync_binary(name="tool", state="rolled_back")
    assert "no earlier version of tool is kept on this host, only 1.0-" in refused["msg"]


def test_a_foreign_file_is_refused_and_left_alone(sync_binary, tool, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("mine")
    for check in (True, False):
        refused = sync_binary(name="tool", src=str(tool("1.0")), version="1.0", check=check)
        assert refused["msg"].startswith(f"{tmp_path}/bin/tool exists and is no link into")
        assert "no package owns it" in refused["msg"]
        assert "links: [tool-1.0]" in refused["msg"]
    assert (tmp_path / "bin" / "tool").read_text() == "mine"
    assert not (tmp_path / "opt").exists()
    done = sync_binary(name="tool", src=str(tool("1.0")), links=["tool-1.0"])
    assert done["links"] == [f"{tmp_path}/bin/tool-1.0"]


def test_the_package_of_a_foreign_file_is_named(sync_binary, tool):
    refused = sync_binary(name="tool", src=str(tool("1")), links=["env"], bin_dir="/usr/bin")
    known = shutil.which("dpkg") or shutil.which("rpm")
    owner = "it belongs to the package coreutils" if known else "no package owns it"
    assert "/usr/bin/env exists and is no link into" in refused["msg"]
    assert owner in refused["msg"]


def test_links_that_are_no_longer_wanted_go(sync_binary, tool, tmp_path):
    options = {"name": "tool", "src": str(tool("1.0"))}
    sync_binary(**options, links=["tool", "old-name"])
    assert sync_binary(**options)["changed"]
    assert list(links(tmp_path / "bin")) == ["tool"]


def test_what_does_not_run_is_never_linked(sync_binary, tool, tmp_path):
    good = sync_binary(name="tool", src=str(tool("1.0")))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho cannot load library >&2; exit 126\n")
    refused = sync_binary(name="tool", src=str(broken))
    assert "the new tool does not work on this host and was not linked" in refused["msg"]
    assert "tool --version ended with 126: cannot load library" in refused["msg"]
    assert links(tmp_path / "bin") == {"tool": good["path"]}
    assert sorted(path.name for path in (tmp_path / "opt" / "tool").iterdir()) == [
        Path(good["path"]).parent.name,
        "order",
    ]


def test_what_is_another_version_than_promised_is_refused(sync_binary, tool):
    refused = sync_binary(name="tool", src=str(tool("1.0")), version="1.1")
    assert refused["msg"] == "the new tool says it is 1.0, not 1.1; it was not linked"


def test_what_arrives_damaged_is_refused(sync_binary, tool, tmp_path):
    source = tool("1.0")
    checksum = f"sha256:{'0' * 64}"
    for options in ({"src": str(source)}, {"url": source.as_uri()}):
        refused = sync_binary(name="tool", checksum=checksum, **options)
        assert f"has sha256 {digest(source)}, not {'0' * 64}" in refused["msg"]
    assert not (tmp_path / "bin").exists()


def test_a_url_needs_a_checksum(sync_binary, tool):
    refused = sync_binary(name="tool", url=tool("1.0").as_uri())
    assert "checksum" in refused["msg"]
    refused = sync_binary(name="tool", url=tool("1.0").as_uri(), checksum="md5:0")
    assert refused["msg"] == "checksum must be sha256: and 64 hexadecimal digits, not 'md5:0'"
    assert "Give src, or url and checksum" in sync_binary(name="tool")["msg"]


def test_a_tool_out_of_an_archive(sync_binary, tool, tmp_path):
    source = tool("2.53.7")
    archive = tmp_path / "tool.tar.gz"
    with tarfile.open(archive, "w:gz") as members:
        members.add(source, "tool-2.53.7/share/doc/tool")
        members.add(source, "tool-2.53.7/bin/tool")
    options = {
        "name": "tool",
        "url": archive.as_uri(),
        "checksum": f"sha256:{digest(archive)}",
        "version_command": "{path} -version",
    }
    done = sync_binary(**options)
    assert (done["version"], done["digest"]) == ("2.53.7", digest(source))
    assert not sync_binary(**options)["changed"]
    with tarfile.open(archive, "w:gz") as members:
        members.add(source, "tool-2.53.7/lib/tool-2")
    refused = sync_binary(name="tool", src=str(archive))
    assert "the archive has no file tool or bin/tool" in refused["msg"]


def test_pairsync_is_compiled_and_has_two_names(sync_binary, build, tmp_path):
    options = {"src": str(build("0.1.0"))}
    done = sync_binary(**options)
    assert list(links(tmp_path / "bin")) == ["home_sync", "pairsync"]
    directory = Path(done["path"]).parent
    assert list(directory.glob("compiled-*/pairsync/cli.pyc"))
    (directory / "python").chmod(0o644)
    (directory / "python").write_text("/gone/python3\n")
    assert sync_binary(check=True, **options)["changed"]
    assert sync_binary(**options)["changed"]
    assert not sync_binary(**options)["changed"]
    assert "/gone/python3" not in (directory / "python").read_text().splitlines()[0]


def test_a_damaged_installation_is_mended(sync_binary, build):
    options = {"src": str(build("0.1.0"))}
    path = Path(sync_binary(**options)["path"])
    path.chmod(0o755)
    path.write_bytes(path.read_bytes()[:2000])
    done = sync_binary(**options)
    assert (done["path"], done["digest"]) == (str(path), digest(options["src"]))


def test_a_running_process_stays_on_its_build(sync_binary, build, tmp_path):
    first = sync_binary(src=str(build("0.1.0")))
    second = build("0.2.0")
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [tmp_path / "bin" / "pairsync", "wait"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert process.stdout.readline() == "pairsync 0.1.0\n"
        done = sync_binary(src=str(second), keep=0)
        directory = Path(first["path"]).parent
        assert done["held"] == {directory.name: [process.pid]}
        gone = sync_binary(state="absent")
        assert list(gone["held"]) == [directory.name]
        assert not list((tmp_path / "bin").iterdir())
        output, _errors = process.communicate("")
    assert output.startswith(f"still 0.1.0 from {directory}/")
    assert sync_binary(state="absent")["changed"]
    assert not (tmp_path / "opt").exists()


def test_removing_what_is_not_there_changes_nothing(sync_binary, tmp_path):
    assert not sync_binary(state="absent")["changed"]
    assert not (tmp_path / "opt").exists()


def test_two_hosts_that_are_one_install_once(sync_binary, build, tmp_path):
    source = str(build("0.1.0"))
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _number: sync_binary(src=source), range(3)))
    assert sorted(answer["changed"] for answer in done) == [False, False, True]
    assert len({answer["path"] for answer in done}) == 1
    assert not [path for path in (tmp_path / "opt" / "pairsync").iterdir() if path.name[0] == "."]


def test_user_scope_says_what_to_add_to_path(sync_binary, build, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    options = {"scope": "user", "prefix": None, "bin_dir": None, "src": str(build("0.1.0"))}
    done = sync_binary(**options)
    assert done["scope"] == "user"
    assert done["path"].startswith(f"{tmp_path}/home/.local/lib/pairsync/pairsync/0.1.0-")
    assert list(links(tmp_path / "home/.local/bin")) == ["home_sync", "pairsync"]
    assert done["path_hint"] == 'export PATH="$HOME/.local/bin:$PATH"'
    monkeypatch.setenv("PATH", f"{tmp_path}/home/.local/bin:{os.environ['PATH']}")
    assert "path_hint" not in sync_binary(**options)


def test_user_scope_says_when_the_system_s_build_comes_first(
    sync_binary, tool, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    options = {"scope": "user", "prefix": None, "bin_dir": None, "src": str(tool("1.0"))}
    done = sync_binary(name="true", links=["true"], **options)  # every machine has another one
    assert done["shadowed_by"] == "/usr/bin/true"
    assert "shadowed_by" not in sync_binary(name="tool", **options)


def test_a_version_of_another_collection_is_not_built(sync_binary):
    refused = sync_binary(version="0.0.1")
    assert "not 0.0.1: install that version of the collection" in refused["msg"]
