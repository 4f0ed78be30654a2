#!/usr/bin/python
# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install one executable on a host: verified, beside its previous version, behind links."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sync_binary
short_description: Install the sync binary, upgrade it, roll it back
version_added: 0.1.0
author:
  - pairsync contributors (@pairsync)
description:
  - Puts one executable on a host and links it. Without O(src) and O(url) that is the pairsync of
    this collection, built on the controller; any other tool, Unison itself for instance, is
    installed by its O(name).
  - Each version has its own directory, which never changes once it is there. The file's SHA-256 is
    verified on the host, its modules are compiled for the host's Python, and it has to answer
    O(version_command) before any link is switched to it. A process that is running keeps the
    version it was started with.
  - A file at the place of a link that is not a link of this module is left alone and refused.
extends_documentation_fragment:
  - pairsync.fleet.attributes
  - pairsync.fleet.attributes.action
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
  platform:
    support: full
    platforms: linux
  action:
    support: full
  connection:
    support: full
  delegation:
    support: full
options:
  name:
    description:
      - The tool's name. It names the file, the directory below O(prefix) and the first link.
    type: str
    default: pairsync
  state:
    description:
      - V(present) installs the tool, or puts back a version that is still kept.
      - V(rolled_back) links the version that was linked before; run again it changes nothing.
      - V(absent) removes the links, and every version that no process uses.
    type: str
    choices: [present, absent, rolled_back]
    default: present
  src:
    description:
      - A file on the controller, either the executable or a tar archive with a member C(NAME) or
        C(bin/NAME).
    type: path
  url:
    description:
      - Where the host downloads the executable from, or a tar archive as in O(src). Requires
        O(checksum).
    type: str
  checksum:
    description:
      - SHA-256 of the file at O(src) or O(url), as V(sha256:HEX) or V(HEX).
    type: str
  version:
    description:
      - The version that the tool must say it is. With O(state=rolled_back) the kept version to go
        back to.
    type: str
  scope:
    description:
      - V(system) is for all users, in V(/opt/pairsync) and V(/usr/bin), or V(/usr/local/bin) where
        V(/usr) is read-only.
      - V(user) is for the connecting user, in V(~/.local/lib/pairsync) and V(~/.local/bin).
      - V(auto) is V(system) for root and V(user) otherwise.
    type: str
    choices: [auto, system, user]
    default: auto
  prefix:
    description:
      - The directory below which versions are kept, instead of that of the O(scope).
    type: path
  bin_dir:
    description:
      - The directory of the links, instead of that of the O(scope).
    type: path
  links:
    description:
      - All names in O(bin_dir) under which the tool can be called. By default O(name), and also
        C(home_sync) for pairsync.
    type: list
    elements: str
  keep:
    description:
      - How many versions are kept besides the linked one. One that a process uses is kept in any
        case.
    type: int
    default: 1
  version_command:
    description:
      - The command that proves that the file works on this host and says its version. V({path})
        stands for the file.
    type: str
    default: "{path} --version"
seealso:
  - module: pairsync.fleet.version_parity
"""

EXAMPLES = r"""
- name: Install the pairsync of this collection
  pairsync.fleet.sync_binary:

- name: Install it for the connecting user only
  pairsync.fleet.sync_binary:
    scope: user

- name: Go back to the version before
  pairsync.fleet.sync_binary:
    state: rolled_back

- name: Install Unison from a site's own server
  pairsync.fleet.sync_binary:
    name: unison
    url: https://files.example.org/unison-2.53.7-ubuntu-x86_64.tar.gz
    checksum: sha256:9d1e7d62bd0d5f1bb2ac5bd9b9ec0bfb10f9b0eb5bf1c1d3a4e2b1b3a6f2c1d0
    version_command: "{path} -version"
    links: [unison-2.53]
"""

RETURN = r"""
path:
  description: The installed file, below its version directory; empty when nothing is installed.
  type: str
  returned: success
  sample: /opt/pairsync/pairsync/0.1.0-5f1d7a84/pairsync
links:
  description: The links that lead to it.
  type: list
  elements: str
  returned: success
  sample: [/usr/bin/pairsync, /usr/bin/home_sync]
version:
  description: The linked version; V(unknown) in check mode when only the file could say it.
  type: str
  returned: success
  sample: 0.1.0
digest:
  description: SHA-256 of the linked file; empty when nothing is installed.
  type: str
  returned: success
  sample: 5f1d7a84be6c0d1e5a6cd9f6a7c7d0b2d3c96f7ea6a4c8b0c0c1f3ab0d9e8f77
previous:
  description: The version that O(state=rolled_back) would link.
  type: dict
  returned: when there is one
  contains:
    version:
      description: What it says it is.
      type: str
    path:
      description: The file.
      type: str
  sample: {version: 0.0.9, path: /opt/pairsync/pairsync/0.0.9-1b2c3d4e/pairsync}
scope:
  description: The scope that O(scope) came to.
  type: str
  returned: success
  sample: system
held:
  description: Versions that would have been removed, but are used by the processes listed.
  type: dict
  returned: when there are any
  sample: {0.0.8-99aabbcc: [4711]}
path_hint:
  description: The line for the user's shell profile that makes the links found.
  type: str
  returned: in user scope, when O(bin_dir) is not in the connecting user's PATH
  sample: export PATH="$HOME/.local/bin:$PATH"
shadowed_by:
  description: Another build where sessions look first, so that what was installed is not used.
  type: str
  returned: in user scope, when there is one
  sample: /usr/bin/pairsync
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.pairsync.fleet.plugins.module_utils import (
    installation,
    interpreters,
    occupancy,
    staging,
)
from ansible_collections.pairsync.fleet.plugins.module_utils.installation import Place
from ansible_collections.pairsync.fleet.plugins.module_utils.staging import fail

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
LOCK_SECONDS = 60.0


@dataclass
class State:
    """What is on the host: the linked version directory ("" for none), all of them, and links.

    Of a planned state also what has to go, what cannot go yet, and whether to compile.
    """

    linked: str
    order: list[str]
    links: dict[Path, str]
    gone: list[str] = field(default_factory=list)
    held: dict[str, list[int]] = field(default_factory=dict)
    prepare: bool = False


def scope_of(module: AnsibleModule) -> str:
    """Return `system` or `user`; fail when the right to write the system's is missing."""
    params = module.params
    if params["scope"] == "auto":
        return "system" if os.geteuid() == 0 else "user"
    elsewhere = params["prefix"] and params["bin_dir"]
    if params["scope"] == "system" and os.geteuid() != 0 and not elsewhere:
        fail(
            module,
            "scope: system writes /opt/pairsync and /usr/bin, which needs root:"
            " run it with --become, or use scope: user",
        )
    return str(params["scope"])


def place_of(module: AnsibleModule, scope: str) -> Place:
    """Return where the tool lives, from the options and the defaults of SCOPE."""
    if scope == "user":
        prefix, bin_dir = Path.home() / ".local/lib/pairsync", Path.home() / ".local/bin"
    else:
        read_only = os.statvfs("/usr/bin").f_flag & os.ST_RDONLY
        prefix, bin_dir = Path("/opt/pairsync"), Path("/usr/local/bin" if read_only else "/usr/bin")
    params = module.params
    return Place(
        name=params["name"],
        prefix=Path(os.path.normpath(params["prefix"] or prefix)),
        bin_dir=Path(os.path.normpath(params["bin_dir"] or bin_dir)),
    )


def wanted_links(module: AnsibleModule, place: Place) -> list[Path]:
    """Return the paths of the links; fail when something that is not ours lies at one of them."""
    names = module.params["links"]
    if names is None:
        names = [place.name, *(["home_sync"] if place.name == "pairsync" else [])]
    if not names or not all(NAME.fullmatch(name) for name in names):
        fail(module, f"links must be names of files in {place.bin_dir}, one at least, not {names}")
    paths = [place.bin_dir / name for name in names]
    for path in paths:
        if os.path.lexists(path) and not installation.linked(place, path):
            package = package_of(module, path)
            owner = f"it belongs to the package {package}" if package else "no package owns it"
            other = f"{place.name}-{module.params['version'] or '0.1'}"
            fail(
                module,
                f"{path} exists and is no link into {place.home} ({owner}); nothing was changed."
                f" Remove it, or choose another name, for instance links: [{other}]",
            )
    return paths


def package_of(module: AnsibleModule, path: Path) -> str:
    """Return the package that owns PATH, "" when none does or no package manager knows."""
    # Before /bin became a link to /usr/bin, packages listed their files as /bin/NAME.
    names = [str(path), str(path).replace("/usr/", "/", 1)]
    for tool, options in {"dpkg": ["-S"], "rpm": ["-qf", "--qf", "%{NAME}:"]}.items():
        command = module.get_bin_path(tool)
        for name in names if command else []:
            status, output, _error = module.run_command([command, *options, name])
            if status == 0 and ":" in output:
                return str(output.partition(":")[0])
    return ""


def wanted_digest(module: AnsibleModule) -> str:
    """Return the SHA-256 (hex) that the source must have."""
    text = module.params["checksum"] or ""
    digest = text.lower().rpartition("sha256:")[2]
    if not re.fullmatch("[0-9a-f]{64}", digest):
        fail(module, f"checksum must be sha256: and 64 hexadecimal digits, not {text!r}")
    return digest


def plan_present(module: AnsibleModule, place: Place, now: State, links: list[Path]) -> State:
    """Return the state with the wanted version linked; unless in check mode it is staged."""
    digest, version = wanted_digest(module), module.params["version"]
    directory = next((name for name in reversed(now.order) if is_from(place, name, digest)), "")
    if directory:
        says = installation.version_of(directory)
        if version not in (None, says):
            fail(module, f"{place.binary(directory)} is {says}, not {version}; correct version")
    elif module.check_mode:
        directory = installation.directory_name(version or "unknown", digest)
    else:
        directory = staging.stage(module, place, digest)
    order = now.order
    if directory != now.linked or directory not in order:
        # What was linked until now, if it still is there, is the one to go back to.
        before = [now.linked] if now.linked in now.order and now.linked != directory else []
        others = [name for name in now.order if name not in (now.linked, directory)]
        order = [*others, *before, directory]
    others = [name for name in order if name != directory]
    after = linking(place, directory, order, links)
    return without(place, after, others[: max(0, len(others) - module.params["keep"])])


def is_from(place: Place, directory: str, digest: str) -> bool:
    """Return whether DIRECTORY was made from the file or archive with the SHA-256 DIGEST."""
    origin = installation.origin_of(place, directory)
    return digest == (origin or installation.digest_of(place.binary(directory)))


def plan_rolled_back(module: AnsibleModule, place: Place, now: State, links: list[Path]) -> State:
    """Return the state with an earlier version linked, the one before unless it is named."""
    wanted = module.params["version"]
    if now.linked not in now.order:
        fail(module, f"no {place.name} is linked in {place.bin_dir}; install it: state: present")
    position = now.order.index(now.linked)
    if wanted:
        found = [name for name in now.order if installation.version_of(name) == wanted]
    elif position < len(now.order) - 1:
        found = [now.linked]  # it is rolled back: something newer is there and not linked
    else:
        found = now.order[:position]
    if not found:
        which = f"version {wanted}" if wanted else "earlier version"
        kept = ", ".join(now.order)
        fail(module, f"no {which} of {place.name} is kept on this host, only {kept}; install it")
    directory = now.linked if now.linked in found else found[-1]
    return linking(place, directory, now.order, links)


def linking(place: Place, directory: str, order: list[str], links: list[Path]) -> State:
    """Return the state in which all LINKS lead to DIRECTORY, compiled for this host's Python."""
    binary = place.binary(directory)
    prepare = interpreters.is_pairsync(binary) and not interpreters.is_ready(binary)
    return State(directory, order, dict.fromkeys(links, directory), prepare=prepare)


def without(place: Place, after: State, names: list[str]) -> State:
    """Return AFTER with the versions NAMES gone, as far as no process uses them."""
    users = {name: occupancy.holders(place.home / name) for name in names}
    after.held = {name: processes for name, processes in users.items() if processes}
    after.gone = [name for name in names if name not in after.held]
    after.order = [name for name in after.order if name not in after.gone]
    return after


def apply(module: AnsibleModule, place: Place, now: State, after: State) -> None:
    """Make the host look like AFTER: what is linked to, the links, then what none leads to."""
    if after.prepare:
        staging.compile_for(module, place.binary(after.linked))
    if place.home.is_dir() and after.order != now.order:
        installation.write_order(place, after.order)
    for path, directory in after.links.items():
        if now.links.get(path) != directory:
            installation.make_directory(place.bin_dir, place.prefix)
            installation.switch_link(path, place.binary(directory))
            module.set_default_selinux_context(str(path), False)
    for path in now.links:
        if path not in after.links:
            path.unlink()
    for name in after.gone:
        installation.remove_version(place, name)
    if place.home.is_dir() and not after.order:
        installation.remove_everything(place)


def work(module: AnsibleModule, place: Place, links: list[Path]) -> tuple[State, State]:
    """Look, plan, and unless in check mode act; return what was and what is."""
    order, present = installation.installed(place), installation.links_of(place)
    linked = next((present[path] for path in [*links, *present] if path in present), "")
    now = State(linked, order, present)
    if module.params["state"] == "present":
        after = plan_present(module, place, now, links)
    elif module.params["state"] == "rolled_back":
        after = plan_rolled_back(module, place, now, links)
    else:
        after = without(place, State("", order, {}), order)
    if not module.check_mode:
        apply(module, place, now, after)
    return now, after


def result_of(module: AnsibleModule, place: Place, now: State, after: State) -> dict[str, Any]:
    """Return the module's answer."""
    before_text, after_text = view(place, now), view(place, after)
    result: dict[str, Any] = {
        "changed": before_text != after_text or after.prepare,
        "path": "",
        "links": [str(path) for path in after.links],
        "version": installation.version_of(after.linked),
        "digest": "",
        "diff": {"before": before_text, "after": after_text},
    }
    if after.linked:
        binary = place.binary(after.linked)
        known = binary.exists()  # not so when check mode predicts a first installation
        result["path"] = str(binary)
        result["digest"] = installation.digest_of(binary) if known else wanted_digest(module)
        earlier = after.order[: after.order.index(after.linked)]
        if earlier:
            version, path = installation.version_of(earlier[-1]), place.binary(earlier[-1])
            result["previous"] = {"version": version, "path": str(path)}
    if after.held:
        result["held"] = after.held
    return result


def view(place: Place, state: State) -> str:
    """Return STATE as the lines that diff mode compares."""
    links = sorted(state.links.items())
    lines = [f"{path} -> {place.binary(directory)}" for path, directory in links]
    lines += [f"kept {place.home / name}" for name in sorted(state.order) if name != state.linked]
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Read the options, work under the lock, answer."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "default": "pairsync"},
            "state": {
                "type": "str",
                "choices": ["present", "absent", "rolled_back"],
                "default": "present",
            },
            "src": {"type": "path"},
            "url": {"type": "str"},
            "checksum": {"type": "str"},
            "version": {"type": "str"},
            "scope": {"type": "str", "choices": ["auto", "system", "user"], "default": "auto"},
            "prefix": {"type": "path"},
            "bin_dir": {"type": "path"},
            "links": {"type": "list", "elements": "str"},
            "keep": {"type": "int", "default": 1},
            "version_command": {"type": "str", "default": "{path} --version"},
        },
        mutually_exclusive=[("src", "url")],
        required_by={"url": "checksum"},
        supports_check_mode=True,
    )
    if not NAME.fullmatch(module.params["name"]):
        fail(module, f"name must be the name of a file, not {module.params['name']!r}")
    scope = scope_of(module)
    place = place_of(module, scope)
    absent = module.params["state"] == "absent"
    links = [] if absent else wanted_links(module, place)
    if module.check_mode or (absent and not place.home.is_dir()):
        now, after = work(module, place, links)
    else:
        installation.make_directory(place.prefix, place.prefix)
        with occupancy.locked(place.lock, LOCK_SECONDS):
            installation.make_directory(place.home, place.prefix)
            installation.sweep(place)
            now, after = work(module, place, links)
    hint = installation.path_hint(place) if scope == "user" else ""
    extra = {"path_hint": hint} if hint else {}
    result = result_of(module, place, now, after)
    shadow = installation.shadow_of(place, result["digest"]) if scope == "user" else ""
    if shadow:
        own = place.bin_dir / place.name
        extra["shadowed_by"] = shadow
        module.warn(
            f"{shadow} is another build, and is what sessions use: let an administrator install"
            f" this one (`invoke bootstrap --become`), or set `binary: {own}` for the replicas"
            " of this host"
        )
    module.exit_json(scope=scope, **result, **extra)


if __name__ == "__main__":
    main()
