# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sending: exactly what was scanned, a proven prefix of it, or nothing (P19)."""

from __future__ import annotations

import errno
import os

import pytest

from pairsync.replica.contents import PIECE, WHOLE_LIMIT, Begin, End, Piece, Unsent, Whole
from pairsync.replica.digest import digest_bytes
from pairsync.replica.send import CHANGED, Wanted, send
from pairsync.replica.swap import seen
from pairsync.replica.tree import Tree
from tests.engine.trees import write_tree

LARGE = 3 * PIECE + 17


class Source:
    def __init__(self, root):
        self.root = root
        self.learned = {}

    def wanted(self, name="f", **more):
        return Wanted(1, name.encode(), seen(os.lstat(self.root / name)), **more)

    def send(self, *wanted):
        tree = Tree(os.open(self.root, os.O_RDONLY | os.O_DIRECTORY))
        try:
            return list(send(tree, list(wanted), self._learn))
        finally:
            tree.close()

    def _learn(self, wanted, digest):
        self.learned[wanted.path] = digest


@pytest.fixture(params=[10, LARGE], ids=["small", "large"])
def source(request, tmp_path):
    write_tree(tmp_path / "root", {"f": bytes(range(256)) * (request.param // 256 + 1)})
    os.truncate(tmp_path / "root/f", request.param)
    return Source(tmp_path / "root")


def received(records):
    """Contents and proof of one file, or the reason why it did not come."""
    last = records[-1]
    if isinstance(last, Unsent):
        return None, last.reason
    if isinstance(last, Whole):
        assert len(records) == 1
        return last.data, last.proof
    assert isinstance(records[0], Begin)
    assert isinstance(last, End)
    assert all(isinstance(record, Piece) for record in records[1:-1])
    return b"".join(record.data for record in records[1:-1]), last.proof


def test_a_file_comes_whole_with_its_proof(source):
    data, proof = received(source.send(source.wanted()))
    path = source.root / "f"
    assert data == path.read_bytes()
    assert proof.digest == digest_bytes(data)
    assert proof.mtime_ns == path.stat().st_mtime_ns
    assert not proof.grew
    assert source.learned == {b"f": proof.digest}


@pytest.mark.parametrize("size", [0, 1, WHOLE_LIMIT, WHOLE_LIMIT + 1, PIECE, PIECE + 1])
def test_sizes_at_the_limits(tmp_path, size):
    write_tree(tmp_path, {"f": b"x" * size})
    source = Source(tmp_path)
    assert received(source.send(source.wanted()))[0] == b"x" * size


def test_a_file_that_changed_since_the_scan_is_left(source):
    wanted = source.wanted()
    (source.root / "f").write_bytes(b"other")
    assert received(source.send(wanted)) == (None, CHANGED)
    assert not source.learned


def test_a_file_that_changes_while_it_is_read_is_left(source, before):
    wanted = source.wanted()

    def rewrite():
        with (source.root / "f").open("r+b") as stream:
            stream.write(b"!")

    before("read", rewrite)
    assert received(source.send(wanted)) == (None, CHANGED)


def test_a_file_that_is_truncated_while_it_is_read_is_left(source, before):
    wanted = source.wanted()
    before("read", lambda: os.truncate(source.root / "f", 3))
    assert received(source.send(wanted)) == (None, CHANGED)


def grow(source):
    with (source.root / "f").open("ab") as stream:
        stream.write(b"more")


def test_a_new_file_that_grows_is_left(source, before):
    """Half a checkpoint is no checkpoint."""
    wanted = source.wanted()
    before("read", lambda: grow(source))
    assert received(source.send(wanted)) == (None, CHANGED)


def test_a_growing_file_travels_as_the_prefix_that_was_read(source, before):
    wanted = source.wanted(may_grow=True)
    scanned = (source.root / "f").read_bytes()
    before("read", lambda: grow(source))
    data, proof = received(source.send(wanted))
    assert data == scanned
    assert proof.size == len(scanned)
    assert proof.grew
    assert not source.learned


def test_a_file_whose_base_is_a_prefix_may_grow(source, before):
    old = (source.root / "f").read_bytes()[:-2]
    wanted = source.wanted(prefix=(len(old), digest_bytes(old)))
    before("read", lambda: grow(source))
    data, proof = received(source.send(wanted))
    assert data.startswith(old)
    assert proof.grew


def test_a_file_whose_base_is_no_prefix_may_not_grow(source, before):
    wanted = source.wanted(prefix=(5, digest_bytes(b"other")))
    before("read", lambda: grow(source))
    assert received(source.send(wanted)) == (None, CHANGED)


def test_growth_before_the_first_read(source):
    wanted = source.wanted(may_grow=True)
    grow(source)
    data, proof = received(source.send(wanted))
    assert data == (source.root / "f").read_bytes()
    assert proof.grew


def rewrite(source, *, longer):
    """Write the first byte anew, and append: no growth."""
    with (source.root / "f").open("r+b") as stream:
        stream.write(b"!")
        if longer:
            stream.seek(0, os.SEEK_END)
            stream.write(b"more")


@pytest.mark.parametrize("longer", [False, True])
def test_a_growing_file_that_is_rewritten_while_it_is_read_is_left(source, before, longer):
    with (source.root / "f").open("r+b") as stream:
        stream.write(b"?")
    wanted = source.wanted(may_grow=True)
    before("fstat", lambda: rewrite(source, longer=longer), call=2)  # after the last byte
    assert received(source.send(wanted)) == (None, CHANGED)


def test_a_base_that_is_longer_than_what_was_read_is_no_prefix(source, before):
    scanned = (source.root / "f").read_bytes()
    after = scanned + b"more"
    wanted = source.wanted(prefix=(len(after), digest_bytes(after)))
    before("fstat", lambda: grow(source), call=2)
    assert received(source.send(wanted)) == (None, CHANGED)


def test_another_name_that_comes_before_the_first_read_is_no_edit(source):
    wanted = source.wanted()
    (source.root / "g").hardlink_to(source.root / "f")
    data, proof = received(source.send(wanted))
    assert data == (source.root / "f").read_bytes()
    assert not proof.grew
    assert source.learned == {b"f": proof.digest}


@pytest.mark.parametrize("call", [1, 2])
def test_another_name_that_comes_while_the_file_is_read_is_no_edit(source, before, call):
    wanted = source.wanted()
    before("fstat", lambda: (source.root / "g").hardlink_to(source.root / "f"), call=call)
    data, proof = received(source.send(wanted))
    assert data == (source.root / "f").read_bytes()
    assert not proof.grew


@pytest.mark.parametrize("call", [1, 2])
def test_an_edit_that_hides_its_time_is_found_where_the_contents_were_known(source, before, call):
    path = source.root / "f"
    wanted = source.wanted()
    wanted = wanted._replace(seen=wanted.seen._replace(digest=digest_bytes(path.read_bytes())))
    status = path.stat()

    def hidden():
        rewrite(source, longer=False)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    before("fstat", hidden, call=call)
    assert received(source.send(wanted)) == (None, CHANGED)


@pytest.mark.parametrize("become", ["absent", "directory", "link", "pipe", "parent"])
def test_what_is_no_file_any_more_is_not_read(tmp_path, become):
    write_tree(tmp_path, {"d/f": "text", "outside": "secret"})
    source = Source(tmp_path)
    wanted = source.wanted("d/f")
    path = tmp_path / "d/f"
    path.unlink()
    if become == "directory":
        path.mkdir()
    elif become == "link":
        path.symlink_to("../outside")
    elif become == "pipe":
        os.mkfifo(path)  # must not hang
    elif become == "parent":
        path.parent.rmdir()
        path.parent.symlink_to(".")
        (tmp_path / "f").write_text("secret")
    records = source.send(wanted)
    assert len(records) == 1
    assert isinstance(records[0], Unsent)


def test_a_read_error_fails_that_file_alone(tmp_path, failing):
    write_tree(tmp_path, {"f": "one", "g": "two"})
    source = Source(tmp_path)
    wanted = source.wanted("f"), source.wanted("g")._replace(number=2)
    failing("open_file", errno.EACCES, lambda __, name: name == b"f")
    first, second = source.send(*wanted)
    assert first.failed
    assert "Permission denied" in first.reason
    assert second.data == b"two"
