# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways that reach.py and openssh.py find lead to real hosts, for ssh and for Fabric alike."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.module_utils.pairsync.model.errors import (
    PairsyncError,
)
from ansible_collections.pairsync.fleet.plugins.plugin_utils.openssh import connect, settings_of
from ansible_collections.pairsync.fleet.plugins.plugin_utils.reach import Reach, reach


def way(fleet, name: str, **variables: object) -> Reach:
    """The way to a host by its address, which the ssh configuration does not turn into a name."""
    common = {"ansible_host": fleet.host(name).address, "ansible_user": "root"}
    arguments = f"-F '{fleet.ssh_config}' {variables.pop('arguments', '')}"
    return reach(name, {**common, "ansible_ssh_common_args": arguments, **variables})


def over_ssh(found: Reach) -> str:
    command = [*found.argv("-o", "BatchMode=yes"), "hostname; id -un"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def over_fabric(found: Reach) -> str:
    with connect(found) as connection:
        return connection.run("hostname; id -un", hide=True, in_stream=False).stdout


@pytest.mark.parametrize(
    "variables,expected",
    [
        ({}, "gpu2\nroot\n"),
        ({"ansible_user": "me"}, "gpu2\nme\n"),
        ({"ansible_host": "gpu2"}, "gpu2\nroot\n"),
        ({"arguments": "-J gpu1"}, "gpu2\nroot\n"),
        ({"arguments": "-J root@gpu3:22,gpu1"}, "gpu2\nroot\n"),
        ({"arguments": "-o HostKeyAlias=gpu2"}, "gpu2\nroot\n"),
    ],
)
def test_ssh_and_fabric_arrive_at_the_same_place(fleet, variables, expected):
    found = way(fleet, "gpu2", **variables)
    assert over_ssh(found) == expected
    assert over_fabric(found) == expected


def test_a_proxy_command_is_followed(fleet):
    command = f"ssh -F '{fleet.ssh_config}' -W %h:%p gpu1"
    found = way(fleet, "gpu2", ansible_ssh_extra_args=f'-o ProxyCommand="{command}"')
    assert over_ssh(found) == over_fabric(found) == "gpu2\nroot\n"


def test_a_configuration_that_includes_another_is_followed(fleet, tmp_path):
    config = tmp_path / "a config"
    address = fleet.host("gpu3").address
    config.write_text(f"Include {fleet.ssh_config}\nHost other\n  HostName {address}\n")
    found = reach("other", {"ansible_user": "root", "ansible_ssh_args": f"-F '{config}'"})
    assert settings_of(found).known_hosts
    assert over_fabric(found) == "gpu3\nroot\n"


def failure(found: Reach) -> PairsyncError:
    with pytest.raises(PairsyncError) as caught:
        connect(found)
    return caught.value


def test_an_unknown_host_key_is_refused(fleet, tmp_path):
    empty = tmp_path / "known hosts"
    empty.write_text("")
    files = f"-o 'UserKnownHostsFile=\"{empty}\"' -o GlobalKnownHostsFile=none"
    error = failure(way(fleet, "gpu2", arguments=files))
    assert (error.code, error.host) == ("host_key", "gpu2")
    assert "ssh-ed25519 SHA256:" in error.message


def test_another_host_s_key_is_refused(fleet):
    error = failure(way(fleet, "gpu2", arguments="-o HostKeyAlias=gpu1"))
    assert (error.code, error.host) == ("host_key", "gpu2")
    assert "another host key than the one known as gpu1" in error.message


def test_a_key_that_is_not_accepted(fleet, tmp_path):
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", key], check=True)
    config = tmp_path / "config"
    config.write_text(Path(fleet.ssh_config).read_text().replace("IdentityFile", "#"))
    found = way(fleet, "gpu2", ansible_ssh_private_key_file=str(key), arguments=f"-F {config}")
    assert (failure(found).code, failure(found).host) == ("auth", "gpu2")


def test_nobody_there(fleet):
    arguments = "-o ConnectTimeout=2"
    closed = failure(way(fleet, "gpu2", ansible_port=9))
    assert (closed.code, closed.host) == ("unreachable", "gpu2")
    assert "connection refused" in closed.message
    unnamed = failure(way(fleet, "gpu2", ansible_host="no-such-host.invalid"))
    assert "cannot be resolved" in unnamed.message
    fleet.host("gpu3").cut()
    try:
        silent = failure(way(fleet, "gpu3", arguments=arguments))
        jump = failure(way(fleet, "gpu2", arguments=f"{arguments} -J gpu3"))
    finally:
        fleet.host("gpu3").join()
    assert silent.code == jump.code == "unreachable"
    assert "gpu2's jump host gpu3 cannot be reached" in jump.message
