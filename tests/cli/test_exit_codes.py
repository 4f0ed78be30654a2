# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every meaning of every exit code, for `sync` and for `plan`."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.cli.trees import contents


def test_0_when_all_was_done(pairsync, pair):
    a, b = pair
    ran = pairsync("sync", "--batch", a, b)
    assert ran.code == 0, ran
    assert contents(a) == contents(b) != {}
    assert ran.out.splitlines()[-1].startswith("Synchronization complete")


def test_0_when_there_is_nothing_to_do(pairsync, synced):
    for command in ("sync", "plan"):
        ran = pairsync(command, "--batch", "--json", *synced)
        assert ran.code == ran.report["exit"] == 0
        assert ran.report["items_total"] == 0


def test_0_when_only_notes_are_left(pairsync, synced):
    a, __ = synced
    os.mkfifo(a / "pipe")
    ran = pairsync("sync", "--batch", "--json", *synced)
    assert ran.code == ran.report["exit"] == 0
    assert ran.report["notes"] == ["pipe: a named pipe on a, not synced"]


def test_1_when_something_is_in_conflict_and_the_rest_is_done(pairsync, synced):
    a, b = synced
    (a / "file").write_text("from a\n")
    (b / "file").write_text("from the other\n")
    (a / "more").write_text("more\n")
    ran = pairsync("sync", "--batch", *synced)
    assert ran.code == 1
    assert "conflict: file (contents changed on both sides)" in ran.out
    assert ran.out.splitlines()[-1].startswith("Synchronization incomplete")
    assert (a / "file").read_text() == "from a\n"
    assert (b / "file").read_text() == "from the other\n"
    assert (b / "more").read_text() == "more\n"


def test_1_when_something_was_skipped(pairsync, pair):
    a, b = pair
    (b / "surplus").write_text("only here\n")
    ran = pairsync("sync", "--batch", "--json", "--mode", "mirror", a, b)
    assert ran.code == ran.report["exit"] == 1
    assert ran.report["counts"]["skip"] == {"skipped": 1}
    assert (b / "surplus").exists()


def test_plan_says_1_when_something_would_be_done(pairsync, pair):
    ran = pairsync("plan", "--json", *pair)
    assert ran.code == ran.report["exit"] == 1


def test_plan_says_1_when_something_is_in_conflict(pairsync, synced):
    a, b = synced
    (a / "file").write_text("from a\n")
    (b / "file").write_text("from the other\n")
    ran = pairsync("plan", "--json", a, b)
    assert ran.code == ran.report["exit"] == 1
    assert ran.report["counts"] == {"conflict": {"planned": 1}}


@pytest.mark.parametrize("command", ["sync", "plan"])
def test_2_when_an_item_failed(pairsync, pair, command):
    a, b = pair
    make_deep(a, 1030)
    try:
        ran = pairsync(command, "--batch", "--json", a, b)
    finally:
        # Python's own rmtree goes no deeper than its stack.
        subprocess.run(["rm", "-rf", a / "d", b / "d"], check=True)
    assert ran.code == ran.report["exit"] == 2
    assert ran.report["counts"]["error"] == {"failed": 1}
    assert ran.report["items"][0]["decision"] == "error"
    if command == "sync":
        assert (b / "file").exists(), "the rest is done"


def test_3_for_a_fatal_error(pairsync, tmp_path):
    ran = pairsync("sync", "--batch", tmp_path / "nowhere", tmp_path / "neither")
    assert ran.code == 3
    assert ran.err.startswith("pairsync: neither ")
    assert ran.err.count("\n") == 1


def test_3_for_a_guard(pairsync, synced):
    a, b = synced
    for path in (a / "file", a / "run.sh", a / "link", a / "sub/inner"):
        path.unlink()
    (a / "sub/empty").rmdir()
    (a / "sub").rmdir()
    before = contents(b)
    ran = pairsync("sync", "--batch", "--json", a, b)
    assert ran.code == ran.report["exit"] == 3
    assert ran.report["error"]["code"] == "root_emptied"
    assert contents(b) == before


def test_3_for_the_brake_on_mass_change_unless_confirmed(pairsync, pair):
    a, b = pair
    for number in range(60):
        (a / f"n{number}").write_text("x")
    assert pairsync("sync", "--batch", a, b).code == 0
    for number in range(59):
        (a / f"n{number}").unlink()
    before = contents(b)
    ran = pairsync("sync", "--batch", "--json", a, b)
    assert ran.code == 3
    assert ran.report["error"]["code"] == "mass_change"
    assert contents(b) == before
    digest = ran.report["plan_digest"]
    assert f"--confirm {digest}" in ran.report["error"]["next"]
    assert pairsync("sync", "--batch", "--confirm", digest, a, b).code == 0
    assert contents(a) == contents(b)


def test_3_for_a_lock(binary, pairsync, synced):
    a, b = synced
    (a / "new").write_text("new\n")
    asking = subprocess.Popen(
        binary.command("sync", "--events", a, b), env=binary.environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for line in asking.stdout:
            if '"question"' in line:
                break
        ran = pairsync("sync", "--batch", "--json", "--lock-wait", "0", a, b)
        assert ran.code == ran.report["exit"] == 3
        assert ran.report["error"]["code"] == "locked"
        assert f"process {asking.pid} on " in ran.report["error"]["message"]
    finally:
        asking.stdin.write('{"id": 1, "answer": "y"}\n')
        asking.stdin.close()
        asking.stdout.read()
        assert asking.wait(timeout=20) == 0
    assert contents(a) == contents(b)


@pytest.mark.parametrize("answer", ["n", "q"])
def test_3_when_the_person_says_no(binary, pair, answer):
    ran = binary("sync", "--events", *pair, stdin=f'{{"id": 1, "answer": "{answer}"}}\n')
    assert ran.code == 3
    assert ran.events[-1]["report"]["error"]["code"] == "interrupted"
    assert contents(pair[1]) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_3_when_interrupted(binary, pair, number):
    process = subprocess.Popen(
        # A background job of a shell ignores SIGINT, and so would what it starts.
        ["env", "--default-signal=INT", *binary.command("sync", "--events", *pair)],
        env=binary.environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if '"question"' in line:
            break
    process.send_signal(number)
    assert '"interrupted"' in process.stdout.read()
    process.stdin.close()
    assert process.wait(timeout=20) == 3
    assert contents(pair[1]) == {}
    assert binary("sync", "--batch", *pair).code == 0


def test_3_when_it_takes_longer_than_allowed(binary, pair):
    with subprocess.Popen(
        binary.command("sync", "--events", "--timeout", "1", *pair), env=binary.environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        out = process.stdout.read()
        assert process.wait(timeout=20) == 3
    assert "the session took more than 1 seconds" in out


def make_deep(root, levels):
    here = os.open(root, os.O_RDONLY)
    for __ in range(levels):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


@pytest.mark.parametrize("where", ["/dev/full", "&-"])
@pytest.mark.parametrize("command", ["history", "sync"])
def test_a_code_of_ours_also_when_nothing_can_be_said(built, synced, tmp_path, command, where):
    """Not the 120 with which Python ends; a closed output is nobody's, and no error."""
    words = ["--batch", *synced] if command == "sync" else [synced[0]]
    line = f'"$@" >{where}'
    ran = subprocess.run(
        ["sh", "-c", line, "sh", built, command, *words],
        env={**os.environ, "PAIRSYNC_STATE": str(tmp_path / "state")},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert ran.returncode == (3 if where == "/dev/full" else 0), ran
    assert "Exception" not in ran.stderr
    assert "should not" not in ran.stderr
