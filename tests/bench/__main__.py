# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench`: measure pairsync beside rsync and Unison, in one run on one machine."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench import disk, rounds, ssh, table, tools
from tests.bench.measure import BenchError

RUNS = 5
SLOW_RUNS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 3 when a tool fails, a tree comes out wrong or ssh is missing."""
    rows = rounds.find()
    options = _parser([row.key for row in rows]).parse_args(arguments)
    wanted = [row for row in rows if not options.only or row.key in options.only]
    try:
        results = measure(wanted, options)
    except (BenchError, ssh.NoSshError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 3
    except KeyboardInterrupt:
        return 3
    table.show(results)
    if options.json:
        text = json.dumps(table.as_json(results), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def measure(rows: Sequence[rounds.Row], options: argparse.Namespace) -> table.Results:
    """Measure rows in a directory of their own, which goes afterwards, as does sshd."""
    with (
        disk.workplace(options.directory) as work,
        ssh.start(work / "ssh", tools.environment(work)) as sshd,
    ):
        found, missing = tools.find(work, sshd.config)
        for remark in missing:
            _say(remark)
        if options.tools:
            found = [one for one in found if one.name in {table.OURS, *options.tools}]
        machine = table.machine(work, {one.name: one.version for one in found})
        bench = rounds.Bench(
            work=work,
            sshd=sshd.pid,
            tools=found,
            runs=1 if options.quick else options.runs,
            slow_runs=options.slow_runs,
            scale=options.scale,
            say=_say,
        )
        measured = []
        for row in rows:
            _say(f"{row.key}  {row.title}")
            measured.append((row, row.measure(bench)))
    return table.Results(machine, options.scale, measured)


def _say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def _parser(keys: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    add = parser.add_argument
    add("--only", metavar="ROW", action="append", choices=keys, help=f"one of {', '.join(keys)}")
    add("--quick", action="store_true", help="one run of each, for a rough look")
    add("--runs", type=_positive, default=RUNS, help=f"runs of each tool (default {RUNS})")
    add(
        "--slow-runs",
        type=_positive,
        default=SLOW_RUNS,
        help=f"at most so many of a tool that takes a minute (default {SLOW_RUNS})",
    )
    add("--tools", nargs="+", choices=["rsync", "unison"], help="peers (default: all)")
    add("--scale", type=_positive, default=1, help="divide the numbers of files by this")
    add("--json", type=Path, metavar="FILE", help="write all figures to a file as well")
    add(
        "--directory",
        type=Path,
        help=f"measure on the file system of this directory (default: on a new one in {disk.DISK}"
        " if that may be mounted)",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1 is expected")
    return number


if __name__ == "__main__":
    sys.exit(main())
