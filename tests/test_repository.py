# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository itself: one version, no trace of the machine it was made on, licences, links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import pairsync

ROOT = Path(__file__).resolve().parents[1]
HEADER = "SPDX-License-Identifier: GPL-3.0-or-later"
GENERATED = ("changelogs/changelog.yaml",)


@pytest.fixture(scope="module")
def files():
    """Every regular file that is in the repository, or would be with the next `git add`."""
    if not (ROOT / ".git").exists():
        names = [str(path.relative_to(ROOT)) for path in (ROOT / "plugins").rglob("*.py")]
    else:
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.split("\0")  # fmt: skip
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_the_collection_has_the_engines_version():
    galaxy = YAML(typ="safe").load(ROOT / "galaxy.yml")
    assert galaxy["version"] == pairsync.__version__


def test_the_collection_is_found_through_its_link():
    link = ROOT / ".collections/ansible_collections/pairsync/fleet"
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT


def test_an_editable_install_is_of_this_checkout():
    import ansible_collections.pairsync.fleet.plugins.module_utils.pairsync as collection

    assert Path(pairsync.__file__).resolve().is_relative_to(ROOT)
    assert Path(collection.__file__).resolve().is_relative_to(ROOT)


def test_no_file_knows_where_the_checkout_is(files):
    # Not the directory alone: a checkout in /opt/pairsync is no reason to be red.
    inside = re.compile(re.escape(bytes(ROOT)) + rb"/(\.collections|inventories|plugins|tests)\b")
    assert [path for path in files if inside.search(path.read_bytes())] == []


def test_every_file_says_its_licence(files):
    kinds = {".py", ".yml", ".yaml", ".toml", ".cfg", ".sh"}
    silent = [
        path
        for path in files
        if path.suffix in kinds
        and str(path.relative_to(ROOT)) not in GENERATED
        and path.stat().st_size > 0
        and HEADER not in path.read_text(encoding="utf-8")[:600]
    ]
    assert silent == []
