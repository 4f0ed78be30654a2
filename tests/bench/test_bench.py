# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark still runs, on very small trees. What it measures is never asserted."""

from __future__ import annotations

import json

import pytest

from tests.bench import __main__ as bench
from tests.bench import trees


@pytest.mark.needs("ssh", "sshd", "rsync", "unison")
def test_every_row_is_measured_with_every_tool(tmp_path, capsys):
    figures = tmp_path / "figures.json"

    exit_code = bench.main(
        ["--quick", "--scale", "2000", "--directory", str(tmp_path), "--json", str(figures)]
    )

    output = capsys.readouterr()
    assert exit_code == 0, output.err
    rows = json.loads(figures.read_text())["rows"]
    assert [row["key"] for row in rows] == ["S1", "S2"]
    for row in rows:
        assert list(row["tools"]) == ["pairsync", "rsync", "unison"]
        assert row["title"] in output.out
        for tool in row["tools"].values():
            assert tool["median"]["durable"] >= tool["median"]["seconds"] > 0
            assert tool["median"]["cpu_there"] > 0
    assert list(tmp_path.iterdir()) == [figures]


def test_a_tree_that_came_out_wrong_is_seen(tmp_path):
    shape = trees.Shape(files=3, size=10)
    trees.make(tmp_path / "a", shape)
    trees.make(tmp_path / "b", shape)
    (tmp_path / "b" / trees.STATE).mkdir()
    expected = trees.fingerprint(tmp_path / "a")
    assert not trees.difference(expected, trees.fingerprint(tmp_path / "b"))

    changed = next((tmp_path / "b").rglob("*.bin"))
    changed.chmod(0o600)

    said = trees.difference(expected, trees.fingerprint(tmp_path / "b"))
    assert said.startswith(f"1 paths differ, the first is {changed.relative_to(tmp_path / 'b')}")


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "S99"])
    assert "S99" in capsys.readouterr().err
