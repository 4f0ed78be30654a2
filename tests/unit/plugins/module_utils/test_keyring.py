# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The key of a pair on the host that logs in; tests/fleet/test_keys.py tries it on real hosts."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils import keyring
from ansible_collections.pairsync.fleet.plugins.module_utils.keyring import KeyFaultError

NAME = "gpu1+gpu2@model"


@pytest.fixture
def key(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return keyring.key_of(NAME)


def test_a_key_is_made_for_nobody_else_and_without_a_passphrase(key, tmp_path):
    assert key.public == ""
    key.make(f"pairsync:{NAME}")
    assert key.path == tmp_path / f".ssh/pairsync/{NAME}"
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.path.parent.stat().st_mode) == 0o700
    command = ["ssh-keygen", "-y", "-P", "", "-f", key.path]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.split()[:2] == key.public.split()
    assert key.public.startswith("ssh-ed25519 ")


def test_a_public_half_alone_is_no_key(key):
    key.make("x")
    first = key.public
    key.path.unlink()
    assert key.public == ""
    key.make("x")
    assert key.public not in ("", first)


def test_the_following_key_takes_its_place(key):
    key.make("x")
    key.following.make("x")
    following = key.following.public
    assert key.public != following
    key.take_place()
    assert (key.public, key.following.public) == (following, "")


def test_nothing_is_left_of_a_key_that_was_removed(key, tmp_path):
    key.make("x")
    key.following.make("x")
    key.known_hosts.write_text("x")
    assert key.remove()
    assert not (tmp_path / ".ssh/pairsync").exists()
    assert not key.remove()


def test_keys_of_other_pairs_stay(key):
    key.make("x")
    other = keyring.key_of("gpu1+gpu3@model")
    other.make("x")
    key.remove()
    assert other.public


def test_a_key_that_cannot_be_made_is_said(key):
    key.path.parent.mkdir(parents=True)
    key.path.with_name(f"{NAME}.pub").mkdir()
    with pytest.raises(KeyFaultError, match="ssh-keygen cannot make"):
        key.make("x")


def test_host_keys_are_known_by_the_pair_s_name_alone():
    text = keyring.known_hosts_text(NAME, ["ssh-rsa B", "ssh-ed25519 A", "ssh-rsa B"])
    assert text == f"{NAME} ssh-ed25519 A\n{NAME} ssh-rsa B\n"


def ssh(*options):
    return ["ssh", "-F", "none", *options, "--", "127.0.0.1"]


def test_ssh_says_whom_it_logs_in_as():
    assert keyring.account(ssh("-l", "train")) == "train"
    with pytest.raises(KeyFaultError, match="ssh cannot say how it would log in"):
        keyring.account(ssh("-o", "NoSuchOption=x"))


def test_where_nobody_is_let_in_the_address_is_that_of_the_way():
    closed = ssh("-p", "9", "-o", "BatchMode=yes")
    assert keyring.source_address(closed) == "127.0.0.1"
    with pytest.raises(KeyFaultError, match=r"a jump host: say it in from_address"):
        keyring.source_address([*closed[:-2], "-J", "bastion", *closed[-2:]])


@pytest.mark.parametrize(
    "answers,said",
    [
        ({}, "does not open the other host's pairsync: it said why"),
        ({"--version": '{"name": "other"}'}, "does not open"),
        ({"--version": '{"name": "pairsync"}', "echo": "pairsync-shell"}, "opens a shell"),
        ({"--version": '{"name": "pairsync"}', "sftp": "\0\0\0\5"}, "opens sftp"),
        ({"--version": '{"name": "pairsync"}', "-W": "SSH-2.0-x"}, "opens connections"),
        ({"--version": '{"name": "pairsync"}', "refused": "connect failed"}, "opens connections"),
        ({"--version": '{"name": "pairsync"}'}, ""),
    ],
)
def test_a_key_that_opens_more_or_less_is_found_out(tmp_path, answers, said):
    """What sshd answers is played by a script: no sshd makes each of these mistakes on demand."""
    lines = ["#!/bin/sh", 'case "$*" in']
    for word, text in answers.items():
        if word == "refused":
            lines.append(f"*-W*) echo '{text}' >&2; exit 255;;")
        else:
            lines.append(f"*{word}*) printf '%b' '{text}'; exit 0;;".replace("\0", "\\000"))
    lines += ["esac", "echo it said why >&2; exit 3"]
    program = tmp_path / "ssh"
    program.write_text("\n".join(lines).replace("\5", "\\005"))
    program.chmod(0o755)
    if not said:
        keyring.prove([str(program), "--", "gpu2"])
        return
    with pytest.raises(KeyFaultError, match=said):
        keyring.prove([str(program), "--", "gpu2"])


def test_the_key_that_follows_is_the_one_that_is_tried(tmp_path, key):
    program = tmp_path / "ssh"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n'
        'case "$*" in *--version*) echo \'{"name": "pairsync"}\';; *) exit 3;; esac\n'
    )
    program.chmod(0o755)
    command = [str(program), "-o", f"IdentityFile=~/.ssh/pairsync/{NAME}", "--", "gpu2"]
    keyring.prove(command, key.following)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 4
    assert all(f"IdentityFile={key.following.path} " in line for line in asked)
    assert os.path.basename(key.following.path) == f"{NAME}.next"
