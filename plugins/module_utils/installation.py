# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout of an installed executable on a host: version directories, their order, and links.

    PREFIX/NAME/VERSION-SHA8/NAME    the file, never changed once it is there
    PREFIX/NAME/order                the version directories' names, the one linked last at the end
    BIN_DIR/LINK                     a symlink to one of the files

It knows nothing of Ansible, and does not decide what is to be installed: that is sync_binary.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 20
SYSTEM_BIN = Path("/usr/bin")  # where sessions and parity look before the user's own directory


@dataclass(frozen=True)
class Place:
    """Where the executable NAME lives on this host (absolute paths)."""

    name: str
    prefix: Path
    bin_dir: Path

    @property
    def home(self) -> Path:
        """Return the directory that holds the versions."""
        return self.prefix / self.name

    @property
    def lock(self) -> Path:
        """Return the lock file: beside what it protects, so that hosts with one home share it."""
        return self.prefix / f".{self.name}.lock"

    def binary(self, directory: str) -> Path:
        """Return the path of the executable in the version directory DIRECTORY."""
        return self.home / directory / self.name


def digest_of(path: Path) -> str:
    """Return the SHA-256 (hex) of the file PATH; OSError when it cannot be read."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            total.update(block)
    return total.hexdigest()


def directory_name(version: str, digest: str) -> str:
    """Return the version directory's name: two builds of one version stand side by side."""
    return f"{version}-{digest[:8]}"


def version_of(directory: str) -> str:
    """Return the version that a version directory's name states."""
    return directory.rpartition("-")[0]


def installed(place: Place) -> list[str]:
    """Return the version directories whose file is what their name says, oldest first.

    A directory that `order` does not know (an installation died before it was written) counts as
    the oldest.
    """
    if not place.home.is_dir():
        return []
    try:
        order = (place.home / "order").read_text(encoding="utf-8").split()
    except FileNotFoundError:
        order = []
    present = {path.name for path in place.home.iterdir() if is_sound(place, path.name)}
    return sorted(present.difference(order)) + [name for name in order if name in present]


def is_sound(place: Place, directory: str) -> bool:
    """Return whether DIRECTORY is a version directory that holds what it is named after."""
    try:
        return directory.endswith("-" + digest_of(place.binary(directory))[:8])
    except OSError:
        return False


def origin_of(place: Place, directory: str) -> str:
    """Return the SHA-256 of the archive that DIRECTORY was unpacked from, "" when of none."""
    try:
        return (place.home / directory / "origin").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def write_atomically(path: Path, text: str) -> None:
    """Give the file PATH the contents TEXT, readable for everybody."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(text, encoding="utf-8")
    staged.chmod(0o444)
    staged.replace(path)


def write_order(place: Place, order: list[str]) -> None:
    """Record ORDER."""
    write_atomically(place.home / "order", "".join(f"{name}\n" for name in order))


def linked(place: Place, link: Path) -> str:
    """Return the version directory that the symlink LINK points into, "" when it is not ours."""
    try:
        target = link.parent / link.readlink()
    except OSError:
        return ""
    path = Path(os.path.normpath(target))  # without following links: the target may be gone
    return path.parent.name if path.parent.parent == place.home else ""


def links_of(place: Place) -> dict[Path, str]:
    """Return {path: version directory} of every link in the bin directory that is ours."""
    try:
        paths = sorted(place.bin_dir.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {path: directory for path in paths if (directory := linked(place, path))}


def switch_link(link: Path, target: Path) -> None:
    """Make LINK point to TARGET; whoever opens it meanwhile gets the old or the new, never none."""
    staged = link.with_name(f".{link.name}.{os.getpid()}")
    staged.unlink(missing_ok=True)
    staged.symlink_to(target)
    staged.replace(link)


def make_directory(path: Path, top: Path) -> None:
    """Create the directory PATH, from TOP downwards usable by everybody whatever the umask is."""
    if path.is_dir():
        return
    make_directory(path.parent, top)
    with contextlib.suppress(FileExistsError):  # another installation was quicker
        path.mkdir()
    if path == top or top in path.parents:
        path.chmod(0o755)


def remove_version(place: Place, directory: str) -> None:
    """Remove a version: first its name, in one step, so that no half of it is found under it."""
    hidden = place.home / f".gone-{directory}-{os.getpid()}"
    (place.home / directory).rename(hidden)
    shutil.rmtree(hidden)


def remove_everything(place: Place) -> None:
    """Remove the home of the tool and its lock; only the holder of the lock may call this."""
    shutil.rmtree(place.home)
    place.lock.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other tools live there too
        place.prefix.rmdir()


def sweep(place: Place) -> None:
    """Remove what an interrupted installation left; only the lock's holder may call this."""
    for path in place.home.iterdir():
        if path.name.startswith((".new-", ".gone-")):
            shutil.rmtree(path)


def path_hint(place: Place) -> str:
    """Return the line that puts the links into the user's PATH, "" when it is not needed."""
    if str(place.bin_dir) in os.environ.get("PATH", "").split(os.pathsep):
        return ""
    inside = Path.home() in place.bin_dir.parents
    directory = f"$HOME/{place.bin_dir.relative_to(Path.home())}" if inside else place.bin_dir
    return f'export PATH="{directory}:$PATH"'


def shadow_of(place: Place, digest: str) -> str:
    """Return the path of another build than DIGEST that sessions find first, or ""."""
    first = SYSTEM_BIN / place.name
    if not digest or not os.access(first, os.X_OK):
        return ""
    return "" if digest_of(first) == digest else str(first)
