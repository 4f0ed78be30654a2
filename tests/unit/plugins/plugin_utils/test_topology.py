# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees become pairs, pairs come in rounds, and what people type finds them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import (
    PairsyncError,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils.pairs_file import parse_pairs_file
from ansible_collections.pairsync.fleet.plugins.plugin_utils.topology import (
    Pair,
    compile_pairs,
    in_rounds,
    match_pairs,
    pair_from_variables,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils.trees import PairsFileError, Replica

HOSTS = ("gpu1", "gpu2", "gpu3", "gpu4")
GROUPS = {"gpu": HOSTS, "one": ("gpu1",), "none": ()}


def compiled(trees: str, *, known: bool = True) -> tuple[Pair, ...]:
    text = "plugin: pairsync.fleet.pairs\ntrees:\n" + trees
    hosts, groups = (HOSTS, GROUPS) if known else ((), {})
    return compile_pairs(parse_pairs_file(text, Path("pairs.yml")), hosts, groups)


def many(topology: str, rest: str = "") -> tuple[Pair, ...]:
    return compiled(f"  t: {{hosts: gpu, path: /d, topology: {topology}{rest}}}\n")


@pytest.mark.parametrize(
    "topology,rest,expected",
    [
        ("star", ", hub: gpu2", ["gpu2+gpu1", "gpu2+gpu3", "gpu2+gpu4"]),
        ("chain", "", ["gpu1+gpu2", "gpu2+gpu3", "gpu3+gpu4"]),
        ("ring", "", ["gpu1+gpu2", "gpu2+gpu3", "gpu3+gpu4", "gpu4+gpu1"]),
        (
            "mesh",
            "",
            ["gpu1+gpu2", "gpu1+gpu3", "gpu1+gpu4", "gpu2+gpu3", "gpu2+gpu4", "gpu3+gpu4"],
        ),
    ],
)
def test_a_topology_compiles_to_pairs(topology, rest, expected):
    assert sorted(pair.name for pair in many(topology, rest)) == [f"{one}@t" for one in expected]


def test_two_hosts_in_a_ring_are_one_pair():
    pairs = compiled("  t: {hosts: [gpu1, gpu2], path: /d, topology: ring}\n")
    assert [pair.name for pair in pairs] == ["gpu1+gpu2@t"]


def test_a_pair_is_named_as_written_and_knows_its_groups():
    (pair,) = compiled("  model-dir: {replicas: {gpu2: /a, gpu1: /b}}\n")
    assert pair.name == "gpu2+gpu1@model-dir"
    assert pair.groups() == [
        "sync_pairs",
        "tree_model_dir",
        "pairs_with_gpu2",
        "pairs_with_gpu1",
    ]


@pytest.mark.parametrize(
    "tree,expected",
    [
        (
            "{replicas: {gpu1: /d, gpu22: /d}}",
            "t: the inventory has no host gpu22; did you mean gpu2?",
        ),
        (
            "{hosts: [gpu1, zeta], path: /d, topology: mesh}",
            "t: the inventory has no host zeta; known: gpu1",
        ),
        (
            "{hosts: gpus, path: /d, topology: mesh}",
            "t.hosts: the inventory has no group gpus; did you mean gpu?",
        ),
        (
            "{hosts: one, path: /d, topology: mesh}",
            "t.hosts: of group one the inventory has 1 host; a pair needs two",
        ),
        (
            "{hosts: none, path: /d, topology: mesh}",
            "t.hosts: of group none the inventory has no host",
        ),
        ("{hosts: gpu, path: /d, hub: gpu5}", "t.hub: gpu5 is not one of the tree's hosts"),
        (
            "{hosts: gpu, path: /d, topology: ring, mode: mirror}",
            "t: mirrors go round in a circle, ",
        ),
    ],
)
def test_what_the_inventory_does_not_have(tree, expected):
    with pytest.raises(PairsFileError) as caught:
        compiled(f"  t: {tree}\n")
    assert str(caught.value).startswith(f"pairs.yml:3: trees.{expected}")


def test_an_unknown_host_is_told_about_the_order_of_files():
    with pytest.raises(PairsFileError, match=r"files load in name order, so hosts\.yml is read be"):
        compiled("  t: {replicas: {gpu1: /d, gpu9: /d}}\n", known=False)


def test_mirrors_in_a_circle_are_refused_across_trees():
    with pytest.raises(PairsFileError, match=r"gpu1:/d -> gpu2:/d -> gpu1:/d|gpu2:/d -> gpu1:/d"):
        compiled(
            "  there: {replicas: {gpu1: /d, gpu2: /d}, mode: mirror}\n"
            "  back: {replicas: {gpu2: /d/, gpu1: /d}, mode: mirror}\n"
        )


def test_this_machine_is_known_without_an_inventory():
    (pair,) = compiled("  t: {replicas: {localhost: /d, gpu1: /d}}\n")
    assert pair.hosts == ("localhost", "gpu1")


def test_a_star_needs_as_many_rounds_as_it_has_pairs_and_a_chain_two():
    assert [pair.round for pair in many("star", ", hub: gpu1")] == [0, 1, 2]
    assert [pair.round for pair in many("chain")] == [0, 0, 1]
    assert [pair.round for pair in many("mesh")] == [0, 0, 1, 1, 2, 2]


@given(
    some.lists(
        some.tuples(some.integers(0, 9), some.integers(0, 9)).filter(
            lambda edge: edge[0] != edge[1]
        )
    )
)
def test_no_root_occurs_twice_in_a_round(edges):
    pairs = [
        Pair(a=Replica(f"h{x}", "/d"), b=Replica(f"h{y}", "/d/"), tree=f"t{number}")
        for number, (x, y) in enumerate(edges)
    ]
    numbered = in_rounds(pairs)
    assert {pair.tree for pair in numbered} == {pair.tree for pair in pairs}
    assert [pair.round for pair in numbered] == sorted(pair.round for pair in numbered)
    assert in_rounds(pairs) == numbered
    seen = [(pair.round, host) for pair in numbered for host in pair.hosts]
    assert len(seen) == len(set(seen))


def test_different_directories_of_one_host_are_different_roots():
    pairs = compiled(
        "  s: {replicas: {gpu1: /s, gpu2: /s}}\n  t: {replicas: {gpu1: /t, gpu2: /t}}\n"
    )
    assert [pair.round for pair in pairs] == [0, 0]


THREE = """\
  m: {replicas: {gpu1: /m, gpu2: /m}}
  d: {replicas: {gpu2: /d, gpu1: /d}}
  x: {replicas: {gpu1: /x, gpu3: /x}}
"""


def test_a_pair_is_found_in_either_order_and_by_name():
    pairs = compiled(THREE)
    assert {one.tree for one in match_pairs(pairs, "gpu1:gpu2")} == {"m", "d"}
    assert {one.tree for one in match_pairs(pairs, "gpu2:gpu1")} == {"m", "d"}
    assert [one.tree for one in match_pairs(pairs, "gpu2:gpu1", "m")] == ["m"]
    assert [one.tree for one in match_pairs(pairs, "gpu1+gpu2@m")] == ["m"]
    assert [one.tree for one in match_pairs(pairs, "gpu1:gpu2@d")] == ["d"]


@pytest.mark.parametrize(
    "text,tree,code,expected",
    [
        ("gpu1", None, "usage", "'gpu1' names no pair; write HOST:HOST, for example gpu1:gpu2"),
        ("gpu1:gpu1", None, "usage", "gpu1:gpu1: a host is no pair with itself; name two hosts"),
        ("gpu1:gpu22", None, "unknown_pair", "no pair has a host gpu22; did you mean gpu2?"),
        (
            "gpu2:gpu3",
            None,
            "unknown_pair",
            "gpu2 and gpu3 are no pair; the pairs of gpu2 are gpu1:gpu2, gpu2:gpu1",
        ),
        ("gpu1:gpu2", "x", "unknown_pair", "gpu1 and gpu2 have no tree x; known: d, m"),
    ],
)
def test_no_pair_is_an_error_that_helps(text, tree, code, expected):
    with pytest.raises(PairsyncError) as caught:
        match_pairs(compiled(THREE), text, tree)
    assert caught.value.code == code
    assert str(caught.value).startswith(expected)


def test_the_variables_of_a_pair_say_all_of_it():
    (pair,) = compiled(
        "  t:\n"
        "    replicas: {gpu1: /d, gpu2: {path: /e, port: 22, ssh_args: [-C], binary: /x}}\n"
        "    route: relay\n    user: me\n    ignore: [Name x]\n    max_delete: 10\n"
    )
    assert pair_from_variables(pair.variables()) == pair
    assert pair.variables()["pair_session_host"] == "localhost"
