# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example that everyone tries: gpu1 trains, gpu2 evaluates, gpu3 is a third.

The tests of this file tell one story and run in its order; each begins where the one before ended.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = "/data/model"

# Polls `checkpoint` as an evaluator does, and says so when it names what is not there.
EVALUATOR = """
import os, re, sys, time
os.chdir("/data/model")
print("watching", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end and not os.path.exists("/tmp/enough"):
    try:
        name = re.search('"(.*)"', open("checkpoint").read()).group(1)
    except FileNotFoundError:
        print("checkpoint is missing", flush=True)
        continue
    for part in ("data-00000-of-00001", "index", "meta"):
        if not os.path.exists(f"{name}.{part}"):
            print(f"{name}.{part} is missing", flush=True)
    time.sleep(0.0005)
"""

PLAN = """\
gpu1           gpu2
         <---- changed    checkpoint
changed  <-?-> changed    config.json
         <---- changed    events.out.tfevents.1534965067.gpu2
         <---- new file   model.ckpt-32036.data-00000-of-00001
         <---- new file   model.ckpt-32036.index
         <---- new file   model.ckpt-32036.meta
"""

PAIRS = """\
plugin: pairsync.fleet.pairs
trees:
  model_dir:
    hosts: [gpu1, gpu2, gpu3]
    path: /data/model
    topology: mesh
"""


@pytest.fixture(scope="module")
def inventory(fleet, tmp_path_factory):
    directory = fleet.write_inventory(tmp_path_factory.mktemp("inventory"))
    (directory / "pairs.yml").write_text(PAIRS)
    return directory


@pytest.fixture(scope="module")
def environment(inventory):
    return {**os.environ, "PAIRSYNC_INVENTORY": str(inventory), "COLUMNS": "200"}


@pytest.fixture(scope="module")
def invoke(environment):
    """Runs an invoke task without a terminal."""

    def run(*words):
        command = [sys.executable, "-m", "invoke", "--search-root", ROOT, *words]
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def playbook(environment):
    def run(*words):
        command = [Path(sys.executable).parent / "ansible-playbook", *words]
        return subprocess.run(
            command, cwd="/", env={**environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip

    return lambda name, *words: run(
        ROOT / f"playbooks/{name}.yml", "-i", environment["PAIRSYNC_INVENTORY"], *words
    )


def write(host, name, text):
    path = host.path(f"{MODEL}/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(host, name):
    return host.path(f"{MODEL}/{name}").read_text()


def checkpoint(host, step):
    for part in ("data-00000-of-00001", "index", "meta"):
        write(host, f"model.ckpt-{step}.{part}", f"{part} of {step}\n" * 20_000)
    write(host, "checkpoint", f'model_checkpoint_path: "model.ckpt-{step}"\n')


def state(host):
    """Everything about a replica that a person can see, or that a write would change."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_ctime_ns, path.lstat().st_ino)
        for path in host.path(MODEL).rglob("*")
        if ".pairsync" not in path.parts
    }


def said(result):
    return f"{result.stdout}\n{result.stderr}"


def recap(result):
    """The recap line of each pair: its name and its counters."""
    lines = re.findall(r"^(gpu\d\+gpu\d@model_dir)\s*: (.*)$", result.stdout, re.MULTILINE)
    return {
        name: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", counters)}
        for name, counters in lines
    }


def test_bootstrap_prepares_hosts_that_have_nothing(invoke, fleet):
    result = invoke("bootstrap")
    assert result.returncode == 0, said(result)
    for name in ("gpu1", "gpu2", "gpu3"):
        assert fleet.host(name).run("pairsync --version").stdout.startswith("pairsync ")


def test_a_first_sync_creates_what_gpu2_has_not(invoke, fleet):
    gpu1, gpu2 = fleet.host("gpu1"), fleet.host("gpu2")
    write(gpu1, "config.json", '{"steps": 1}\n')
    write(gpu1, "events.out.tfevents.1534965067.gpu1", "event\n" * 1000)
    write(gpu1, "events.out.tfevents.1534965067.gpu2", "event\n" * 10)
    checkpoint(gpu1, 30011)
    result = invoke("sync", "--pair", "gpu1:gpu2")
    assert result.returncode == 0, said(result)
    assert "nobody is asked" in result.stdout
    assert read(gpu2, "config.json") == read(gpu1, "config.json")
    assert read(gpu2, "checkpoint") == read(gpu1, "checkpoint")


def test_the_plan_that_everyone_sees(invoke, fleet):
    gpu1, gpu2 = fleet.host("gpu1"), fleet.host("gpu2")
    checkpoint(gpu2, 32036)
    write(gpu2, "events.out.tfevents.1534965067.gpu2", "event\n" * 20)
    write(gpu1, "config.json", '{"steps": 2, "by": "gpu1"}\n')
    time.sleep(2)  # so that gpu2's is clearly the newer one
    write(gpu2, "config.json", '{"steps": 3, "by": "gpu2"}\n')
    before = state(gpu1)
    result = invoke("plan", "--pair", "gpu1:gpu2")
    assert result.returncode == 1, said(result)
    assert PLAN in "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())
    assert state(gpu1) == before


def test_at_a_terminal_it_asks_once_and_the_evaluator_never_misses_a_file(fleet, environment):
    gpu1 = fleet.host("gpu1")
    evaluator = subprocess.Popen(
        [*gpu1.ssh(), "python3", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    evaluator.stdin.write(EVALUATOR)
    evaluator.stdin.close()
    assert evaluator.stdout.readline() == "watching\n"
    code, shown = at_a_terminal(environment, "y\n", "sync", "--pair", "gpu1:gpu2")
    gpu1.path("/tmp/enough").touch()
    assert evaluator.stdout.read() == ""
    assert evaluator.wait(timeout=10) == 0
    assert code == 1, shown
    assert "Proceed with propagating updates?" in shown
    assert "1 in conflict (config.json)" in shown
    assert "model.ckpt-32036" in read(gpu1, "checkpoint")
    assert "gpu1" in read(gpu1, "config.json"), "a conflict stays as it is"


def at_a_terminal(environment, typed, *words):
    """Run an invoke task at a terminal of its own, type, and return exit code and screen."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "invoke", "--search-root", ROOT, *words]
    process = subprocess.Popen(
        command, env={**environment, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            shown += os.read(ours, 65_536)
        except OSError:  # the last one at the other end has left
            break
        if typed and b"?" in shown.splitlines()[-1]:
            os.write(ours, typed.encode())
            typed = ""
    os.close(ours)
    return process.wait(timeout=10), shown.decode("utf-8", "replace")


def test_no_leaves_everything_as_it_is(fleet, environment):
    gpu2 = fleet.host("gpu2")
    write(gpu2, "notes.txt", "kept\n")
    before = state(fleet.host("gpu1"))
    code, shown = at_a_terminal(environment, "n\n", "sync", "--pair", "gpu1:gpu2")
    assert code != 0, shown
    assert state(fleet.host("gpu1")) == before


def test_the_newer_one_wins_when_asked_to(invoke, fleet):
    result = invoke("sync", "--pair", "gpu1:gpu2", "--prefer", "newer")
    assert result.returncode == 0, said(result)
    assert "gpu2" in read(fleet.host("gpu1"), "config.json")
    assert "gpu2" in read(fleet.host("gpu2"), "config.json")
    assert read(fleet.host("gpu1"), "notes.txt") == "kept\n"


def test_run_again_it_does_nothing_and_writes_nothing(invoke, fleet):
    before = [state(fleet.host(name)) for name in ("gpu1", "gpu2")]
    result = invoke("sync", "--pair", "gpu1:gpu2")
    assert result.returncode == 0, said(result)
    assert "nothing to do" in result.stdout
    assert [state(fleet.host(name)) for name in ("gpu1", "gpu2")] == before


def test_the_playbook_syncs_all_pairs_with_one_line_each(playbook, fleet):
    names = {"gpu1+gpu2@model_dir", "gpu1+gpu3@model_dir", "gpu2+gpu3@model_dir"}
    result = playbook("sync")
    assert result.returncode == 0, said(result)
    assert recap(result).keys() == names
    assert read(fleet.host("gpu3"), "checkpoint") == read(fleet.host("gpu1"), "checkpoint")
    again = playbook("sync")
    assert again.returncode == 0, said(again)
    assert {name: line["changed"] for name, line in recap(again).items()} == dict.fromkeys(names, 0)


def test_check_mode_is_the_plan(playbook, fleet):
    write(fleet.host("gpu1"), "notes.txt", "changed\n")
    before = state(fleet.host("gpu2"))
    result = playbook("sync", "--limit", "gpu1+gpu2@model_dir", "--check", "--diff")
    assert result.returncode == 0, said(result)
    assert "+notes.txt  file, changed on gpu1:/data/model" in result.stdout
    assert recap(result)["gpu1+gpu2@model_dir"]["changed"] == 1
    assert state(fleet.host("gpu2")) == before


def test_a_limit_that_matches_no_pair_is_an_error(playbook):
    result = playbook("sync", "--limit", "gpu1")
    assert result.returncode != 0
    assert "No pair matches" in said(result)


def test_with_gpu3_off_the_other_pairs_finish_and_gpu3_is_named(playbook, invoke, fleet):
    fleet.host("gpu3").stop()
    result = playbook("sync")
    assert result.returncode != 0
    lines = recap(result)
    assert lines["gpu1+gpu2@model_dir"]["failed"] == 0
    assert lines["gpu1+gpu2@model_dir"]["changed"] == 1
    assert lines["gpu1+gpu3@model_dir"]["failed"] == 1
    assert lines["gpu2+gpu3@model_dir"]["failed"] == 1
    assert "gpu3" in result.stdout
    assert read(fleet.host("gpu2"), "notes.txt") == "changed\n"
    one = invoke("sync", "--pair", "gpu1:gpu3")
    assert one.returncode == 3
    assert "gpu3" in one.stderr
