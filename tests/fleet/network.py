# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of a fleet: a bridge on this machine, one subnet 10.N.0.0/24, one cable per host.

N is claimed with a lock that dies with its holder, so that any number of test processes run beside
each other, and whoever comes next clears away what a dead run has left.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

STATE = Path("/run/pairsync-tests")
NUMBERS = range(60, 80)


class Network:
    """A claimed subnet with its bridge, and a directory of the same lifetime (`directory`)."""

    def __init__(self) -> None:
        STATE.mkdir(mode=0o700, exist_ok=True)
        _clear_away_dead_runs()
        self.number, self._lock = _claim()
        self.bridge = _bridge(self.number)
        self.directory = STATE / str(self.number)
        try:
            self.directory.mkdir(mode=0o700)
            run("ip", "link", "add", self.bridge, "address", self._mac(1), "type", "bridge")
            run("ip", "address", "add", f"{self.address(1)}/24", "dev", self.bridge)
            run("ip", "link", "set", self.bridge, "up")
        except BaseException:
            self.close()
            raise

    def address(self, host: int) -> str:
        """Return the address of a host by its number; 1 is this machine."""
        return f"10.{self.number}.0.{host}"

    def plug(self, host: int, pid: int) -> None:
        """Lay a cable from the bridge to `eth0` in the network namespace of process `pid`."""
        inside = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip")
        link = self._link(host)
        # The same card after every start: neighbours remember it.
        peer = ("peer", "name", "eth0", "address", self._mac(host), "netns", str(pid))
        run("ip", "link", "add", link, "type", "veth", *peer)
        run("ip", "link", "set", link, "master", self.bridge, "up")
        run(*inside, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")

    def unplug(self, host: int) -> None:
        """Remove a host's cable, if it is there."""
        run("ip", "link", "delete", self._link(host), check=False)

    def switch(self, host: int, *, up: bool) -> None:
        """Pull a host's cable out, or put it back."""
        run("ip", "link", "set", self._link(host), "up" if up else "down")

    def close(self) -> None:
        """Remove bridge and directory, and give the number back."""
        _remove(self.number)
        os.close(self._lock)

    def _link(self, host: int) -> str:
        return f"{self.bridge}v{host}"

    def _mac(self, host: int) -> str:
        return f"02:00:0a:{self.number:02x}:00:{host:02x}"


def run(*command: str, check: bool = True) -> str:
    """Run a command of this machine and return its output; what it said is in the error."""
    try:
        return subprocess.run(
            command, check=check, capture_output=True, text=True, timeout=30
        ).stdout
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr.strip())
        raise


def _claim() -> tuple[int, int]:
    """Return a number that no living run holds, and the descriptor of its lock."""
    for number in NUMBERS:
        lock = _lock(number)
        if lock is None:
            continue
        if not _used_by_others(number):
            _remove(number)
            return number, lock
        os.close(lock)
    raise RuntimeError(
        f"All networks 10.{NUMBERS[0]}.0.0/24 to 10.{NUMBERS[-1]}.0.0/24 are in use: "
        f"end other test runs (their locks are in {STATE})."
    )


def _clear_away_dead_runs() -> None:
    """Remove what is left of numbers that nobody holds; a killed run cannot do it itself."""
    left = {link["ifname"] for link in _links()} | {entry.name for entry in STATE.iterdir()}
    for number in NUMBERS:
        if left & {str(number), _bridge(number)}:
            lock = _lock(number)
            if lock is not None:
                _remove(number)
                os.close(lock)


def _lock(number: int) -> int | None:
    """Lock a number; returns the descriptor that holds the lock, or None if it is taken."""
    lock = os.open(STATE / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _remove(number: int) -> None:
    """Remove a locked number's interfaces and files. Processes and mounts died with their run."""
    bridge = _bridge(number)
    for link in _links():
        if link["ifname"] == bridge or link["ifname"].startswith(f"{bridge}v"):
            run("ip", "link", "delete", link["ifname"], check=False)
    shutil.rmtree(STATE / str(number), ignore_errors=True)


def _bridge(number: int) -> str:
    return f"psf{number}"


def _links() -> list[dict[str, Any]]:
    """Return this machine's network interfaces, as ip(8) describes them."""
    links: list[dict[str, Any]] = json.loads(run("ip", "-json", "link", "show"))
    return links


def _used_by_others(number: int) -> bool:
    """Say whether an interface that is not a fleet's has an address in this network."""
    network = ipaddress.ip_network(f"10.{number}.0.0/24")
    return any(
        ipaddress.ip_interface(f"{address['local']}/{address['prefixlen']}").network.overlaps(
            network
        )
        for link in json.loads(run("ip", "-json", "-4", "address", "show"))
        for address in link["addr_info"]
        if link["ifname"] != _bridge(number)
    )
