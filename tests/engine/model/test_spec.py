# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Specifications: what is read, and that every mistake is named with its place."""

from __future__ import annotations

import pytest

from pairsync.model.errors import UsageError
from pairsync.model.policy import Policy, Retention
from pairsync.model.spec import PairSpec, ReplicaSpec, parse_location, parse_spec, spec_json

TWO = {"gpu1": "/data/model", "gpu2": {"path": "~/model", "address": "10.0.0.2"}}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("/data", ReplicaSpec("", "/data", local=True)),
        ("dir", ReplicaSpec("", "dir", local=True)),
        ("./with:colon", ReplicaSpec("", "./with:colon", local=True)),
        ("gpu1:/data", ReplicaSpec("gpu1", "/data")),
        ("gpu1:data", ReplicaSpec("gpu1", "~/data")),
        ("gpu1:", ReplicaSpec("gpu1", "~")),
        ("me@gpu1:~/x", ReplicaSpec("gpu1", "~/x", user="me")),
        ("ssh://gpu1//data", ReplicaSpec("gpu1", "/data")),
        ("ssh://gpu1/data", ReplicaSpec("gpu1", "~/data")),
        ("ssh://me@gpu1:2222//d", ReplicaSpec("gpu1", "/d", user="me", port=2222)),
        ("ssh://gpu1", ReplicaSpec("gpu1", "~")),
        ("ssh://[::1]//d", ReplicaSpec("::1", "/d")),
    ],
)
def test_locations(text, expected):
    assert parse_location(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=x:/d", "ssh://-oProxyCommand=x//d", "ssh://", "a b:/d", "ssh://h:x//d"],
)
def test_what_is_no_location(text):
    with pytest.raises(UsageError) as caught:
        parse_location(text)
    assert caught.value.next


def test_a_specification_is_read_and_written_back():
    data = {
        "schema": "pairsync.spec/1",
        "tree": "model_dir",
        "replicas": TWO,
        "mode": "mirror",
        "prefer": "newer",
        "ignore": ["Name *.tmp"],
        "paths": ["sub/dir"],
        "max_delete": 10,
        "route": "relay",
    }
    spec = parse_spec(data)
    assert spec.a == ReplicaSpec("gpu1", "/data/model")
    assert spec.b == ReplicaSpec("gpu2", "~/model", address="10.0.0.2")
    assert spec.policy == Policy(
        "mirror", "newer", ("Name *.tmp",), paths=("sub/dir",), max_delete=10
    )
    assert parse_spec(spec_json(spec)) == spec


@pytest.mark.parametrize("where", ["", "h1:"])
def test_both_replicas_may_be_on_one_host(where):
    spec = PairSpec(parse_location(f"{where}/x"), parse_location(f"{where}/y"))
    data = spec_json(spec)
    assert len(data["replicas"]) == 2
    back = parse_spec(data)
    assert (back.a.display, back.b.display) == (spec.a.display, spec.b.display)
    assert (back.b.address or back.b.label) == spec.b.label
    assert parse_spec(spec_json(back)) == back


def test_everything_but_the_replicas_has_a_default():
    spec = parse_spec({"replicas": TWO})
    assert spec.policy == Policy()
    assert spec.route == "direct"


@pytest.mark.parametrize(
    "change, said",
    [
        ({"schema": "pairsync.spec/2"}, "schema: "),
        ({"replicas": {}}, "replicas: exactly two"),
        ({"replicas": {"a": "/1", "b": "/2", "c": "/3"}}, "replicas: exactly two"),
        ({"replicas": {"a": "/1", "b": ""}}, r"replicas\.b\.path"),
        ({"replicas": {"a": "/1", "b": 3}}, r"replicas\.b: "),
        ({"replicas": {"a": "/1", "-oX": "/2"}}, r"replicas\.-oX"),
        ({"replicas": {"a": "/1", "b": {"path": "/2", "prot": 3}}}, r"replicas\.b\.prot: unknown"),
        ({"replicas": {"a": "/1", "b": {"path": "/2", "port": 0}}}, r"replicas\.b\.port"),
        ({"replicas": {"a": "/1", "b": {"path": "/2", "port": True}}}, r"replicas\.b\.port"),
        ({"replicas": {"a": "/1", "b": {"path": "/2", "address": "-x"}}}, r"replicas\.b\.address"),
        ({"mod": "mirror"}, "mod: unknown key"),
        ({"mode": "both"}, "mode: 'both' is not one of"),
        ({"prefer": "c"}, "prefer: 'c'"),
        ({"ignore": "Name x"}, "ignore: a list"),
        ({"ignore": ["x"]}, "'x' is malformed"),
        ({"ignore": [3]}, r"ignore\[0\]: text"),
        ({"paths": ["../x"]}, r"paths\[0\]: '../x'"),
        ({"paths": ["/x"]}, r"paths\[0\]"),
        ({"max_delete": 101}, "max_delete: a whole number from 0 to 100"),
        ({"max_delete": "50"}, "max_delete"),
        ({"lock_wait": -1}, "lock_wait"),
        ({"route": "wherever"}, "route: 'wherever'"),
        ({"tree": 1}, "tree: text"),
        ({"backup": 3}, "backup: a mapping"),
        ({"backup": {"keep": 0}}, r"backup\.keep"),
        ({"backup": {"size": "1G"}}, r"backup\.size: unknown"),
        ({"backup": {"max_size": "1GB"}}, r"backup\.max_size: '1GB' is no amount"),
        ({"backup": {"min_free": True}}, r"backup\.min_free: True is no amount"),
        ({"backup": {"min_free": -1}}, r"backup\.min_free"),
    ],
)
def test_every_mistake_is_named_with_its_place(change, said):
    with pytest.raises(UsageError, match=said):
        parse_spec({"replicas": TWO, **change})


def test_the_backup_s_limits_go_there_and_back():
    given = {"keep": 3, "days": 0, "max_size": 1048576, "min_free": "2.5%"}
    spec = parse_spec({"replicas": TWO, "backup": given})
    assert spec.policy.backup == Retention(True, 3, 0, "1048576", "2.5%")
    assert parse_spec(spec_json(spec)) == spec


def test_a_close_key_is_suggested():
    with pytest.raises(UsageError) as caught:
        parse_spec({"replicas": TWO, "ingore": []})
    assert caught.value.next == "did you mean 'ignore'?"


def test_what_shapes_no_plan_is_not_in_the_policy_s_digest():
    assert Policy().digest() == Policy(lock_wait=1, timeout=5).digest()
    assert Policy().digest() != Policy(max_delete=1).digest()
