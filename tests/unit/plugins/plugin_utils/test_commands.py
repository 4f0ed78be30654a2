# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which inventory, which pairs, and what the words on invoke's command line mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import (
    PairsyncError,
    UsageError,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils import commands
from ansible_collections.pairsync.fleet.plugins.plugin_utils.fleet import Fleet
from ansible_collections.pairsync.fleet.plugins.plugin_utils.topology import Pair
from ansible_collections.pairsync.fleet.plugins.plugin_utils.trees import Replica


@pytest.mark.parametrize(
    "typed,meant",
    [
        ("sync gpu1:/p gpu2:/p --batch", "sync --at gpu1:/p --at gpu2:/p --batch"),
        ("bootstrap sync /a ~/b", "bootstrap sync --at /a --at ~/b"),
        ("plan ssh://gpu1//p ./b", "plan --at ssh://gpu1//p --at ./b"),
        ("sync --pair gpu1:gpu2", "sync --pair gpu1:gpu2"),
        ("sync --inventory a/b --pair x:y", "sync --inventory a/b --pair x:y"),
        ("sync build", "sync build"),
        ("pairs --add gpu1:/p gpu2:/p --tree t", "pairs --add gpu1:/p --add gpu2:/p --tree t"),
        ("pairs --add gpu1:/p --add gpu2:/p", "pairs --add gpu1:/p --add gpu2:/p"),
        ("history gpu1:/p", "history --at gpu1:/p"),
        ("restore gpu1:/p f --run R", "restore --at gpu1:/p --path f --run R"),
        ("history gpu1:/p d/f status", "history --at gpu1:/p --path d/f status"),
        ("restore --pair x:y --path d/f", "restore --pair x:y --path d/f"),
        ("build --out dist/x", "build --out dist/x"),
        ("", ""),
    ],
)
def test_directories_need_no_flag(typed, meant):
    assert commands.spelled_out(typed.split()) == meant.split()


def test_the_inventory_in_use(monkeypatch, tmp_path):
    monkeypatch.delenv("PAIRSYNC_INVENTORY", raising=False)
    monkeypatch.setattr(commands, "SITE", tmp_path / "site")
    assert commands.inventory_in_use() == commands.LOCAL
    (tmp_path / "site").mkdir()
    assert commands.inventory_in_use() == tmp_path / "site"
    monkeypatch.setenv("PAIRSYNC_INVENTORY", str(tmp_path / "named"))
    assert commands.inventory_in_use() == tmp_path / "named"
    assert commands.inventory_in_use("there") == Path.cwd() / "there"


def pair(a, b, tree):
    return Pair(a=Replica(host=a, path="/a"), b=Replica(host=b, path="/b"), tree=tree)


PAIRS = (pair("gpu1", "gpu2", "model"), pair("gpu1", "gpu2", "code"), pair("gpu1", "gpu3", "model"))


def fleet(*pairs):
    return Fleet(sources=("site",), variables={}, hosts=(), pairs=pairs, manager=None)


@pytest.mark.parametrize(
    "names,tree,expected",
    [
        ([], "", ["gpu1+gpu2@model", "gpu1+gpu2@code", "gpu1+gpu3@model"]),
        ([], "model", ["gpu1+gpu2@model", "gpu1+gpu3@model"]),
        (["gpu2:gpu1"], "", ["gpu1+gpu2@model", "gpu1+gpu2@code"]),
        (["gpu1:gpu2", "gpu1:gpu2"], "code", ["gpu1+gpu2@code"]),
        (["gpu1:gpu3", "gpu1+gpu2@code"], "", ["gpu1+gpu3@model", "gpu1+gpu2@code"]),
    ],
)
def test_the_pairs_that_are_meant(names, tree, expected):
    assert [one.name for one in commands.choose(fleet(*PAIRS), names, tree, "")] == expected


@pytest.mark.parametrize(
    "pairs,names,tree,said",
    [
        (PAIRS, ["gpu1:gpu4"], "", "gpu4"),
        (PAIRS, [], "modle", "did you mean model?"),
        ((), [], "", "invoke pairs --add"),
    ],
)
def test_no_such_pair_is_an_error_with_a_next_step(pairs, names, tree, said):
    with pytest.raises(PairsyncError, match=said) as caught:
        commands.choose(fleet(*pairs), names, tree, "")
    assert caught.value.code == "unknown_pair"


def test_a_tree_is_named_only_where_it_is_needed():
    assert commands.display_name(PAIRS[0], PAIRS) == "gpu1:gpu2@model"
    assert commands.display_name(PAIRS[2], PAIRS) == "gpu1:gpu3"


@pytest.mark.parametrize(
    "words,said",
    [
        ({"route": "relais"}, "did you mean relay"),
        ({"policy": {"mode": "both"}}, "mode"),
        ({"policy": {"prefer": "c"}}, "prefer"),
    ],
)
def test_a_word_that_means_nothing(words, said):
    given = {"dry_run": False, "batch": True, "route": "", "confirm": "", "policy": {}, **words}
    with pytest.raises(UsageError, match=said):
        commands.options(**given)
