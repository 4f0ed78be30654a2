# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a key is let in with, and what of sshd's settings would make that worthless."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils import authorized
from ansible_collections.pairsync.fleet.plugins.module_utils.authorized import AccessError, Sshd
from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.agent_policy import (
    parse_agent_policy,
)

NAME = "gpu1+gpu2@model"
PUBLIC = "ssh-ed25519 AAAAC3Nz"
POLICY = Path(f"/etc/pairsync/pairs/{NAME}.json")
LINE = authorized.line_of(NAME, PUBLIC, ["10.0.0.1"], "/usr/bin/pairsync", POLICY)
ME = pwd.getpwuid(os.geteuid())


def test_the_line_allows_one_command_from_one_address():
    expected = (
        f'restrict,command="/usr/bin/pairsync agent --policy {POLICY}",from="10.0.0.1"'
        f" ssh-ed25519 AAAAC3Nz pairsync:{NAME}"
    )
    assert LINE.split() == expected.split()


def test_a_home_with_odd_characters_stays_one_word():
    line = authorized.line_of(NAME, PUBLIC, [], "/usr/bin/pairsync", Path('/home/a "b"/p.json'))
    assert '--policy \'/home/a \\"b\\"/p.json\'" ssh-ed25519' in line
    assert authorized.own_lines(line, NAME) == [line]


@pytest.mark.parametrize(
    "others",
    [
        "",
        "ssh-rsa AAAA me@laptop\n",
        "# managed\r\n\r\nssh-rsa AAAA without an end",
        f"ssh-rsa AAAA pairsync:{NAME}\n",
        f'command="x agent --policy y" ssh-rsa AAAA pairsync:{NAME}2\n',
        f"x\u2028 agent --policy y pairsync:{NAME} z\n\n\n",
    ],
    ids=range(6),
)
def test_other_lines_stay_byte_for_byte(others):
    text = authorized.with_lines(others, NAME, [LINE])
    assert text == f"{LINE}\n{others}"
    assert authorized.own_lines(text, NAME) == [LINE]
    assert authorized.with_lines(text, NAME, [LINE]) == text
    assert authorized.with_lines(text, NAME, []) == others


def test_a_new_line_takes_the_place_of_the_old_one():
    text = authorized.with_lines("other\n", NAME, [LINE, LINE.replace("AAAA", "BBBB")])
    after = authorized.with_lines(text, NAME, [LINE.replace("AAAA", "CCCC")])
    assert after.count("pairsync:") == 1
    assert "CCCC" in after


def test_the_addresses_of_a_line_are_read_back():
    assert authorized.sources_of([LINE]) == ["10.0.0.1"]
    several = authorized.line_of(NAME, PUBLIC, ["10.0.0.*", "fe80::1"], "/x", POLICY)
    assert authorized.sources_of([several]) == ["10.0.0.*", "fe80::1"]
    assert authorized.sources_of([authorized.line_of(NAME, PUBLIC, [], "/x", POLICY)]) == []
    assert authorized.sources_of([]) == []


def test_the_policy_is_one_that_the_agent_reads():
    wanted = {"send": False, "backup": {"keep": 3, "days": 9}, "limits": {"entries": 7}}
    text = authorized.policy_text("label", "/data", wanted, {"pair": "0a", "replica": "0b"})
    policy = parse_agent_policy(text.encode(), "x")
    assert (policy.roots, policy.send, policy.keep, policy.entries) == (("/data",), False, 3, 7)
    assert (policy.pair, policy.replica) == ("0a", "0b")


@pytest.mark.parametrize(
    "settings,said",
    [
        ({"pubkeyauthentication": ["no"]}, "accepts no keys"),
        ({"forcecommand": ["internal-sftp"]}, "sshd runs `internal-sftp`"),
        ({"acceptenv": ["LANG LC_*", "*"]}, "clients set BASH_ENV"),
        ({"acceptenv": ["PAIRSYNC_*"]}, "clients set PAIRSYNC_PYTHON"),
        ({"acceptenv": ["LD_?RELOAD"]}, "clients set LD_PRELOAD"),
    ],
)
def test_an_sshd_that_does_not_do_what_the_line_says(settings, said):
    with pytest.raises(AccessError, match=re.escape(said)):
        authorized.check_sshd(Sshd(settings))


def test_an_ordinary_sshd_is_no_obstacle():
    authorized.check_sshd(Sshd({}))
    authorized.check_sshd(
        Sshd({"acceptenv": ["LANG LC_*", "COLORTERM NO_COLOR"], "forcecommand": ["none"]})
    )


@pytest.mark.parametrize(
    "patterns,expected",
    [
        ("", "{home}/.ssh/authorized_keys"),
        (".ssh/authorized_keys .ssh/authorized_keys2", "{home}/.ssh/authorized_keys"),
        ("%h/keys", "{home}/keys"),
        ("none %h/.ssh/of-%u-%%", "{home}/.ssh/of-{user}-%"),
    ],
)
def test_where_sshd_looks_for_keys(patterns, expected):
    settings = Sshd({"authorizedkeysfile": [patterns]} if patterns else {})
    wanted = expected.format(home=ME.pw_dir, user=ME.pw_name)
    assert authorized.keys_file(settings, ME) == Path(wanted)


def test_where_only_root_may_write():
    settings = Sshd({"authorizedkeysfile": ["/etc/ssh/keys/%u"]})
    if os.geteuid() == 0:
        assert authorized.keys_file(settings, ME) == Path(f"/etc/ssh/keys/{ME.pw_name}")
    with pytest.raises(AccessError, match=r"only root may write: .* become: true"):
        authorized.keys_file(Sshd({"authorizedkeysfile": ["none"]}), ME)


def test_only_host_keys_that_are_shown_are_pinned(tmp_path, monkeypatch):
    for kind in ("ed25519", "rsa", "dsa"):
        name = {"dsa": "ssh-dss", "rsa": "ssh-rsa"}.get(kind, f"ssh-{kind}")
        (tmp_path / f"ssh_host_{kind}_key.pub").write_text(f"{name} AAAA{kind} root@gpu2\n")
    named = Sshd({"hostkey": [str(tmp_path / "ssh_host_ed25519_key"), str(tmp_path / "missing")]})
    assert authorized.host_keys(named) == ["ssh-ed25519 AAAAed25519"]
    monkeypatch.setattr(authorized, "HOST_KEYS", tmp_path)
    assert authorized.host_keys(Sshd({})) == ["ssh-ed25519 AAAAed25519", "ssh-rsa AAAArsa"]


def test_what_may_be_wrong_is_said(tmp_path):
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    home.chmod(0o777)
    user = pwd.struct_passwd((*ME[:5], str(home), "/usr/sbin/nologin"))
    file = home / ".ssh/authorized_keys"
    file.touch()
    settings = Sshd({"strictmodes": ["yes"], "allowusers": ["admin"]})
    told = authorized.suspicions(settings, user, file, ["10.0.0.1"])
    assert "the shell of" in told
    assert f"StrictModes: others may write to {home}" in told
    assert "allowusers admin" in told
    assert "the key is for 10.0.0.1" in told
    assert authorized.suspicions(Sshd({"strictmodes": ["no"]}), ME, file, []) == (
        "see the log of sshd on that host"
    )


def test_where_only_root_may_ask_sshd_its_configuration_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(authorized, "HOST_KEYS", tmp_path)
    (tmp_path / "sshd_config").write_text("Port 22\nAuthorizedKeysFile /etc/keys/%u\n")
    (tmp_path / "sshd_config.d").mkdir()
    (tmp_path / "sshd_config.d/site.conf").write_text("Match Group users\n  ForceCommand x\n")
    told = authorized.suspicions(Sshd({}), ME, tmp_path / "none", [])
    assert "sshd_config says `AuthorizedKeysFile /etc/keys/%u`" in told
    assert "site.conf says `Match Group users`" in told
    assert "site.conf says `ForceCommand x`" in told
    assert "Port" not in told
