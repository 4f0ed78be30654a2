# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""P34, as the kernel saw it: whatever a session writes, it writes below its roots."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.trees import ENGINE_HOME, Link, fingerprints, read_tree, write_tree

# Not every kernel, nor every strace, knows each of them.
WRITING = (
    "?creat,?fchmod,?fchmodat,?fchmodat2,?fchown,?fchownat,?fsetxattr,?ftruncate,?lchown,?link,"
    "?linkat,?lsetxattr,?mkdir,?mkdirat,?mknod,?mknodat,?open,?openat,?openat2,?rename,?renameat,"
    "?renameat2,?rmdir,?setxattr,?symlink,?symlinkat,?truncate,?unlink,?unlinkat,?utimensat"
)
CALL = re.compile(r"\d+ +(\w+)\((.*?)(?:\) += .*| <unfinished \.\.\.>)")
AT = re.compile(r'(?:AT_FDCWD|\d+)<([^>]*)>(?:, "((?:[^"\\]|\\.)*)")?')
ABSOLUTE = re.compile(r'"(/(?:[^"\\]|\\.)*)"')
TREE = {
    "f": "1", "g": "2", "d/f": "3", "d/e/f": "4", "doomed/f": "5", "link": Link("f"), "type": "6",
}  # fmt: skip


def pairsync(tmp_path: Path, *words: object) -> list[tuple[str, str]]:
    """Run it, and return what it called to write: (call, the path that it was about)."""
    done = subprocess.run(
        ["strace", "-f", "-y", "-qq", "-s", "4096", "-e", f"trace={WRITING}",
         "-o", tmp_path / "trace", sys.executable, "-B", "-m", "pairsync", *words],
        env={**os.environ, "PYTHONPATH": str(ENGINE_HOME),
             "PAIRSYNC_STATE": str(tmp_path / "state")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    found = []
    for line in (tmp_path / "trace").read_text().splitlines():
        call = CALL.fullmatch(line)
        if call is None:
            assert re.search(r"resumed>|\+\+\+$|---$", line), line
            continue
        name, arguments = call.groups()
        opened = name.startswith("open")
        if opened and not re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC|TMPFILE)", arguments):
            continue
        places = [os.path.join(at, inner) for at, inner in AT.findall(arguments)]
        found += [(name, os.path.normpath(place)) for place in places]
        if not places:
            found += [(name, place) for place in ABSOLUTE.findall(arguments)]
        assert places or ABSOLUTE.search(arguments), line
    return found


@pytest.mark.needs("strace")
def test_no_call_that_writes_leaves_the_roots(tmp_path):
    a, b, outside = (tmp_path / name for name in ("a", "b", "outside"))
    write_tree(outside, {"f": "canary", "e/f": "canary"})
    write_tree(a, TREE)
    b.mkdir()
    allowed = tuple(f"{place}/" for place in (a, b, tmp_path / "state"))
    was = fingerprints(outside)
    calls = pairsync(tmp_path, "sync", "--batch", a, b)
    assert {"openat", "renameat2", "mkdirat"} <= {name for name, __ in calls}
    # Everything that may lead outside: links instead of files and directories, on either side.
    write_tree(a, {"f": "changed", "d/new": "7", "out": Link(str(outside))})
    shutil.rmtree(a / "d/e")
    (a / "d/e").symlink_to(outside)
    shutil.rmtree(b / "doomed")
    (b / "doomed").symlink_to("../outside")
    (b / "g").unlink()
    (b / "g").symlink_to("../outside/f")
    (a / "type").unlink()
    write_tree(a, {"type/f": "8"})
    calls += pairsync(tmp_path, "sync", "--batch", a, b)
    assert read_tree(a) == read_tree(b)
    calls += pairsync(tmp_path, "restore", b, "d")
    calls += pairsync(tmp_path, "restore", a, "doomed")
    assert (b / "d/e/f").read_text() == "4"
    calls += pairsync(tmp_path, "sync", "--batch", "--prefer", "a", a, b)
    beyond = {(name, place) for name, place in calls if not (place + "/").startswith(allowed)}
    assert beyond <= {("openat", "/dev/null"), ("mkdirat", str(tmp_path / "state"))}
    assert fingerprints(outside) == was
    assert len(calls) > 100
