# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways that sessions take from the controller, and what happens when one is closed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils.binary import build

ROOT = Path(__file__).resolve().parents[2]
PAIRS = """\
plugin: pairsync.fleet.pairs
trees:
  model: {replicas: {gpu1: /data/model, gpu2: /data/model}}
"""
LINKED = "/usr/bin/pairsync"


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    path = tmp_path_factory.mktemp("binary") / "pairsync"
    build(path)
    return path


@pytest.fixture(scope="module")
def environment(fleet, binary, tmp_path_factory):
    """A user whose home has the binary, and an inventory of two hosts that have it, too."""
    home = tmp_path_factory.mktemp("home")
    (home / ".local/bin").mkdir(parents=True)
    (home / ".local/bin/pairsync").symlink_to(binary)
    inventory = fleet.write_inventory(home / "inventory", names=["gpu1", "gpu2"])
    (inventory / "pairs.yml").write_text(PAIRS)
    for name in ("gpu1", "gpu2"):
        fleet.host(name).put(binary, LINKED)
    fleet.host("gpu1").path("/data/model").mkdir()
    return {**os.environ, "HOME": str(home), "PAIRSYNC_INVENTORY": str(inventory)}


@pytest.fixture
def invoke(environment):
    def run(*words):
        command = [sys.executable, "-m", "invoke", "--search-root", ROOT, *words]
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def content(fleet):
    """Writes a file on gpu1, and tells whether gpu2 has it."""

    def write(name):
        fleet.host("gpu1").path(f"/data/model/{name}").write_text(name)
        return lambda: fleet.host("gpu2").path(f"/data/model/{name}").exists()

    return write


@pytest.fixture
def without(fleet):
    """Takes a file of a host away for the rest of a test."""
    taken = []

    def take(host, path):
        source = fleet.host(host).path(path)
        source.rename(f"{source}.away")
        taken.append(source)

    yield take
    for source in taken:
        Path(f"{source}.away").rename(source)


def test_no_inventory_is_needed(invoke, content, monkeypatch, environment, fleet):
    # A user's configuration is in the home that the system knows, which tests leave alone.
    ssh = Path(environment["HOME"]) / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {fleet.ssh_config} "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setitem(environment, "PATH", f"{ssh.parent}:{environment['PATH']}")
    arrived = content("adhoc")
    result = invoke("sync", "gpu1:/data/model", "gpu2:/data/model")
    assert result.returncode == 0, result.stderr
    assert arrived()


def test_where_gpu1_cannot_log_in_to_gpu2_this_machine_relays(invoke, content, without):
    without("gpu1", "/root/.ssh/id_ed25519")
    arrived = content("relayed")
    result = invoke("sync", "--pair", "gpu1:gpu2", "--route", "auto")
    assert result.returncode == 0, result.stderr
    assert "relaying through this machine instead" in result.stdout
    assert arrived()


def test_unattended_no_other_route_is_taken(invoke, content, without):
    without("gpu1", "/root/.ssh/id_ed25519")
    arrived = content("direct")
    result = invoke("sync", "--pair", "gpu1:gpu2")
    assert result.returncode == 3
    assert "gpu2" in result.stderr
    assert not arrived()


def test_an_unknown_host_key_is_never_gone_around(invoke, content, without):
    without("gpu1", "/root/.ssh/known_hosts")
    arrived = content("unknown-key")
    result = invoke("sync", "--pair", "gpu1:gpu2", "--route", "auto")
    assert result.returncode == 3
    assert "relaying" not in result.stdout
    assert "key" in result.stderr
    assert not arrived()


@pytest.mark.parametrize("host", ["gpu1", "gpu2"])
def test_a_host_without_pairsync_is_named_with_the_repair(invoke, without, host):
    without(host, LINKED)
    result = invoke("sync", "--pair", "gpu1:gpu2")
    assert result.returncode == 3
    assert f"invoke bootstrap --limit {host}" in result.stderr


def test_an_unknown_pair_is_answered_with_a_known_one(invoke):
    result = invoke("sync", "--pair", "gpu1:gpu22")
    assert result.returncode == 3
    assert "did you mean gpu2?" in result.stderr


def test_status_tells_the_age(invoke):
    assert invoke("sync", "--pair", "gpu1:gpu2").returncode == 0
    result = invoke("status")
    assert result.returncode == 0, result.stderr
    assert " s ago" in result.stdout


def test_a_session_outlives_its_controller_and_is_found_again(content, environment, fleet, without):
    arrived = content("detached")
    hold(fleet.host("gpu2"), without)
    first = reconcile(environment)
    wait_for(lambda: job_is_running(fleet) or first.poll() is not None)
    assert first.poll() is None, first.communicate()[0]
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert job_is_running(fleet)
    second = reconcile(environment)
    time.sleep(3)
    assert second.poll() is None
    fleet.host("gpu2").path("/tmp/go").touch()
    shown, _errors = second.communicate(timeout=60)
    assert second.returncode == 0, shown
    result = json.loads((Path(environment["HOME"]) / "result.json").read_text())
    assert result["attached"] is True
    assert result["changed"] is True
    assert result["report"]["exit"] == 0
    assert arrived()


def hold(host, without):
    """Let every session wait on a host until /tmp/go is there."""
    without(host.name, LINKED)
    wait = "until [ -e /tmp/go ]; do sleep 0.05; done"
    host.path(LINKED).write_text(f'#!/bin/sh\n{wait}\nexec {LINKED}.away "$@"\n')
    host.path(LINKED).chmod(0o755)


def reconcile(environment):
    """Start a play that reconciles the pair, and leaves the task's result in result.json."""
    home = Path(environment["HOME"])
    keep = {"content": "{{ reconciled | to_json }}", "dest": str(home / "result.json")}
    tasks = [
        {
            "pairsync.fleet.reconcile": {"pair": "gpu1:gpu2"},
            "delegate_to": "gpu1",
            "register": "reconciled",
        },
        {"ansible.builtin.copy": keep},
    ]
    play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
    (home / "play.yml").write_text(json.dumps([play]))
    command = [Path(sys.executable).parent / "ansible-playbook", home / "play.yml"]
    command += ["-i", environment["PAIRSYNC_INVENTORY"]]
    return subprocess.Popen(
        command, env={**environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def job_is_running(fleet):
    """Say whether a session on gpu1 holds its job's lock."""
    probe = 'for lock; do [ -e "$lock" ] && ! flock -n "$lock" true && echo yes; done; true'
    locks = "/data/model/.pairsync/log/reconcile-*.lock"
    return "yes" in fleet.host("gpu1").run(f"set -- {locks}; {probe}").stdout


def wait_for(condition):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail("It did not happen within 60 seconds.")
