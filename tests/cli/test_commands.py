# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything but sessions: `status`, `forget`, `help`, `--version`, and wrong usage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import time

import pytest

from pairsync import PROTOCOL, __version__
from pairsync.model.errors import CODES
from tests.cli.running import InProcess
from tests.cli.trees import contents


def test_version(pairsync):
    ran = pairsync("--version")
    assert ran.code == 0
    assert re.fullmatch(
        rf"pairsync {re.escape(__version__)} \(protocol {PROTOCOL}, build [0-9a-z]{{6,12}}\)\n",
        ran.out,
    )


def test_version_as_json(binary):
    ran = binary("--version", "--json")
    assert ran.code == 0
    assert ran.report == {
        "name": "pairsync",
        "version": __version__,
        "protocol": PROTOCOL,
        "build": hashlib.sha256(binary.path.read_bytes()).hexdigest(),
        "python": platform.python_version(),
        "path": str(binary.path),
    } | {"python": ran.report["python"]}


def test_help_errors_is_the_closed_list(pairsync):
    ran = pairsync("help", "errors")
    assert ran.code == 0
    listed = dict(line.split(None, 1) for line in ran.out.splitlines())
    assert listed == CODES


@pytest.mark.parametrize("words", [["--help"], ["help"], ["sync", "--help"]])
def test_help(pairsync, words):
    ran = pairsync(*words)
    assert (ran.code, ran.err) == (0, "")
    assert "usage: pairsync" in ran.out


@pytest.mark.parametrize(
    "words",
    [
        ["sync"], ["sync", "a"], ["sync", "a", "b", "c"], ["sync", "", "b"], ["bogus"], ["--bogus"],
        ["sync", "a", "b", "--mode", "both"], ["sync", "a", "b", "--prefer", "c"],
        ["sync", "a", "b", "--ignore", "*.tmp"], ["sync", "a", "b", "--path", "/x"],
        ["sync", "a", "b", "--max-delete", "101"], ["sync", "a", "b", "--max-delete", "x"],
        ["sync", "a", "ssh://"], ["sync", "a", "-oProxyCommand=x:/b"], ["sync", "a", "ho st:/b"],
        ["sync", "a", "b", "--spec", "/nonexistent"], ["sync", "--spec", "/nonexistent"],
        ["plan"], ["forget"], ["help", "bogus"], ["status", "--max-age", "x"],
    ],
)  # fmt: skip
def test_wrong_usage_is_one_sentence_and_3(pairsync, words):
    ran = pairsync(*words)
    assert ran.code == 3
    assert ran.out == ""
    assert ran.err.startswith("pairsync: ")
    assert ran.err.count("\n") == 1


def test_no_command_at_all_explains_itself(pairsync):
    ran = pairsync()
    assert (ran.code, ran.out) == (3, "")
    assert "usage: pairsync" in ran.err


def test_status_of_a_host_that_has_synced_nothing(pairsync):
    ran = pairsync("status")
    assert (ran.code, ran.out) == (0, "no pair has been synced on this host yet\n")
    assert pairsync("status", "--json").report == {"schema": "pairsync.status/1", "pairs": []}


def test_status_tells_age_conflicts_and_the_last_run(pairsync, synced):
    a, b = synced
    (a / "file").write_text("from a\n")
    (b / "file").write_text("from the other\n")
    run = pairsync("sync", "--batch", "--json", a, b).report
    report = pairsync("status", "--json").report
    assert report["schema"] == "pairsync.status/1"
    [one] = report["pairs"]
    assert one["pair"] == run["pair"]
    assert (one["run"], one["exit"], one["conflicts"]) == (run["run"], 1, 1)
    assert 0 <= one["age_seconds"] < 60
    assert one["error"] is None
    text = pairsync("status")
    assert text.out.count("\n") == 1
    assert f"{a}  {b}" in text.out
    assert "exit 1, 1 conflicts" in text.out


@pytest.mark.parametrize("named", ["id", "start of the id", "root"])
def test_status_of_one_pair(pairsync, synced, named):
    pair = pairsync("status", "--json").report["pairs"][0]["pair"]["id"]
    word = {"id": pair, "start of the id": pair[:8], "root": str(synced[0])}[named]
    assert pairsync("status", word, "--json").report["pairs"][0]["pair"]["id"] == pair


def test_status_of_an_unknown_pair(pairsync, synced):
    ran = pairsync("status", "nonsense")
    assert ran.code == 3
    assert "no pair 'nonsense' is known on this host; run `pairsync status`" in ran.err


def test_max_age_turns_age_into_an_exit_code(pairsync, synced):
    assert pairsync("status", "--max-age", "3600").code == 0
    time.sleep(1.1)
    assert pairsync("status", "--max-age", "0").code == 1
    assert pairsync("status", "--json", "--max-age", "0").code == 1


def test_an_error_does_not_make_a_pair_younger(pairsync, synced):
    a, b = synced
    before = pairsync("status", "--json").report["pairs"][0]["scanned_unix"]
    time.sleep(1.1)
    for path in a.iterdir():
        if path.name != ".pairsync":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    assert pairsync("sync", "--batch", a, b).code == 3
    [one] = pairsync("status", "--json").report["pairs"]
    assert one["error"]["code"] == "root_emptied"
    assert one["scanned_unix"] == before


def test_forget_makes_the_next_run_a_first_sync(pairsync, synced):
    a, b = synced
    ran = pairsync("forget", a, b)
    assert (ran.code, ran.err) == (0, "")
    assert "the next sync deletes nothing" in ran.out
    (b / "file").unlink()
    report = pairsync("sync", "--batch", "--json", a, b).report
    assert (report["exit"], report["base"]) == (0, "first")
    assert (b / "file").exists(), "nothing is deleted"
    assert contents(a) == contents(b)


def test_forgetting_what_is_not_known_says_so(pairsync, pair):
    ran = pairsync("forget", *pair)
    assert ran.code == 0
    assert ran.out.endswith(" is not known\n")
    assert not (pair[0] / ".pairsync").exists()


def test_forget_by_specification(pairsync, synced):
    replicas = {
        name: {"path": str(root), "local": True} for name, root in zip("ab", synced, strict=True)
    }
    spec = json.dumps({"schema": "pairsync.spec/1", "replicas": replicas})
    assert "forgotten" in pairsync("forget", "--spec", "-", stdin=spec + "\n").out


def test_a_copied_replica_is_refused_until_it_has_an_id_of_its_own(pairsync, synced, tmp_path):
    a, __ = synced
    copy = tmp_path / "copy"
    shutil.copytree(a, copy, symlinks=True)
    before = contents(a)
    ran = pairsync("sync", "--batch", "--json", a, copy)
    assert ran.code == 3
    assert ran.report["error"]["code"] == "replica_cloned"
    assert f"pairsync forget --new-id {copy}" in ran.report["error"]["next"]
    assert pairsync("forget", "--new-id", copy).code == 0
    ran = pairsync("sync", "--batch", "--json", a, copy)
    assert (ran.code, ran.report["base"]) == (0, "first")
    assert contents(a) == contents(copy) == before


def test_a_new_id_for_what_is_not_there(pairsync, tmp_path):
    ran = pairsync("forget", "--new-id", tmp_path / "nowhere")
    assert ran.code == 3
    assert ran.err.count("\n") == 1


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The working directory, in which other users may look around."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def as_nobody():
    """Runs a block as a user who owns nothing here."""

    @contextlib.contextmanager
    def switched():
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    if os.geteuid():
        pytest.skip("only root can become another user")
    return switched


def test_status_of_another_user_s_root_is_one_sentence(shared, pair, as_nobody):
    pairsync = InProcess(shared / "state")
    assert pairsync("sync", "--batch", *pair).code == 0
    with as_nobody():
        ran = pairsync("status", "a")
    assert ran.code == 3
    assert "a/.pairsync cannot be read: Permission denied" in ran.err
    assert ran.err.count("\n") == 1
    with as_nobody():
        ran = pairsync("status", "a", "--json")
    assert ran.code == 3
    assert ran.report["error"]["code"] == "root_identity"


def test_a_root_that_cannot_be_read_hides_no_other(shared, pair, pairsync):
    assert pairsync("sync", "--batch", *pair).code == 0
    state = next((pair[0] / ".pairsync/pairs").iterdir()) / "status.json"
    state.write_text("[]")
    ran = pairsync("status")
    assert ran.code == 0
    assert ran.out.count("\n") == 1


def test_a_new_id_where_nothing_can_be_written(shared, pair, as_nobody):
    with as_nobody():
        ran = InProcess(shared / "state")("forget", "--new-id", "a")
    assert ran.code == 3
    assert ran.err.startswith("pairsync: a/.pairsync cannot be written: Permission denied;")
    assert ran.err.count("\n") == 1


def test_a_deleted_working_directory_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ran = InProcess(tmp_path / "state")("sync", "--json", "a", "b")
    assert ran.code == 3
    assert ran.report["error"]["code"] == "usage"
    assert "a is relative to the working directory, which has been deleted" in ran.err
    assert ran.err.count("\n") == 1


def test_what_nobody_thought_of_is_an_error_with_a_report(pairsync):
    ran = pairsync("sync", "--batch", "--json", "--spec", "-", stdin="[" * 100_000)
    assert ran.code == 3
    assert ran.report["error"]["code"] == "internal"
    assert ran.err.startswith("pairsync: pairsync failed in a way it should not: RecursionError")
    assert ran.err.count("\n") == 1


def test_flags_and_groups_of_a_regex_are_its_own(pairsync, pair):
    a, b = pair
    (a / "x.TMP").write_text("x")
    ran = pairsync(
        "sync", "--batch", "--ignore", "Name run.sh", "--ignore", "Regex (?i).*\\.tmp",
        "--ignore", r"Regex (f).\1", a, b,
    )  # fmt: skip
    assert ran.code == 0, ran
    assert not (b / "x.TMP").exists()
    assert (b / "file").exists()
