# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An inventory host becomes the way to it; nothing of it leaks into the way from host to host."""

from __future__ import annotations

import getpass

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import (
    UsageError,
)
from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.spec import parse_spec
from ansible_collections.pairsync.fleet.plugins.plugin_utils.reach import (
    Reach,
    key_name,
    pair_spec,
    reach,
    session_reach,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils.topology import Pair
from ansible_collections.pairsync.fleet.plugins.plugin_utils.trees import Replica

LOCAL = {"ansible_connection": "local"}


def test_a_host_without_variables_is_left_to_ssh():
    assert reach("gpu1", {}) == Reach(host="gpu1", address="gpu1")
    assert reach("gpu1", {}).argv("-T") == ["ssh", "-T", "--", "gpu1"]


def test_ansible_variables_come_first():
    way = reach(
        "gpu1",
        {
            "ansible_host": "10.0.0.1",
            "ansible_port": "2222",
            "ansible_user": "me",
            "ansible_ssh_private_key_file": "/k",
            "ansible_ssh_args": "-C",
            "ansible_ssh_common_args": "-F '/my config'",
            "ansible_ssh_extra_args": "-o IPQoS=none",
        },
    )
    arguments = ["-C", "-F", "/my config", "-o", "IPQoS=none"]
    assert way.argv() == [
        "ssh", *arguments, "-p", "2222", "-l", "me", "-i", "/k", "--", "10.0.0.1"
    ]  # fmt: skip


def test_the_account_of_a_tree_goes_before_that_of_the_inventory():
    assert reach("gpu1", {"ansible_user": "me"}, user="train").user == "train"


def test_this_machine_needs_no_ssh():
    assert reach("left", LOCAL) == Reach(host="left", local=True)
    assert reach("localhost", {}) == Reach(host="localhost", local=True)
    assert reach("left", LOCAL, user=getpass.getuser()).local
    with pytest.raises(UsageError, match="run the command as someone-else"):
        reach("left", LOCAL, user="someone-else")


@pytest.mark.parametrize(
    "variables,expected",
    [
        ({"ansible_password": "x"}, "ansible_password is set, .* let the host accept a key"),
        ({"ansible_ssh_pass": "x"}, "ansible_ssh_pass is set"),
        ({"ansible_ssh_private_key": "x"}, "name it in ansible_ssh_private_key_file"),
        ({"ansible_become": True}, "ansible_become is set, .* as `user:` of the tree"),
        ({**LOCAL, "ansible_become": "yes"}, "ansible_become is set"),
        ({"ansible_connection": "docker"}, "ansible_connection is docker, .* over ssh only"),
        ({"ansible_host": "-oProxyCommand=x"}, "is no address"),
        ({"ansible_ssh_args": "-o 'x"}, "ansible_ssh_args is no list of arguments"),
    ],
)
def test_a_variable_that_cannot_be_honoured_is_named(variables, expected):
    with pytest.raises(UsageError, match=f"^gpu1: .*{expected}"):
        reach("gpu1", variables)


def test_becoming_nobody_else_is_no_obstacle():
    assert reach("gpu1", {"ansible_become": False}).address == "gpu1"


def pair(**long) -> Pair:
    a, b = Replica("gpu1", "/a"), Replica("gpu2", "/b", **long)
    return Pair(a=a, b=b, tree="t", policy={"prefer": "newer"})


FLEET = {
    "gpu1": {"ansible_host": "10.0.0.1", "ansible_ssh_common_args": "-F /c"},
    "gpu2": {
        "ansible_host": "10.0.0.2",
        "ansible_port": 2222,
        "ansible_user": "me",
        "ansible_ssh_private_key_file": "/k",
        "ansible_ssh_common_args": "-F /c",
    },
}


def test_the_direct_way_takes_nothing_of_the_controller_s_ssh():
    spec = pair_spec(pair(), FLEET)
    assert spec == {
        "schema": "pairsync.spec/1",
        "tree": "t",
        "replicas": {
            "gpu1": {"path": "/a", "local": True},
            "gpu2": {
                "path": "/b",
                "address": "10.0.0.2",
                "port": 2222,
                "user": "me",
                "key": "gpu1+gpu2@t",
            },
        },
        "route": "direct",
        "prefer": "newer",
    }
    assert parse_spec(spec).b.address == "10.0.0.2"
    assert session_reach(pair(), FLEET).address == "10.0.0.1"


def test_the_long_form_says_how_the_peer_goes():
    spec = pair_spec(pair(address="node2", jump="bastion", identity="/p", binary="/x"), FLEET)
    assert spec["replicas"]["gpu2"] == {
        "path": "/b",
        "address": "node2",
        "user": "me",
        "jump": "bastion",
        "identity": "/p",
        "binary": "/x",
    }


@pytest.mark.parametrize(
    "name,expected",
    [
        ("gpu1", "gpu1+gpu2@t"),
        ("-gpu1", "pair_-gpu1+gpu2@t_55276195"),
        ("gpü", "pair_gp_+gpu2@t_75762ae4"),
        ("gp;", "pair_gp_+gpu2@t_935feee2"),
    ],
)
def test_the_key_of_a_pair_has_a_name_that_a_file_can_have(name, expected):
    odd = Pair(a=Replica(name, "/a"), b=Replica("gpu2", "/b"), tree="t")
    spec = pair_spec(odd, {name: {}, "gpu2": {}})
    assert parse_spec(spec).b.key == key_name(odd) == expected


def test_the_key_of_a_pair_is_for_its_own_leg_only():
    assert pair_spec(pair(), {"gpu1": LOCAL, "gpu2": {}})["replicas"]["gpu2"]["key"]
    assert "key" not in pair_spec(pair(identity="/p"), FLEET)["replicas"]["gpu2"]
    assert "key" not in str(pair_spec(pair(), FLEET, "relay"))


def test_a_relay_reaches_both_from_here():
    spec = pair_spec(pair(address="node2", jump="bastion", user="own", binary="/x"), FLEET, "relay")
    assert spec["replicas"] == {
        "gpu1": {"path": "/a", "address": "10.0.0.1", "ssh_args": ["-F", "/c"]},
        "gpu2": {
            "path": "/b",
            "address": "10.0.0.2",
            "port": 2222,
            "user": "own",
            "identity": "/k",
            "binary": "/x",
            "ssh_args": ["-F", "/c"],
        },
    }
    assert spec["route"] == "relay"
    assert parse_spec(spec).route == "relay"
    assert session_reach(pair(), FLEET, "relay").local


def test_the_controller_as_host_a_uses_its_own_way():
    spec = pair_spec(pair(jump="bastion"), {"gpu1": LOCAL, "gpu2": FLEET["gpu2"]})
    assert spec["replicas"]["gpu1"] == {"path": "/a", "local": True}
    assert spec["replicas"]["gpu2"]["ssh_args"] == ["-F", "/c"]
    assert spec["replicas"]["gpu2"]["jump"] == "bastion"


def test_two_directories_of_this_machine_need_no_way():
    spec = pair_spec(pair(), {"gpu1": LOCAL, "gpu2": LOCAL})
    assert [one["local"] for one in spec["replicas"].values()] == [True, True]


def test_the_account_of_the_tree_is_that_of_both_ends():
    own = Pair(a=Replica("gpu1", "/a"), b=Replica("gpu2", "/b"), tree="t", user="train")
    assert session_reach(own, FLEET).user == "train"
    assert pair_spec(own, FLEET)["replicas"]["gpu2"]["user"] == "train"


@pytest.mark.parametrize(
    "b,expected",
    [
        (LOCAL, "gpu1 would have to reach gpu2, which is this machine; write gpu2 first"),
        ({"ansible_host": "127.0.0.1"}, "127.0.0.1 of gpu2 is itself; give gpu2 the `address:`"),
        ({"ansible_host": "::1"}, "give gpu2 the `address:`"),
        ({"ansible_password": "x"}, "gpu2: ansible_password is set"),
    ],
)
def test_a_peer_that_host_a_cannot_reach(b, expected):
    with pytest.raises(UsageError, match=expected):
        pair_spec(pair(), {**FLEET, "gpu2": b})


def test_a_peer_with_an_address_of_its_own_may_be_this_machine():
    spec = pair_spec(pair(address="laptop.lan"), {**FLEET, "gpu2": LOCAL})
    assert spec["replicas"]["gpu2"] == {
        "path": "/b", "address": "laptop.lan", "key": "gpu1+gpu2@t"
    }  # fmt: skip
    assert pair_spec(pair(), {**FLEET, "gpu2": LOCAL}, "relay")["replicas"]["gpu2"]["local"]


def test_a_host_that_left_the_inventory_is_named():
    with pytest.raises(UsageError, match="the inventory has no host gpu2"):
        pair_spec(pair(), {"gpu1": {}})
