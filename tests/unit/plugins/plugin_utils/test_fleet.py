# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventories read into this process, as Invoke's tasks do, give what Ansible's commands give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import (
    PairsyncError,
    UsageError,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils.fleet import load_fleet
from ansible_collections.pairsync.fleet.plugins.plugin_utils.reach import pair_spec, reach
from ansible_collections.pairsync.fleet.plugins.plugin_utils.topology import match_pairs

CHECKOUT = Path(__file__).parents[4]

HOSTS = """\
all:
  hosts:
    gpu1: {ansible_host: "{{ net }}.1"}
    gpu2: {ansible_host: "{{ net }}.2"}
    gpu3: {ansible_host: "{{ missing }}"}
"""

PAIRS = """\
plugin: pairsync.fleet.pairs
trees:
  m: {hosts: [gpu1, gpu2, gpu3], path: /m, topology: mesh, prefer: newer}
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    (tmp_path / "hosts.yml").write_text(HOSTS)
    (tmp_path / "pairs.yml").write_text(PAIRS)
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text("net: 10.0.0\nansible_user: me\n")
    return tmp_path


def test_hosts_pairs_and_variables(inventory):
    fleet = load_fleet([inventory])
    assert fleet.hosts == ("gpu1", "gpu2", "gpu3")
    assert [pair.name for pair in fleet.pairs] == ["gpu1+gpu2@m", "gpu1+gpu3@m", "gpu2+gpu3@m"]
    assert fleet.variables["gpu2"]["ansible_host"] == "10.0.0.2"
    assert reach("gpu1", fleet.variables["gpu1"]).argv() == ["ssh", "-l", "me", "--", "10.0.0.1"]
    (pair,) = match_pairs(fleet.pairs, "gpu2:gpu1")
    assert pair_spec(pair, fleet.variables) == {
        "schema": "pairsync.spec/1",
        "tree": "m",
        "replicas": {
            "gpu1": {"path": "/m", "local": True},
            "gpu2": {
                "path": "/m",
                "address": "10.0.0.2",
                "user": "me",
                "key": "gpu1+gpu2@m",
            },
        },
        "route": "direct",
        "prefer": "newer",
    }


def test_a_template_without_a_value_is_named(inventory):
    fleet = load_fleet([inventory])
    with pytest.raises(
        UsageError, match=r"gpu3: the variable ansible_host has no value: .*missing"
    ):
        reach("gpu3", fleet.variables["gpu3"])


def test_limits_are_ansible_s_patterns(inventory):
    fleet = load_fleet([inventory])
    assert [pair.name for pair in fleet.limited("pairs_with_gpu3")] == [
        "gpu1+gpu3@m",
        "gpu2+gpu3@m",
    ]
    with pytest.raises(PairsyncError, match="no pair matches 'gpu1'") as caught:
        fleet.limited("gpu1")
    assert caught.value.code == "unknown_pair"


@pytest.mark.parametrize(
    "text,expected",
    [
        (
            PAIRS.replace("prefer", "prefre"),
            ":3: trees.m.prefre: unknown key; did you mean prefer?",
        ),
        (
            PAIRS.replace("gpu3", "gpu4"),
            ":3: trees.m: the inventory has no host gpu4; did you mean",
        ),
        ("plugin: x: y\n", ":1: this is not YAML: mapping values are not allowed here"),
    ],
)
def test_a_mistake_in_pairs_yml_is_said_once_and_alone(inventory, capfd, text, expected):
    (inventory / "pairs.yml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_fleet([inventory])
    assert str(caught.value).startswith(f"{inventory / 'pairs.yml'}{expected}")
    assert capfd.readouterr() == ("", "")


def test_an_inventory_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"there is no inventory .*nowhere; name an existing one"):
        load_fleet([tmp_path / "nowhere"])


def test_an_inventory_without_pairs_has_hosts(inventory):
    (inventory / "pairs.yml").unlink()
    fleet = load_fleet([inventory])
    assert (len(fleet.hosts), fleet.pairs) == (3, ())


def test_the_demo_needs_no_way_to_its_hosts():
    fleet = load_fleet([CHECKOUT / "inventories" / "local"])
    (pair,) = fleet.pairs
    spec = pair_spec(pair, fleet.variables)
    assert spec["replicas"] == {
        "left": {"path": "~/pairsync-demo/left", "local": True},
        "right": {"path": "~/pairsync-demo/right", "local": True},
    }


def test_the_collection_can_be_imported_after_an_inventory_was_read(inventory):
    # Ansible's importer takes over with the first inventory; what is imported later has to work.
    collection = "ansible_collections.pairsync.fleet.plugins"
    program = (
        "import sys\n"
        f"from {collection}.plugin_utils import fleet\n"
        "fleet.load_fleet([sys.argv[1]])\n"
        "fleet.load_fleet([sys.argv[1]])\n"
        f"from {collection}.plugin_utils import openssh, pairs_edit\n"
        f"from {collection}.module_utils.pairsync.model import errors\n"
        "assert openssh.PairsyncError is errors.PairsyncError\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(inventory)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
