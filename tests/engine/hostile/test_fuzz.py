# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Any bytes at all: bounded time, bounded memory, a reported error, and nothing out of place.

Short in every run; at night each target gets minutes, and atheris looks for what chance does not
find. An input that failed once is kept here as a plain test.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsync.model.errors import ProtocolError
from pairsync.wire import codec
from tests.engine.hostile import fuzzing, peer
from tests.engine.hostile.meetings import meet_session
from tests.engine.hostile.peer import Agent, File, Session
from tests.engine.trees import write_tree
from tests.engine.wire.test_codec import LISTS, RECORDS

ROOT = Path(__file__).resolve().parents[3]
MEGABYTES = 700  # address space of a child, most of which Python and its libraries take
TREE = {b"dir": None, b"dir/new": File(b"new\n"), b"large": File(b"x" * 300_000)}


class Recorder(Session):
    """A session whose bytes are kept."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sent = bytearray()

    def write(self, data):
        self.sent += data
        super().write(data)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The bytes of a whole honest session, with a stand-in for the root."""
    root = write_tree(tmp_path_factory.mktemp("recorded") / "root", {"kept": "kept\n"})
    with meet_session(made=Recorder) as (session, __):
        named = os.fsencode(root).ljust(len(fuzzing.ROOT), b"/")
        assert not session.begin(named.decode()).failed
        assert not session.call("details", peer.listed([]) * 2, files=4).failed
        wanted = peer.listed([b"\0\0\0\1" + peer.path(b"kept")])
        assert session.call("send", wanted).value == {}
        assert not session.bring(TREE).failed
        row = peer.path(b"kept") + peer.write_entry(peer.entry_of(File(b"kept\n")))
        assert not session.record([row]).failed
        assert not session.call("end", status={"exit": 0}).failed
    return bytes(session.sent).replace(named, fuzzing.ROOT)


@pytest.fixture(scope="module")
def samples(tmp_path_factory, recorded):
    """For each target, files of sound inputs."""
    home = tmp_path_factory.mktemp("samples")
    agent = Agent(-1, -1, TREE)
    __, scan = agent.on_scan()
    contents = b"".join(agent.contents(1, b"new\n", 5))
    opened = agent.fields("open", **agent.opened())
    begun = [one[9:] for one in fuzzing.frames_of(recorded) if b'"begin"' in one[9:200]]
    found = {
        "lists": [
            scan[8:],
            peer.listed(Session(-1, -1).actions(TREE)),
            peer.listed([peer.path(b"a/b")]),
        ],
        "contents": [contents, peer.record(1, 1, b"\0" * 8) + peer.record(4, 1, b"\1no")],
        "objects": [json.dumps(opened).encode(), *begun],
        "frames": [recorded[: 60 << 10]],
        "agent": [recorded],
    }
    for target, inputs in found.items():
        (home / target).mkdir()
        for number, data in enumerate(inputs):
            (home / target / str(number)).write_bytes(data)
    return home


def child(*arguments, seconds):
    return subprocess.run(
        [sys.executable, "-m", "tests.engine.hostile.fuzzing", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds + 120,
    )  # fmt: skip


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_what_chance_makes_of_sound_inputs_is_refused_or_right(samples, target, request):
    night = request.config.getoption("nightly")
    seconds = 120 if night else 2
    files = sorted((samples / target).iterdir())
    seed = int.from_bytes(os.urandom(4), "big") if night else 1
    done = child(target, seconds, seed, MEGABYTES, *files, seconds=seconds)
    assert done.returncode == 0, (seed, done.stderr[-3000:])
    assert int(done.stdout) > 20, "too few inputs to mean anything"


@pytest.mark.nightly
@pytest.mark.parametrize("target", ["lists", "contents", "objects", "frames"])
def test_what_a_search_for_new_paths_finds_is_refused_or_right(samples, target):
    if importlib.util.find_spec("atheris") is None:  # there is none ready-made for this Python
        files = sorted((samples / target).iterdir())
        done = child(target, 120, 2, MEGABYTES, *files, seconds=120)
        assert done.returncode == 0, done.stderr[-3000:]
        return
    done = child("--guided", target, 120, 2048, samples / target, seconds=180)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stat::new_units_added" in done.stderr


@given(st.binary(max_size=400))
def test_any_bytes_are_frames_or_refused(data):
    fuzzing.read_frames(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_an_object_or_refused(data):
    fuzzing.decode_objects(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
        ),
        max_leaves=20,
    )
)  # fmt: skip
def test_any_json_is_an_object_of_ours_or_refused(value):
    fuzzing.decode_objects(json.dumps(value).encode())


@settings(max_examples=40)
@given(st.lists(RECORDS, max_size=6), st.integers(0, 400), st.binary(max_size=6))
def test_contents_with_anything_put_in_are_contents_or_refused(records, at, more):
    data = b"".join(map(codec.encode_record, records))
    fuzzing.decode_contents(data[:at] + more + data[at:])


@pytest.mark.parametrize("name", LISTS)
@given(st.data())
def test_a_list_read_as_another_is_refused_or_right(name, data):
    write, __, items = LISTS[name]
    whole = codec.write_list(data.draw(st.lists(items, min_size=1, max_size=3)), write)
    fuzzing.decode_lists(whole)


def test_the_recorded_session_is_sound(recorded):
    """Else what is made of it would be refused at its first word."""
    kept = []
    fuzzing.serve_stream(recorded, kept.extend)
    assert b"large" in kept
    assert b"dir" in kept
    with pytest.raises(ProtocolError):
        codec.read_list(recorded, "gpu2", codec.read_path)
