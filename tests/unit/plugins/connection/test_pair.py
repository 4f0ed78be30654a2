# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing runs on a pair, by whichever way a task tries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[4]

HOSTS = "all: {hosts: {left: , right: }, vars: {ansible_connection: local}}\n"
PAIRS = "plugin: pairsync.fleet.pairs\ntrees: {demo: {replicas: {left: /l, right: /r}}}\n"


@pytest.fixture
def adhoc(tmp_path):
    """A function that runs one module on the pair."""
    inventory = tmp_path / "inv"
    inventory.mkdir()
    (inventory / "hosts.yml").write_text(HOSTS)
    (inventory / "pairs.yml").write_text(PAIRS)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "home"),
    }

    def run(module: str, arguments: str) -> subprocess.CompletedProcess[str]:
        ansible = Path(sys.executable).parent / "ansible"
        return subprocess.run(
            [str(ansible), "-i", inventory, "left+right@demo", "-m", module, "-a", arguments],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    "module,arguments",
    [
        ("ansible.builtin.raw", "touch {mark}"),
        ("ansible.builtin.command", "touch {mark}"),
        ("ansible.builtin.copy", "content=x dest={mark}"),
        ("ansible.builtin.fetch", "src=/etc/hostname dest={mark} flat=true"),
        ("ansible.builtin.reboot", ""),
    ],
)
def test_every_way_to_a_machine_is_refused(adhoc, tmp_path, module, arguments):
    mark = tmp_path / "mark"
    result = adhoc(module, arguments.format(mark=mark))
    said = result.stdout + result.stderr
    assert result.returncode != 0
    assert "left+right@demo is a pair of hosts, not a machine" in said
    assert "all:!sync_pairs" in said
    assert not mark.exists()


def test_what_needs_no_machine_is_not_refused(adhoc):
    result = adhoc("ansible.builtin.debug", "var=pair_session_host")
    assert result.returncode == 0
    assert '"pair_session_host": "left"' in result.stdout
