# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables, amounts and progress, with and without a terminal."""

from __future__ import annotations

import io
import os
import pty

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils import rendering


@pytest.mark.parametrize(
    "given,expected",
    [
        ("model.ckpt-32036.index", "model.ckpt-32036.index"),
        ("Größe", "Größe"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("two\nlines", "two\\nlines"),
        ("left\u202eright", "left\\u202eright"),
        ("\udcff", "\\udcff"),
    ],
)
def test_no_control_byte_of_a_name_reaches_the_terminal(given, expected):
    assert rendering.escape(given) == expected


@pytest.mark.parametrize(
    "given,expected",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345, "12 kB"),
        (999_600, "1.0 MB"),
        (3_400_000_000, "3.4 GB"),
    ],
)
def test_amounts(given, expected):
    assert rendering.amount(given) == expected


@pytest.mark.parametrize(
    "given,expected",
    [
        (None, "never"),
        (0.04, "0.0 s"),
        (12, "12 s"),
        (300, "5 min"),
        (7200, "2 h"),
        (864_000, "10 d"),
    ],
)
def test_durations(given, expected):
    assert rendering.duration(given) == expected


def test_a_plain_table_is_aligned_and_escaped():
    out = io.StringIO()
    rendering.table(["pair", "outcome"], [["gpu1:gpu2", "done"], ["a\tb", "error"]], out)
    assert out.getvalue() == "pair       outcome\ngpu1:gpu2  done\na\\tb       error\n"


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        yield stream, lambda: os.read(ours, 65_536).decode()
    os.close(ours)


def test_a_terminal_gets_a_table_too(terminal):
    stream, shown = terminal
    rendering.table(["pair", "outcome"], [["gpu1:gpu2", "do\x1b[31mne"]], stream)
    text = shown()
    assert "gpu1:gpu2" in text
    assert "do\\x1b[31mne" in text


def test_no_color_is_plain(terminal, monkeypatch):
    stream, shown = terminal
    monkeypatch.setenv("NO_COLOR", "")
    rendering.table(["pair"], [["gpu1:gpu2"]], stream)
    assert shown() == "pair\r\ngpu1:gpu2\r\n"


def test_progress_on_a_terminal_and_elsewhere(terminal):
    stream, shown = terminal
    event = {"items": 1, "items_total": 2, "bytes": 10, "bytes_total": 20}
    with rendering.progress(stream) as show:
        show(event)
    assert "1/2 items" in shown()
    plain = io.StringIO()
    with rendering.progress(plain) as show:
        show(event)
    assert plain.getvalue() == ""


REPORT = {
    "counts": {"b->a": {"done": 5}, "conflict": {"skipped": 1}},
    "bytes": {"contents": 2000},
    "seconds": 0.42,
    "exit": 1,
}


def test_a_row_of_the_table_of_what_happened():
    row = rendering.outcome_row("gpu1:gpu2", REPORT)
    assert row == ("gpu1:gpu2", "conflicts", "5", "0", "1", "0", "2.0 kB", "0.4 s")


@pytest.mark.parametrize(
    "report,expected",
    [
        ({"exit": 0, "counts": {}}, "nothing to do"),
        ({"exit": 0, "counts": {"a->b": {"done": 1}}}, "done"),
        ({"exit": 1, "counts": {"a->b": {"planned": 1}}, "dry_run": True}, "to do"),
        ({"exit": 0, "counts": {}, "collapsed": True}, "one file system"),
        ({"exit": 2, "counts": {"error": {"failed": 1}}}, "failed items"),
        ({"exit": 1, "counts": {"a->b": {"held": 1}}}, "not all done"),
        (
            {"exit": 3, "error": {"code": "unreachable", "host": "gpu3"}},
            "error: unreachable on gpu3",
        ),
    ],
)
def test_outcomes(report, expected):
    assert rendering.outcome(report) == expected
