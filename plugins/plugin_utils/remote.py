# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the installed pairsync, here or over Fabric on a host, and talk to it line by line.

It carries events and answers, never file contents: those go over OpenSSH, between the hosts.
"""

from __future__ import annotations

import codecs
import os
import subprocess
import threading
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# As much of what a program writes to stderr is kept, in bytes, for saying why it failed.
_LAST_WORDS = 4000

_BLOCK = 65_536


class Process(Protocol):
    """A running program that reads lines and writes lines."""

    def send(self, line: str) -> None:
        """Write one line to its standard input; a program that has ended is no error."""

    def lines(self) -> Iterator[str]:
        """Yield the lines of its standard output, without their ends."""

    def finish(self) -> int:
        """Wait for its end and return its exit code."""

    def last_words(self) -> str:
        """Return the last line it wrote to stderr."""

    def stop(self) -> None:
        """Let it know that nobody listens any more."""


class _Tail:
    """Reads a stream to its end beside everything else, and keeps the last part of it."""

    def __init__(self, read: Any) -> None:
        self._kept = b""
        self._read = read
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while data := self._read(_BLOCK):
            self._kept = (self._kept + data)[-_LAST_WORDS:]

    def line(self) -> str:
        """Return the last line, once the stream has ended or nothing has come for a second."""
        self._thread.join(timeout=1.0)
        lines = self._kept.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""


class NotThere:
    """Stands for a program that does not exist, as a shell would report it."""

    def send(self, line: str) -> None:
        """Nobody reads it."""

    def lines(self) -> Iterator[str]:
        """Yield nothing."""
        return iter(())

    def finish(self) -> int:
        """Return the exit code with which shells say so."""
        return 127

    def last_words(self) -> str:
        """Return nothing."""
        return ""

    def stop(self) -> None:
        """Nothing runs."""


class LocalProcess:
    """A program on this machine. It shares our terminal's process group: Ctrl-C reaches it too."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._tail = _Tail(partial(os.read, self._pipe(self._process.stderr).fileno()))

    @staticmethod
    def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None:
            raise ValueError("not a pipe")
        return stream

    def send(self, line: str) -> None:
        """Write one line to its standard input."""
        stdin = self._pipe(self._process.stdin)
        try:
            stdin.write(line.encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; its last words say why

    def lines(self) -> Iterator[str]:
        """Yield the lines of its standard output."""
        for line in self._pipe(self._process.stdout):
            yield line.decode("utf-8", "replace").rstrip("\n")

    def finish(self) -> int:
        """Wait for its end and return its exit code."""
        try:
            self._pipe(self._process.stdin).close()
        except BrokenPipeError:
            pass
        return self._process.wait()

    def last_words(self) -> str:
        """Return the last line it wrote to stderr."""
        return self._tail.line()

    def stop(self) -> None:
        """Ask it to end; a session then leaves everything as if it had been interrupted."""
        self._process.terminate()


class RemoteProcess:
    """A program on a host, in one raw channel of a Fabric connection.

    Connection.run would pass every byte through its own decoding and printing, at a hundredth of
    the speed.
    """

    def __init__(self, connection: Any, command: str) -> None:
        self._channel = connection.client.get_transport().open_session()
        # As bytes: a path in it need not be UTF-8.
        self._channel.exec_command(command.encode("utf-8", "surrogateescape"))
        self._tail = _Tail(self._channel.recv_stderr)

    def send(self, line: str) -> None:
        """Write one line to its standard input."""
        try:
            self._channel.sendall(line.encode() + b"\n")
        except OSError:
            pass  # it has ended; its last words say why

    def lines(self) -> Iterator[str]:
        """Yield the lines of its standard output."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        while data := self._channel.recv(_BLOCK):
            *whole, rest = (rest + decoder.decode(data)).split("\n")
            yield from whole
        if rest:
            yield rest

    def finish(self) -> int:
        """Wait for its end and return its exit code, -1 when the connection was lost before."""
        self._channel.shutdown_write()
        return int(self._channel.recv_exit_status())

    def last_words(self) -> str:
        """Return the last line it wrote to stderr."""
        return self._tail.line()

    def stop(self) -> None:
        """Close the channel: the session notices with its next event."""
        self._channel.close()
