# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pairs as Ansible sees them, in real runs: patterns, order, and no green run over a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[4]

HOSTS = """\
all:
  children:
    gpu:
      hosts: {gpu1: , gpu2: , gpu3: }
      vars: {ansible_connection: local}
  vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}
"""

PAIRS = """\
plugin: pairsync.fleet.pairs
trees:
  model_dir: {hosts: gpu, path: /data/model, topology: mesh}
  sets: {replicas: {gpu2: /data/sets, gpu1: /data/sets}, ignore: ["Name {{ x }}"], route: relay}
"""

MACHINES = """\
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.command: echo
"""

DELEGATED = """\
- hosts: sync_pairs
  gather_facts: false
  tasks:
    - ansible.builtin.command: "echo {{ pair_a }} to {{ pair_b }}"
      delegate_to: "{{ pair_session_host }}"
"""

# Where only warnings are expected of Ansible, and where the repository asks for errors.
CONFIGURATIONS = pytest.mark.parametrize("config", ["none.cfg", CHECKOUT / "ansible.cfg"])

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs one of Ansible's commands on the inventory in tmp_path / inv."""
    inventory = tmp_path / "inv"
    inventory.mkdir()
    (inventory / "hosts.yml").write_text(HOSTS)
    (inventory / "pairs.yml").write_text(PAIRS)
    # Empty: Ansible with its defaults, whatever this machine's own configuration says.
    (tmp_path / "none.cfg").write_text("")

    def run(command: str, *arguments: str, config: str | Path = "none.cfg", play: str = ""):
        if play:
            (tmp_path / "play.yml").write_text(play)
            arguments = (*arguments, "play.yml")
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")
        }
        environment |= {
            "ANSIBLE_CONFIG": str(config),
            "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".collections"),
            "ANSIBLE_HOME": str(tmp_path / "home"),
            "ANSIBLE_NOCOLOR": "1",
        }
        return subprocess.run(
            [str(Path(sys.executable).parent / command), "-i", "inv", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def listed(run: Run, pattern: str) -> list[str]:
    result = run("ansible", pattern, "--list-hosts")
    assert result.returncode == 0, result.stderr
    return [line.strip() for line in result.stdout.splitlines()[1:]]


def test_pairs_are_hosts_in_rounds(run):
    assert listed(run, "sync_pairs") == [
        "gpu1+gpu2@model_dir",
        "gpu2+gpu1@sets",
        "gpu1+gpu3@model_dir",
        "gpu2+gpu3@model_dir",
    ]


@pytest.mark.parametrize(
    "pattern,expected",
    [
        ("gpu1+gpu2@model_dir", ["gpu1+gpu2@model_dir"]),
        ("pairs_with_gpu3", ["gpu1+gpu3@model_dir", "gpu2+gpu3@model_dir"]),
        ("tree_sets", ["gpu2+gpu1@sets"]),
        ("gpu1+*", ["gpu1+gpu2@model_dir", "gpu1+gpu3@model_dir"]),
        ("sync_pairs:!pairs_with_gpu3", ["gpu1+gpu2@model_dir", "gpu2+gpu1@sets"]),
        ("pairs_with_gpu3:&pairs_with_gpu1", ["gpu1+gpu3@model_dir"]),
        (r"~gpu2\+.*", ["gpu2+gpu1@sets", "gpu2+gpu3@model_dir"]),
        ("all:!sync_pairs", ["gpu1", "gpu2", "gpu3"]),
    ],
)
def test_patterns_select_pairs(run, pattern, expected):
    assert listed(run, pattern) == expected


def test_variables_of_a_pair(run):
    variables = json.loads(run("ansible-inventory", "--host", "gpu2+gpu1@sets").stdout)
    # This one is of the group `all`, to which pairs belong too.
    del variables["ansible_python_interpreter"]
    assert variables == {
        "ansible_connection": "pairsync.fleet.pair",
        "pair_a": "gpu2",
        "pair_b": "gpu1",
        "pair_definition": {
            # What looks like a template in the file is text, and stays text.
            "ignore": ["Name {{ x }}"],
            "replicas": {"gpu1": {"path": "/data/sets"}, "gpu2": {"path": "/data/sets"}},
            "route": "relay",
        },
        "pair_name": "gpu2+gpu1@sets",
        "pair_round": 0,
        "pair_route": "relay",
        "pair_session_host": "localhost",
        "pair_tree": "sets",
    }


def test_a_delegated_task_runs_once_per_pair(run):
    result = run("ansible-playbook", "--limit", "pairs_with_gpu3", play=DELEGATED)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "changed: [gpu1+gpu3@model_dir -> gpu1]" in result.stdout
    assert "changed: [gpu2+gpu3@model_dir -> gpu2]" in result.stdout
    assert "gpu1+gpu2@model_dir" not in result.stdout


@CONFIGURATIONS
def test_a_play_for_all_hosts_does_not_run_on_pairs(run, config):
    result = run("ansible-playbook", play=MACHINES, config=config)
    assert result.returncode != 0
    assert "changed: [gpu1]" in result.stdout
    assert "changed: [gpu1+gpu2@model_dir]" not in result.stdout
    said = result.stdout + result.stderr
    assert "gpu1+gpu2@model_dir is a pair of hosts, not a machine" in said
    assert "all:!sync_pairs" in said


@CONFIGURATIONS
@pytest.mark.parametrize(
    "old,new,expected",
    [
        ("ignore:", "ignroe:", "pairs.yml:4: trees.sets.ignroe: unknown key; did you mean ignore?"),
        ("gpu2: /", "gpu22: /", "pairs.yml:4: trees.sets: the inventory has no host gpu22"),
        ("hosts: gpu,", "hosts: gpus,", "pairs.yml:3: trees.model_dir.hosts: the inventory has no"),
    ],
)
def test_no_run_is_green_over_a_mistake(run, tmp_path, config, old, new, expected):
    (tmp_path / "inv" / "pairs.yml").write_text(PAIRS.replace(old, new))
    result = run("ansible-playbook", play=DELEGATED.replace("pair_a", "pair_error"), config=config)
    everything = run("ansible-playbook", play=MACHINES, config=config)
    limited = run("ansible-playbook", "--limit", "tree_model_dir", play=DELEGATED, config=config)
    assert result.returncode != 0
    assert expected in result.stdout + result.stderr
    assert everything.returncode != 0
    assert limited.returncode != 0


def test_a_file_that_is_not_yaml_is_refused_by_ansible_itself(run, tmp_path):
    (tmp_path / "inv" / "pairs.yml").write_text(PAIRS + "broken: because: of this\n")
    result = run("ansible-playbook", play=DELEGATED, config=CHECKOUT / "ansible.cfg")
    assert result.returncode != 0
    assert "pairs.yml" in result.stderr


def test_a_file_that_is_not_yaml_is_explained_where_our_plugin_is_enabled(run, tmp_path):
    (tmp_path / "inv" / "pairs.yml").write_text(PAIRS + "broken: because: of this\n")
    (tmp_path / "enabled.cfg").write_text(
        "[inventory]\nenable_plugins = pairsync.fleet.pairs, auto, yaml, ini\n"
    )
    result = run("ansible-playbook", play=DELEGATED, config="enabled.cfg")
    assert result.returncode != 0
    assert "pairs.yml:5: this is not YAML: mapping values are not allowed" in result.stderr


def test_nothing_of_a_wrong_file_becomes_a_pair(run, tmp_path):
    (tmp_path / "inv" / "pairs.yml").write_text(PAIRS.replace("ignore:", "ignroe:"))
    assert listed(run, "sync_pairs") == ["pairs_yml_is_wrong"]
    result = run("ansible", "pairs_yml_is_wrong", "-m", "ansible.builtin.ping")
    assert result.returncode != 0
    assert "trees.sets.ignroe: unknown key" in result.stdout + result.stderr


def test_hosts_that_are_read_too_late_are_explained(run, tmp_path):
    (tmp_path / "inv" / "hosts.yml").rename(tmp_path / "inv" / "the_hosts.yml")
    result = run("ansible", "sync_pairs", "--list-hosts")
    assert "inventory files load in name order" in result.stderr


def test_two_files_may_not_make_the_same_pair(run, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    (second / "pairs.yml").write_text(PAIRS)
    result = run("ansible", "-i", "second", "sync_pairs", "--list-hosts")
    assert "gpu1+gpu2@model_dir is in another pairs.yml of this inventory too" in result.stderr


def test_a_group_of_all_hosts_holds_no_pairs_of_another_file(run, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    (second / "pairs.yml").write_text(
        "plugin: pairsync.fleet.pairs\ntrees: {etc: {hosts: all, path: /etc, topology: chain}}\n"
    )
    result = run("ansible", "-i", "second", "tree_etc", "--list-hosts")
    assert result.stdout.split()[-2:] == ["gpu1+gpu2@etc", "gpu2+gpu3@etc"]


def test_other_yaml_files_are_not_ours(run, tmp_path):
    (tmp_path / "inv" / "pairs.yml").rename(tmp_path / "inv" / "zpairs.yml")
    result = run("ansible", "all", "--list-hosts")
    assert "could not be verified by inventory plugin" in result.stderr
