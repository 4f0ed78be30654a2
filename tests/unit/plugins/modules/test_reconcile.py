# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The specification that the module hands to the installed binary."""

from __future__ import annotations

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import UsageError
from ansible_collections.pairsync.fleet.plugins.modules import reconcile

NONE = dict.fromkeys([*reconcile.POLICY, "ignore", "user", "_spec", "a", "b"])
INVENTORY = {
    "schema": "pairsync.spec/1",
    "tree": "model_dir",
    "replicas": {
        "gpu1": {"path": "/data/model", "local": True},
        "gpu2": {"path": "/data/model", "user": "me"},
    },
    "ignore": ["Name *.tmp"],
    "prefer": "a",
}


def test_options_come_on_top_of_the_inventory():
    options = {"_spec": INVENTORY, "prefer": "newer", "ignore": ["Path cache"], "max_delete": 0}
    spec = reconcile.spec_of({**NONE, **options})
    assert spec["prefer"] == "newer"
    assert spec["ignore"] == ["Name *.tmp", "Path cache"]
    assert spec["max_delete"] == 0
    assert INVENTORY["ignore"] == ["Name *.tmp"]


def test_what_is_not_given_stays_as_the_inventory_says():
    assert reconcile.spec_of({**NONE, "_spec": INVENTORY}) == INVENTORY


def test_the_owner_is_who_logs_in_to_b():
    spec = reconcile.spec_of({**NONE, "_spec": INVENTORY, "user": "trainer"})
    assert spec["replicas"]["gpu2"]["user"] == "trainer"
    assert "user" not in spec["replicas"]["gpu1"]


def test_two_locations_need_no_inventory():
    spec = reconcile.spec_of({**NONE, "a": "/data/model", "b": "ssh://me@gpu2:2222//data/model"})
    replicas = list(spec["replicas"].values())
    assert replicas[0] == {"path": "/data/model", "local": True}
    assert replicas[1] == {"path": "/data/model", "address": "gpu2", "user": "me", "port": 2222}


def test_two_directories_of_one_host_have_two_labels():
    spec = reconcile.spec_of({**NONE, "a": "gpu2:/one", "b": "gpu2:/two"})
    assert list(spec["replicas"]) == ["gpu2", "gpu2-b"]
    assert {one["address"] for one in spec["replicas"].values()} == {"gpu2"}


@pytest.mark.parametrize(
    "options,said",
    [
        ({"paths": ["/etc"]}, "paths"),
        ({"ignore": ["*.tmp"]}, "Name GLOB"),
        ({"max_delete": 101}, "max_delete"),
        ({"_spec": None, "a": "/one", "b": ":/two"}, "names no host"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(options, said):
    with pytest.raises(UsageError) as caught:
        reconcile.spec_of({**NONE, "_spec": INVENTORY, **options})
    assert said in str(caught.value)
