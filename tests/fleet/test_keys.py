# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pair's key on real hosts: it syncs its pair, and whoever steals it gets no further.

gpu1 (a) logs in to gpu2 (b) as `me`, whose home on gpu2 has no other way in from there. gpu3 is
where a thief takes the key to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils.binary import build

ROOT = Path(__file__).resolve().parents[2]
PAIRS = """\
plugin: pairsync.fleet.pairs
trees:
  model: {replicas: {gpu1: /home/me/model, gpu2: /home/me/model}, user: me}
"""
NAME = "gpu1+gpu2@model"
KEY = f"/home/me/.ssh/pairsync/{NAME}"
POLICY = f"/etc/pairsync/pairs/{NAME}.json"
AUTHORIZED = "/home/me/.ssh/authorized_keys"


@pytest.fixture(scope="module")
def fleet(start_fleet):
    return start_fleet("gpu1", "gpu2", "gpu3", users=["me"])


@pytest.fixture(scope="module")
def environment(fleet, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    build(home / "pairsync")
    inventory = fleet.write_inventory(home / "inventory", names=["gpu1", "gpu2"])
    (inventory / "pairs.yml").write_text(PAIRS)
    for name in ("gpu1", "gpu2"):
        host = fleet.host(name)
        host.put(home / "pairsync", "/usr/bin/pairsync")
        host.run(
            "mkdir /home/me/model && echo 'from '$(hostname) > /home/me/model/$(hostname)",
            user="me",
        )
    return {**os.environ, "HOME": str(home), "PAIRSYNC_INVENTORY": str(inventory)}


@pytest.fixture(scope="module")
def keys(environment):
    """A function that runs the playbook with further words and returns what it printed."""

    def run(*words, code=0):
        command = [Path(sys.executable).parent / "ansible-playbook", "pairsync.fleet.keys"]
        if "-i" not in words:
            command += ["-i", environment["PAIRSYNC_INVENTORY"]]
        command += words
        done = subprocess.run(
            command,
            env={**environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def installed(keys, fleet):
    """The key is installed, and the user's own way from gpu1 to gpu2 is closed."""
    before = fleet.host("gpu2").path(AUTHORIZED).read_bytes()
    said = keys()
    assert "changed=1" in said
    home = fleet.host("gpu1").path("/home/me/.ssh")
    for name in ("id_ed25519", "id_ed25519.pub", "known_hosts"):
        (home / name).unlink()
    return before


def sync(fleet, *options, path="/home/me/model", peer_path=None, policy=None):
    """A session on gpu1 by the pair's key: exit code and report."""
    spec = {
        "replicas": {
            "gpu1": {"path": path, "local": True},
            "gpu2": {"path": peer_path or path, "key": NAME},
        },
        **(policy or {}),
    }
    words = ["pairsync", "sync", "--spec", "-", "--batch", "--json", *options]
    done = fleet.host("gpu1").run(words, user="me", check=False, stdin=json.dumps(spec) + "\n")
    return done.returncode, json.loads(done.stdout)


def assert_synced(fleet, *options, **policy):
    code, report = sync(fleet, *options, policy=policy)
    assert code == 0, report


def test_the_pair_syncs_with_nothing_but_its_key(installed, fleet):
    assert_synced(fleet)
    assert fleet.host("gpu2").path("/home/me/model/gpu1").read_text() == "from gpu1\n"
    assert fleet.host("gpu1").path("/home/me/model/gpu2").read_text() == "from gpu2\n"


# -- with the stolen key -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def thief(installed, fleet):
    """A function that runs ssh on gpu1 with the key and any options, against the address of gpu2.

    Options that a session would set are the thief's to leave out.
    """
    address = fleet.host("gpu2").address
    base = ["-i", KEY, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    base += ["-o", f"UserKnownHostsFile={KEY}.known_hosts", "-o", f"HostKeyAlias={NAME}"]

    def run(*words, program="ssh", host=None, user="me"):
        words = [address if word == "HOST" else word for word in words]
        return (host or fleet.host("gpu1")).run(
            ["timeout", "20", program, *base, *words], user=user, check=False
        )

    return run


SENTENCE = "this key serves pairsync's sessions, and nothing else"


@pytest.mark.parametrize(
    "words",
    [
        ["id"],
        ["/bin/sh", "-c", "id"],
        ["pairsync", "sync", "/tmp/x", "/tmp/y"],
        ["pairsync", "status"],
        ["pairsync", "agent", "--policy", "/tmp/own.json"],
        ["pairsync", "agent;id"],
        ["pairsync agent\nid"],
        ["pairsync", "--version", "$(id)"],
        ["pairsync", "forget", "--new-id", "/home/me/model"],
        ["internal-sftp"],
        ["scp", "-t", "/home/me"],
        ["rsync", "--server", ".", "/home/me"],
    ],
    ids=str,
)
def test_no_command_runs(thief, words):
    done = thief("HOST", *words)
    assert done.returncode == 3, done
    assert done.stdout == ""
    assert SENTENCE in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_shell_and_no_terminal(thief):
    terminal = thief("-tt", "HOST")
    assert "PTY allocation request failed" in terminal.stderr
    assert (terminal.returncode, terminal.stdout) == (255, "")
    shell = thief("HOST")
    assert (shell.returncode, shell.stdout) == (3, "")
    assert SENTENCE in shell.stderr


def test_no_files_by_scp_and_sftp(thief, fleet):
    fleet.host("gpu1").run("echo x > /tmp/x", user="me")
    for options in ([], ["-O"]):
        assert thief(*options, "/tmp/x", "me@HOST:/home/me/stolen", program="scp").returncode != 0
        address = fleet.host("gpu2").address
        put = thief(*options, "/tmp/x", f"me@{address}:/home/me/stolen", program="scp")
        assert put.returncode != 0
        get = thief(*options, f"me@{address}:/etc/passwd", "/tmp/got", program="scp")
        assert get.returncode != 0
    assert thief("-b", "/dev/null", f"me@{fleet.host('gpu2').address}", program="sftp").returncode
    assert not fleet.host("gpu2").path("/home/me/stolen").exists()
    assert not fleet.host("gpu1").path("/tmp/got").exists()


def test_nothing_is_forwarded(thief, fleet):
    through = thief("-W", "127.0.0.1:22", "HOST")
    assert through.returncode != 0
    assert "SSH-" not in through.stdout
    assert "administratively prohibited" in through.stderr
    for option in (["-R", "127.0.0.1:7001:127.0.0.1:22"], ["-R", "7001"]):
        done = thief("-o", "ExitOnForwardFailure=yes", "-N", *option, "HOST")
        assert done.returncode == 255, done
        assert "remote port forwarding failed" in done.stderr


@pytest.mark.parametrize("way", [["-L", "7002:127.0.0.1:22"], ["-D", "7002"]], ids=str)
def test_a_local_forwarding_leads_nowhere(thief, fleet, way):
    # Through -D curl would speak SOCKS; bash's own sockets reach only -L.
    ask = (
        "sleep 1; exec 3<>/dev/tcp/127.0.0.1/7002;"
        r" printf '\5\1\0' >&3; head -c 2 <&3 | od -An -tx1;"
        r" printf '\5\1\0\1\177\0\0\1\0\26' >&3; head -c 20 <&3 | tr -dc 'A-Za-z0-9.-'"
    )
    script = f"""
    ssh -i {KEY} -o IdentitiesOnly=yes -o UserKnownHostsFile={KEY}.known_hosts \
        -o HostKeyAlias={NAME} -N {" ".join(way)} {fleet.host("gpu2").address} & ssh=$!
    timeout 10 bash -c {json.dumps(ask)}; kill $ssh
    """
    done = fleet.host("gpu1").run(script, user="me", check=False)
    assert "SSH-2.0" not in done.stdout, done
    assert "administratively prohibited" in done.stderr


def test_no_agent_and_no_display_is_forwarded(thief, fleet):
    script = f"""
    eval $(ssh-agent) >/dev/null; export DISPLAY=127.0.0.1:9
    ssh -v -A -X -i {KEY} -o IdentitiesOnly=yes -o UserKnownHostsFile={KEY}.known_hosts \
        -o HostKeyAlias={NAME} {fleet.host("gpu2").address} env; kill $SSH_AGENT_PID
    """
    done = fleet.host("gpu1").run(script, user="me", check=False)
    assert SENTENCE in done.stderr
    assert "SSH_AUTH_SOCK" not in done.stdout
    assert "DISPLAY" not in done.stdout
    line = fleet.host("gpu2").path(AUTHORIZED).read_text().splitlines()[0]
    assert line.startswith("restrict,")
    options = line.partition(" ssh-ed25519 ")[0]
    assert not any(word in options for word in ("agent-forwarding", "X11", "pty", "user-rc"))


def test_no_start_up_file_of_ssh_runs(thief, fleet):
    rc = fleet.host("gpu2").path("/home/me/.ssh/rc")
    rc.write_text("touch /home/me/rc-ran\n")
    try:
        assert thief("HOST", "pairsync", "--version").returncode == 0
    finally:
        rc.unlink()
    assert not fleet.host("gpu2").path("/home/me/rc-ran").exists()


def test_the_key_opens_nothing_from_another_address(thief, fleet):
    gpu3 = fleet.host("gpu3")
    gpu3.run("mkdir -p ~/.ssh/pairsync", user="me")
    stolen = gpu3.path("/home/me/.ssh/pairsync")
    for name in (NAME, f"{NAME}.known_hosts"):
        shutil.copy(fleet.host("gpu1").path(f"/home/me/.ssh/pairsync/{name}"), stolen / name)
        os.chown(stolen / name, stolen.stat().st_uid, stolen.stat().st_gid)
    done = thief("HOST", "pairsync", "--version", host=gpu3)
    assert done.returncode == 255
    assert "Permission denied" in done.stderr
    assert thief("HOST", "pairsync", "--version").returncode == 0


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_the_key_opens_no_other_account(thief, user):
    assert "Permission denied" in thief("-l", user, "HOST", "pairsync", "--version").stderr


# -- with the protocol ---------------------------------------------------------------------------


def test_no_other_root_opens(installed, fleet):
    gpu1, gpu2 = fleet.host("gpu1"), fleet.host("gpu2")
    gpu1.run("mkdir -p loot; mkdir -p model", user="me")
    gpu2.run("mkdir -p secret/deep; echo s > secret/s; ln -sfn ../secret model/out", user="me")
    gpu2.run("ln -sfn secret link", user="me")
    others = ["secret", "model/..", "model/out", "link", "missing", ".ssh"]
    for path in [*(f"/home/me/{other}" for other in others), "/", "~"]:
        code, report = sync(fleet, path="/home/me/loot", peer_path=path)
        assert code == 3, path
        assert report["error"]["code"] == "policy", (path, report["error"])
    gpu2.run("rm model/out", user="me")
    assert list(gpu1.path("/home/me/loot").iterdir()) == []
    assert not gpu2.path("/home/me/secret/.pairsync").exists()


def test_a_base_is_not_forgotten(installed, fleet):
    assert_synced(fleet)
    spec = {
        "replicas": {
            "gpu1": {"path": "/home/me/model", "local": True},
            "gpu2": {"path": "/home/me/model", "key": NAME},
        }
    }
    words = ["pairsync", "forget", "--spec", "-", "--batch"]
    done = fleet.host("gpu1").run(words, user="me", check=False, stdin=json.dumps(spec) + "\n")
    assert done.returncode == 3
    assert "cannot make a host forget" in done.stderr
    # Each end keeps its own word; gpu1's is gone, and the pair starts anew without deleting.
    assert list(fleet.host("gpu2").path("/home/me/model/.pairsync/pairs").glob("*/base.sqlite"))
    assert_synced(fleet)


def test_backups_outlive_everything_that_the_key_can_do(installed, fleet):
    gpu1, gpu2 = fleet.host("gpu1"), fleet.host("gpu2")
    mine, theirs = gpu1.path("/home/me/model"), gpu2.path("/home/me/model")
    gpu2.run("for i in $(seq 40); do echo original > model/f$i; done", user="me")
    assert_synced(fleet)
    gpu1.run("rm -f model/f?*", user="me")
    kept = {"keep": 1, "days": 0}
    code, report = sync(fleet, "--no-backup")
    assert (code, report["error"]["code"]) == (3, "mass_change")
    assert_synced(fleet, "--no-backup", "--confirm", report["plan_digest"])
    assert not (theirs / "f1").exists()
    for number in range(4):
        gpu1.run(f"echo junk {number} > model/f1", user="me")
        assert_synced(fleet, backup=kept if number % 2 else {"enabled": False})
    assert (mine / "f1").read_text() == (theirs / "f1").read_text() == "junk 3\n"
    backup = theirs / ".pairsync/backup"
    found = {path.name for path in backup.rglob("f*") if path.read_text() == "original\n"}
    assert found == {f"f{number}" for number in range(1, 41)}


# -- what becomes of it --------------------------------------------------------------------------


def test_a_second_run_changes_nothing_and_then_pins_the_pair(installed, keys, fleet):
    assert_synced(fleet)
    said = keys("--check", "--diff")
    assert "changed=1" in said
    assert '+  "peer": {' in said
    assert "peer" not in json.loads(fleet.host("gpu2").path(POLICY).read_text())
    assert "changed=1" in keys()
    policy = json.loads(fleet.host("gpu2").path(POLICY).read_text())
    marker = json.loads(
        fleet.host("gpu1").path("/home/me/model/.pairsync/replica.json").read_text()
    )
    assert policy["peer"]["replica"] == marker["id"]
    assert_synced(fleet)
    said = keys("-vvvv")
    assert "changed=0" in said
    assert "PRIVATE KEY" not in said
    secret = fleet.host("gpu1").path(KEY).read_text().splitlines()[2]
    assert secret not in said
    # Another replica of gpu1 is another pair, whatever key it comes with.
    fleet.host("gpu1").run("mkdir other && echo x > other/x", user="me")
    code, report = sync(fleet, path="/home/me/other", peer_path="/home/me/model")
    assert (code, report["error"]["code"]) == (3, "policy")


def test_files_have_their_owners_and_modes(installed, fleet):
    gpu1, gpu2 = fleet.host("gpu1"), fleet.host("gpu2")
    mode = "stat -c '%U %a' "
    assert gpu1.run(f"{mode} {KEY}").stdout == "me 600\n"
    assert gpu1.run(f"{mode} /home/me/.ssh/pairsync").stdout == "me 700\n"
    assert gpu2.run(f"{mode} {POLICY}").stdout == "root 644\n"
    assert gpu2.run(f"{mode} /etc/pairsync/pairs").stdout == "root 755\n"
    assert gpu2.run(f"{mode} {AUTHORIZED}").stdout == "me 644\n"
    assert gpu2.path(AUTHORIZED).read_bytes().endswith(installed)
    assert sorted(os.listdir(gpu2.path("/home/me/.ssh"))) == [
        "authorized_keys", "id_ed25519", "id_ed25519.pub", "known_hosts"
    ]  # fmt: skip


def test_a_policy_that_others_may_write_opens_nothing(installed, fleet, thief):
    policy = fleet.host("gpu2").path(POLICY)
    policy.chmod(0o666)
    try:
        done = thief("HOST", "pairsync", "--version")
    finally:
        policy.chmod(0o644)
    assert done.returncode == 3
    assert "others may write to it" in done.stderr


def test_other_host_keys_are_not_trusted(installed, fleet):
    known = fleet.host("gpu1").path(f"{KEY}.known_hosts")
    before = known.read_text()
    other = fleet.host("gpu3").path("/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
    known.write_text(f"{NAME} {' '.join(other[:2])}\n")
    try:
        code, report = sync(fleet)
    finally:
        known.write_text(before)
    assert (code, report["error"]["code"]) == (3, "host_key")


def test_rotation_makes_the_old_key_useless(installed, keys, fleet, thief):
    gpu1 = fleet.host("gpu1")
    gpu1.run(f"cp {KEY} old && chmod 600 old", user="me")
    assert "changed=1" in keys("-e", "pairsync_keys=rotated")
    assert_synced(fleet)
    assert gpu1.path(KEY).read_text() != gpu1.path("/home/me/old").read_text()
    old = gpu1.run(
        f"ssh -F none -i old -o IdentitiesOnly=yes -o BatchMode=yes -o HostKeyAlias={NAME}"
        f" -o UserKnownHostsFile={KEY}.known_hosts {fleet.host('gpu2').address} pairsync --version",
        user="me", check=False,
    )  # fmt: skip
    assert "Permission denied" in old.stderr
    assert fleet.host("gpu2").path(AUTHORIZED).read_text().count(f"pairsync:{NAME}") == 1
    assert sorted(os.listdir(gpu1.path("/home/me/.ssh/pairsync"))) == [
        NAME, f"{NAME}.known_hosts", f"{NAME}.pub"
    ]  # fmt: skip


def test_parity_asks_over_the_key(installed, environment, fleet):
    command = [Path(sys.executable).parent / "ansible-playbook", "pairsync.fleet.parity"]
    done = subprocess.run(
        [*command, "-i", environment["PAIRSYNC_INVENTORY"]],
        env={**environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.fixture
def sshd_says(fleet):
    """A function that changes gpu2's sshd for the rest of a test."""
    gpu2 = fleet.host("gpu2")
    config = gpu2.path("/etc/ssh/sshd_config")
    before = config.read_text()

    def say(text):
        config.write_text(f"{before}{text}\n")
        gpu2.run("kill -HUP 1")
        deadline = time.monotonic() + 20
        while gpu2.run("true", check=False).returncode != 0 and time.monotonic() < deadline:
            time.sleep(0.05)

    yield say
    say("")


@pytest.mark.parametrize(
    "setting,said",
    [
        ("Match User me\n  ForceCommand /bin/true", "sshd runs `/bin/true` for this account"),
        ("Match User me\n  AuthorizedKeysFile none", "only root may write"),
    ],
)
def test_an_sshd_that_would_ignore_the_key_is_named(
    installed, keys, sshd_says, setting, said, fleet
):
    sshd_says(setting)
    told = keys("-e", "pairsync_keys=rotated", code=2)
    assert said in told.replace("\n", " ")
    assert "gpu2: " in told
    # What there was before the rotation is left alone.
    assert fleet.host("gpu1").path(KEY).exists()
    assert f"pairsync:{NAME}" in fleet.host("gpu2").path(AUTHORIZED).read_text()


@pytest.fixture
def removed(installed, keys, fleet):
    """The pair has no key; returns what authorized_keys held before the first one."""
    if f"pairsync:{NAME}" in fleet.host("gpu2").path(AUTHORIZED).read_text():
        keys("-e", "pairsync_keys=absent")
    return installed


def test_a_key_that_sshd_refuses_is_taken_away_again(removed, keys, fleet):
    gpu2 = fleet.host("gpu2")
    home = gpu2.path("/home/me")
    home.chmod(0o777)
    try:
        told = keys(code=2)
    finally:
        home.chmod(0o755)
    assert "StrictModes: others may write to /home/me" in told
    assert "it was taken away again" in told
    assert gpu2.path(AUTHORIZED).read_bytes() == removed
    assert not gpu2.path("/etc/pairsync").exists()
    assert not fleet.host("gpu1").path("/home/me/.ssh/pairsync").exists()


def test_where_nobody_is_let_in_yet_the_key_is_for_the_address_of_a(removed, keys, fleet):
    assert "changed=1" in keys()
    line = fleet.host("gpu2").path(AUTHORIZED).read_text().splitlines()[0]
    assert f'from="{fleet.host("gpu1").address}"' in line
    assert_synced(fleet)


def test_removal_leaves_what_was_there_before(installed, keys, fleet):
    gpu2 = fleet.host("gpu2")
    assert "changed=1" in keys("-e", "pairsync_keys=absent", "--check")
    assert gpu2.path(AUTHORIZED).read_bytes() != installed
    assert "changed=1" in keys("-e", "pairsync_keys=absent")
    assert gpu2.path(AUTHORIZED).read_bytes() == installed
    assert not gpu2.path("/etc/pairsync").exists()
    assert "changed=0" in keys("-e", "pairsync_keys=absent")
    assert sync(fleet)[0] == 3


# -- without root --------------------------------------------------------------------------------


def as_me(fleet, environment, keys, *words, **variables):
    """Run the playbook over an inventory whose connections are the account's own."""
    home = Path(environment["HOME"])
    variables = {"ansible_user": "me", **variables}
    inventory = fleet.write_inventory(home / "own", names=["gpu1", "gpu2"], variables=variables)
    (inventory / "pairs.yml").write_text(PAIRS)
    return keys("-i", inventory, *words)


def test_without_root_the_policy_is_the_account_s_own(removed, keys, environment, fleet):
    gpu2 = fleet.host("gpu2")
    assert "changed=1" in as_me(fleet, environment, keys)
    policy = f"/home/me/.config/pairsync/pairs/{NAME}.json"
    assert gpu2.run(f"stat -c '%U %a' {policy}").stdout == "me 600\n"
    assert not gpu2.path("/etc/pairsync").exists()
    assert f"--policy {policy}" in gpu2.path(AUTHORIZED).read_text()
    assert_synced(fleet)
    assert "changed=1" in as_me(fleet, environment, keys, "-e", "pairsync_keys=absent")
    assert gpu2.path(AUTHORIZED).read_bytes() == removed
    assert list(gpu2.path("/home/me/.config").iterdir()) == []
    told = keys("-e", "pairsync_key_scope=system", "-i", Path(environment["HOME"]) / "own", code=2)
    assert "scope: system needs root on the other host: run it with become: true" in told


def test_who_becomes_root_there_leaves_a_policy_of_root_s(removed, keys, environment, fleet):
    gpu2 = fleet.host("gpu2")
    become = {"ansible_become_method": "su", "ansible_become_password": "secret of root"}
    gpu2.run("echo 'root:secret of root' | chpasswd -c SHA512")
    assert "changed=1" in as_me(fleet, environment, keys, "--become", **become)
    assert gpu2.run(f"stat -c '%U %a' {POLICY}").stdout == "root 644\n"
    assert_synced(fleet)
