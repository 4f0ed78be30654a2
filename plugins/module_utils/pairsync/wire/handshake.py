# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first bytes: who is there, and whether both ends understand each other.

The client speaks first: a HELLO frame with a random nonce. The agent answers with a line that
repeats the nonce, then its own HELLO frame. Whatever comes before that line was printed by a
login shell; it is recognised and named, never taken for an answer.
"""

from __future__ import annotations

import os
import re
import select
import time
from typing import NamedTuple, Optional

from .. import PROTOCOL, __version__
from ..model.errors import PairsyncError, ProtocolError
from . import messages
from .frames import HELLO, FrameReader, FrameWriter
from .limits import HANDSHAKE_SECONDS, MOST_NOISE
from .messages import decode, encode, field

_MARK = "PAIRSYNC "
_NONCE = re.compile(r"[0-9a-f]{32}")


class Greeting(NamedTuple):
    """What one end says of itself. build: digest of its binary."""

    version: str
    protocol: int
    build: str


def own_greeting(build: str) -> Greeting:
    """This end's greeting."""
    return Greeting(__version__, PROTOCOL, build)


def greet(writer: FrameWriter, nonce: str, build: str) -> None:
    """Client: say hello."""
    writer.put(HELLO, 0, encode({**own_greeting(build)._asdict(), "nonce": nonce}))


def await_agent(fd: int, reader: FrameReader, nonce: str, host: str, build: str) -> Greeting:
    """Client: wait for the agent's answer; raise PairsyncError `noise` or `version`.

    Raises EOFError, with what was printed so far, when the stream ends before an answer.
    """
    mark = f"{_MARK}{nonce}\n".encode()
    seen = bytearray()
    deadline = time.monotonic() + HANDSHAKE_SECONDS
    while not seen.endswith(mark):
        left = deadline - time.monotonic()
        if left <= 0 or len(seen) > MOST_NOISE:
            raise _noise(host, bytes(seen)) if seen else _silent(host)
        ready, __, __ = select.select([fd], [], [], left)
        if not ready:
            continue
        # One byte at a time up to the mark: what follows belongs to the frames.
        byte = os.read(fd, 1)
        if not byte:
            raise EOFError(bytes(seen))
        seen += byte
    noise = bytes(seen[: -len(mark)])
    if noise:
        raise _noise(host, noise)
    reader.deadline = deadline
    frame = reader.read()
    reader.deadline = None
    if frame is None or frame.type != HELLO:
        raise ProtocolError(f"{host} did not introduce itself", host)
    greeting = _greeting(decode(frame.payload, host), host)
    check_versions(greeting, host, build)
    return greeting


def answer(reader: FrameReader, writer: FrameWriter, write_fd: int, build: str) -> Greeting:
    """Agent: wait for the client's hello and answer it."""
    reader.deadline = time.monotonic() + HANDSHAKE_SECONDS
    frame = reader.read()
    reader.deadline = None
    if frame is None or frame.type != HELLO:
        raise ProtocolError("the client did not introduce itself")
    data = decode(frame.payload, "the client")
    nonce = field(data, "nonce", str, "the client")
    if _NONCE.fullmatch(nonce) is None:
        raise ProtocolError("the client's nonce is malformed")
    os.write(write_fd, f"{_MARK}{nonce}\n".encode())
    writer.put(HELLO, 0, encode(own_greeting(build)._asdict()))
    return _greeting(data, "the client")


def check_versions(other: Greeting, host: str, build: str) -> None:
    """Refuse a peer of another protocol, before anything is touched."""
    mine = own_greeting(build)
    if other.protocol == mine.protocol:
        return
    raise PairsyncError(
        "version",
        f"this host runs pairsync {mine.version} (protocol {mine.protocol}),"
        f" {host} runs {other.version} (protocol {other.protocol})",
        f"install one version on both: `invoke bootstrap --limit {host}`",
        host,
    )


def _greeting(data: dict[str, object], host: str) -> Greeting:
    return Greeting(
        messages.name(data, "version", host)[:64],
        messages.number(data, "protocol", host, most=1 << 30),
        messages.build(data, host),
    )


def first_line(noise: bytes) -> str:
    """The first line of what a shell printed, shortened and made printable."""
    lines: list[Optional[bytes]] = [line for line in noise.splitlines() if line.strip()]
    text = (lines[0] or b"").decode("utf-8", "replace") if lines else ""
    return "".join(char if char.isprintable() else "?" for char in text[:120])


def _noise(host: str, noise: bytes) -> PairsyncError:
    return PairsyncError(
        "noise",
        f"the login shell on {host} prints text into the connection: {first_line(noise)!r}",
        "let its start-up files (~/.bashrc, ~/.cshrc, …) print only when the shell is interactive",
        host,
    )


def _silent(host: str) -> PairsyncError:
    return PairsyncError(
        "unreachable",
        f"{host} did not answer within {HANDSHAKE_SECONDS:.0f} seconds",
        "check that the host is up and not overloaded",
        host,
    )
