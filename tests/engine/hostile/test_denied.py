# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A home as a root: what lets people in, and what runs there, is out of every session's reach."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from pairsync.model.denied import Denied
from pairsync.model.entry import DIR, FILE, LINK, Entry
from pairsync.replica.local import LocalReplica
from tests.engine.trees import ENGINE_HOME, STATE, Link, Pair, read_tree, write_tree

DENIED = {
    ".ssh/authorized_keys": "ssh-ed25519 mine\n",
    ".config/pairsync/pairs.yml": "pairs\n",
    ".config/systemd/user/own.service": "[Service]\n",
    ".local/bin/pairsync": "the engine\n",
    ".local/bin/home_sync": "the engine\n",
    ".local/lib/pairsync/1.0/pairsync": "the engine\n",
    ".local/state/pairsync/replicas/x": "/home\n",
}
OPEN = {
    ".config/editor.ini": "tabs\n",
    ".local/bin/tool": "#!/bin/sh\n",
    ".bashrc": "alias l=ls\n",
    "src/.ssh/config": "not this user's\n",
}
EVIL = dict.fromkeys(DENIED, "evil\n")


def files(root):
    return {name: value.decode() for name, value in read_tree(root).items() if value}


@pytest.fixture
def home(tmp_path):
    """A home on host b, with keys, engine and configuration; a is a plain directory elsewhere."""
    return write_tree(tmp_path / "home", {**DENIED, **OPEN})


def pair_with(tmp_path, root, home):
    pair = Pair(tmp_path / "pair", lambda: (LocalReplica(home=b""), _replica(home)))
    pair.b = root
    return pair


def _replica(home):
    return LocalReplica(home=os.fsencode(home))


def test_nothing_that_lets_people_in_leaves_a_home(tmp_path, home):
    pair = pair_with(tmp_path, home, home)
    assert pair.sync().exit == 0
    assert files(pair.a) == OPEN
    assert files(home) == {**DENIED, **OPEN}


@pytest.mark.parametrize("mode", [{}, {"mode": "mirror"}, {"prefer": "a"}], ids=str)
def test_nothing_that_lets_people_in_is_written_or_deleted_in_a_home(tmp_path, home, mode):
    pair = pair_with(tmp_path, home, home)
    assert pair.sync().exit == 0
    write_tree(pair.a, {**EVIL, ".config/editor.ini": "spaces\n"})
    result = pair.sync(**mode)
    assert result.exit == 2
    assert files(home) == {**DENIED, **OPEN, ".config/editor.ini": "spaces\n"}
    assert {name for name, (__, done) in result.items.items() if done == "failed"} >= {
        ".ssh", ".ssh/authorized_keys", ".config/systemd", ".local/bin/pairsync",
    }  # fmt: skip
    reasons = {item["reason"] for item in result.report["items"] if item["result"] == "failed"}
    assert reasons == {"never written by a sync: it decides who may log in, or what runs there"}
    assert files(pair.a)[".ssh/authorized_keys"] == "evil\n", "and its origin is kept"
    again = pair.sync(**mode)
    assert again.exit == 2
    assert files(home)[".ssh/authorized_keys"] == DENIED[".ssh/authorized_keys"]


def test_directories_that_hold_it_are_not_deleted(tmp_path, home):
    pair = pair_with(tmp_path, home, home)
    pair.sync()
    subprocess.run(["rm", "-r", pair.a / ".config", pair.a / ".local"], check=True)
    pair.sync()
    assert {name: files(home).get(name) for name in DENIED} == DENIED
    assert ".config/editor.ini" not in files(home)


@pytest.mark.parametrize("name", [".ssh", ".config", ".local", ".local/bin"])
@pytest.mark.parametrize("empty", [False, True], ids=["there", "not there"])
def test_no_symlink_takes_the_place_of_what_leads_to_it(tmp_path, home, name, empty):
    if empty:
        home = tmp_path / "empty"
        home.mkdir()
    pair = pair_with(tmp_path, home, home)
    pair.sync()
    write_tree(pair.a, {"evil/authorized_keys": "evil\n", "evil/systemd/user/x.service": "evil\n"})
    place = pair.a / name
    if place.is_dir():
        subprocess.run(["rm", "-r", place], check=True)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to("evil" if "/" not in name else "../evil")
    pair.sync(prefer="a")
    pair.sync(prefer="a")
    assert not (home / name).is_symlink()
    assert not empty or not (home / ".ssh").exists()
    assert empty or {one: files(home).get(one) for one in DENIED} == DENIED


def test_what_lies_behind_symlinks_is_denied_too(tmp_path):
    home = write_tree(
        tmp_path / "home",
        {
            "dotfiles/ssh/authorized_keys": "mine\n",
            "dotfiles/conf/systemd/user/own.service": "mine\n",
            ".ssh": Link("dotfiles/ssh"),
            ".config": Link("way/conf"),
            "way": Link("dotfiles"),
            "dotfiles/vimrc": "set\n",
        },
    )
    pair = pair_with(tmp_path, home, home)
    assert pair.sync().exit == 0
    assert files(pair.a) == {"dotfiles/vimrc": "set\n"}
    write_tree(
        pair.a,
        {
            "dotfiles/ssh/authorized_keys": "evil\n",
            "dotfiles/conf/systemd/user/evil.service": "evil\n",
            "evil/conf/systemd/user/evil.service": "evil\n",
            "way": Link("evil"),
        },
    )
    before = read_tree(home)
    assert pair.sync(prefer="a").exit == 2
    after = read_tree(home)
    assert {name: after.get(name) for name in before} == before
    assert not (home / "dotfiles/conf/systemd/user/evil.service").exists()


@pytest.mark.parametrize("above", ["home", ".", "home/.config", "home/.local"])
def test_it_holds_wherever_the_root_is(tmp_path, above):
    top = tmp_path / "top"
    home = write_tree(top / "home", {**DENIED, **OPEN})
    root = top / above
    pair = pair_with(tmp_path, root, home)
    assert pair.sync().exit == 0
    for name in DENIED:
        place = os.path.relpath(home / name, root.resolve())
        if not place.startswith(".."):
            write_tree(pair.a, {place: "evil\n"})
    assert pair.sync(prefer="a").exit == 2
    assert files(home) == {**DENIED, **OPEN}


@pytest.mark.parametrize("inside", [".ssh", ".config/systemd", ".config/systemd/user", ".ssh/new"])
def test_a_root_in_it_is_refused_with_one_sentence(tmp_path, home, inside):
    pair = pair_with(tmp_path, home / inside, home)
    write_tree(pair.a, {"authorized_keys": "evil\n"})
    result = pair.sync()
    assert (result.exit, result.error) == (3, "usage")
    place = "/".join(inside.split("/")[: 1 if inside.startswith(".ssh") else 2])
    assert f"lies in {home}/{place}, which decides who may log in" in str(result.run.error)
    assert not (home / inside / STATE).exists()
    assert files(home) == {**DENIED, **OPEN}


@pytest.mark.parametrize("inside", [STATE, f"{STATE}/backup", f"{STATE}/new", ".Pairsync"])
def test_the_state_of_a_replica_is_no_root(tmp_path, inside):
    """What is kept there is what brings back the rest."""
    replica = write_tree(
        tmp_path / "replica", {f"{STATE}/backup/run/file": "kept", ".Pairsync/x": ""}
    )
    pair = Pair(tmp_path / "pair")
    pair.a = write_tree(tmp_path / "a", {"file": "evil"})
    pair.b = replica / inside
    before = read_tree(replica)
    result = pair.sync()
    assert (result.exit, result.error) == (3, "usage")
    assert "lies in the state of a replica, which is never synced" in str(result.run.error)
    assert read_tree(replica) == before


def test_the_state_home_is_denied_wherever_it_is(tmp_path):
    root = write_tree(tmp_path / "root", {"states/replicas/x": "/root\n", "file": "text\n"})

    def connect():
        return LocalReplica(home=b""), LocalReplica("source", str(root / "states"), home=b"")

    pair = Pair(tmp_path / "pair", connect)
    pair.b = root
    assert pair.sync().exit == 0
    assert files(pair.a) == {"file": "text\n"}


@pytest.mark.parametrize(
    "path", [".SSH/config", ".\u017fsh", ".config/Pairsync/x", ".s\u200csh", ".Local/Bin/Home_Sync"]
)
def test_names_that_a_file_system_may_take_for_it_are_denied(path):
    denied = Denied((b".ssh", b".config/pairsync", b".local/bin/home_sync"))
    assert denied.hides(path.encode())
    assert denied.refuses(path.encode(), None, Entry(FILE))


def test_other_names_are_not():
    denied = Denied((b".ssh", b".config/pairsync"))
    for path in (b".ssh2", b"x/.ssh", b".config", b".config/pairsync2", b"pairsync", b"\xff"):
        assert not denied.hides(path)
        assert not denied.refuses(path, None, Entry(DIR))
    assert denied.refuses(b".config", Entry(LINK, target=b"x"), Entry(DIR))
    assert denied.refuses(b".config", None, Entry(LINK, target=b"x"))
    assert not denied.refuses(b".config", Entry(DIR), None)


AGENT = """
mount --bind {passwd} /etc/passwd
exec env HOME=/nowhere PYTHONPATH={engine} {python} -m pairsync sync --batch {a} {b}
"""


@pytest.mark.root
def test_the_home_is_the_one_in_the_table_of_users(tmp_path, home):
    """Not what an environment says: a session may have a hand in that."""
    with open("/etc/passwd") as stream:
        lines = [line for line in stream.read().splitlines() if line.split(":")[2] != "0"]
    passwd = tmp_path / "passwd"
    passwd.write_text("\n".join([f"root:x:0:0:root:{home}:/bin/sh", *lines]) + "\n")
    a = write_tree(tmp_path / "a", {".ssh/authorized_keys": "evil\n", "new": "text\n"})
    script = AGENT.format(
        passwd=shlex.quote(str(passwd)), engine=shlex.quote(str(ENGINE_HOME)),
        python=shlex.quote(sys.executable), a=shlex.quote(str(a)), b=shlex.quote(str(home)),
    )  # fmt: skip
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert files(home) == {**DENIED, **OPEN, "new": "text\n"}
    assert files(a)[".ssh/authorized_keys"] == "evil\n"
