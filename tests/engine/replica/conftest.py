# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A root with something in its backup."""

from __future__ import annotations

import os

import pytest

from pairsync.replica import state
from pairsync.replica.backup import Backup
from tests.engine.trees import STATE, write_tree


class Root:
    def __init__(self, path, held):
        self.path = write_tree(path, {})
        self.fd = held(path)
        self.state = state.create(self.fd, "")
        self.kept_in = path / STATE / "backup"

    def keep(self, run, tree):
        """Displace files in a run; return the run's backup, still open."""
        write_tree(self.path, tree)
        backup = Backup(self.state, run)
        for name in tree:
            parent = os.open((self.path / name).parent, os.O_RDONLY)
            backup.take(parent, os.path.basename(name).encode(), name.encode())
            os.close(parent)
        return backup


@pytest.fixture
def root(tmp_path, held):
    root = Root(tmp_path / "root", held)
    yield root
    root.state.close()
