# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The side of a pair's key that is logged in to: authorized_keys, the policy, sshd's settings.

A line of ours names a policy file and ends with `pairsync:NAME`; every other line stays as it is,
byte for byte. Ours come first, so that taking them away again leaves what was there before.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import homefiles

if TYPE_CHECKING:
    import pwd
    from collections.abc import Mapping, Sequence

SYSTEM_POLICIES = Path("/etc/pairsync/pairs")
HOST_KEYS = Path("/etc/ssh")
_SSHD = ("/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd")
# Variables with which a client that may set them would run its own code beside the forced command.
_DANGEROUS = (
    "BASH_ENV",
    "ENV",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PAIRSYNC_PYTHON",
    "PYTHONPATH",
    "PATH",
    "HOME",
    "ZDOTDIR",
)
_NO_SHELLS = ("nologin", "false")
_FROM = re.compile(r'(?:^|,)from="([^"]*)"')


class AccessError(Exception):
    """The key cannot be let in here; the text is one sentence with the next step."""


class Sshd(NamedTuple):
    """What sshd says of itself for one account; all empty where only root may ask."""

    settings: Mapping[str, Sequence[str]]

    def one(self, name: str, default: str = "") -> str:
        """Return a setting's first value."""
        return next(iter(self.settings.get(name, ())), default)


def sshd_for(user: str, address: str) -> Sshd:
    """Return what sshd would do for USER from ADDRESS (any, when that is "")."""
    program = next((path for path in _SSHD if os.access(path, os.X_OK)), "")
    if not program:
        return Sshd({})
    where = address or "127.0.0.1"
    command = [program, "-T", "-C", f"user={user},host={where},addr={where}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    settings: dict[str, list[str]] = {}
    if done.returncode == 0:
        for line in done.stdout.splitlines():
            name, __, value = line.partition(" ")
            settings.setdefault(name.lower(), []).append(value)
    return Sshd(settings)


def check_sshd(sshd: Sshd) -> None:
    """Raise AccessError where sshd would not do what a line in authorized_keys says."""
    if sshd.one("pubkeyauthentication") == "no":
        raise AccessError("sshd accepts no keys here: set `PubkeyAuthentication yes`")
    forced = sshd.one("forcecommand", "none")
    if forced != "none":
        raise AccessError(
            f"sshd runs `{forced}` for this account whatever its key says: take ForceCommand away"
            " for it, or use another account"
        )
    accepted = " ".join(sshd.settings.get("acceptenv", ())).split()
    open_to = [
        name for name in _DANGEROUS if any(fnmatch.fnmatchcase(name, one) for one in accepted)
    ]
    if open_to:
        raise AccessError(
            f"sshd lets clients set {', '.join(open_to)}, with which a key can run anything:"
            " name the variables that are needed in AcceptEnv, without a pattern for all"
        )


def keys_file(sshd: Sshd, user: pwd.struct_passwd) -> Path:
    """Return the file in which sshd looks for USER's keys; raises AccessError."""
    patterns = sshd.one("authorizedkeysfile", ".ssh/authorized_keys").split()
    names = {"%%": "%", "%h": user.pw_dir, "%u": user.pw_name, "%U": str(user.pw_uid)}
    for pattern in patterns:
        if pattern == "none":
            continue
        path = Path(user.pw_dir, re.sub("%.", lambda found: names.get(found.group(), ""), pattern))
        if os.geteuid() == 0 or Path(user.pw_dir) in path.parents:
            return path
    raise AccessError(
        f"sshd looks for {user.pw_name}'s keys in {' '.join(patterns)}, which only root may write:"
        " run this with become: true"
    )


def host_keys(sshd: Sshd) -> list[str]:
    """Return the public keys that sshd shows, as type and key."""
    named = [Path(f"{path}.pub") for path in sshd.settings.get("hostkey", ())]
    found = [
        " ".join(homefiles.read(path).split()[:2])
        for path in named or sorted(HOST_KEYS.glob("ssh_host_*_key.pub"))
        if path.exists()
    ]
    # The key of a host must be as good as what it lets in.
    return [key for key in found if key and not key.startswith("ssh-dss ")]


def policy_path(name: str, scope: str, user: pwd.struct_passwd) -> Path:
    """Return where the policy of the pair NAME lies; scope: system or user."""
    home = Path(os.path.realpath(user.pw_dir))
    place = SYSTEM_POLICIES if scope == "system" else home / ".config" / "pairsync" / "pairs"
    return place / f"{name}.json"


def line_of(name: str, public: str, sources: Sequence[str], binary: str, policy: Path) -> str:
    """Return the line that lets PUBLIC (type and key) do what POLICY says, from SOURCES only."""
    command = f"{binary} agent --policy {shlex.quote(str(policy))}".replace('"', '\\"')
    where = f',from="{",".join(sources)}"' if sources else ""
    return f'restrict,command="{command}"{where} {public} pairsync:{name}'


def own_lines(text: str, name: str) -> list[str]:
    """Return the lines of TEXT that are the pair NAME's."""
    return [line.rstrip("\n") for line in _lines(text) if _is_own(line, name)]


def with_lines(text: str, name: str, lines: Sequence[str]) -> str:
    """Return TEXT with LINES for the pair NAME, instead of those that it has."""
    others = [line for line in _lines(text) if not _is_own(line, name)]
    return "".join([*(f"{line}\n" for line in lines), *others])


def sources_of(lines: Sequence[str]) -> list[str]:
    """Return the addresses that the first of LINES is for."""
    found = _FROM.search(lines[0].partition(" ssh-")[0]) if lines else None
    return found.group(1).split(",") if found else []


def _lines(text: str) -> list[str]:
    """Return the lines of TEXT with their ends, as sshd sees them: a newline ends a line."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _is_own(line: str, name: str) -> bool:
    return line.rstrip().endswith(f" pairsync:{name}") and " agent --policy " in line


def policy_text(label: str, root: str, wanted: Mapping[str, Any], peer: Mapping[str, str]) -> str:
    """Return the text of a policy. wanted: its flags and sections; peer: ids, where known."""
    policy = {"schema": "pairsync.policy/1", "label": label, "roots": [root], **wanted}
    if peer:
        policy["peer"] = dict(peer)
    return json.dumps(policy, indent=2, sort_keys=True) + "\n"


def write_policy(path: Path, text: str) -> None:
    """Give the policy file PATH its text; empty text takes it, and directories of it, away.

    In the system's place everybody may read it: the agent runs as the account of the key.
    """
    mode, directories = (0o644, 0o755) if SYSTEM_POLICIES in path.parents else (0o600, 0o700)
    if text:
        for above in (path.parent.parent, path.parent):
            if not above.is_dir():
                above.mkdir(parents=True)
                above.chmod(directories)
        homefiles.edit(path, lambda __: text, mode)
        path.chmod(mode)
        return
    if path.parent.is_dir():
        homefiles.edit(path, lambda __: "")
        for above in (path.parent, path.parent.parent):
            if any(above.iterdir()):
                break
            above.rmdir()


def suspicions(sshd: Sshd, user: pwd.struct_passwd, file: Path, sources: Sequence[str]) -> str:
    """Return why sshd may not accept a key that is in FILE, in one sentence."""
    found = []
    if Path(user.pw_shell).name in _NO_SHELLS:
        found.append(f"the shell of {user.pw_name} is {user.pw_shell}, which runs nothing")
    if sshd.one("strictmodes", "yes") == "yes":
        for path in (file, *file.parents):
            if not path.exists():
                continue
            status = path.stat()
            loose = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and path != Path("/")
            if loose or status.st_uid not in (0, user.pw_uid):
                found.append(f"StrictModes: others may write to {path}")
            if path == Path(user.pw_dir):
                break
    lists = ("allowusers", "denyusers", "allowgroups", "denygroups")
    found += [f"{name} {' '.join(sshd.settings[name])}" for name in lists if name in sshd.settings]
    if not sshd.settings:
        found += _configured()
    if sources:
        found.append(f"the key is for {', '.join(sources)}: another address is refused")
    return "; ".join(found) or "see the log of sshd on that host"


def _configured() -> list[str]:
    """Return what sshd's configuration says that matters, where only root may ask sshd itself."""
    found = []
    for file in (HOST_KEYS / "sshd_config", *sorted(HOST_KEYS.glob("sshd_config.d/*.conf"))):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            words = line.split()
            if words and words[0].lower() in (
                "authorizedkeysfile",
                "match",
                "forcecommand",
                "pubkeyauthentication",
                "allowusers",
                "allowgroups",
            ):
                found.append(f"{file.name} says `{' '.join(words)}`")
    return found
