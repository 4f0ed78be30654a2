# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fleets for tests: one per module, closed with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fleet.hosts import Fleet

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is below this directory: it needs root, and hosts."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.fleet)


@pytest.fixture(scope="module")
def start_fleet() -> Iterator[Callable[..., Fleet]]:
    """A function that starts fleets (arguments: host names, then Fleet's keywords)."""
    with ExitStack() as fleets:

        def start(*names: str, **options: object) -> Fleet:
            return fleets.enter_context(Fleet(names, **options))

        yield start


@pytest.fixture(scope="module")
def fleet(start_fleet: Callable[..., Fleet]) -> Fleet:
    """Three hosts, gpu1 to gpu3, each with a plain account `me`. A module may define its own."""
    return start_fleet("gpu1", "gpu2", "gpu3", users=["me"])
