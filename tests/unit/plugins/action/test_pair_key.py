# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pairs that need no key, and what is wrong with a task; tests/fleet/test_keys.py has the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils import binary

COLLECTIONS = Path(binary.__file__).parents[5]
LOCAL = {
    "ansible_connection": "local",
    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
}
GONE = {"ansible_host": "127.0.0.1", "ansible_port": 9}
PAIRS = """
plugin: pairsync.fleet.pairs
trees:
  here: {replicas: {left: /tmp/left, right: /tmp/right}}
  relayed: {replicas: {gpu1: /data, gpu2: /data}, route: relay}
  behind: {replicas: {gpu1: /data/b, left: /data/b}}
  own: {replicas: {gpu1: /data/c, gpu2: {path: /data/c, address: gpu2, identity: ~/.ssh/mine}}}
  gone: {replicas: {gpu1: /data/d, gpu2: {path: /data/d, address: gpu2}}}
"""


@pytest.fixture
def task(tmp_path):
    """A function that runs the module by itself: exit code and result."""
    (tmp_path / "ansible.cfg").touch()
    inventory = tmp_path / "inventory"
    inventory.mkdir()
    hosts = {"left": LOCAL, "right": LOCAL, "gpu1": GONE, "gpu2": GONE}
    (inventory / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    (inventory / "pairs.yml").write_text(PAIRS)

    def run(host="localhost", **options):
        command = [Path(sys.executable).with_name("ansible"), host, "--inventory", inventory]
        command += ["--module-name", "pairsync.fleet.pair_key", "--args", json.dumps(options)]
        done = subprocess.run(
            command,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
                "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible"),
                "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        _shown, brace, answer = done.stdout.partition("=> {")
        assert brace, done.stdout + done.stderr
        return done.returncode, json.loads("{" + answer)

    return run


@pytest.mark.parametrize(
    "pair,said",
    [
        ("left+right@here", "both replicas are on this machine"),
        ("gpu1+gpu2@relayed", "neither host logs in to the other"),
        ("gpu1+left@behind", "neither host logs in to the other"),
        ("gpu1+gpu2@own", "pairs.yml names an identity for it"),
    ],
)
def test_a_pair_that_needs_no_key_says_why(task, pair, said):
    code, result = task(pair, pair=pair)
    assert (code, result["changed"]) == (0, False)
    assert result["skipped_reason"].startswith(f"{pair}: ")
    assert said in result["skipped_reason"]


@pytest.mark.parametrize(
    "options,said",
    [
        ({"pair": "gpu1:gpu9"}, "no pair has a host gpu9"),
        ({"pair": "gpu1:gpu2"}, "means 3 pairs: say which tree, of relayed, own, gone"),
        ({"pair": "gpu1:gpu2", "tree": "non"}, "have no tree non"),
        ({"pair": ""}, "names no pair"),
    ],
)
def test_a_task_that_names_no_pair_is_told(task, options, said):
    code, result = task(**options)
    assert code != 0
    assert said in result["msg"]


def test_a_host_that_does_not_answer_is_named(task):
    code, result = task(pair="gpu1:gpu2", tree="gone")
    assert code != 0
    assert "gpu1 cannot be reached: " in result["msg"]
    assert "unreachable" not in result
