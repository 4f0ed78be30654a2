# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A policy says exactly what it means, or is refused with the key that is wrong."""

from __future__ import annotations

import json

import pytest

from pairsync.model.agent_policy import SCHEMA, AgentPolicy, parse_agent_policy
from pairsync.model.errors import PairsyncError

LEAST = {"schema": SCHEMA, "label": "gpu1+gpu2@model", "roots": ["/data/model"]}


def parse(data):
    return parse_agent_policy(json.dumps(data).encode(), "/etc/p.json")


def test_the_least_that_must_be_said():
    assert parse(LEAST) == AgentPolicy("gpu1+gpu2@model", ("/data/model",))


def test_everything_that_can_be_said():
    data = {
        **LEAST,
        "roots": ["/data/model", "/a"],
        "receive": False,
        "send": False,
        "peer": {"pair": "0a", "replica": "0b"},
        "backup": {"keep": 3, "days": 90},
        "limits": {"max_delete": 10, "entries": 5, "bytes": 6},
    }
    assert parse(data) == AgentPolicy(
        "gpu1+gpu2@model", ("/data/model", "/a"), receive=False, send=False, pair="0a",
        replica="0b", keep=3, days=90, max_delete=10, entries=5, bytes=6,
    )  # fmt: skip


@pytest.mark.parametrize(
    "change,said",
    [
        ({"recieve": False}, "recieve is no key of a policy"),
        ({"backup": {"kep": 1}}, "backup.kep is no key"),
        ({"peer": {"host": "x"}}, "peer.host is no key"),
        ({"schema": "pairsync.policy/2"}, "schema is not"),
        ({"label": ""}, "label is not a text"),
        ({"label": "\u001b[31m"}, "label is not a text"),
        ({"roots": []}, "roots is not a list"),
        ({"roots": "/data"}, "roots is not a list"),
        ({"roots": ["/"]}, "not an absolute path"),
        ({"roots": ["data"]}, "not an absolute path"),
        ({"roots": ["/data/"]}, "not an absolute path"),
        ({"roots": ["/data/../etc"]}, "not an absolute path"),
        ({"roots": ["//data"]}, "not an absolute path"),
        ({"roots": ["~/data"]}, "not an absolute path"),
        ({"roots": [7]}, "not an absolute path"),
        ({"roots": ["/a\0b"]}, "zero byte"),
        ({"receive": "no"}, "receive is not true or false"),
        ({"send": 0}, "send is not true or false"),
        ({"peer": []}, "peer is not an object"),
        ({"peer": {"pair": "../x"}}, "peer.pair is not an id"),
        ({"backup": {"days": -1}}, "backup.days is not a whole number"),
        ({"backup": {"keep": True}}, "backup.keep is not a whole number"),
        ({"limits": {"max_delete": 101}}, "limits.max_delete is not a whole number"),
        ({"limits": {"bytes": 1.5}}, "limits.bytes is not a whole number"),
    ],
)
def test_anything_else_is_refused_by_name(change, said):
    with pytest.raises(PairsyncError) as caught:
        parse({**LEAST, **change})
    assert caught.value.code == "policy"
    assert "/etc/p.json" in caught.value.message
    assert said in caught.value.message


@pytest.mark.parametrize("key", LEAST)
def test_what_must_be_there(key):
    with pytest.raises(PairsyncError, match=f"{key} is missing"):
        parse({name: value for name, value in LEAST.items() if name != key})


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_object(text):
    with pytest.raises(PairsyncError, match="is refused"):
        parse_agent_policy(text, "/etc/p.json")


def test_a_key_that_occurs_twice_could_mean_either():
    text = json.dumps(LEAST)[:-1] + ', "receive": false, "receive": true}'
    with pytest.raises(PairsyncError, match="a key occurs twice"):
        parse_agent_policy(text.encode(), "/etc/p.json")
