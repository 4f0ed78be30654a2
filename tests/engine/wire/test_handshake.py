# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who answers, and what else comes: noise before and after, silence, other versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from pairsync import PROTOCOL, __version__
from pairsync.model.errors import PairsyncError, ProtocolError
from pairsync.wire import handshake
from pairsync.wire.frames import HELLO, FrameReader
from pairsync.wire.handshake import await_agent
from tests.engine.wire.peers import NONCE, Wire, agent

MARK = f"PAIRSYNC {NONCE}\n".encode()


def hello(**changed):
    fields = {"version": __version__, "protocol": PROTOCOL, "build": "source"} | changed
    payload = json.dumps({key: value for key, value in fields.items() if value != "absent"})
    return len(payload).to_bytes(4, "big") + bytes((HELLO,)) + bytes(4) + payload.encode()


@pytest.fixture
def answered():
    """Runs the client's half against a process that writes these bytes and ends."""

    def run(data, *, times=1, stay=0.0):
        script = (
            f"import os, time; d={data!r} * {times}\n"
            "while d: d = d[os.write(1, d):]\n"
            f"time.sleep({stay})"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, bufsize=0
        ) as process:
            fd = process.stdout.fileno()
            return await_agent(fd, FrameReader(fd, "gpu2"), NONCE, "gpu2", "source")

    return run


def test_an_agent_introduces_itself(tmp_path):
    with agent(tmp_path) as process:
        assert Wire(process).greeting == (__version__, PROTOCOL, "source")


@pytest.mark.parametrize(
    "noise,shown",
    [
        (b"hello\n", "'hello'"),
        (b"no newline", "'no newline'"),
        (b"\n\n  Welcome to gpu2 \nmore\n", "'  Welcome to gpu2 '"),
        (b"\x1b]0;gone\x07\xff\n", "]0;gone"),
        (b"PAIRSYNC " + b"0" * 32 + b"\n", "'PAIRSYNC 000"),
    ],
)
def test_noise_before_the_answer_is_named(answered, noise, shown):
    with pytest.raises(PairsyncError) as caught:
        answered(noise + MARK + hello())
    assert caught.value.code == "noise"
    assert caught.value.host == "gpu2"
    assert shown in caught.value.message
    assert caught.value.message.isprintable()


def test_noise_after_the_answer_is_refused(answered):
    with pytest.raises(ProtocolError, match="gpu2 sent something that is no frame"):
        answered(MARK + b"You have new mail.\n" + hello())


def test_endless_noise_is_cut(answered):
    with pytest.raises(PairsyncError) as caught:
        answered(b"yes\n" * 100, times=1000)
    assert caught.value.code == "noise"


def test_an_end_without_an_answer_gives_what_was_printed(answered):
    with pytest.raises(EOFError) as caught:
        answered(b"bash: pairsync: command not found\n")
    assert caught.value.args == (b"bash: pairsync: command not found\n",)


def test_silence_has_an_end(answered, monkeypatch):
    monkeypatch.setattr(handshake, "HANDSHAKE_SECONDS", 0.3)
    with pytest.raises(PairsyncError) as caught:
        answered(b"", stay=1)
    assert caught.value.code == "unreachable"


@pytest.mark.parametrize("at_once", [b"", MARK], ids=["line", "hello"])
def test_bytes_that_come_slowly_do_not_extend_the_deadline(monkeypatch, at_once):
    monkeypatch.setattr(handshake, "HANDSHAKE_SECONDS", 0.6)
    script = (
        "import sys, time\n"
        f"sys.stdout.buffer.write({at_once!r})\n"
        f"for byte in {(MARK + hello()).removeprefix(at_once)!r}:\n"
        "    sys.stdout.buffer.write(bytes((byte,))); sys.stdout.flush(); time.sleep(0.02)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as process:
        fd = process.stdout.fileno()
        started = time.monotonic()
        with pytest.raises(PairsyncError):
            await_agent(fd, FrameReader(fd, "gpu2"), NONCE, "gpu2", "source")
        assert time.monotonic() - started < 2
        process.kill()


def test_another_protocol_is_refused_with_both_versions_and_the_repair(answered):
    with pytest.raises(PairsyncError) as caught:
        answered(MARK + hello(protocol=PROTOCOL + 1, version="9.9\x1b[31m"))
    error = caught.value
    assert (error.code, error.host) == ("version", "gpu2")
    assert f"this host runs pairsync {__version__} (protocol {PROTOCOL})" in error.message
    assert f"gpu2 runs 9.9?[31m (protocol {PROTOCOL + 1})" in error.message
    assert "invoke bootstrap --limit gpu2" in error.next


def test_another_build_of_the_same_protocol_is_welcome(answered):
    greeting = answered(MARK + hello(version="0.0.9", build="f" * 64))
    assert greeting == ("0.0.9", PROTOCOL, "f" * 64)


@pytest.mark.parametrize(
    "data",
    [
        hello(version="absent"), hello(protocol="1"), hello(protocol=True), hello(build=None),
        hello(protocol=1.0), hello(version="v" * 9000),
        b"\0\0\0\2\1\0\0\0\0[]", b"\0\0\0\1\1\0\0\0\0{", b"\0\0\0\2\3\0\0\0\0{}",
        b'\0\0\0\3\1\0\0\0\0"\xff"',
    ],
)  # fmt: skip
def test_a_malformed_answer_is_a_protocol_error(answered, data):
    with pytest.raises(ProtocolError):
        answered(MARK + data)


@pytest.mark.parametrize(
    "first",
    [
        b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\0\0\0\0\2\0\0\0\0",
        b"\0\0\0\2\1\0\0\0\0{}",
        hello(nonce="short"), hello(nonce="../../../../../../etc/passwd0000"),
    ],
)  # fmt: skip
def test_an_agent_answers_no_client_that_does_not_introduce_itself(tmp_path, first):
    with agent(tmp_path) as process:
        os.write(process.stdin.fileno(), first)
        process.stdin.close()
        assert b"PAIRSYNC" not in process.stdout.read()
        assert process.wait(10) == 3
        said = process.stderr.read().decode()
        assert said.startswith("pairsync: ")
        assert said.count("\n") == 1
