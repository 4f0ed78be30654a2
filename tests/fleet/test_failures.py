# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong between hosts: one clear sentence with the next step, and nothing is lost.

Sessions run on gpu1, over real ssh. Each test has a pair of its own, `/data/NAME` on two hosts.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils.binary import build, engine

BIG = 150 << 20  # bytes that take long enough to be interrupted


class Ran(NamedTuple):
    code: int
    report: dict
    said: str


class Pair(NamedTuple):
    """One tree on gpu1 (a) and on another host (b). path: the same on both."""

    gpu1: object
    peer: object
    path: str

    def command(self, *options, **replica):
        """The words of a session on gpu1, and its specification: keys of b's replica added."""
        spec = {
            "schema": "pairsync.spec/1",
            "replicas": {
                "gpu1": {"path": self.path, "local": True},
                self.peer.name: {"path": self.path, **replica},
            },
        }
        return ["pairsync", "sync", "--spec", "-", *options], json.dumps(spec) + "\n"

    def sync(self, *options, user="root", **replica):
        words, spec = self.command("--batch", "--json", *options, **replica)
        result = self.gpu1.run(words, user=user, check=False, stdin=spec, timeout=120)
        assert result.stdout.count("\n") == 1, result
        return Ran(result.returncode, json.loads(result.stdout), result.stderr)

    def start(self, *options, **replica):
        """A session with events that runs beside the test."""
        words, spec = self.command("--events", *options, **replica)
        process = subprocess.Popen(
            [*self.gpu1.ssh(), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        process.stdin.write(spec)
        process.stdin.flush()
        return process

    @property
    def a(self):
        return self.gpu1.path(self.path)

    @property
    def b(self):
        return self.peer.path(self.path)


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
        if ".pairsync" not in path.parts
    }


def staged(root):
    return [path for path in root.glob(".pairsync/stage/*/*") if path.is_file()]


def expect(ran, code, host, *words):
    """Check a fatal error: its code and host, and one sentence with the next step."""
    assert ran.code == ran.report["exit"] == 3, ran
    error = ran.report["error"]
    assert (error["code"], error["host"]) == (code, host), error
    assert error["next"], error
    assert ran.said.startswith("pairsync: "), ran.said
    assert ran.said.count("\n") == 1, ran.said
    assert ran.said.rstrip("\n").endswith(error["next"])
    for word in words:
        assert word in ran.said


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """Two builds of this engine: this one, and one of another protocol."""
    directory = tmp_path_factory.mktemp("builds")
    other = directory / "source/pairsync"
    shutil.copytree(engine(), other, ignore=shutil.ignore_patterns("__pycache__"))
    init = other / "__init__.py"
    text = init.read_text()
    assert "\nPROTOCOL = 1\n" in text
    init.write_text(
        text.replace("\nPROTOCOL = 1\n", "\nPROTOCOL = 0\n").replace('"0.1.0"', '"0.0.9"')
    )
    return build(directory / "pairsync").path, build(directory / "older", other).path


@pytest.fixture(scope="module")
def installed(fleet, builds):
    """The fleet, with pairsync on gpu1 and gpu2 and not on gpu3."""
    for name in ("gpu1", "gpu2"):
        fleet.host(name).put(builds[0], "/opt/pairsync/this")
        fleet.host(name).path("/usr/bin/pairsync").symlink_to("/opt/pairsync/this")
    return fleet


@pytest.fixture
def pair(installed, request):
    """A pair of gpu1 and gpu2 with something on gpu1, not synced yet."""
    return make_pair(installed, "gpu2", request)


@pytest.fixture
def pair3(installed, request):
    """The same of gpu1 and gpu3."""
    return make_pair(installed, "gpu3", request)


def make_pair(fleet, peer, request):
    name = re.sub(r"\W+", "-", request.node.name)
    pair = Pair(fleet.host("gpu1"), fleet.host(peer), f"/data/{name}")
    pair.a.mkdir(parents=True)
    pair.b.parent.mkdir(exist_ok=True)
    (pair.a / "sub").mkdir()
    (pair.a / "file").write_text("one\n")
    (pair.a / "sub/inner").write_text("two\n")
    return pair


@pytest.fixture
def synced(pair):
    assert pair.sync().code == 0
    assert contents(pair.a) == contents(pair.b)
    return pair


def test_an_unknown_host(pair):
    ran = pair.sync(address="no-such-host.invalid")
    expect(ran, "unreachable", "gpu2", "Could not resolve hostname", "ssh gpu2 true")


def test_a_port_at_which_nobody_listens(pair):
    expect(pair.sync(port=9), "unreachable", "gpu2", "Connection refused")


def test_a_missing_replica_is_made_at_the_first_sync_and_missed_later(pair):
    ran = pair.sync()
    assert ran.code == 0
    assert f"gpu2:{pair.path} did not exist and was created" in ran.report["notes"]
    before = contents(pair.a)
    assert contents(pair.b) == before
    shutil.rmtree(pair.b)
    for __ in range(2):
        ran = pair.sync()
        expect(ran, "root_missing", "gpu2", "was synced before, and is not there now", "mount")
    assert contents(pair.a) == before
    assert not pair.b.exists()


def test_a_replica_that_was_replaced_is_missed(synced):
    before = contents(synced.a)
    shutil.rmtree(synced.b)
    synced.b.mkdir()
    expect(synced.sync(), "root_identity", "gpu2", "another directory now", "pairsync forget")
    assert contents(synced.a) == before
    gone = synced.gpu1.run(["pairsync", "forget", synced.path, f"gpu2:{synced.path}"])
    assert "forgotten" in gone.stdout
    assert synced.sync().code == 0
    assert contents(synced.a) == contents(synced.b) == before


def test_a_replica_without_a_parent_is_not_made(pair):
    deep = Pair(pair.gpu1, pair.peer, f"{pair.path}/x/y")
    pair.a.joinpath("x/y").mkdir(parents=True)
    expect(deep.sync(), "root_missing", "gpu2", "neither does its parent directory")
    assert not pair.b.exists()


def test_neither_replica_exists(pair):
    nowhere = Pair(pair.gpu1, pair.peer, "/data/nowhere")
    ran = nowhere.sync()
    assert ran.report["error"]["code"] == "root_missing"
    assert "neither" in ran.said


def test_a_path_that_is_a_file(pair):
    pair.b.write_text("precious\n")
    expect(pair.sync(), "root_not_dir", "gpu2", f"{pair.path} is not a directory")
    assert pair.b.read_text() == "precious\n"


@pytest.mark.parametrize(
    "other",
    ["{0}", "gpu1:{0}", "{0}.link", "gpu1:{0}.link", "{0}/sub", "gpu1:{0}/sub", "{0}.link/sub",
     "gpu1:{0}.link/sub", "/data", "gpu1:/data"],
)  # fmt: skip
def test_one_directory_twice_or_inside_the_other(pair, other):
    pair.gpu1.path(f"{pair.path}.link").symlink_to(Path(pair.path).name)
    before = contents(pair.a)
    words = ["pairsync", "sync", "--batch", "--json", pair.path, other.format(pair.path)]
    result = pair.gpu1.run(words, check=False)
    ran = Ran(result.returncode, json.loads(result.stdout), result.stderr)
    assert ran.code == 3
    assert ran.report["error"]["code"] == "root_overlap"
    assert "name two d" in ran.said
    assert contents(pair.a) == before
    assert not (pair.a / ".pairsync").exists()


def test_pairsync_missing_on_one_host(pair3):
    expect(
        pair3.sync(), "binary_missing", "gpu3", "pairsync is not installed on gpu3",
        "invoke bootstrap --limit gpu3",
    )  # fmt: skip
    assert not pair3.b.exists()
    assert not (pair3.a / ".pairsync").exists()


def test_an_older_protocol_on_one_host(pair3, builds):
    pair3.peer.put(builds[1], "/opt/older")
    ran = pair3.sync(binary="/opt/older")
    expect(
        ran, "version", "gpu3", "this host runs pairsync 0.1.0 (protocol 1)",
        "gpu3 runs 0.0.9 (protocol 0)", "invoke bootstrap --limit gpu3",
    )  # fmt: skip
    assert not pair3.b.exists()
    assert not (pair3.a / ".pairsync").exists()


def test_noise_of_a_login_shell(pair):
    bashrc = pair.peer.path("/root/.bashrc")
    before = bashrc.read_text() if bashrc.exists() else ""
    bashrc.write_text("echo hello from gpu2\n")
    try:
        expect(pair.sync(), "noise", "gpu2", "'hello from gpu2'", "~/.bashrc")
    finally:
        bashrc.write_text(before)
    assert not pair.b.exists()
    assert pair.sync().code == 0


def test_another_host_key_than_the_known_one(pair, fleet):
    keys = fleet.known_hosts.read_text().splitlines()
    of_gpu3 = next(line.split(" ", 1)[1] for line in keys if line.startswith("gpu3"))
    pair.gpu1.path("/tmp/wrong").write_text(f"gpu2 {of_gpu3}\n")
    ran = pair.sync(ssh_args=["-o", "UserKnownHostsFile=/tmp/wrong"])
    expect(ran, "host_key", "gpu2", "Host key verification failed", "known_hosts")
    assert pair.gpu1.path("/tmp/wrong").read_text() == f"gpu2 {of_gpu3}\n"


def test_an_unknown_host_key_is_never_accepted(pair):
    ran = pair.sync(ssh_args=["-o", "UserKnownHostsFile=/tmp/none"])
    expect(ran, "host_key", "gpu2", "known_hosts")
    assert not pair.gpu1.path("/tmp/none").exists()


def test_ssh_that_would_ask_for_a_password_fails_at_once(pair):
    started = time.monotonic()
    ran = pair.sync(ssh_args=["-o", "IdentityFile=/dev/null", "-o", "IdentitiesOnly=yes"])
    expect(ran, "auth", "gpu2", "Permission denied", "ssh gpu2 true")
    assert time.monotonic() - started < 10


def test_a_disk_that_is_too_small(pair):
    pair.peer.mount(pair.path, options="size=4m")
    (pair.b / "old").write_text("old\n")
    (pair.a / "big").write_bytes(b"x" * (8 << 20))
    expect(pair.sync(), "space", "gpu2", "8388616 bytes are to be received", "make room")
    assert contents(pair.b) == {"old": b"old\n"}
    assert staged(pair.b) == []
    grow(pair)
    assert pair.sync().code == 0
    assert contents(pair.a) == contents(pair.b)


def test_a_disk_that_fills_up_on_the_way(pair):
    pair.peer.mount(pair.path, options="size=4m")
    assert pair.sync().code == 0
    (pair.a / "file").write_text("newer\n")
    for number in range(2000):  # of one byte each, in a page each
        (pair.a / f"n{number}").write_text("x")
    before, target = contents(pair.a), contents(pair.b)
    expect(pair.sync(), "space", "gpu2", "is full")
    assert contents(pair.a) == before
    kept = contents(pair.b)
    assert {name: kept[name] for name in target} == target
    assert set(kept.values()) <= {*before.values(), *target.values()}, "something is half there"
    assert staged(pair.b) == []
    grow(pair)
    assert pair.sync().code == 0
    assert contents(pair.b) == before


def grow(pair):
    subprocess.run(["mount", "-o", "remount,size=64m", pair.b], check=True)


@pytest.fixture
def big(synced):
    """A synced pair with a large file to be sent, and a small one to be fetched."""
    with (synced.a / "big").open("wb") as stream:
        for number in range(BIG >> 20):
            stream.write(number.to_bytes(4, "big") * (1 << 18))
    (synced.b / "from-gpu2").write_text("from gpu2\n")
    return synced


def wait_for_stage(pair):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any(path.stat().st_size > 1 << 20 for path in staged(pair.b) if path.exists()):
            return
        time.sleep(0.002)
    raise AssertionError("nothing was staged")


def finished(process):
    """The report of a session that was started beside the test."""
    out, __ = process.communicate(timeout=120)
    return json.loads(out.splitlines()[-1])["report"]


def test_an_agent_killed_in_the_middle(big):
    process = big.start("--batch")
    wait_for_stage(big)
    [agent] = big.peer.run("pgrep -f '[p]airsync.* agent'").stdout.split()
    big.peer.run(["kill", "-KILL", agent])
    report = finished(process)
    assert report["exit"] == 3
    assert report["error"]["code"] == "protocol"
    assert report["error"]["host"] == "gpu2"
    assert not (big.b / "big").exists()
    assert (big.b / "file").read_text() == "one\n"
    ends_as_if_nothing_had_happened(big)


def test_a_session_killed_in_the_middle(big):
    process = big.start("--batch")
    wait_for_stage(big)
    big.gpu1.run("pkill -KILL -f '[p]airsync.* sync --spec'")
    process.communicate(timeout=60)
    assert not (big.b / "big").exists()
    ends_as_if_nothing_had_happened(big)


def test_a_link_cut_in_the_middle(big):
    alive = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2"]
    process = big.start("--batch", ssh_args=alive)
    wait_for_stage(big)
    big.peer.cut()
    try:
        # The link to gpu1 stays, so that its report arrives.
        report = finished(process)
    finally:
        big.peer.join()
    assert report["exit"] == 3
    assert report["error"]["code"] in ("protocol", "unreachable")
    assert "gpu2" in report["error"]["message"]
    assert not (big.b / "big").exists()
    ends_as_if_nothing_had_happened(big)


def ends_as_if_nothing_had_happened(pair):
    ran = pair.sync()
    assert ran.code == 0, ran
    assert ran.report["base"] == "ok"
    assert (pair.a / "from-gpu2").read_text() == "from gpu2\n"
    assert contents(pair.a) == contents(pair.b)
    assert staged(pair.b) == staged(pair.a) == []
    assert pair.sync().report["items_total"] == 0


def test_a_directory_that_cannot_be_read(installed):
    gpu1, gpu2 = installed.host("gpu1"), installed.host("gpu2")
    pair = Pair(gpu1, gpu2, "/home/me/tree")
    gpu1.run("mkdir -p tree/secret; echo 1 >tree/secret/x; echo 1 >tree/open", user="me")
    assert pair.sync(user="me").code == 0
    gpu1.run("echo 2 >tree/open; chmod 000 tree/secret", user="me")
    ran = pair.sync(user="me")
    assert ran.code == ran.report["exit"] == 2
    assert ran.report["error"] is None
    [failed] = [item for item in ran.report["items"] if item["result"] == "failed"]
    assert failed["path"] == "secret"
    assert failed["decision"] == "error"
    assert "Permission denied" in failed["reason"]
    assert (pair.b / "secret/x").read_text() == "1\n", "unknown is not absent"
    assert (pair.b / "open").read_text() == "2\n", "the rest is done"
    gpu1.run("chmod 700 tree/secret", user="me")
    assert pair.sync("--prefer", "a", user="me").code == 0
    assert contents(pair.a) == contents(pair.b)


def test_a_replica_that_cannot_be_made(installed):
    gpu1, gpu2 = installed.host("gpu1"), installed.host("gpu2")
    gpu1.run("mkdir -p /data/mine && chown me: /data/mine && touch /data/mine/x")
    gpu2.path("/data").mkdir(exist_ok=True)
    ran = Pair(gpu1, gpu2, "/data/mine").sync(user="me")
    expect(ran, "root_missing", "gpu2", "/data/mine", "Permission denied")


def test_two_sessions_at_once(synced):
    (synced.a / "new").write_text("new\n")
    asking = synced.start()
    question = next(line for line in asking.stdout if '"question"' in line)
    assert json.loads(question)["answers"][:2] == ["y", "n"]
    try:
        ran = synced.sync("--lock-wait", "1")
        error = ran.report["error"]
        assert (ran.code, error["code"]) == (3, "locked")
        assert re.search(r"in use by run \S+, process \d+ on gpu[12] since ", ran.said)
        assert "wait until that session ends" in error["next"]
        assert not (synced.b / "new").exists()
    finally:
        asking.stdin.write('{"id": 1, "answer": "y"}\n')
        asking.stdin.flush()
    assert finished(asking)["exit"] == 0
    assert contents(synced.a) == contents(synced.b)


def test_sessions_that_start_together_wait_for_each_other(synced):
    for number in range(50):
        (synced.a / f"n{number}").write_text("x")
    sessions = [synced.start("--batch") for __ in range(3)]
    assert [finished(session)["exit"] for session in sessions] == [0, 0, 0]
    assert contents(synced.a) == contents(synced.b)


def test_the_link_switched_under_a_running_session(synced, builds):
    (synced.a / "new").write_text("new\n")
    session = synced.start()
    next(line for line in session.stdout if '"question"' in line)
    hosts = synced.gpu1, synced.peer
    try:
        for host in hosts:
            host.put(builds[1], "/opt/pairsync/other")
            host.run("ln -sfn /opt/pairsync/other /usr/bin/pairsync; rm /opt/pairsync/this")
            assert "0.0.9" in host.run("pairsync --version").stdout
        session.stdin.write('{"id": 1, "answer": "y"}\n')
        session.stdin.flush()
        report = finished(session)
        assert (report["exit"], report["version"]) == (0, "0.1.0"), report["error"]
        assert contents(synced.a) == contents(synced.b)
        assert synced.sync().report["version"] == "0.0.9"
    finally:
        for host in hosts:
            host.put(builds[0], "/opt/pairsync/this")
            host.run("ln -sfn /opt/pairsync/this /usr/bin/pairsync")


def test_a_host_with_a_python_that_is_too_old(pair3, builds, interpreter):
    old = interpreter("3.8")
    pair3.peer.put(builds[0], "/opt/this")
    pair3.peer.use_python(old)
    expect(pair3.sync(binary="/opt/this"), "python", "gpu3", "no Python 3.9 or newer", "apt-get")
    assert not pair3.b.exists()


def test_a_host_without_python(pair3, builds):
    pair3.peer.put(builds[0], "/opt/this")
    pair3.peer.remove_python()
    expect(pair3.sync(binary="/opt/this"), "python", "gpu3", "no Python 3.9 or newer", "apt-get")
    assert not pair3.b.exists()
