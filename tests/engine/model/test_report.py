# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths as text, counts, exit codes, and the digest by which a plan is approved."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsync.model.entry import FILE, Entry
from pairsync.model.errors import CODES, PairsyncError
from pairsync.model.plan import Item, Part, plan_digest
from pairsync.model.report import (
    Outcome,
    Run,
    counts,
    display,
    exit_code,
    path_fields,
    report_json,
)

ENTRY = Entry(FILE, 0o644, 1, 5, bytes(32))


def item(path=b"f", decision="a->b", entry=ENTRY, **more) -> Item:
    return Item(
        path, "new", "unchanged", decision, decision, (Part(path, None, entry, None),), **more
    )


def run(*outcomes: Outcome) -> Run:
    return Run("run", "now", "a", "b", "1", outcomes=list(outcomes))


@pytest.mark.parametrize(
    "path, shown",
    [
        (b"plain/name.txt", "plain/name.txt"),
        (b"", "."),
        ("ümlaut".encode(), "ümlaut"),
        (b"new\nline\ttab\rreturn", "new\\nline\\ttab\\rreturn"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"back\\slash", "back\\\\slash"),
        ("a\u202eb".encode(), "a\\u202eb"),
        ("\u2028".encode(), "\\u2028"),
        (b"\x7f\x00", "\\x7f\\x00"),
        ("\U000e0001".encode(), "\\U000e0001"),
    ],
)
def test_display(path, shown):
    assert display(path) == shown


@given(st.binary(max_size=20))
def test_display_is_one_printable_line_and_tells_paths_apart(path):
    shown = display(path)
    assert shown.isprintable()
    fields = path_fields(path)
    json.dumps(fields).encode("ascii")
    back = base64.b64decode(fields["path_b64"]) if "path_b64" in fields else shown.encode()
    assert back == path


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_two_paths_never_look_alike(one, other):
    if one != other and b"." not in (one, other):
        assert display(one) != display(other)


@pytest.mark.parametrize(
    "outcomes, code",
    [
        ([], 0),
        ([Outcome(item(), "done")], 0),
        ([Outcome(item(decision="equal"), "done")], 0),
        ([Outcome(item(decision="conflict"), "skipped")], 1),
        ([Outcome(item(), "held")], 1),
        ([Outcome(item(), "planned")], 1),
        ([Outcome(item(decision="skip"), "skipped")], 1),
        ([Outcome(item(decision="skip", note=True), "skipped")], 0),
        ([Outcome(item(decision="conflict"), "skipped"), Outcome(item(), "failed")], 2),
        ([Outcome(item(decision="error"), "failed")], 2),
    ],
)
def test_exit_codes(outcomes, code):
    assert exit_code(run(*outcomes)) == code


def test_a_fatal_error_is_exit_3_and_in_the_report():
    failed = run()
    failed.error = PairsyncError("locked", "in use", "wait", "gpu1")
    report = report_json(failed)
    assert report["exit"] == 3
    error = {"code": "locked", "host": "gpu1", "message": "in use", "next": "wait"}
    assert report["error"] == error


def test_an_unknown_code_is_internal():
    assert PairsyncError("no such code", "text").code == "internal"
    assert "internal" in CODES


def test_counts_are_a_partition_and_equal_items_are_not_listed():
    done = run(
        Outcome(item(b"1"), "done"),
        Outcome(item(b"2"), "failed"),
        Outcome(item(b"3", "equal"), "done"),
        Outcome(item(b"4", "conflict"), "skipped"),
    )
    report = report_json(done)
    assert counts(done.outcomes) == report["counts"]
    assert sum(sum(row.values()) for row in report["counts"].values()) == 4
    assert report["items_total"] == 4
    assert [one["path"] for one in report["items"]] == ["2", "4", "1"]  # what matters most first


def digest(*items, pair="pair", bases=("1", "1"), policy="p"):
    return plan_digest(pair, bases, policy, items)


def test_the_digest_says_exactly_what_is_approved():
    first = digest(item(b"a"), item(b"b"))
    assert first == digest(item(b"b"), item(b"a"))
    others = {
        digest(item(b"a")),
        digest(item(b"a"), item(b"c")),
        digest(item(b"a"), item(b"b", "b->a")),
        digest(item(b"a"), item(b"b", entry=ENTRY._replace(mode=0o600))),
        digest(item(b"a"), item(b"b", entry=ENTRY._replace(digest=b"1" * 32))),
        digest(item(b"a"), item(b"b", entry=ENTRY._replace(digest=None))),
        digest(item(b"a"), item(b"b"), pair="other"),
        digest(item(b"a"), item(b"b"), bases=("1", "2")),
        digest(item(b"a"), item(b"b"), policy="q"),
    }
    assert first not in others
    assert len(others) == 9


def test_size_and_time_stand_for_contents_nobody_has_read():
    lazy = ENTRY._replace(digest=None)
    assert digest(item(entry=lazy)) != digest(item(entry=lazy._replace(mtime_ns=6)))
    assert digest(item(entry=lazy)) != digest(item(entry=lazy._replace(size=2)))
    assert digest(item()) == digest(item(entry=ENTRY._replace(mtime_ns=6)))
