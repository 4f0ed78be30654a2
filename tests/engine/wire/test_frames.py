# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames over real pipes: order, limits, silence, and ends that break off."""

from __future__ import annotations

import os
import resource
import struct
import threading
import time

import pytest

from pairsync.model.errors import ProtocolError
from pairsync.wire import frames, limits
from pairsync.wire.frames import BEAT, BULK, CALL, REPLY, Frame, FrameReader, FrameWriter


@pytest.fixture
def pipe():
    ends = list(os.pipe())
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass  # closed by the test


@pytest.fixture
def start_writer(pipe):
    """Makes the writer of the pipe; its thread ends before the pipe's numbers are used again."""
    writers = []

    def start():
        writers.append(FrameWriter(pipe[1], "gpu2"))
        return writers[0]

    yield start
    try:
        os.close(pipe[0])  # ends a thread that waits for its reader
    except OSError:
        pass  # closed by the test
    for writer in writers:
        writer.close()
        writer._thread.join(10)


def header(length, kind, number=1):
    return struct.pack("!IBI", length, kind, number)


def test_frames_arrive_as_they_were_put(pipe, start_writer):
    reader, writer = FrameReader(pipe[0], "gpu2"), start_writer()
    sent = [Frame(CALL, 1, b"{}"), Frame(REPLY, 2**32 - 1, b""), Frame(BULK, 7, b"x" * 300_000)]
    for frame in sent:
        writer.put(*frame)
    assert [reader.read() for __ in sent] == sent
    writer.close()
    assert reader.received == writer.sent == sum(9 + len(frame.payload) for frame in sent)


def test_the_end_of_the_stream_is_no_error_between_frames(pipe, start_writer):
    os.close(pipe[1])
    assert FrameReader(pipe[0], "gpu2").read() is None


@pytest.mark.parametrize("data", [header(5, CALL)[:3], header(5, CALL), header(5, CALL) + b"abc"])
def test_the_end_of_the_stream_inside_a_frame_is_one(pipe, data):
    os.write(pipe[1], data)
    os.close(pipe[1])
    with pytest.raises(ProtocolError, match="the connection to gpu2 broke off") as caught:
        FrameReader(pipe[0], "gpu2").read()
    assert caught.value.host == "gpu2"


@pytest.mark.parametrize(
    "data",
    [
        header(limits.MOST_FRAME + 1, CALL),
        header(2**32 - 1, BULK),
        header(0, 0),
        header(0, BEAT + 1),
        header(0, 255),
        b"hello from .bashrc\n",
    ],
)
def test_what_is_no_frame_is_refused_before_memory_is_taken_for_it(pipe, data):
    os.write(pipe[1], data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ProtocolError, match="gpu2 sent something that is no frame"):
        FrameReader(pipe[0], "gpu2").read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_peer_that_says_nothing_is_given_up(pipe, monkeypatch):
    monkeypatch.setattr(frames, "SILENCE_SECONDS", 0.2)
    with pytest.raises(ProtocolError, match="gpu2 has said nothing for"):
        FrameReader(pipe[0], "gpu2").read()


def test_nothing_is_written_into_what_has_a_closed_stream_s_descriptor(
    pipe, start_writer, tmp_path, monkeypatch
):
    monkeypatch.setattr(frames, "CLOSE_SECONDS", 0.2)
    writer = start_writer()
    for __ in range(3):
        writer.put(BULK, 1, b"x" * (1 << 20))
    writer.close()  # while a write hangs: nobody reads
    other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
    os.dup2(other, pipe[1])
    os.close(other)
    while os.read(pipe[0], 1 << 20):
        pass
    writer._thread.join(10)
    assert (tmp_path / "other").read_bytes() == b""


def test_an_idle_stream_has_a_beat(pipe, start_writer, monkeypatch):
    monkeypatch.setattr(frames, "BEAT_SECONDS", 0.1)
    start_writer()
    assert FrameReader(pipe[0], "gpu2").read() == Frame(BEAT, 0, b"")


def test_a_broken_pipe_is_told_to_whoever_writes(pipe, start_writer):
    writer = start_writer()
    os.close(pipe[0])

    def write_on():
        for __ in range(100):
            writer.put(CALL, 1, b"x" * 1000)
            time.sleep(0.001)

    with pytest.raises(ProtocolError, match="the connection to gpu2 broke off"):
        write_on()


def test_a_full_pipe_holds_its_producer_and_needs_no_memory(pipe, start_writer):
    writer = start_writer()
    put = []

    def produce():
        for number in range(100):
            writer.put(BULK, number, b"x" * 100_000)
            put.append(number)

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    producer.join(0.5)
    assert producer.is_alive()
    assert len(put) <= 20, "more was taken than is kept in memory"
    reader = FrameReader(pipe[0], "gpu2")
    assert [reader.read().number for __ in range(100)] == list(range(100))
    producer.join(10)
    assert not producer.is_alive()


def test_a_producer_is_let_go_when_the_other_direction_breaks(pipe, start_writer):
    writer = start_writer()
    errors = []

    def produce():
        try:
            for number in range(100):
                writer.put(BULK, number, b"x" * 100_000)
        except ProtocolError as error:
            errors.append(error)

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    reason = ProtocolError("gpu2 has said nothing for 60 seconds", "gpu2")
    writer.fail(reason)
    producer.join(10)
    assert errors == [reason]


def test_closing_does_not_wait_for_a_peer_that_does_not_read(pipe, start_writer, monkeypatch):
    monkeypatch.setattr(frames, "CLOSE_SECONDS", 0.2)
    writer = start_writer()
    for __ in range(10):
        writer.put(BULK, 1, b"x" * 100_000)
    started = time.monotonic()
    writer.close()
    assert time.monotonic() - started < 5
