# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fuzz tests feed: bytes to decoders, and whole recorded sessions with something wrong.

Run as a program it is the child that does it, under limits that the kernel holds: `fuzzing.py
TARGET SECONDS SEED MEGABYTES [CORPUS]`. It prints how many inputs it tried. With atheris, which
looks for inputs that reach new code, the same functions are its targets.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from pairsync.model.errors import PairsyncError, ProtocolError
from pairsync.replica.interface import Opened
from pairsync.replica.local import LocalReplica
from pairsync.wire import codec, messages
from pairsync.wire.frames import FrameReader
from pairsync.wire.serve import serve

READERS = (
    codec.read_path, codec.read_change, codec.read_row, codec.read_wanted, codec.read_action,
    codec.read_done, codec.read_number,
)  # fmt: skip
OBJECTS = (messages.read_opened, messages.read_base_state, messages.read_beginning)
# Nothing here is about disks, and an agent waits for them at every step.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# Stands for the root in a recorded session: as long as any, since frames say their length.
ROOT = b"@" * 200


def decode_lists(data: bytes) -> None:
    """Each kind of list, of the same bytes; what is accepted holds no path that leads elsewhere."""
    for read in READERS:
        try:
            items = codec.read_list(data, "gpu2", read)
        except ProtocolError:
            continue
        for item in items:
            path = getattr(item, "path", item if isinstance(item, bytes) else b"x")
            parts = path.split(b"/")
            assert not {b"", b".", b"..", b".pairsync"} & set(parts), path
            assert b"\0" not in path


def decode_contents(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        for record in codec.decode_records(data, "gpu2"):
            codec.encode_record(record)


def decode_objects(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        value = messages.decode(data, "gpu2")
        for read in OBJECTS:
            with contextlib.suppress(ProtocolError):
                read(value, "gpu2")
        assert str(messages.read_error(value, "gpu2")).isprintable()


def read_frames(data: bytes) -> None:
    """A stream of frames, to its end or its first fault."""
    read_fd, write_fd = os.pipe()
    try:
        os.write(write_fd, data[: 60 << 10])  # a pipe holds this much
        os.close(write_fd)
        reader = FrameReader(read_fd, "gpu2")
        with contextlib.suppress(ProtocolError):
            while reader.read() is not None:
                pass
    finally:
        os.close(read_fd)


class _Fenced(LocalReplica):
    """A replica that opens nothing outside of a home: chance also makes paths of other roots."""

    def __init__(self, home: Path) -> None:
        super().__init__(home=b"")
        self._fence = os.path.realpath(home)

    def open(self, path: str) -> Opened:
        if not os.path.isabs(path) or not os.path.realpath(path).startswith(self._fence + "/"):
            raise ProtocolError("that is not about this test")
        return super().open(path)


def serve_stream(data: bytes, look: Callable[[list[bytes]], None] | None = None) -> None:
    """A whole agent for one stream; every end but a reported one is a failure.

    look: is told the names in the root afterwards.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as home:
        root = Path(home, "root")
        root.mkdir()
        (root / "kept").write_bytes(b"kept\n")
        data = data.replace(ROOT, os.fsencode(root).ljust(len(ROOT), b"/"))
        to_agent, from_agent = os.pipe(), os.pipe()
        drain = threading.Thread(target=_drain, args=(from_agent[0],), daemon=True)
        feed = threading.Thread(target=_feed, args=(to_agent[1], data), daemon=True)
        said: list[str] = []
        drain.start()
        feed.start()
        try:
            serve(to_agent[0], from_agent[1], _Fenced(Path(home)), "source")
        except PairsyncError as error:
            said.append(str(error))
        finally:
            os.close(to_agent[0])
            os.close(from_agent[1])
            feed.join()
            drain.join()
            os.close(from_agent[0])
        assert all(map(str.isprintable, said))
        assert sorted(os.listdir(home)) == ["root"]
        assert not list(root.glob(".pairsync/stage/*/*"))
        if look is not None:
            look(os.listdir(os.fsencode(root)))


def _drain(fd: int) -> None:
    while os.read(fd, 1 << 16):
        pass


def _feed(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    os.close(fd)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "lists": decode_lists,
    "contents": decode_contents,
    "objects": decode_objects,
    "frames": read_frames,
    "agent": serve_stream,
}


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A recorded stream with something wrong in it; the lengths around it mostly still fit."""
    found = bytearray(data)
    for __ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(found) + 1)
        way = chance.randrange(7)
        if way == 0 and found:
            found[at - 1] = chance.randrange(256)
        elif way == 1 and found:
            found[at - 1] ^= 1 << chance.randrange(8)
        elif way == 2:
            found[at:at] = chance.randbytes(chance.choice((1, 2, 4, 8, 100)))
        elif way == 3:
            del found[at : at + chance.choice((1, 2, 4, 8, 100))]
        elif way == 4:
            number = chance.choice((0, 1, 255, 2**15, 2**31, 2**32 - 1))
            found[at : at + 4] = struct.pack("!I", number)
        elif way == 5:
            start = chance.randrange(len(found) + 1)
            found[at:at] = found[start : start + chance.randrange(200)]
        else:
            del found[at:]
    return bytes(found)


def frames_of(stream: bytes) -> list[bytes]:
    """The frames of a sound stream."""
    found = []
    at = 0
    while at < len(stream):
        end = at + 9 + struct.unpack_from("!I", stream, at)[0]
        found.append(stream[at:end])
        at = end
    return found


def reorder(stream: bytes, chance: random.Random) -> bytes:
    """The frames of a stream with some left out, doubled or moved; or with one payload changed."""
    frames = frames_of(stream)
    for __ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(1, len(frames)) if len(frames) > 1 else 0
        way = chance.randrange(4)
        if way == 0:
            frames.insert(chance.randrange(len(frames)), frames[at])
        elif way == 1 and len(frames) > 1:
            del frames[at]
        elif way == 2:
            other = chance.randrange(len(frames))
            frames[at], frames[other] = frames[other], frames[at]
        else:
            payload = mutate(frames[at][9:], chance)
            frames[at] = struct.pack("!I", len(payload)) + frames[at][4:9] + payload
    return b"".join(frames)


def apart(target: Callable[[bytes], None], data: bytes) -> None:
    """In a process of its own, as an agent is: what it has not given back goes with it."""
    pid = os.fork()
    if pid:
        __, status = os.waitpid(pid, 0)
        assert status == 0, f"it ended with {os.waitstatus_to_exitcode(status)}"
        return
    code = 1
    try:
        signal.alarm(30)
        target(data)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main(target: str, seconds: str, seed: str, megabytes: str, *corpus: str) -> None:
    """Try inputs for a time, or until one fails; the limits on memory and time are the kernel's."""
    limit = int(megabytes) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (int(float(seconds)) + 60, int(float(seconds)) + 60))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
    samples = [Path(name).read_bytes() for name in corpus] or [b"\0\0\0\1"]
    chance = random.Random(int(seed))
    end = time.monotonic() + float(seconds)
    tried = 0
    while time.monotonic() < end:
        data = chance.choice(samples)
        change = reorder if target == "agent" and chance.randrange(4) else mutate
        data = change(data, chance)
        started = time.monotonic()
        try:
            if target == "agent":
                apart(TARGETS[target], data)
            else:
                TARGETS[target](data)
        except BaseException:
            sys.stderr.write(f"{target} failed for {data!r}\n")
            raise
        assert time.monotonic() - started < 30, f"{target} took too long for {data!r}"
        tried += 1
    sys.stdout.write(f"{tried}\n")


def coverage_guided(target: str, seconds: str, megabytes: str, corpus: str) -> None:
    """The same, by atheris: inputs that reach new code are kept and changed further."""
    import atheris

    with atheris.instrument_imports(include=["pairsync"]):
        import importlib

        for name in ("codec", "messages", "frames"):
            importlib.reload(sys.modules[f"pairsync.wire.{name}"])
    arguments = [
        "fuzzing", f"-max_total_time={seconds}", f"-rss_limit_mb={megabytes}", "-timeout=30",
        "-max_len=65536", "-print_final_stats=1", "-verbosity=0", corpus,
    ]  # fmt: skip
    atheris.Setup(arguments, TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1] == "--guided":
        coverage_guided(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
