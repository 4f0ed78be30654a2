# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong in a pairs.yml is said with its line, and what is right is read as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils.pairs_file import (
    parse_pairs_file,
    read_pairs_file,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils.trees import PairsFileError

CHECKOUT = Path(__file__).parents[4]
FILE = Path("inv/pairs.yml")

TWO = """\
plugin: pairsync.fleet.pairs
trees:
  model_dir:
    replicas:
      gpu1: /data/model
      gpu2: {path: /data/model, address: 10.0.0.2, port: 22, ssh_args: [-C]}
"""

MANY = """\
plugin: pairsync.fleet.pairs
defaults: {ignore: [Name *.tmp], prefer: newer}
trees:
  homes:
    hosts: [login1, login2, login3]
    path: "~"
    hub: login1
"""


def test_both_forms_are_read():
    (two,) = parse_pairs_file(TWO, FILE).trees
    assert [one.as_written() for one in two.replicas] == [
        {"path": "/data/model"},
        {"path": "/data/model", "address": "10.0.0.2", "port": 22, "ssh_args": ["-C"]},
    ]
    (many,) = parse_pairs_file(MANY, FILE).trees
    assert (many.hosts, many.path, many.topology, many.hub) == (
        ("login1", "login2", "login3"),
        "~",
        "star",
        "login1",
    )


def test_defaults_lie_under_each_tree():
    (tree,) = parse_pairs_file(MANY + "    ignore: [Path cache, Name *.tmp]\n", FILE).trees
    assert tree.policy == {"ignore": ["Name *.tmp", "Path cache"], "prefer": "newer"}
    (tree,) = parse_pairs_file(MANY + "    prefer: older\n    route: relay\n", FILE).trees
    assert tree.policy == {"ignore": ["Name *.tmp"], "prefer": "older"}
    assert tree.route == "relay"


@pytest.mark.parametrize(
    "text,expected",
    [
        ("", "inv/pairs.yml: the file is empty; write `plugin: pairsync.fleet.pairs` and `trees:`"),
        ("- x\n", "inv/pairs.yml:1: a mapping is expected, not a list; write `trees:`"),
        ("trees: {}\n", "inv/pairs.yml: plugin is missing; write `plugin: pairsync.fleet.pairs`"),
        (
            "plugin: pairsync\n",
            "inv/pairs.yml:1: plugin is 'pairsync'; write `plugin: pairsync.fleet.pairs`",
        ),
        (
            "plugin: pairsync.fleet.pairs\n",
            "inv/pairs.yml: trees is missing; write `trees:` and below it what to sync",
        ),
        (
            "plugin: pairsync.fleet.pairs\ntrees:\n",
            "inv/pairs.yml:2: trees: expected a mapping, not nothing",
        ),
        (
            "plugin: pairsync.fleet.pairs\ntree: {}\n",
            "inv/pairs.yml:2: tree: unknown key; did you mean trees?",
        ),
        (
            "a: b: c\n",
            "inv/pairs.yml:1: this is not YAML: mapping values are not allowed here; check ind",
        ),
    ],
)
def test_a_file_that_is_no_pairs_file(text, expected):
    with pytest.raises(PairsFileError) as caught:
        parse_pairs_file(text, FILE)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    "line,expected",
    [
        ("ignroe: [Name x]", "trees.model_dir.ignroe: unknown key; did you mean ignore?"),
        ("topology: star", "trees.model_dir.topology: unknown key"),
        ("ignore: Name x", "trees.model_dir.ignore: a list is expected, not 'Name x'"),
        (
            "ignore: [Nmae x]",
            "trees.model_dir.ignore[0]: the path specification 'Nmae x' is malformed",
        ),
        ("mode: mirrored", "trees.model_dir.mode: 'mirrored' is not one of two-way, mirror, push"),
        ("max_delete: 300", "trees.model_dir.max_delete: a whole number from 0 to 100 is expected"),
        ("max_delete: yes", "trees.model_dir.max_delete: a whole number"),
        (
            "route: relayed",
            "trees.model_dir.route: 'relayed' is not one of direct, relay, auto; did",
        ),
        ("user: 5", "trees.model_dir.user: expected an account's name, not 5"),
        ("paths: [/etc]", "trees.model_dir.paths[0]: '/etc' is not a path relative to the root"),
        ("profile: x.prf", "trees.model_dir.profile: this version reads no profiles"),
    ],
)
def test_a_key_of_a_tree_is_judged_with_its_line(line, expected):
    with pytest.raises(PairsFileError) as caught:
        parse_pairs_file(TWO + f"    {line}\n", FILE)
    assert str(caught.value).startswith(f"inv/pairs.yml:7: {expected}")


def test_each_item_of_a_list_has_its_own_line():
    text = TWO + "    ignore:\n      - Name x\n      # why\n      - Nothing y\n"
    with pytest.raises(PairsFileError) as caught:
        parse_pairs_file(text, FILE)
    assert caught.value.line == 10


@pytest.mark.parametrize(
    "old,new,expected",
    [
        ("gpu2: {", "gpu1: {", "6: gpu1 is written twice; keep one"),
        (
            "gpu1: /data/model",
            "gpu1: data",
            "5: trees.model_dir.replicas.gpu1: 'data' is a relative path",
        ),
        (
            "gpu1: /data/model",
            "gpu1:",
            "5: trees.model_dir.replicas.gpu1: expected a path, not nothing",
        ),
        (
            "gpu1: /data/model",
            "gpu1: 7",
            "5: trees.model_dir.replicas.gpu1: expected a path, not the value 7",
        ),
        (
            "gpu1: /data/model",
            "1: /data",
            "5: trees.model_dir.replicas.1: expected a host's name, not the value 1",
        ),
        (
            "gpu1: /data/model",
            "gpu:1: /data",
            "5: trees.model_dir.replicas.gpu:1: 'gpu:1' cannot be part of a pair's name",
        ),
        (
            "gpu1: /data/model",
            "gpu1+a: /data",
            "5: trees.model_dir.replicas.gpu1+a: 'gpu1+a' cannot be part of",
        ),
        (
            "      gpu1: /data/model\n",
            "",
            "4: trees.model_dir.replicas: two hosts are expected, not 1",
        ),
        (
            "address:",
            "adress:",
            "6: trees.model_dir.replicas.gpu2.adress: unknown key; did you mean address?",
        ),
        (
            "port: 22",
            "port: ssh",
            "6: trees.model_dir.replicas.gpu2.port: a whole number from 1 to 65535 is expected",
        ),
        (
            "port: 22",
            "local: true",
            "6: trees.model_dir.replicas.gpu2.local: the inventory says which",
        ),
        ("10.0.0.2", "-oProxyCommand=x", "6: trees.model_dir.replicas.gpu2.address: "),
        (
            "replicas:",
            "replcas:",
            "4: trees.model_dir.replcas: unknown key; did you mean replicas?",
        ),
        ("model_dir:", "model dir:", "3: 'model dir' is no name for a tree"),
        ("model_dir:", "12:", "3: 12 is no name for a tree"),
    ],
)
def test_a_mistake_in_replicas(old, new, expected):
    with pytest.raises(PairsFileError) as caught:
        parse_pairs_file(TWO.replace(old, new), FILE)
    assert str(caught.value).startswith(f"inv/pairs.yml:{expected}")


@pytest.mark.parametrize(
    "old,new,expected",
    [
        ("    hub: login1\n", "", "4: trees.homes.hub: a star needs the host in its middle"),
        (
            "hub: login1",
            "topology: strar",
            "7: trees.homes.topology: 'strar' is not one of star, chain, ring, mesh; did",
        ),
        ("hub: login1", "topology: mesh\n    hub: login1", "8: trees.homes.hub: a mesh has no hub"),
        ('    path: "~"\n', "", "4: trees.homes.path: expected a path; write"),
        (
            "login3",
            "login1",
            "5: trees.homes.hosts: login1 is written twice; a host is no pair with itself",
        ),
        (
            "[login1, login2, login3]",
            "[login1]",
            "5: trees.homes.hosts: expected at least two hosts, not 1",
        ),
        (
            "[login1, login2, login3]",
            "{login1: x}",
            "5: trees.homes.hosts: a group or a list of hosts is expected",
        ),
        ("hub: login1", "replicas: {a: /x, b: /y}", "4: trees.homes has both replicas and hosts"),
        ("prefer: newer", "prefre: newer", "2: defaults.prefre: unknown key; did you mean prefer?"),
        ("prefer: newer", "hosts: all", "2: defaults.hosts: unknown key"),
        (
            "prefer: newer",
            "prefer: me",
            "2: defaults.prefer: 'me' is not one of a, b, newer, older",
        ),
    ],
)
def test_a_mistake_among_many_hosts(old, new, expected):
    with pytest.raises(PairsFileError) as caught:
        parse_pairs_file(MANY.replace(old, new), FILE)
    assert str(caught.value).startswith(f"inv/pairs.yml:{expected}")


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(PairsFileError, match="cannot be read: No such file"):
        read_pairs_file(tmp_path / "pairs.yml")
    (tmp_path / "pairs.yml").write_bytes(b"plugin: \xff\n")
    with pytest.raises(PairsFileError, match="is not UTF-8"):
        read_pairs_file(tmp_path / "pairs.yml")


@pytest.mark.parametrize("name", ["local", "example"])
def test_the_inventories_that_come_with_pairsync_are_right(name):
    assert read_pairs_file(CHECKOUT / "inventories" / name / "pairs.yml").trees
