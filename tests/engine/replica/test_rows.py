# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packed rows, digests, and the rule that a file written in this very moment is not believed."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsync.model.entry import DIR, FILE, LINK, Entry
from pairsync.replica import fsops
from pairsync.replica.digest import FLAT_LIMIT, LEAF, Digester, digest_bytes, digest_file
from pairsync.replica.rows import (
    Listing,
    Seen,
    pack_agreed,
    pack_listing,
    trusted_digests,
    unpack_agreed,
    unpack_listing,
)
from tests.engine.trees import Pair, read_tree, write_tree

NAMES = st.binary(min_size=1, max_size=30).filter(lambda name: not set(b"/\0") & set(name))
TIMES = st.integers(-(2**63), 2**63 - 1)
SIZES = st.integers(0, 2**63)
SEEN = st.builds(
    Seen,
    st.sampled_from([FILE, DIR, LINK]),
    st.integers(0, 0o777),
    SIZES,
    TIMES,
    TIMES,
    st.integers(0, 2**64 - 1),
    st.none() | st.binary(min_size=32, max_size=32).filter(any),
)
AGREED = st.one_of(
    st.builds(
        lambda mode, size, digest: Entry(FILE, mode, size, 0, digest),
        st.none() | st.integers(0, 0o777),
        SIZES,
        st.binary(min_size=32, max_size=32),
    ),
    st.builds(lambda mode: Entry(DIR, mode), st.none() | st.integers(0, 0o777)),
    st.builds(lambda target: Entry(LINK, None, 0, 0, None, target), st.binary(max_size=100)),
)


@given(st.dictionaries(NAMES, SEEN, max_size=8))
def test_a_listing_comes_back_as_it_was_packed(entries):
    assert unpack_listing(pack_listing(entries)) == entries


@given(st.dictionaries(NAMES, AGREED, max_size=8))
def test_a_base_row_comes_back_as_it_was_packed(entries):
    assert unpack_agreed(pack_agreed(entries)) == entries


@given(st.permutations(range(5)))
def test_packing_knows_no_order(order):
    entries = {b"%d" % number: Entry(DIR, number) for number in range(5)}
    assert pack_agreed({b"%d" % n: entries[b"%d" % n] for n in order}) == pack_agreed(entries)


@pytest.mark.parametrize("mtime, ctime, believed", [(5, 9, True), (10, 9, False), (5, 10, False)])
def test_a_digest_of_this_very_moment_is_not_kept(mtime, ctime, believed):
    """P30: it can be written again within the tick, and look the same."""
    packed = pack_listing({b"f": Seen(FILE, 0o644, 1, mtime, ctime, 7, b"x" * 32)})
    trusted = Listing(packed.seen, trusted_digests(packed, 10))
    assert (unpack_listing(trusted)[b"f"].digest is not None) is believed


def test_a_rewrite_in_the_tick_of_the_scan_is_found(tmp_path, monkeypatch):
    """P30, with a clock that stands still: fingerprints say nothing, so the file is read again."""
    pair = Pair(tmp_path)
    write_tree(pair.a, {"f": "one"})
    stand_still(monkeypatch, (pair.a / "f").stat())
    for text in ("one", "two", "six"):
        write_tree(pair.a, {"f": text})
        pair.sync()
        assert read_tree(pair.b) == {"f": text.encode()}


def stand_still(monkeypatch, at):
    """All times of all files are those of one file, for the engine."""
    nanoseconds = {name: getattr(at, name) for name in dir(at) if name.endswith("time_ns")}
    lstat, fstat, list_dir = fsops.lstat, fsops.fstat, fsops.list_dir

    def still(status):
        others = {
            name: getattr(status, name)
            for name in dir(status)
            if name.startswith("st_") and "time" not in name
        }
        return os.stat_result([*status[:7], *at[7:]], {**others, **nanoseconds})

    monkeypatch.setattr(fsops, "lstat", lambda fd, name: still(lstat(fd, name)))
    monkeypatch.setattr(fsops, "fstat", lambda fd: still(fstat(fd)))
    monkeypatch.setattr(
        fsops, "list_dir", lambda fd: [(name, still(status)) for name, status in list_dir(fd)]
    )
    monkeypatch.setattr(fsops, "touch", lambda __: at.st_mtime_ns)


@pytest.mark.parametrize("size", [0, 1, LEAF, FLAT_LIMIT])
def test_the_digest_of_small_contents_is_plain(size):
    data = os.urandom(size)
    assert digest_bytes(data) == hashlib.sha256(data).digest()


@pytest.mark.parametrize("size", [FLAT_LIMIT + 1, FLAT_LIMIT + LEAF, FLAT_LIMIT + LEAF + 3])
def test_the_digest_of_large_contents_is_one_of_leaves(size, tmp_path):
    data = os.urandom(1 << 16) * (size // (1 << 16) + 1)
    data = data[:size]
    leaves = [hashlib.sha256(data[at : at + LEAF]).digest() for at in range(0, size, LEAF)]
    expected = hashlib.sha256(b"".join(leaves)).digest()
    assert digest_bytes(data) == expected
    digester = Digester(size)
    for at in range(0, size, 2 * LEAF):
        digester.feed(data[at : at + 2 * LEAF])
    assert digester.digest() == expected
    (tmp_path / "f").write_bytes(data)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    assert digest_file(fd, size) == expected
    os.lseek(fd, 0, os.SEEK_SET)
    assert digest_file(fd, size + 1) is None
    os.close(fd)
