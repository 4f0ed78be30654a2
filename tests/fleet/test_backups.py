# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups on other hosts: `invoke history` and `invoke restore` over ssh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils.binary import build

ROOT = Path(__file__).resolve().parents[2]
PAIRS = """\
plugin: pairsync.fleet.pairs
trees:
  model: {replicas: {gpu1: /data/model, gpu2: /data/model}}
"""


@pytest.fixture(scope="module")
def environment(start_fleet, tmp_path_factory):
    """A controller and two hosts; on gpu2 a sync has replaced `f` and deleted `d`."""
    fleet = start_fleet("gpu1", "gpu2")
    home = tmp_path_factory.mktemp("home")
    inventory = fleet.write_inventory(home / "inventory", names=["gpu1", "gpu2"])
    (inventory / "pairs.yml").write_text(PAIRS)
    built = build(home / "pairsync").path
    for name in ("gpu1", "gpu2"):
        fleet.host(name).put(built, "/usr/bin/pairsync")
    environment = {**os.environ, "HOME": str(home), "PAIRSYNC_INVENTORY": str(inventory)}
    model = fleet.host("gpu1").path("/data/model")
    (model / "d e").mkdir(parents=True)
    (model / "f").write_text("old")
    (model / "d e/g").write_text("g")
    assert run(environment, "sync", "--pair", "gpu1:gpu2").returncode == 0
    (model / "f").write_text("new")
    (model / "d e/g").unlink()
    (model / "d e").rmdir()
    assert run(environment, "sync", "--pair", "gpu1:gpu2").returncode == 0
    return fleet, environment


def run(environment, *words):
    command = [sys.executable, "-m", "invoke", "--search-root", ROOT, *words]
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def gpu2(environment):
    return environment[0].host("gpu2").path("/data/model")


@pytest.fixture
def invoke(environment):
    return lambda *words: run(environment[1], *words)


def test_a_pair_s_backups_are_listed_on_both_hosts(invoke):
    ran = invoke("history", "--pair", "gpu1:gpu2", "--json")
    assert ran.returncode == 0, ran.stderr
    one, two = map(json.loads, ran.stdout.splitlines())
    assert (one["host"], one["runs"]) == ("gpu1", [])
    assert (two["host"], len(two["runs"])) == ("gpu2", 1)


def test_a_file_on_a_host_comes_back_and_travels(invoke, gpu2):
    ran = invoke("restore", "gpu2:/data/model", "f")
    assert ran.returncode == 0, ran.stderr
    assert (gpu2 / "f").read_text() == "old"
    assert "restored   f" in ran.stdout
    assert invoke("sync", "--pair", "gpu1:gpu2").returncode == 0
    assert invoke("history", "--host", "gpu1", "--path", "f").stdout.endswith("  f\n")


@pytest.mark.parametrize(
    "words,said",
    [
        (["restore", "--path", "f"], "gpu1:/data/model, gpu2:/data/model"),
        (["restore", "--host", "gpu3", "--path", "f"], "gpu3"),
        (["restore", "--host", "gpu2", "--path", "none"], "has no version of none"),
        (["history", "gpu1:/nowhere"], "/nowhere cannot be opened"),
    ],
)
def test_what_is_not_meant_is_one_sentence(environment, invoke, words, said):
    ran = invoke(*words)
    assert ran.returncode == 3
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_copies_of_a_tree_on_its_host(environment, invoke):
    ran = invoke("restore", "--host", "gpu2", "--path", "d e", "--to", "/data/out")
    assert ran.returncode == 0, ran.stderr
    assert environment[0].host("gpu2").path("/data/out/d e/g").read_text() == "g"
