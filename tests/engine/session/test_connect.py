# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ssh command line of a replica, with a pair's own key and without."""

from __future__ import annotations

import pytest

from pairsync.model.errors import UsageError
from pairsync.model.spec import PairSpec, ReplicaSpec, parse_spec, spec_json
from pairsync.session.connect import explain, ssh_argv, start_ssh

NAME = "gpu1+gpu2@model"
HOST = ReplicaSpec("gpu2", "/data", ssh_args=("-F", "none"), identity="/mine", key=NAME)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def started(home, monkeypatch):
    """The arguments that start_ssh gives to a program that is called ssh."""
    (home / "bin").mkdir()
    (home / "bin/ssh").write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    (home / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}/bin:/usr/bin:/bin")
    with start_ssh(HOST, ["pairsync", "agent"], batch=True) as process:
        return process.stdout.read().decode().splitlines()


def test_a_pair_s_key_counts_alone(home):
    argv = ssh_argv(HOST, batch=True)
    assert argv[:3] == ["ssh", "-F", "none"]
    assert "/mine" not in argv
    for option in (
        f"IdentityFile=~/.ssh/pairsync/{NAME}", "IdentitiesOnly=yes", "IdentityAgent=none",
        f"UserKnownHostsFile=~/.ssh/pairsync/{NAME}.known_hosts", "GlobalKnownHostsFile=/dev/null",
        f"HostKeyAlias={NAME}", "StrictHostKeyChecking=yes", "ControlPath=none",
    ):  # fmt: skip
        assert option in argv


def test_a_key_is_used_where_it_is(home, monkeypatch):
    (home / ".ssh/pairsync").mkdir(parents=True)
    (home / ".ssh/pairsync" / NAME).touch()
    assert f"HostKeyAlias={NAME}" in started(home, monkeypatch)


def test_where_there_is_none_the_user_s_own_way_is_taken(home, monkeypatch):
    words = started(home, monkeypatch)
    assert "/mine" in words
    assert not any("pairsync/" in word or "HostKeyAlias" in word for word in words)


@pytest.mark.parametrize(
    "name", ["", "../id_ed25519", "a/b", "-oProxyCommand=x", "a b", "a%h", "~", "a\n", 7]
)
def test_a_name_that_is_no_name_of_a_key(name):
    data = {
        "replicas": {"gpu1": {"path": "/a", "local": True}, "gpu2": {"path": "/b", "key": name}}
    }
    with pytest.raises(UsageError, match=r"replicas\.gpu2\.key: .* is not the name of a key"):
        parse_spec(data)


def test_the_name_of_a_key_travels():
    spec = PairSpec(ReplicaSpec("gpu1", "/a", local=True), HOST)
    assert parse_spec(spec_json(spec)).b.key == NAME


@pytest.mark.parametrize("with_key", [False, True])
@pytest.mark.parametrize(
    "code,said,expected",
    [
        (255, "me@gpu2: Permission denied (publickey).", "auth"),
        (255, "Host key verification failed.", "host_key"),
        (3, "pairsync: the policy /etc/p.json is refused: it is too long; shorten it", "policy"),
    ],
)
def test_what_to_do_depends_on_whose_key_it_was(home, with_key, code, said, expected):
    if with_key:
        (home / ".ssh/pairsync").mkdir(parents=True)
        (home / ".ssh/pairsync" / NAME).touch()
    error = explain(HOST, "pairsync", code, said, b"")
    if expected == "policy":
        assert error.code == ("policy" if with_key else "protocol")
        assert "the policy /etc/p.json is refused" in error.message
    else:
        assert error.code == expected
        assert ("pairsync.fleet.keys" in error.next) == with_key
