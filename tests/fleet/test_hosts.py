# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet fixture itself: its hosts are hosts, and nothing of them stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fleet.hosts import Fleet
from tests.fleet.network import STATE
from tests.fleet.rootfs import CHECKOUT


def test_ssh_reaches_every_host(fleet):
    for name in ("gpu1", "gpu2", "gpu3"):
        assert fleet.host(name).run("hostname; id -un").stdout == f"{name}\nroot\n"
        assert fleet.host(name).run("pwd; id -un", user="me").stdout == "/home/me\nme\n"


def test_hosts_reach_each_other_by_name_without_options(fleet):
    assert fleet.host("gpu1").run("ssh gpu2 hostname").stdout == "gpu2\n"
    assert fleet.host("gpu2").run("ssh gpu1 hostname", user="me").stdout == "gpu1\n"


def test_a_failing_command_shows_what_it_said(fleet):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        fleet.host("gpu1").run("echo what went wrong >&2; exit 7")
    assert caught.value.returncode == 7
    assert "what went wrong" in caught.value.__notes__[0]


def test_words_are_not_split_again_by_the_shell(fleet):
    assert fleet.host("gpu1").run(["printf", "%s.", "a b", "$HOME"]).stdout == "a b.$HOME."


def test_hosts_are_machines_of_their_own(fleet):
    seen = {
        (
            host.run("cat /proc/sys/kernel/random/boot_id").stdout,
            host.run("cat /etc/machine-id").stdout,
            host.run("stat -c %d /data").stdout,
        )
        for host in fleet.hosts.values()
    }
    assert all(len(set(column)) == 3 for column in zip(*seen, strict=True))


def test_hosts_have_nothing_of_pairsync_or_of_this_machines_users(fleet):
    host = fleet.host("gpu1")
    assert host.run("command -v pairsync home_sync", check=False).stdout == ""
    assert host.run("ls -A /opt /data /srv").stdout == "/data:\n\n/opt:\n\n/srv:\n"
    assert host.run("ls -A /root").stdout == ".ssh\n"
    assert host.run(["test", "-e", str(CHECKOUT)], check=False).returncode == 1


def test_files_are_seen_from_both_sides(fleet, tmp_path):
    host = fleet.host("gpu1")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("from here")
    host.put(tmp_path / "tree", "/data/deep/tree")
    assert host.run("cat /data/deep/tree/file").stdout == "from here"
    host.run("echo from there > /usr/bin/there")
    host.get("/usr/bin/there", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "from there\n"
    assert not Path("/usr/bin/there").exists()
    assert not fleet.host("gpu2").path("/usr/bin/there").exists()


def test_a_disk_can_be_small(fleet):
    host = fleet.host("gpu1")
    host.mount("/data/small", options="size=1m")
    full = host.run("dd if=/dev/zero of=/data/small/file bs=64k count=32", check=False)
    assert "No space left on device" in full.stderr


def test_a_cut_host_is_unreachable_until_it_is_joined(fleet):
    host = fleet.host("gpu3")
    host.cut()
    assert not _reachable(host)
    host.join()
    assert host.run("hostname").stdout == "gpu3\n"


def test_a_stopped_host_keeps_its_disk_and_starts_again(fleet):
    host = fleet.host("gpu3")
    host.run("echo kept > /data/file; echo kept > /etc/file; touch /run/gone")
    host.run("setsid sleep 1000 > /dev/null 2>&1 < /dev/null &")
    boot = host.run("cat /proc/sys/kernel/random/boot_id").stdout
    host.stop()
    assert not _reachable(host)
    assert host.path("/data/file").read_text() == "kept\n"
    host.start()
    assert host.run("cat /data/file /etc/file; ls /run/gone; pgrep sleep", check=False).stdout == (
        "kept\nkept\n"
    )
    assert host.run("cat /proc/sys/kernel/random/boot_id").stdout != boot
    assert host.run("ssh gpu1 hostname").stdout == "gpu1\n"


def test_a_host_can_be_without_python(start_fleet):
    host = start_fleet("bare").host("bare")
    assert host.run("python3 --version").stdout.startswith("Python 3.")
    host.remove_python()
    assert host.run("python3 --version", check=False).returncode == 127
    assert Path("/usr/bin/python3").exists()


def test_a_host_can_have_an_old_python_only(start_fleet, interpreter):
    old = interpreter("3.8")
    host = start_fleet("old").host("old")
    host.use_python(old)
    assert host.run("python3 --version").stdout.startswith("Python 3.8.")
    assert host.run("ls /usr/bin/python* /usr/local/bin/python*", check=False).stdout == (
        "/usr/bin/python3\n"
    )


def test_ansible_reaches_the_hosts_of_the_inventory(fleet, tmp_path):
    inventory = fleet.write_inventory(tmp_path / "inventory", groups={"gpus": ["gpu1", "gpu2"]})
    ansible = Path(sys.executable).with_name("ansible")
    result = subprocess.run(
        [ansible, "-i", inventory, "gpus", "-m", "ansible.builtin.ping", "--one-line"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count('"ping": "pong"') == 2


def test_a_fleet_that_is_closed_leaves_nothing():
    fleet = Fleet(["one", "two"])
    number, pids = fleet.network.number, _processes_of(fleet.directory)
    assert len(pids) >= 4
    fleet.host("one").run("setsid sleep 1000 > /dev/null 2>&1 < /dev/null &")
    fleet.close()
    assert not _traces_of(number)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_fleet_that_fails_to_start_leaves_nothing(monkeypatch):
    begun = []

    def refuse(host):
        begun.append(host)
        raise RuntimeError("refused")

    monkeypatch.setattr("tests.fleet.hosts.Host.finish_start", refuse)
    with pytest.raises(RuntimeError, match="refused"):
        Fleet(["one", "two"])
    assert not _traces_of(begun[0]._fleet.network.number)


def test_a_killed_run_leaves_no_process_and_no_mount_and_the_next_clears_the_rest():
    script = (
        "from tests.conftest import keep_mounts_private\n"
        "from tests.fleet.hosts import Fleet\n"
        "keep_mounts_private()\n"
        "fleet = Fleet(['one'])\n"
        "print(fleet.network.number, fleet.host('one')._first_process(), flush=True)\n"
        "input()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with run:
        number, first = map(int, run.stdout.readline().split())
        run.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{first}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{first}").exists()
    assert not [trace for trace in _traces_of(number) if not trace.startswith(("psf", str(STATE)))]
    # Another run may be quicker to clear up, and take the dead one's number.
    with Fleet(["one"]) as fleet:
        assert fleet.host("one").run("hostname").stdout == "one\n"
        assert fleet.network.number == number or not _traces_of(number) or _is_held(number)


def _reachable(host):
    command = [*host.ssh("-o", "ConnectTimeout=1"), "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode != 255


def _is_held(number: int) -> bool:
    held = subprocess.run(
        ["flock", "--nonblock", STATE / f"{number}.lock", "true"], check=False
    ).returncode
    return held != 0


def _processes_of(directory: Path) -> list[int]:
    """Return the processes that were started with something of this directory in their command."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            root = os.readlink(process / "root")
        except OSError:
            continue
        if os.fsencode(directory) + b"/" in command or root.startswith(f"{directory}/"):
            found.append(int(process.name))
    return found


def _traces_of(number: int) -> list[str]:
    """Return what the system holds of network `number`: interfaces, files, mounts, processes."""
    directory = STATE / str(number)
    links = json.loads(subprocess.check_output(["ip", "-json", "link", "show"]))
    mounts = {
        line.split()[1]
        for table in ("/proc/1/mounts", "/proc/self/mounts")
        for line in Path(table).read_text().splitlines()
    }
    return [
        *(link["ifname"] for link in links if link["ifname"].startswith(f"psf{number}")),
        *([str(directory)] if directory.exists() else []),
        *(f"mount {mount}" for mount in mounts if mount.startswith(f"{directory}/")),
        *(f"process {pid}" for pid in _processes_of(directory)),
    ]
