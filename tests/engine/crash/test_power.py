# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""P16: no power cut on either host turns into a deletion, and what is recorded is on the disk."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.bench import ssh
from tests.engine.crash.power import BEFORE, EDITS, Disk, Fleet, everything, prepare
from tests.engine.trees import read_tree

pytestmark = [
    pytest.mark.root,
    *(pytest.mark.needs(command) for command in ("mkfs.ext4", "mkfs.xfs", "ssh", "sshd")),
]

CUTS_IN_CI = 4  # spread over the session's changing calls; nightly takes every one
PARTS = 4  # since no test may take longer than five minutes


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    with ssh.start(tmp_path_factory.mktemp("ssh") / "d", {"LC_ALL": "C.UTF-8"}) as running:
        yield running.config


@pytest.fixture
def fleets(tmp_path, sshd):
    """A function that makes two hosts; their disks go after the test."""
    disks = []

    def make(kind, victim):
        work = tmp_path / f"{len(disks)}"
        disks.append(Disk(work, kind))
        fleet = Fleet(work, disks[-1], victim, sshd)
        prepare(fleet)
        return fleet

    yield make
    for disk in disks:
        disk.stop()


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_cut_takes_what_is_not_durable(tmp_path, kind):
    """Or nothing below would show anything."""
    disk = Disk(tmp_path / "work", kind)
    try:
        (disk.path / "durable").write_text("here")
        subprocess.run(["sync", "-f", disk.path], check=True)
        (disk.path / "cached").write_text("gone")
        disk.lose_power()
        assert (disk.path / "durable").read_text() == "here"
        assert not (disk.path / "cached").exists()
    finally:
        disk.stop()


def assert_nothing_turned_into_a_deletion(fleet):
    """After the power is back: sync again, and look at what became of everything."""
    there = everything(fleet)
    survivor = fleet.roots[fleet.survivor]
    had = read_tree(survivor)
    report = fleet.sync()
    assert report["exit"] in (0, 1), report
    assert there <= everything(fleet)
    has = read_tree(survivor)
    deleted = {"gone-a", "gone-b"}
    assert had.keys() - deleted <= has.keys()
    touched = deleted | EDITS["a"].keys() | EDITS["b"].keys()
    assert {name: data for name, data in has.items() if name in had.keys() - touched} == {
        name: data for name, data in had.items() if name not in touched
    }
    # Nothing the survivor's user did was on the disk that lost its power.
    for name, text in EDITS[fleet.survivor].items():
        assert has[name] == text.encode()
    if report["exit"] == 0:
        assert read_tree(fleet.roots[fleet.victim]) == has


def cuts(fleet, part):
    """The calls at which the power goes, of a session that was not disturbed.

    part: of all of them; None for a few.
    """
    report = fleet.sync()
    assert report["exit"] == 0
    calls = fleet.calls()
    if part is not None:
        return range(1 + part, calls + 1, PARTS)
    return sorted({1 + (calls - 1) * index // (CUTS_IN_CI - 1) for index in range(CUTS_IN_CI)})


def cut_everywhere(fleets, figure, kind, victim, part=None):
    numbers = cuts(fleets(kind, victim), part)
    for number in numbers:
        fleet = fleets(kind, victim)
        report = fleet.sync(number)
        assert report is None or report["exit"] in (0, 3)  # 0: b's last call, when all was told
        fleet.disk.lose_power()
        assert_nothing_turned_into_a_deletion(fleet)
    figure(f"power cuts in a session, {kind}", len(numbers))


@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_cut_during_a_session(fleets, figure, kind, victim):
    cut_everywhere(fleets, figure, kind, victim)


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_cut_at_every_call_of_a_session(fleets, figure, kind, victim, part):
    cut_everywhere(fleets, figure, kind, victim, part)


def cut_after(fleet, seconds):
    report = fleet.sync()
    assert report["exit"] == 0
    time.sleep(seconds)
    fleet.disk.lose_power()
    expected = {**BEFORE, **EDITS["a"], **EDITS["b"]}
    for root in fleet.roots.values():
        found = {name: data for name, data in read_tree(root).items() if data is not None}
        assert found == {
            name: text.encode() for name, text in expected.items() if not name.startswith("gone")
        }
    again = fleet.sync()
    assert (again["exit"], again["base"], again["items_total"]) == (0, "ok", 0)


@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_what_was_recorded_is_on_the_disk(fleets, figure, kind, victim):
    """Also what was only sent: the source's own page cache counts."""
    cut_after(fleets(kind, victim), 0)
    figure("power cuts right after a session", 1)


@pytest.mark.nightly
@pytest.mark.parametrize("seconds", [1, 6, 35])
@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_what_was_recorded_stays_on_the_disk(fleets, figure, kind, victim, seconds):
    cut_after(fleets(kind, victim), seconds)
    figure("power cuts seconds after a session", 1)
