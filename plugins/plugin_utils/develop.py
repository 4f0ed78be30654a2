# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `invoke test` and `invoke lint` do: install what tests need, run them, run every checker.

Which tests may be skipped where is decided in tests/conftest.py, not here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from invoke.context import Context
    from invoke.runners import Result

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = Path(".collections/ansible_collections/pairsync/fleet")

# The commands that tests run, and the Debian packages that bring them.
PACKAGES = {
    "chattr": "e2fsprogs",
    "faketime": "faketime",
    "fusermount3": "fuse3",
    "git": "git",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mount": "mount",
    "nsenter": "util-linux",
    "rsync": "rsync",
    "setfacl": "acl",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "strace": "strace",
    "unison": "unison",
    "unshare": "util-linux",
    "useradd": "passwd",
}

# A plain user's PATH leaves these out, although what is in them can be run or at least be found.
SYSTEM_DIRS = ("/usr/local/sbin", "/usr/sbin", "/sbin")

# What Debian's package scripts ask before they start a daemon.
POLICY_RC_D = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Check:
    """One checker of `invoke lint`: its command line and the variables it wants beside ours."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Context], None] | None = None
    # Of the output of a checker that failed, the lines that say why; the rest is chatter.
    telling: str = ""


def test(
    context: Context,
    tier: Literal["default", "nightly"] = "default",
    keyword: str | None = None,
) -> None:
    """Install what the tests need where that is possible, then run the tests of a tier.

    `keyword` is a pytest expression (`-k`) that selects tests by name. Raises invoke's Exit with
    pytest's exit code when a test failed or was skipped for a reason nobody expects.
    """
    from invoke.exceptions import Exit

    if tier not in ("default", "nightly"):
        raise Exit(f"There is no tier {tier!r}: say default or nightly.", code=3)
    _require("pytest", "xdist", "hypothesis")
    missing = missing_packages()
    if missing and may_install():
        install_packages(context, missing)
        missing = missing_packages()
    if missing:
        _say(
            f"Missing here: {' '.join(sorted(missing))}. Tests that need them are skipped. "
            f"To run them too: sudo apt-get install {' '.join(sorted(set(missing.values())))} "
            "(Debian's names; elsewhere the packages that hold these commands)."
        )
    if os.geteuid() != 0:
        _say("A plain user skips the tests marked `root` and `fleet`. To run them too: as root.")
    command = [sys.executable, "-m", "pytest", "--numprocesses", "auto", "--dist", "loadfile"]
    if tier == "nightly":
        command += ["--nightly", "--hypothesis-profile", "nightly"]
    if keyword:
        command += ["-k", keyword]
    result = _run(context, command, {"PATH": _test_path()})
    if result is None or result.exited != 0:
        raise Exit(code=result.exited if result is not None else 3)


def missing_packages() -> dict[str, str]:
    """Return the commands that tests need and this machine lacks, each with its Debian package."""
    path = _test_path()
    return {
        command: package
        for command, package in PACKAGES.items()
        if shutil.which(command, path=path) is None
    }


def may_install() -> bool:
    """Say whether Debian packages can be installed from here without asking anybody."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install_packages(context: Context, missing: Mapping[str, str]) -> None:
    """Install the packages of `missing` (command: package); who calls looks again afterwards."""
    packages = sorted(set(missing.values()))
    _say(f"Installing what the tests need: {' '.join(packages)}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    install = shlex.join(["apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages])
    with _services_stay_off():
        for command in ("apt-get update -qq", install):
            context.run(command, warn=True, in_stream=False, env=environment, hide="out")


@contextmanager
def _services_stay_off() -> Iterator[None]:
    """Keep Debian from starting daemons of what is installed: the tests have their own sshd."""
    if POLICY_RC_D.exists():
        yield
        return
    POLICY_RC_D.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    POLICY_RC_D.chmod(0o755)
    try:
        yield
    finally:
        POLICY_RC_D.unlink()


def lint(context: Context, only: str | None = None) -> None:
    """Run every checker, print one line for each and the output of those that failed.

    `only` runs the checkers whose name contains it. Raises invoke's Exit with code 1 when one
    failed, after all have run, and with code 3 when `only` fits none.
    """
    from invoke.exceptions import Exit

    _require("ansible_test", "ansiblelint", "antsibull_changelog", "antsibull_docs", "mypy", "ruff")
    with tempfile.TemporaryDirectory(prefix="pairsync-lint-") as scratch:
        checks = _checks(Path(scratch))
        chosen = [check for check in checks if not only or only in check.name]
        if not chosen:
            names = ", ".join(check.name for check in checks)
            raise Exit(f"No checker's name contains {only!r}; there are: {names}.", code=3)
        failed = [check.name for check in chosen if not _passes(context, check)]
    if failed:
        raise Exit(f"Failed: {', '.join(failed)}.", code=1)


def _checks(scratch: Path) -> list[Check]:
    """List the checkers in the order in which they run: the quick ones first."""
    python = [sys.executable, "-m"]
    tools = Path(sys.executable).parent
    plugins = [
        f"--package=ansible_collections.pairsync.fleet.plugins.{directory.name}"
        for directory in sorted((ROOT / "plugins").iterdir())
        if directory.name != "module_utils" and any(directory.glob("*.py"))
    ]
    copy = scratch / "ansible_collections/pairsync/fleet"
    return [
        Check("ruff check", [*python, "ruff", "check", "--output-format=concise", "."]),
        Check("ruff format", [*python, "ruff", "format", "--check", "."]),
        Check(
            "mypy engine",
            [*python, "mypy", "--package=pairsync"],
            {"MYPYPATH": "plugins/module_utils"},
        ),
        Check(
            "mypy plugins",
            [*python, "mypy", "--namespace-packages", "--explicit-package-bases", *plugins],
            {"MYPYPATH": ".collections"},
        ),
        Check("antsibull-changelog", [str(tools / "antsibull-changelog"), "lint"]),
        Check("ansible-lint", [str(tools / "ansible-lint"), "--offline", "--nocolor", "-q"]),
        Check(
            "antsibull-docs",
            [
                *(str(tools / "antsibull-docs"), "lint-collection-docs", "--plugin-docs"),
                *("--validate-collection-refs", "self", "--skip-rstcheck", str(copy)),
            ],
            prepare=lambda _context: _copy_tracked(copy),
        ),
        Check(
            "ansible-test sanity",
            [str(tools / "ansible-test"), "sanity", "--requirements", "--color", "no"],
            {"ANSIBLE_TEST_CONTENT_ROOT": str(ROOT / COLLECTION), "LC_ALL": "C.UTF-8"},
            prepare=_provide_pip,
            telling=r"^(ERROR|FATAL)|^[a-z0-9-]+$",
        ),
    ]


def _passes(context: Context, check: Check) -> bool:
    """Run one checker, print its line, and its output when it failed."""
    begun = time.monotonic()
    if check.prepare:
        check.prepare(context)
    environment = {"PATH": _lint_path(), **check.environment}
    result = _run(context, check.command, environment, hide=True)
    passed = result is not None and result.exited == 0
    _say(f"{'ok  ' if passed else 'FAIL'}  {check.name:<20} {time.monotonic() - begun:5.1f} s")
    if result is not None and not passed:
        lines = f"{result.stdout}\n{result.stderr}".splitlines()
        telling = [line for line in lines if line.strip() and re.search(check.telling, line)]
        _say("\n".join(telling or lines))
    return passed


def _copy_tracked(target: Path) -> None:
    """Copy what git tracks, and what it would, to `target`.

    antsibull-docs wants a collection below a directory `ansible_collections`, and resolves links.
    """
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    for name in filter(None, os.fsdecode(listing).split("\0")):
        source = ROOT / name
        if source.is_file():  # neither the link to ourselves nor what has just been removed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)


def _provide_pip(context: Context) -> None:
    """Put a stand-in for the script that installs pip where ansible-test looks for it first.

    It would download that script from a server of its own; ours takes pip's wheel from wherever
    pip takes packages, so that a package index is all the network that is needed.
    """
    version = _pip_version()
    cache = Path.home() / ".ansible/test/cache"
    script = cache / f"get_pip_{version.replace('.', '_')}.py"
    if script.exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(cache)]
    context.run(shlex.join([*download, f"pip=={version}"]), warn=True, hide="err", in_stream=False)
    script.write_text(
        GET_PIP.format(wheel=f"pip-{version}-py3-none-any.whl"),
        encoding="utf-8",
    )


GET_PIP = """\
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "{wheel}"))
from pip._internal.cli.main import main

words = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(main(["install", "--upgrade"] + words))
"""


def _pip_version() -> str:
    """Return the version of pip that the installed ansible-test puts into its environments."""
    found = importlib.util.find_spec("ansible_test")
    for location in (found.submodule_search_locations or ()) if found else ():
        source = Path(location, "_internal/python_requirements.py").read_text(encoding="utf-8")
        if match := re.search(r"""\bpip=['"]([0-9.]+)['"]""", source):
            return match.group(1)
    raise RuntimeError("This ansible-test does not say which pip it wants: see get_venv_packages.")


def _lint_path() -> str:
    """Return the PATH for checkers: this environment, the system, and a Python 3.9 if there is one.

    Nothing else, because version managers put stand-ins there that look like every Python and fail.
    The oldest Python that hosts may have makes ansible-test check the modules for it as well.
    """
    path = [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    oldest = sorted(Path.home().glob(".pyenv/versions/3.9.*/bin"))
    return ":".join(path + [str(directory) for directory in oldest[-1:]])


def _test_path() -> str:
    """Return our PATH, with this environment's commands first and the system's last."""
    inherited = os.environ.get("PATH", os.defpath).split(":")
    tools = str(Path(sys.executable).parent)
    return ":".join(dict.fromkeys([tools, *inherited, *SYSTEM_DIRS]))


def _run(
    context: Context, command: Sequence[str], environment: Mapping[str, str], **options: Any
) -> Result | None:
    """Run words, not shell text, at the repository's root; failing is the caller's business."""
    # Not `context.cd`, which quotes nothing but spaces.
    text = f"cd {shlex.quote(str(ROOT))} && {shlex.join(command)}"
    return context.run(text, warn=True, in_stream=False, env=dict(environment), **options)


def _require(*modules: str) -> None:
    """Raise invoke's Exit when the extra `test` is not installed in this environment."""
    from invoke.exceptions import Exit

    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise Exit(
            f"Not installed here: {', '.join(missing)}. "
            f"Run {shlex.quote(sys.executable)} -m pip install -e '.[test]' in {ROOT}.",
            code=3,
        )


def _say(text: str) -> None:
    """Write a line to the terminal."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
