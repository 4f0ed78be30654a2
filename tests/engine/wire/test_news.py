# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Acknowledgements: what an agent tells of actions while it receives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsync.model.errors import ProtocolError
from pairsync.model.plan import DONE, FAILED, HELD, SKIPPED
from pairsync.replica.contents import Done
from pairsync.wire.codec import Writer
from pairsync.wire.news import read_news, write_news

NEWS = st.builds(
    Done,
    st.integers(0, 200),
    st.sampled_from([DONE, DONE, DONE, SKIPPED, FAILED, HELD]),
    st.sampled_from(["", "", "a reason"]),
    st.none(),
)


@given(st.lists(NEWS, max_size=50, unique_by=lambda done: done.number))
def test_what_is_told_is_understood(news):
    assert sorted(read_news(write_news(news), "b", 50)) == sorted(news)


def test_a_whole_batch_takes_a_few_bytes():
    assert len(write_news(Done(number, DONE) for number in range(2000))) < 20


@pytest.mark.parametrize("count", [11, 2**32 - 1])
def test_no_more_results_than_actions_are_made_of_a_few_bytes(count):
    writer = Writer()
    for number in (1, 0, count, 0):
        writer.number(number)
    with pytest.raises(ProtocolError, match="more results"):
        read_news(writer.done(), "b", 10)
    with pytest.raises(ProtocolError, match="more results"):
        read_news(write_news(Done(number, FAILED) for number in range(11)), "b", 10)


@pytest.mark.parametrize("data", [b"", b"\0\0\0\1", write_news([Done(1, DONE)])[:-1]])
def test_news_that_break_off_are_refused(data):
    with pytest.raises(ProtocolError):
        read_news(data, "b", 10)
