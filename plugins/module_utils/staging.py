# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn a received file into a complete version directory: verified, compiled, seen to work.

Nothing is visible under a version's name before all of it is there and works. Which version is
linked is decided by sync_binary.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn

from ansible.module_utils.urls import fetch_url

from . import installation, interpreters

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from .installation import Place

VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)+(?:[-+~.]?[0-9A-Za-z]+)*")


def fail(module: AnsibleModule, text: str) -> NoReturn:
    """End the module with the sentence TEXT."""
    module.fail_json(msg=text)
    raise SystemExit(1)


def stage(module: AnsibleModule, place: Place, digest: str) -> str:
    """Install the module's source, which must have the SHA-256 DIGEST; return its directory."""
    source = module.params["src"] or download(module)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place.home) as temporary:
        received = Path(temporary, "received")
        module.atomic_move(source, str(received))
        verify(module, received, digest)
        # The launcher trusts only directories that are called like an installed version.
        staged = Path(temporary, installation.directory_name("new", digest))
        staged.mkdir()
        staged.chmod(0o755)
        binary = staged / place.name
        if tarfile.is_tarfile(received):
            unpack(module, received, binary)
            installation.write_atomically(staged / "origin", f"{digest}\n")
        else:
            received.rename(binary)
        binary.chmod(0o555)
        if interpreters.is_pairsync(binary):
            compile_for(module, binary)
        version = prove(module, binary)
        directory = installation.directory_name(version, installation.digest_of(binary))
        final = place.home / directory
        if final.exists():  # it is damaged, or it would have been found
            installation.remove_version(place, directory)
        staged.rename(final)
    settle(module, final)
    return directory


def download(module: AnsibleModule) -> str:
    """Fetch the url into a temporary file and return its path."""
    response, info = fetch_url(module, module.params["url"])
    if response is None or info["status"] not in (200, None):  # None: a file: URL
        fail(module, f"{module.params['url']} cannot be downloaded: {info['msg']}")
    handle, path = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "wb") as stream:
        shutil.copyfileobj(response, stream)
    return str(path)


def verify(module: AnsibleModule, received: Path, digest: str) -> None:
    """Fail unless the file RECEIVED, where it lies now, has the SHA-256 DIGEST."""
    actual = installation.digest_of(received)
    if actual != digest:
        fail(
            module,
            f"what arrived for {module.params['name']} has sha256 {actual}, not {digest}; nothing"
            " was installed. Correct the checksum if this is the right file, or get it again",
        )


def unpack(module: AnsibleModule, archive: Path, binary: Path) -> None:
    """Write the member NAME or bin/NAME of the tar ARCHIVE, below one directory or none."""
    with tarfile.open(archive) as members:
        for member in members:
            path = PurePosixPath(member.name)
            folder = path.parent
            near = len(path.parts) <= 2 or (folder.name == "bin" and len(path.parts) <= 3)
            content = members.extractfile(member) if path.name == binary.name and near else None
            if content is not None:
                with binary.open("wb") as stream:
                    shutil.copyfileobj(content, stream)
                return
    fail(
        module,
        f"the archive has no file {binary.name} or bin/{binary.name};"
        " give the archive that holds it, or correct name",
    )


def compile_for(module: AnsibleModule, binary: Path) -> None:
    """Choose the Python for BINARY and compile its modules; fail when this host has none."""
    python = interpreters.find(os.environ.get("PATH", ""))
    if python is None:
        fail(module, interpreters.NONE)
    try:
        interpreters.prepare(binary, python)
    except subprocess.CalledProcessError as error:
        said = os.fsdecode(error.stderr).strip()
        fail(module, f"{python.path} cannot compile the modules of {binary}: {said}")


def prove(module: AnsibleModule, binary: Path) -> str:
    """Run BINARY, return the version it says; fail when it does not run or is another one."""
    name, wanted = binary.name, module.params["version"]
    words = shlex.split(module.params["version_command"])
    command = [word.replace("{path}", str(binary)) for word in words]
    status, output, error = module.run_command(command, environ_update={"PAIRSYNC_PYTHON": ""})
    if status != 0:
        shown = shlex.join(word.replace("{path}", name) for word in words)
        said = error.strip() or output.strip()
        fail(
            module,
            f"the new {name} does not work on this host and was not linked:"
            f" {shown} ended with {status}: {said}",
        )
    found = VERSION.search(output) or VERSION.search(error)
    version = found.group() if found else wanted
    if not version:
        fail(module, f"the new {name} says no version; give version, or a version_command")
    if wanted and version != wanted:
        fail(module, f"the new {name} says it is {version}, not {wanted}; it was not linked")
    return str(version)


def settle(module: AnsibleModule, directory: Path) -> None:
    """Give DIRECTORY its SELinux contexts and make it durable: no link may lead to half a file."""
    for path in [*directory.rglob("*"), directory, directory.parent]:
        module.set_default_selinux_context(str(path), False)
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
