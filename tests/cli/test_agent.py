# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`agent --policy` as sshd starts it for a pair's key: what it answers, and what it does not."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "etc/policy.json"
    path.parent.mkdir()
    data = {"schema": "pairsync.policy/1", "label": "gpu1+gpu2@t", "roots": [str(tmp_path / "b")]}
    path.write_text(json.dumps(data))
    path.chmod(0o644)
    return path


@pytest.fixture
def asked(pairsync, policy):
    """A function that asks the agent for a command, None for a shell."""

    def ask(command, **more):
        env = {} if command is None else {"SSH_ORIGINAL_COMMAND": command}
        return pairsync("agent", "--policy", policy, env={**env, **more})

    return ask


def test_who_it_is_may_be_known(asked):
    for place in ("pairsync", "/usr/bin/pairsync", "~/.local/bin/pairsync"):
        assert asked(f"{place} --version").out.startswith("pairsync ")
        assert asked(f"{place} --version --json").report["name"] == "pairsync"


@pytest.mark.parametrize(
    "command",
    [
        None, "", "agent", "sh", "sh -c id", "pairsync", "pairsync sync /a /b", "pairsync agent x",
        "pairsync agent; id", "pairsync agent --policy /tmp/own", "pairsync --version --json x",
        "pairsync --versio", "pairsync --version=1", "internal-sftp", "/usr/lib/sftp-server",
        "scp -t .", "rsync --server . .", "pairsync forget /a /b",
    ],
    ids=str,
)  # fmt: skip
def test_nothing_else_is_answered(asked, command):
    ran = asked(command)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.count("\n") == 1
    assert "this key serves pairsync's sessions, and nothing else" in ran.err


@pytest.mark.parametrize(
    "wrong,said",
    [
        (lambda path: path.chmod(0o666), "others may write to it"),
        (lambda path: path.write_text("{}"), "label is missing"),
        (lambda path: path.unlink(), "cannot be opened (No such file or directory)"),
    ],
)
@pytest.mark.parametrize("command", ["pairsync agent", "pairsync --version", "sh"])
def test_with_a_policy_that_is_no_good_it_answers_nothing(asked, policy, wrong, said, command):
    wrong(policy)
    ran = asked(command)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.count("\n") == 1
    assert f"the policy {policy} is refused: " in ran.err
    assert said in ran.err
