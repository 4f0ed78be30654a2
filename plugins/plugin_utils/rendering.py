# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person sees: tables, amounts, progress; plain text where there is no terminal.

Every text that comes from a host or a file name passes through `escape`, so that no control byte
of a foreign name ever reaches the terminal.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from ..module_utils import reports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# A plain progress line at most this often, in seconds: it lands in log files.
_PLAIN_INTERVAL = 10.0

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def escape(text: object) -> str:
    r"""Return text with everything that is not printable as `\xNN` or `\uNNNN`."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in str(text)
    )


def amount(size: int) -> str:
    """Return a number of bytes in three digits or so: `0 B`, `12 kB`, `3.4 GB`."""
    value = float(size)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.1f} {unit}" if unit != "B" and value < 9.95 else f"{value:.0f} {unit}"


def duration(seconds: float | None) -> str:
    """Return a time span in one unit: `0.4 s`, `12 s`, `5 min`, `3 h`, `2 d`; `never` for None."""
    if seconds is None:
        return "never"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for limit, divisor, unit in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def ago(seconds: float | None) -> str:
    """Return how long ago something was: `5 min ago`, or `never`."""
    return "never" if seconds is None else f"{duration(max(0.0, seconds))} ago"


def is_fancy(stream: TextIO) -> bool:
    """Say whether stream is a terminal that wants colours and moving bars."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "") != "dumb"


def say(text: str, stream: TextIO | None = None) -> None:
    """Write one line, flushed, so that it stands before whatever another process writes next."""
    target = stream or sys.stdout
    target.write(text + "\n")
    target.flush()


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], stream: TextIO | None = None
) -> None:
    """Write a table: with rich on a terminal, in aligned columns of plain text elsewhere."""
    target = stream or sys.stdout
    cells = [[escape(cell) for cell in row] for row in rows]
    if not is_fancy(target):
        say(plain_table(columns, cells), target)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell, style=_STYLES.get(cell.split(":")[0], "")) for cell in row))
    Console(file=target, highlight=False).print(drawn)


_STYLES = {"done": "green", "nothing to do": "green", "conflicts": "yellow", "error": "red"}


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns and rows as aligned lines, two spaces apart."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


OUTCOME_COLUMNS = ("pair", "outcome", "to a", "to b", "conflicts", "failed", "contents", "time")


def outcome_row(name: str, report: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one pair's row of the table of what happened, from its report."""
    return (
        name,
        outcome(report),
        str(reports.moved(report, "b->a")),
        str(reports.moved(report, "a->b")),
        str(reports.conflicts(report)),
        str(reports.failures(report)),
        amount(int((report.get("bytes") or {}).get("contents", 0))),
        duration(float(report.get("seconds") or 0.0)),
    )


def outcome(report: Mapping[str, Any]) -> str:
    """Return what became of a session in a word or two."""
    error = report.get("error")
    if error:
        where = f" on {error['host']}" if error.get("host") else ""
        return f"error: {error.get('code', 'internal')}{where}"
    if report.get("collapsed"):
        return "one file system"
    if reports.failures(report):
        return "failed items"
    if reports.conflicts(report):
        return "conflicts"
    changed = reports.is_changed(report)
    if report.get("dry_run"):
        return "to do" if changed else "nothing to do"
    if report.get("exit"):
        return "not all done"
    return "done" if changed else "nothing to do"


@contextmanager
def progress(stream: TextIO | None = None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that takes `progress` events and shows how far the transfer is.

    On a terminal a bar appears with the first event; elsewhere a line every ten seconds at most.
    """
    target = stream or sys.stderr
    if is_fancy(target):
        with _bar(target) as show:
            yield show
        return
    last = time.monotonic()

    def line(event: Mapping[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_INTERVAL:
            last = time.monotonic()
            say(_progress_text(event), target)

    yield line


def _progress_text(event: Mapping[str, Any]) -> str:
    """Return a progress event as one line."""
    return (
        f"{event.get('items', 0)} of {event.get('items_total', 0)} items, "
        f"{amount(int(event.get('bytes', 0)))} of {amount(int(event.get('bytes_total', 0)))}"
    )


@contextmanager
def _bar(target: TextIO) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that moves a bar with each event; rich is loaded with the first one."""
    drawn: Any = None
    task: Any = None

    def show(event: Mapping[str, Any]) -> None:
        nonlocal drawn, task
        if drawn is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            drawn = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(file=target),
                transient=True,
            )
            task = drawn.add_task("")
        drawn.update(
            task,
            description=f"{event.get('items', 0)}/{event.get('items_total', 0)} items",
            completed=int(event.get("bytes", 0)),
            total=int(event.get("bytes_total", 0)) or None,
        )
        drawn.start()

    try:
        yield show
    finally:
        if drawn is not None:
            drawn.stop()


@contextmanager
def status(stream: TextIO | None = None) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a passing remark on a terminal; an empty one removes it."""
    target = stream or sys.stderr
    fancy = is_fancy(target)
    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        if fancy and text != shown:
            target.write(f"\r\x1b[K{escape(text)}")
            target.flush()
            shown = text

    try:
        yield show
    finally:
        show("")
