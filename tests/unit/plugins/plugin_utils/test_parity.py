# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers of hosts, what differs among them, and what a person is told."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import replace

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.spec import (
    ReplicaSpec,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils import asking, parity
from ansible_collections.pairsync.fleet.plugins.plugin_utils.parity import Row, UnreachableError

ANSWER = {"name": "pairsync", "version": "0.1.0", "protocol": 1, "build": "ab" * 32, "path": "/p"}
GPU1 = Row(host="gpu1", seen_from="gpu1", path="/p", version="0.1.0", protocol=1, build="ab" * 32)


def host(**answers):
    """Return how a host behaves that knows these commands: (exit code, stdout, stderr) each."""

    def run(command):
        return answers.get(command.split()[0].rsplit("/")[1], (127, "", "not found"))

    return run


def ask(run, name="pairsync", binary=""):
    return parity.ask("gpu1", "gpu1", name, binary, run)


def test_a_host_says_who_it_is():
    assert ask(host(usr=(0, json.dumps(ANSWER), ""))) == GPU1


def test_what_a_login_shell_prints_is_passed_over():
    noise = "Welcome to gpu1\n{not json\n" + json.dumps(ANSWER) + "\n"
    assert ask(host(usr=(0, noise, "motd"))) == GPU1


def test_the_users_binary_is_asked_only_where_the_systems_is_missing():
    def run(command):
        asked.append(command)
        return 127, "", ""

    asked = []
    assert ask(run).problem == "missing"
    assert asked == [
        "/usr/bin/pairsync --version --json",
        "~/.local/bin/pairsync --version --json",
        "/usr/local/bin/pairsync --version --json",
    ]
    asked.clear()
    ask(run, binary="/opt/p/pairsync")
    assert asked == ["/opt/p/pairsync --version --json"]


def test_what_the_host_said_instead_is_the_reason():
    sentence = "pairsync: no Python 3.9 or newer on this host; install one"
    row = ask(host(usr=(3, "", f"warning\n{sentence}\n")))
    assert (row.problem, row.detail) == ("refused", sentence)
    row = ask(host(usr=(0, "pairsync 0.0.1\n", "")))
    assert (row.problem, row.detail) == ("refused", "pairsync 0.0.1")


def test_a_host_that_cannot_be_reached_is_a_row():
    def run(_command):
        raise UnreachableError("Connection refused")

    row = ask(run)
    assert (row.problem, row.detail) == ("unreachable", "Connection refused")
    row = ask(host(usr=(254, "", "Host key verification failed.\r\n")))
    assert (row.problem, row.detail) == ("unreachable", "Host key verification failed.")


def test_another_tool_is_asked_for_its_version_and_measured_by_its_digest():
    def run(command):
        if command == "sha256sum /usr/bin/unison":
            return 0, f"{'cd' * 32}  /usr/bin/unison\n", ""
        known = command == "/usr/bin/unison -version"
        return (0, "unison version 2.53.7\n", "") if known else (2, "", "unknown option")

    row = ask(run, name="unison")
    assert (row.version, row.build, row.problem) == ("2.53.7", "cd" * 32, "")


def test_a_leg_is_the_sessions_own_ssh_and_keeps_its_failure_apart():
    replica = ReplicaSpec(label="gpu2", path="/d", address="10.0.0.2", user="me", port=2222)
    command = parity.leg_command(replica, "~/.local/bin/pairsync --version --json")
    words = shlex.split(command.partition(";")[0])
    assert words[0] == "ssh"
    assert words[-2:] == ["10.0.0.2", "~/.local/bin/pairsync --version --json"]
    assert "BatchMode=yes" in words
    assert "exit 254" in command


@pytest.mark.parametrize(
    "level, differs", [("build", True), ("version", False), ("protocol", False)]
)
def test_what_has_to_be_equal_is_a_matter_of_level(level, differs):
    other = replace(GPU1, host="gpu2", build="cd" * 32)
    rows = parity.compare([GPU1, GPU1, other], level, None, check_mode=False)
    assert [row.problem for row in rows] == ["", "", "different" if differs else ""]


def test_the_measure_is_what_this_controller_installs_if_anybody_has_it():
    old = replace(GPU1, build="cd" * 32)
    rows = parity.compare([old, old, GPU1], "build", GPU1, check_mode=False)
    assert [row.problem for row in rows] == ["different", "different", ""]
    # Nobody has it yet: hosts that agree among themselves are in parity.
    rows = parity.compare([old, old], "build", GPU1, check_mode=False)
    assert parity.mismatches(rows) == []


def test_check_mode_foretells_what_an_installation_would_mend():
    missing = Row(host="gpu2", seen_from="gpu2", problem="missing")
    away = Row(host="gpu3", seen_from="gpu3", problem="unreachable", detail="no route")
    rows = parity.compare([GPU1, missing, away], "build", None, check_mode=True)
    assert [row.problem for row in rows] == ["", "would install", "unreachable"]
    assert parity.mismatches(rows) == [away]


def test_the_table_shows_what_a_host_said_without_its_control_characters():
    rows = [
        GPU1,
        Row(host="gpu2", seen_from="gpu1", path="/p", problem="refused", detail="\x1b[2Jgone"),
    ]
    assert parity.table(rows).splitlines() == [
        "host  path  version  build         seen from  problem",
        "gpu1  /p    0.1.0    abababababab  itself",
        "gpu2  -     -        -             gpu1       refused: \\x1b[2Jgone",
    ]


def test_each_repair_is_said_once():
    missing = [Row(host=name, seen_from="gpu1", problem="missing") for name in ("gpu3", "gpu2")]
    cut = Row(host="gpu4", seen_from="gpu1", problem="unreachable")
    assert parity.repairs([*missing, *missing, cut, cut]) == [
        "invoke bootstrap --limit gpu2,gpu3",
        "on gpu1, see why this fails: ssh gpu4 true",
    ]


def test_all_are_asked_at_once_and_the_silent_one_does_not_hold_up_the_rest():
    def question(index):
        def answer():
            time.sleep(30 if index == 3 else 0.1)
            return index

        return answer

    started = time.monotonic()
    answers = asking.all_at_once([question(index) for index in range(10)], lambda _i: "late", 2)
    assert answers == [0, 1, 2, "late", 4, 5, 6, 7, 8, 9]
    assert time.monotonic() - started < 10
