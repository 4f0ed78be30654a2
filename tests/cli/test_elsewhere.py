# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session of two other hosts runs on the first of them; what comes back is not trusted.

`ssh` is a program that runs the remote command in a shell of this host, as sshd would.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time

import pytest

from tests.cli.trees import contents

REPORT = {
    "error": None, "exit": 0, "dry_run": False, "collapsed": False, "counts": {}, "seconds": 0.1,
}  # fmt: skip


@pytest.fixture
def ssh(tmp_path):
    """Puts an ssh in front of PATH that first runs what it is given; returns the environment."""

    def made(startup="", remote='exec sh -c "$*"'):
        place = tmp_path / "bin"
        place.mkdir(exist_ok=True)
        (place / "ssh").write_text(
            '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift 2\n'
            f'echo "$@" >> {shlex.quote(str(tmp_path / "asked"))}\n{startup}\n{remote}\n'
        )
        (place / "ssh").chmod(0o755)
        return {"PATH": f"{place}:{os.environ['PATH']}"}

    return made


@pytest.fixture
def spec(tmp_path, built, pair):
    """Both replicas on one other host."""

    def made(*labels):
        return {
            "replicas": {
                label: {"path": str(path), "binary": str(built), "address": "h1"}
                for label, path in zip(labels, pair, strict=True)
            }
        }

    def write(*labels):
        (tmp_path / "spec.json").write_text(json.dumps(made(*labels)))
        return tmp_path / "spec.json"

    return write


def says(*lines):
    """A remote side that says these lines after the mark, whatever it is asked."""
    events = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    words = " ".join(shlex.quote(event) for event in events)
    return f"sh -c \"${{1}} ${{2}} true\"; printf '%s\\n' {words}"


@pytest.mark.parametrize("labels", [("h1", "h2"), ("h1", "h1#2")])
def test_the_session_runs_there(binary, pair, ssh, spec, labels):
    ran = binary("sync", "--json", "--spec", spec(*labels), env=ssh())
    assert ran.code == ran.report["exit"] == 0, ran
    assert ran.report["pair"]["a"] == f"h1:{pair[0]}"
    assert ran.report["pair"]["b"] == f"{labels[1].removesuffix('#2')}:{pair[1]}"
    assert contents(pair[0]) == contents(pair[1]) != {}


def test_two_directories_of_one_host(pairsync, pair, ssh, built, tmp_path):
    # The usual places are tried in order: the stand-in puts the binary into none of them.
    env = ssh(remote=f'exec sh -c "$(echo "$*" | sed s,/usr/bin/pairsync,{built},)"')
    ran = pairsync("sync", "--batch", f"h1:{pair[0]}", f"h1:{pair[1]}", env=env)
    assert ran.code == 0, ran
    assert contents(pair[0]) == contents(pair[1]) != {}
    assert (tmp_path / "asked").read_text().count("\n") == 1, "the host does not log in to itself"


def test_login_noise_is_quoted_and_nothing_is_done(binary, pair, ssh, spec):
    ran = binary("sync", "--json", "--spec", spec("h1", "h2"), env=ssh("echo 'Welcome, friend!'"))
    assert ran.code == 3
    assert ran.report["error"]["code"] == "noise"
    assert "'Welcome, friend!'" in ran.report["error"]["message"]
    time.sleep(0.5)
    assert contents(pair[1]) == {}
    assert not (pair[0] / ".pairsync").exists()


@pytest.mark.parametrize("startup", ["printf prompt", "echo", "yes"])
def test_noise_of_any_kind_ends_it(binary, ssh, spec, startup):
    ran = binary("sync", "--json", "--spec", spec("h1", "h2"), env=ssh(startup))
    assert ran.code == 3
    assert ran.report["error"]["code"] == "noise"


def test_no_ssh_here(spec, binary, tmp_path):
    place = tmp_path / "bin"
    place.mkdir()
    for name in ("sh", "python3", "env"):
        (place / name).symlink_to(sys.executable if name == "python3" else f"/usr/bin/{name}")
    ran = binary("sync", "--json", "--spec", spec("h1", "h2"), env={"PATH": str(place)})
    assert ran.code == 3
    assert ran.report["error"]["message"] == "there is no ssh on this machine"


def test_what_a_terminal_would_obey_is_taken_out(binary, ssh, spec):
    env = ssh(remote=says({"event": "warning", "message": "\x1b[2Jowned\r\n"},
                          {"event": "report", "report": REPORT}))  # fmt: skip
    ran = binary("sync", "--batch", "--spec", spec("h1", "h2"), env=env)
    assert ran.code == 0, ran
    assert "warning: ?[2Jowned??" in ran.out
    assert "\x1b" not in ran.out


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[" * 50_000,
        [],
        {"event": 7},
        {"event": "warning"},
        {"event": "item", "path": "x"},
        {"event": "plan", "labels": {"a": "x"}, "summary": []},
        {"event": "progress", "items": 0, "items_total": 0, "bytes": 10**400, "bytes_total": 1},
        {"event": "report", "report": {**REPORT, "exit": 7}},
        {"event": "report", "report": {**REPORT, "error": {"code": "usage"}}},
        {"event": "report", "report": {**REPORT, "counts": {"a->b": 1}}},
    ],
)
def test_a_malformed_event_ends_it(binary, ssh, spec, line):
    # Enough behind it to fill the pipe: whoever waits for the end of ssh would wait for ever.
    env = ssh(remote=says(line) + "; exec yes")
    ran = binary("sync", "--json", "--spec", spec("h1", "h2"), env=env)
    assert ran.code == 3
    assert ran.report["error"]["code"] == "protocol"
    assert ran.report["error"]["host"] == "h1"


def test_a_stream_that_ends_early_is_explained(binary, ssh, spec):
    env = ssh(remote=says({"event": "phase", "phase": "scan"}) + "; echo out of memory >&2; exit 9")
    ran = binary("sync", "--json", "--spec", spec("h1", "h2"), env=env)
    assert ran.code == 3
    assert "ended with status 9: out of memory" in ran.report["error"]["message"]
