# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bootstrap and parity playbooks on this machine, into directories of the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils import binary

COLLECTIONS = Path(binary.__file__).parents[5]
PAIRS = """
plugin: pairsync.fleet.pairs
trees:
  demo: {replicas: {left: /tmp/left, right: /tmp/right}}
"""


@pytest.fixture
def inventory(tmp_path):
    """Two names of this machine, and a pair of them."""
    directory = tmp_path / "inventory"
    directory.mkdir()
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }
    hosts = {"all": {"hosts": {"left": host, "right": host}}}
    (directory / "hosts.yml").write_text(json.dumps(hosts))
    (directory / "pairs.yml").write_text(PAIRS)
    return directory


@pytest.fixture
def play(tmp_path, inventory):
    """A function that runs one of our playbooks with further words, and returns its output."""
    (tmp_path / "ansible.cfg").touch()

    def run(name, *words, code=0):
        variables = {"pairsync_prefix": f"{tmp_path}/opt", "pairsync_bin_dir": f"{tmp_path}/bin"}
        command = [Path(sys.executable).with_name("ansible-playbook"), f"pairsync.fleet.{name}"]
        command += ["--inventory", inventory, "--extra-vars", json.dumps(variables)]
        done = subprocess.run(
            [*command, *words],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
                "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_check_mode_works_where_nothing_is_installed(play, tmp_path):
    output = play("bootstrap", "--check")
    assert output.count("would install") == 2
    assert not (tmp_path / "opt").exists()


def test_bootstrap_installs_and_proves_parity_and_then_changes_nothing(play, tmp_path):
    play("bootstrap")
    built = binary.build(tmp_path / "built")
    assert (tmp_path / "bin" / "pairsync").read_bytes() == built.path.read_bytes()
    output = play("bootstrap")
    assert output.count(built.digest[:12]) == 2
    assert output.count("changed=0") == 2
    assert "left+right@demo" not in output


def test_a_missing_binary_is_a_table_and_the_command_that_installs_it(play):
    output = play("parity", code=2)
    assert "pairsync does not answer with one build on every host and every route:" in output
    assert "next: invoke bootstrap --limit left,right" in output


def test_a_mistake_in_the_pairs_is_said(play, inventory):
    (inventory / "pairs.yml").write_text(PAIRS.replace("right:", "rihgt:"))
    output = play("parity", code=2)
    assert "rihgt" in output
