# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the one executable file that runs on the hosts, byte for byte reproducible.

The file is a few lines of POSIX sh followed by a zip archive of the engine's sources. It holds
nothing that depends on the machine, the time or the Python that builds it, so that a checkout, a
wheel and a collection tarball of one version give one digest. Installing it is the work of the
sync_binary module.
"""

from __future__ import annotations

import ast
import hashlib
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = r"""#!/bin/sh
# pairsync: these lines choose a Python and hand over to it; a zip archive of sources follows.
# The link is resolved first: a process stays on the build it was started with.
self=$(readlink -f "$0" 2>/dev/null) || self=$0
here=${self%/*}
usable() {
  "$1" -I -c 'import sys; raise SystemExit(sys.version_info < (3, 9))' </dev/null >/dev/null 2>&1
}
if [ -n "${PAIRSYNC_PYTHON:-}" ]; then
  if usable "$PAIRSYNC_PYTHON"; then exec "$PAIRSYNC_PYTHON" -I "$self" "$@"; fi
  echo "pairsync: no Python 3.9 or newer on this host at PAIRSYNC_PYTHON=$PAIRSYNC_PYTHON;" \
    "correct it, or unset it to have one found" >&2
  exit 3
fi
# Only a directory that an installation made may name an interpreter, never one like /tmp.
case $here in
  */*-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f])
    if [ -r "$here/python" ]; then
      while read -r python <&3; do
        if [ -x "$python" ]; then exec "$python" -I "$self" "$@" 3<&-; fi
      done 3<"$here/python"
    fi ;;
esac
for python in python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3 \
  /usr/libexec/platform-python; do
  if usable "$python"; then exec "$python" -I "$self" "$@"; fi
done
echo "pairsync: no Python 3.9 or newer on this host; install one" \
  "(Debian, Ubuntu: apt-get install python3; RHEL, Fedora: dnf install python3.11)," \
  "or name one in PAIRSYNC_PYTHON" >&2
exit 3
"""

# Compiled files are used only when they belong to the owner of the binary or to root: a binary
# that lies in a directory where others may write must not run their code.
MAIN = '''\
# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start the command line, with the modules that the installation compiled when they are there."""

import os
import sys

binary = os.path.dirname(os.path.abspath(__file__))
compiled = os.path.join(os.path.dirname(binary), f"compiled-{sys.implementation.cache_tag}")
try:
    trusted = os.stat(compiled).st_uid in (0, os.stat(binary).st_uid)
except OSError:
    trusted = False
if trusted:
    sys.path.insert(0, compiled)

from pairsync.cli import main

raise SystemExit(main())
'''

PACKAGE = "pairsync"
EPOCH = (1980, 1, 1, 0, 0, 0)


class BuildError(Exception):
    """The sources are not a pairsync engine; the text is one sentence for the user."""


@dataclass(frozen=True)
class Build:
    """One built executable: where it is, what it calls itself, the SHA-256 (hex) of its bytes."""

    path: Path
    version: str
    protocol: int
    digest: str


def build(out: Path, source: Path | None = None) -> Build:
    """Write the executable to the file OUT and return what was built.

    SOURCE is the package directory (default: the engine of this collection); BuildError when it
    holds no engine. OUT appears complete and executable under its name, or not at all; its
    directory is created.
    """
    package = engine() if source is None else source
    version, protocol = declared(package)
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    try:
        with os.fdopen(handle, "w+b") as stream:
            stream.write(LAUNCHER.encode("ascii"))
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                for member, data in members(package):
                    archive.writestr(member, data)
        digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        Path(name).chmod(0o755)
        Path(name).replace(out)
    except BaseException:
        Path(name).unlink()
        raise
    return Build(path=out, version=version, protocol=protocol, digest=digest)


def engine() -> Path:
    """Return the engine's package directory in this collection, wherever that is installed."""
    return Path(__file__).resolve().parents[1] / "module_utils" / PACKAGE


def declared(package: Path) -> tuple[str, int]:
    """Return (version, protocol) as PACKAGE's __init__.py states them, without importing it.

    The engine must have one name per process, and a build may be of other sources than those that
    run it.
    """
    init = package / "__init__.py"
    try:
        tree = ast.parse(init.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise BuildError(
            f"{package} is not the pairsync engine: its __init__.py cannot be read ({error});"
            " name the directory plugins/module_utils/pairsync of a checkout"
        ) from error
    values: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            values.update(dict.fromkeys(names, node.value.value))
    version, protocol = values.get("__version__"), values.get("PROTOCOL")
    if not isinstance(version, str) or not isinstance(protocol, int):
        raise BuildError(
            f"{init} states no __version__ and PROTOCOL;"
            " name the directory plugins/module_utils/pairsync of a checkout"
        )
    return version, protocol


def members(package: Path) -> list[tuple[zipfile.ZipInfo, bytes]]:
    """Return the archive's members as they are written: __main__.py, then the sources by name."""
    files = {
        f"{PACKAGE}/{path.relative_to(package).as_posix()}": path
        for path in package.rglob("*.py")
        if not any(part.startswith(".") for part in path.relative_to(package).parts)
    }
    named = [("__main__.py", MAIN.encode("ascii"))]
    named += [(name, files[name].read_bytes()) for name in sorted(files)]
    return [(member(name), data) for name, data in named]


def member(name: str) -> zipfile.ZipInfo:
    """Return the header of the member NAME with nothing in it that differs between machines."""
    info = zipfile.ZipInfo(name, EPOCH)
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    info.compress_type = zipfile.ZIP_STORED
    return info
