# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line both ways, and a pair of directories to run it on."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.pairsync.fleet.plugins.plugin_utils.binary import build
from tests.cli.running import Binary, InProcess


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The binary, built from this checkout."""
    return build(tmp_path_factory.mktemp("binary") / "pairsync").path


@pytest.fixture
def binary(built, tmp_path) -> Binary:
    return Binary(built, tmp_path / "state")


@pytest.fixture(params=["in process", "binary"])
def pairsync(request, tmp_path) -> InProcess | Binary:
    """Runs a command and returns how it ended; every test that uses it runs both ways."""
    if request.param == "binary":
        return request.getfixturevalue("binary")
    return InProcess(tmp_path / "state")


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    """Two directories, the first with a little in it."""
    a, b = tmp_path / "a", tmp_path / "b"
    (a / "sub/empty").mkdir(parents=True)
    b.mkdir()
    (a / "file").write_text("one\n")
    (a / "run.sh").write_text("#!/bin/sh\n")
    (a / "run.sh").chmod(0o755)
    (a / "sub/inner").write_text("two\n")
    (a / "link").symlink_to("sub/inner")
    return a, b


@pytest.fixture
def synced(pair, pairsync) -> tuple[Path, Path]:
    """The pair after its first sync."""
    ran = pairsync("sync", "--batch", *pair)
    assert ran.code == 0, ran
    return pair
