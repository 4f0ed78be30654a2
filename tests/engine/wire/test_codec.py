# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Binary lists: what is written is read back, and nothing else is accepted."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsync.model.entry import DIR, FILE, LINK, PROBLEM, SPECIAL, Change, Entry
from pairsync.model.errors import ProtocolError
from pairsync.reconcile.actions import Action
from pairsync.replica.contents import Begin, Done, End, Piece, Proof, Unsent, Whole
from pairsync.wire import codec
from pairsync.wire.limits import MOST_DEPTH, MOST_RECORDS, MOST_SIZE

NUMBERS = st.integers(0, 2**32 - 1)
SIZES = st.integers(0, MOST_SIZE)
TIMES = st.integers(-(2**63), 2**63 - 1)
DIGESTS = st.binary(min_size=32, max_size=32)
TEXTS = st.text(st.characters(categories=["L", "N", "P"]), max_size=40)
NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: name not in (b".", b"..", b".pairsync") and b"/" not in name and b"\0" not in name
)
PATHS = st.lists(NAMES, min_size=1, max_size=5).map(b"/".join)
MODES = st.none() | st.integers(0, 0o777)
TARGETS = st.binary(min_size=1, max_size=4095).filter(lambda text: b"\0" not in text)
FILES = st.builds(
    Entry, st.just(FILE), MODES, SIZES, TIMES, st.none() | DIGESTS, st.just(b"")
)  # fmt: skip
ENTRIES = (
    FILES
    | st.builds(Entry, st.just(DIR), MODES, st.just(0), TIMES, st.none(), st.just(b""))
    | st.builds(Entry, st.just(LINK), st.none(), st.just(0), TIMES, st.none(), TARGETS)
    | st.builds(
        Entry, st.sampled_from([PROBLEM, SPECIAL]), st.none(), st.just(0), TIMES, st.none(),
        TEXTS.map(str.encode),
    )
)  # fmt: skip
SYNCABLE = ENTRIES.filter(lambda entry: entry.kind in (FILE, DIR, LINK))
PROOFS = st.builds(Proof, SIZES, TIMES, DIGESTS, st.booleans())
LISTS = {
    "path": (codec.write_path, codec.read_path, PATHS),
    "change": (
        codec.write_change,
        codec.read_change,
        st.builds(Change, PATHS, st.none() | ENTRIES, st.none() | ENTRIES, st.booleans()),
    ),
    "row": (codec.write_row, codec.read_row, st.tuples(PATHS, st.none() | ENTRIES)),
    "wanted": (codec.write_wanted, codec.read_wanted, st.tuples(NUMBERS, PATHS)),
    "action": (
        codec.write_action,
        codec.read_action,
        st.builds(
            Action, NUMBERS, PATHS, st.none() | SYNCABLE, st.none() | ENTRIES, NUMBERS,
            st.booleans(), st.booleans(),
        ),
    ),
    "done": (
        codec.write_done,
        codec.read_done,
        st.builds(
            Done, NUMBERS, st.sampled_from(["done", "skipped", "failed", "held"]), TEXTS,
            st.none(),
        ),
    ),
}  # fmt: skip
RECORDS = (
    st.builds(Whole, NUMBERS, PROOFS, st.binary(max_size=100))
    | st.builds(Begin, NUMBERS, SIZES)
    | st.builds(Piece, NUMBERS, st.binary(min_size=1, max_size=100))
    | st.builds(End, NUMBERS, PROOFS)
    | st.builds(Unsent, NUMBERS, TEXTS, st.booleans())
)


def read(name, data):
    return codec.read_list(data, "gpu2", LISTS[name][1])


@pytest.mark.parametrize("name", LISTS)
@given(st.data())
def test_what_is_written_is_read_back(name, data):
    write, __, items = LISTS[name]
    found = data.draw(st.lists(items, max_size=5))
    assert read(name, codec.write_list(found, write)) == found


@given(st.lists(RECORDS, max_size=5))
def test_contents_are_read_back(records):
    payload = b"".join(map(codec.encode_record, records))
    assert codec.decode_records(payload, "gpu2") == records


@pytest.mark.parametrize("name", LISTS)
@given(st.data())
def test_a_list_that_breaks_off_anywhere_is_refused(name, data):
    write, __, items = LISTS[name]
    whole = codec.write_list(data.draw(st.lists(items, min_size=1, max_size=3)), write)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ProtocolError, match="gpu2 sent") as caught:
        read(name, whole[:cut])
    assert caught.value.host == "gpu2"


@pytest.mark.parametrize("name", LISTS)
@given(st.data())
def test_a_list_with_something_after_its_end_is_refused(name, data):
    write, __, items = LISTS[name]
    whole = codec.write_list(data.draw(st.lists(items, max_size=3)), write)
    with pytest.raises(ProtocolError, match="something after its end"):
        read(name, whole + b"\0")


@pytest.mark.parametrize("name", LISTS)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_a_protocol_error(name, data):
    try:
        found = read(name, data)
    except ProtocolError:
        return
    for item in found:
        path = item if name == "path" else getattr(item, "path", None)
        assert path is None or not path.startswith(b"/")


@pytest.mark.parametrize("name", LISTS)
@given(st.data())
def test_a_list_with_any_byte_wrong_is_a_list_or_a_protocol_error(name, data):
    write, __, items = LISTS[name]
    whole = bytearray(codec.write_list(data.draw(st.lists(items, min_size=1, max_size=3)), write))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    try:
        read(name, bytes(whole))
    except ProtocolError:
        pass


@given(st.binary(max_size=200))
def test_any_bytes_are_contents_or_a_protocol_error(data):
    try:
        codec.decode_records(data, "gpu2")
    except ProtocolError:
        pass


def path(*parts, shared=0):
    body = struct.pack("!HH", shared, len(parts))
    return body + b"".join(struct.pack("!H", len(part)) + part for part in parts)


def listed(*items):
    return struct.pack("!I", len(items)) + b"".join(items)


@pytest.mark.parametrize(
    "parts",
    [
        [b""], [b"."], [b".."], [b"a", b".."], [b"a", b"", b"b"], [b"a/b"], [b"/etc/passwd"],
        [b"a\0b"], [b".pairsync"], [b"a", b".pairsync", b"base.sqlite"], [b"n" * 256], [],
    ],
)  # fmt: skip
def test_a_component_that_could_lead_elsewhere_is_refused(parts):
    with pytest.raises(ProtocolError, match="gpu2 sent a"):
        read("path", listed(path(*parts)))


def test_a_path_has_a_greatest_depth():
    deepest = [b"d"] * MOST_DEPTH
    assert read("path", listed(path(*deepest))) == [b"/".join(deepest)]
    with pytest.raises(ProtocolError, match="malformed path"):
        read("path", listed(path(*deepest), path(b"d", shared=MOST_DEPTH)))
    with pytest.raises(ProtocolError, match="malformed path"):
        read("path", listed(path(*deepest, b"d")))


def test_a_path_cannot_share_what_was_not_there():
    with pytest.raises(ProtocolError, match="malformed path"):
        read("path", listed(path(b"a"), path(b"b", shared=2)))


def entry(kind=FILE, mode=0o644, size=1, mtime=0, digest=0, more=b"", target=b""):
    fields = struct.pack("!BIQqB", kind, mode, size, mtime, digest)
    return fields + more + struct.pack("!H", len(target)) + target


@pytest.mark.parametrize(
    "wrong",
    [
        entry(kind=SPECIAL + 1),
        entry(kind=255),
        entry(mode=0o4755),
        entry(mode=0o1777),
        entry(mode=2**32 - 2),
        entry(kind=LINK, mode=0o777, size=0, target=b"x"),
        entry(kind=PROBLEM, mode=0o644, size=0, target=b"x"),
        entry(size=MOST_SIZE + 1),
        entry(size=2**64 - 1),
        entry(kind=DIR, size=1),
        entry(digest=2),
        entry(kind=DIR, size=0, digest=1, more=b"d" * 32),
        entry(digest=1, more=b"d" * 10),
        entry(target=b"x"),
        entry(kind=LINK, mode=2**32 - 1, size=0, target=b""),
        entry(kind=LINK, mode=2**32 - 1, size=0, target=b"a\0b"),
        entry(kind=LINK, mode=2**32 - 1, size=0, target=b"x" * 4097),
    ],
)
def test_every_field_of_an_entry_is_checked(wrong):
    right = listed(path(b"a") + entry())
    assert read("row", right) == [(b"a", Entry(FILE, 0o644, 1))]
    with pytest.raises(ProtocolError, match="gpu2 sent"):
        read("row", listed(path(b"a") + wrong))


def test_flags_are_nothing_but_flags():
    with pytest.raises(ProtocolError, match="malformed change"):
        read("change", listed(path(b"a") + b"\2\0\0"))
    with pytest.raises(ProtocolError, match="makes no sense"):
        read("action", listed(struct.pack("!IIB", 1, 1, 4) + path(b"a") + b"\0\0"))
    with pytest.raises(ProtocolError, match="unknown kind"):
        read("done", listed(struct.pack("!IBH", 1, 4, 0)))
    proof = struct.pack("!QqB32s", 1, 0, 2, b"d" * 32)
    with pytest.raises(ProtocolError, match="malformed proof"):
        codec.decode_records(struct.pack("!BII", 0, 1, len(proof)) + proof, "gpu2")


@pytest.mark.parametrize("kind", [PROBLEM, SPECIAL])
def test_nobody_can_be_asked_to_make_what_cannot_be_synced(kind):
    wanted = Action(1, b"a", Entry(kind, target=b"x"), None, 0)
    with pytest.raises(ProtocolError, match="makes no sense"):
        read("action", codec.write_list([wanted], codec.write_action))


@pytest.mark.parametrize(
    "payload",
    [
        struct.pack("!BII", 5, 1, 0),
        struct.pack("!BII", 0, 1, 3) + b"abc",
        struct.pack("!BII", 1, 1, 7) + b"\0" * 7,
        struct.pack("!BII", 1, 1, 8) + b"\xff" * 8,
        struct.pack("!BII", 3, 1, 0),
        struct.pack("!BII", 3, 1, 60) + b"\0" * 60,
        struct.pack("!BII", 4, 1, 0),
        struct.pack("!BII", 4, 1, 1) + b"\2",
        struct.pack("!BII", 4, 1, 5000) + b"\0" * 5000,
        struct.pack("!BII", 2, 1, 2**32 - 1) + b"x",
        b"\0\0",
    ],
)
def test_every_field_of_contents_is_checked(payload):
    with pytest.raises(ProtocolError, match="gpu2 sent"):
        codec.decode_records(payload, "gpu2")


def test_numbers_of_items_take_no_memory_before_the_items_are_there():
    tracemalloc.start()
    try:
        for count in (MOST_RECORDS, MOST_RECORDS + 1, 2**32 - 1):
            with pytest.raises(ProtocolError):
                read("path", struct.pack("!I", count))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_short_list_cannot_unfold_to_much_more_than_was_sent():
    long = path(*[b"n" * 255] * 1000)
    again = path(b"n", shared=999)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="a list of paths that is too long"):
            read("path", listed(long, *[again] * 10_000))
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_a_tree_as_deep_as_any_is_no_such_list():
    deep = b"/".join([b"directory"] * 1000)
    paths = [deep + b"/%d" % number for number in range(1000)]
    assert read("path", codec.write_list(paths, codec.write_path)) == paths


def test_reasons_reach_no_terminal_as_they_were_sent():
    evil = "\x1b]0;gone\x07 \u202e line\nnext"
    done = Done(1, "failed", evil)
    [found] = read("done", codec.write_list([done], codec.write_done))
    [unsent] = codec.decode_records(codec.encode_record(Unsent(1, evil, failed=True)), "gpu2")
    [(__, problem)] = read(
        "row", codec.write_list([(b"a", Entry(PROBLEM, target=evil.encode()))], codec.write_row)
    )
    for text in (found.reason, unsent.reason, problem.target.decode()):
        assert text == "?]0;gone? ? line?next"
