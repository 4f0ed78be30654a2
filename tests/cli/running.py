# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two ways to run the command line: in this process, and as the binary that hosts get."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pairsync import cli

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


class Ran(NamedTuple):
    """How one command ended: its exit code, and what it said as text (escaped as in names)."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """The one JSON object on standard output; fails when there is anything else."""
        assert self.out.endswith("\n"), self.err
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out, parse_constant=_no_constant)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON objects on standard output, one a line."""
        return [json.loads(line, parse_constant=_no_constant) for line in self.out.splitlines()]


class InProcess:
    """Runs cli.main here, with standard streams as strict as a terminal's."""

    name = "in process"

    def __init__(self, state: Path) -> None:
        """state: where the command keeps what it knows of this host."""
        self._state = state

    def __call__(
        self, *words: str | Path, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> Ran:
        out, err = _stream(), _stream()
        with (
            _environment({"PAIRSYNC_STATE": str(self._state), **(env or {})}),
            _streams(_stream(stdin), out, err),
            _process_settings(),
        ):
            try:
                code = cli.main([os.fspath(word) for word in words])
            except SystemExit as end:  # argparse's --help
                code = int(end.code or 0)
            finally:
                out.flush()
                err.flush()
        return Ran(code, _text(out.buffer.getvalue()), _text(err.buffer.getvalue()))


class Binary:
    """Runs the built binary as a child."""

    name = "binary"

    def __init__(self, path: Path, state: Path) -> None:
        """path: the binary. state: as for InProcess."""
        self.path = path
        self._state = state

    def __call__(
        self, *words: str | Path, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> Ran:
        result = subprocess.run(
            self.command(*words), env=self.environment(env), input=stdin.encode(),
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        return Ran(result.returncode, _text(result.stdout), _text(result.stderr))

    def command(self, *words: str | Path) -> list[str]:
        """The command line, for tests that talk to a running session."""
        return [os.fspath(self.path), *map(os.fspath, words)]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment, for the same."""
        return {**os.environ, "PAIRSYNC_STATE": str(self._state), **(more or {})}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _stream(text: str = "") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8", write_through=True)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _streams(*streams: io.TextIOWrapper) -> Iterator[None]:
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


@contextlib.contextmanager
def _process_settings() -> Iterator[None]:
    """Put back what a command sets for its whole process."""
    handlers = [(number, signal.getsignal(number)) for number in SIGNALS]
    mask = os.umask(0o022)
    try:
        yield
    finally:
        signal.alarm(0)
        os.umask(mask)
        for number, handler in handlers:
            signal.signal(number, handler)
