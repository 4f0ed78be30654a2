# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bootstrap on hosts that have nothing of ours, and what it finds there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils import binary
from tests.fleet.rootfs import CHECKOUT

PAIRS = """
plugin: pairsync.fleet.pairs
trees:
  model_dir: {replicas: {gpu1: /data/model, gpu2: /data/model}}
  relayed: {replicas: {gpu1: /data/other, gpu3: /data/other}, route: relay}
"""
LINK = "/usr/bin/pairsync"


@pytest.fixture(scope="module")
def fleet(start_fleet):
    """Three good hosts, and some that each lack something."""
    names = ("gpu1", "gpu2", "gpu3", "nopython", "foreign", "user")
    return start_fleet(*names, users=["me"])


@pytest.fixture
def play(fleet, tmp_path):
    """A function that runs one of our playbooks on some hosts, and returns code and output."""

    def run(name, *words, hosts=("gpu1", "gpu2", "gpu3"), pairs="", variables=None):
        inventory = fleet.write_inventory(tmp_path / "inv", names=hosts, variables=variables)
        if pairs:
            (inventory / "pairs.yml").write_text(pairs)
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"),
             CHECKOUT / "playbooks" / f"{name}.yml", "--inventory", inventory, *words],
            env={**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")},
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def build(tmp_path):
    """A function that builds the engine under another version number."""

    def make(version):
        package = tmp_path / version / "pairsync"
        for source in binary.engine().rglob("*.py"):
            target = package / source.relative_to(binary.engine())
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
        init = package / "__init__.py"
        stated = binary.declared(package)[0]
        init.write_text(init.read_text().replace(f'"{stated}"', f'"{version}"'))
        return binary.build(tmp_path / f"pairsync-{version}", package)

    return make


def version(host):
    """Return what the installed pairsync of a host says."""
    return json.loads(host.run("pairsync --version --json").stdout)


def test_hosts_that_have_nothing_become_ready(play, fleet, tmp_path):
    code, output = play("bootstrap", "--check", pairs=PAIRS)
    assert (code, output.count("would install")) == (0, 6), output
    assert not os.path.lexists(fleet.host("gpu1").path(LINK))

    code, output = play("bootstrap", pairs=PAIRS)
    assert code == 0, output
    built = binary.build(tmp_path / "pairsync")
    # Three hosts; gpu2 as gpu1 sees it; both ends of the relayed pair as this machine sees them.
    assert output.count(built.digest[:12]) == 6, output
    for name in ("gpu1", "gpu2", "gpu3"):
        assert version(fleet.host(name))["build"] == built.digest
        assert fleet.host(name).run("home_sync --version", user="me").returncode == 0

    code, output = play("bootstrap", pairs=PAIRS)
    assert (code, output.count("changed=0")) == (0, 3), output


def test_a_route_that_does_not_work_is_a_row(play, fleet):
    play("bootstrap", pairs=PAIRS)
    fleet.host("gpu1").run("mv .ssh/known_hosts .ssh/aside")
    try:
        code, output = play("parity", pairs=PAIRS)
    finally:
        fleet.host("gpu1").run("mv .ssh/aside .ssh/known_hosts")
    assert code == 2
    assert "unreachable: Host key verification failed." in output
    assert "next: on gpu1, see why this fails: ssh gpu2 true" in output


def test_a_host_that_is_off_is_a_row_and_the_others_are_installed(play, fleet):
    fleet.host("gpu3").stop()
    try:
        code, output = play("bootstrap", pairs=PAIRS)
    finally:
        fleet.host("gpu3").start()
    assert code != 0
    assert "gpu3  -" in output
    assert "unreachable" in output
    assert fleet.host("gpu2").run("pairsync --version").returncode == 0


def test_another_build_on_one_host_is_a_mismatch_and_is_mended(play, fleet, build):
    play("bootstrap")
    old = build("0.0.9")
    code, output = play("bootstrap", "--limit", "gpu2", "-e", f"pairsync_src={old.path}")
    assert code == 0, output
    code, output = play("parity")
    assert code == 2
    assert old.digest[:12] in output
    assert "next: invoke bootstrap --limit gpu2" in output
    code, output = play("bootstrap", "--limit", "gpu2")
    assert code == 0, output
    assert play("parity")[0] == 0


def test_an_upgrade_under_a_running_session_and_the_way_back(play, fleet, build):
    host = fleet.host("gpu1")
    play("bootstrap", "-e", f"pairsync_src={build('0.0.7').path}", hosts=["gpu1"])
    directory = os.path.dirname(version(host)["path"])
    with subprocess.Popen(
        [*host.ssh(), "pairsync agent"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as agent:
        agent.stdout.read(1)  # it has said hello
        for number in ("0.0.8", "0.0.9"):
            source = build(number).path
            code, output = play("bootstrap", "-e", f"pairsync_src={source}", hosts=["gpu1"])
            assert code == 0, output
        assert version(host)["version"] == "0.0.9"
        assert host.run(["test", "-d", directory], check=False).returncode == 0
        agent.stdin.close()
    play("bootstrap", "-e", f"pairsync_src={build('0.0.10').path}", hosts=["gpu1"])
    assert host.run(["test", "-d", directory], check=False).returncode == 1
    assert len(host.run("ls -d /opt/pairsync/pairsync/*/").stdout.split()) == 2
    play("bootstrap", hosts=["gpu1"])


def test_a_host_without_python_is_told_what_to_install(play, fleet):
    fleet.host("nopython").remove_python()
    code, output = play("bootstrap", hosts=["nopython"])
    assert code == 2
    assert "pairsync: no Python 3.9 or newer on this host (none at all); install one: apt-get" in (
        output
    )
    assert not os.path.lexists(fleet.host("nopython").path(LINK))


@pytest.mark.parametrize("old", ["3.6", "3.8"])
def test_a_host_with_an_old_python_is_told_which(play, fleet, interpreter, old):
    host = fleet.host("nopython")
    host.path("/usr/bin/python3").unlink(missing_ok=True)
    host.use_python(interpreter(old))
    code, output = play("bootstrap", hosts=["nopython"])
    assert code == 2
    assert f"pairsync: no Python 3.9 or newer on this host (only Python {old}." in output


def test_a_foreign_file_is_refused_and_stays(play, fleet):
    host = fleet.host("foreign")
    host.path(LINK).write_text("#!/bin/sh\necho another pairsync\n")
    code, output = play("bootstrap", hosts=["foreign"])
    assert code == 2
    assert f"{LINK} exists and is no link into /opt/pairsync/pairsync" in output
    assert "links: [pairsync-0.1" in output
    assert host.path(LINK).read_text().endswith("another pairsync\n")
    assert not host.path("/opt/pairsync").exists()


def test_a_plain_user_installs_into_the_home(play, fleet):
    variables = {"ansible_user": "me"}
    code, output = play("bootstrap", hosts=["user"], variables=variables)
    assert code == 0, output
    assert 'export PATH="$HOME/.local/bin:$PATH"' in output.replace("\\", "")
    assert "/home/me/.local/lib/pairsync/pairsync/" in output
    assert not os.path.lexists(fleet.host("user").path(LINK))
