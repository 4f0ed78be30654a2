# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: commands, exit codes, and the only place that reads the environment."""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import os
import platform
import pwd
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Optional

from . import PROTOCOL, __version__
from .frontends.arguments import make_parser, read_spec
from .model.errors import CODES, EXIT_DONE, EXIT_FATAL, PairsyncError

if TYPE_CHECKING:
    # Loaded by the commands that need it: `--version` must not wait for SQLite and ssh.
    from .session.connect import Local


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command; return its exit code."""
    if sys.stdout is None or sys.stderr is None:
        # Started with a closed descriptor, which must not become that of a file of a replica.
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - to the end
        sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - to the end
    code = _main(arguments)
    try:
        sys.stdout.flush()
    except OSError:
        # Python would try once more at its end, fail again, and make a code of its own of it.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return EXIT_FATAL
    return code


def _main(arguments: Optional[Sequence[str]]) -> int:
    try:
        parser = make_parser()
        options = parser.parse_args(arguments)
        if options.version:
            return _version(options)
        if options.command is None:
            parser.print_help(sys.stderr)
            return EXIT_FATAL
        return int(_COMMANDS[options.command](options))
    except BrokenPipeError:
        return EXIT_FATAL
    except KeyboardInterrupt:
        return _fail(PairsyncError("interrupted", "interrupted", "run the same command again"))
    except Exception as error:
        from .replica.faults import as_fatal

        # Whatever happens, a program gets a report, and never an exit code with another meaning.
        fatal = as_fatal(error)
        if "--json" in (sys.argv[1:] if arguments is None else arguments):
            with contextlib.suppress(OSError):
                _report_refusal(fatal)
        return _fail(fatal)


def _fail(error: PairsyncError) -> int:
    sys.stderr.write(f"pairsync: {error.sentence()}\n")
    return error.exit_code


def _report_refusal(error: PairsyncError) -> None:
    """A report for a command line that did not lead to a session."""
    from .model.report import Run, report_json

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    run = Run(run="", started=now, a="", b="", version=__version__, error=error)
    sys.stdout.write(json.dumps(report_json(run)) + "\n")


def _version(options: argparse.Namespace) -> int:
    path, build = _binary()
    if options.json:
        facts = {
            "name": "pairsync",
            "version": __version__,
            "protocol": PROTOCOL,
            "build": build,
            "python": platform.python_version(),
            "path": path,
        }
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        sys.stdout.write(f"pairsync {__version__} (protocol {PROTOCOL}, build {build[:12]})\n")
    return EXIT_DONE


def _binary() -> tuple[str, str]:
    """Path and SHA-256 of the running binary; the build is `source` when it is none."""
    path = sys.argv[0]
    try:
        path = os.path.realpath(path)
        with open(path, "rb") as stream:
            if os.path.basename(path) == "__main__.py":
                return path, "source"
            return path, hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return path, "source"


def _state_home() -> str:
    named = os.environ.get("PAIRSYNC_STATE")
    if named:
        return named
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(
        os.path.expanduser("~"), ".local", "state"
    )
    return os.path.join(state, "pairsync")


def _build_and_state() -> Local:
    from .session.connect import Local

    return Local(_binary()[1], _state_home())


def _raise_limits() -> None:
    # A walk holds one descriptor per level of directories.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else soft, hard))


@contextlib.contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    # A session makes tuples by the hundred thousand that live to its end, and no cycles to speak
    # of; looking for some among them, again and again, costs a sixth of its time.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _session(options: argparse.Namespace) -> int:
    from .frontends.sessions import How, run_pair

    _raise_limits()
    how = How(
        dry_run=options.command == "plan",
        batch=options.batch,
        json=options.json,
        events=options.events,
        confirm=options.confirm,
    )
    with _no_search_for_cycles():
        return run_pair(read_spec(options), how, _build_and_state())


def _agent(options: argparse.Namespace) -> int:
    from .replica.local import LocalReplica
    from .wire.serve import serve

    if options.policy is not None:
        return _confined_agent(options.policy)
    _raise_limits()
    build, state_home = _build_and_state()
    with _no_search_for_cycles():
        serve(0, 1, LocalReplica(build, state_home), build)
    return EXIT_DONE


def _confined_agent(policy_file: str) -> int:
    """What sshd starts for a pair's key, whatever was asked for; that is in the environment."""
    from .replica.policy_file import read_policy

    # Before anything is answered, so that whoever asks for the version hears of a wrong one.
    policy = read_policy(os.fsencode(policy_file))
    asked = os.environ.get("SSH_ORIGINAL_COMMAND", "").split()
    # The path by which a session looks for the binary means nothing here: this one runs already.
    if asked[1:] in (["--version"], ["--version", "--json"]):
        return _version(argparse.Namespace(json=len(asked) == 3))
    if asked[1:] != ["agent"]:
        raise PairsyncError(
            "policy",
            "this key serves pairsync's sessions, and nothing else",
            "use `pairsync sync` on the other host of the pair, or a key of your own",
        )
    from .replica.local import LocalReplica
    from .replica.policed import PolicedReplica
    from .wire.serve import serve

    _raise_limits()
    build = _binary()[1]
    # sshd may let a client set variables: none of them is looked at.
    home = pwd.getpwuid(os.geteuid()).pw_dir
    local = LocalReplica(build, os.path.join(home, ".local", "state", "pairsync"))
    with _no_search_for_cycles():
        serve(0, 1, PolicedReplica(local, policy), build)
    return EXIT_DONE


def _status(options: argparse.Namespace) -> int:
    from .frontends.status import show_status

    return show_status(options.pair, _state_home(), as_json=options.json, max_age=options.max_age)


def _backup(options: argparse.Namespace) -> int:
    from .frontends.history import Asked, run_restore, show_history

    _raise_limits()
    asked = Asked(options.root, options.path, options.run, json=options.json)
    if options.command == "history":
        return show_history(asked)
    return run_restore(replace(asked, to=options.to, wait=options.lock_wait))


def _forget(options: argparse.Namespace) -> int:
    from .frontends.sessions import forget, renew

    if options.new_id:
        renew(options.new_id)
    else:
        forget(read_spec(options), _build_and_state(), batch=options.batch)
    return EXIT_DONE


def _help(options: argparse.Namespace) -> int:
    if options.topic == "errors":
        width = max(map(len, CODES))
        sys.stdout.writelines(f"{code:<{width}}  {meaning}\n" for code, meaning in CODES.items())
    else:
        make_parser().print_help(sys.stdout)
    return EXIT_DONE


_COMMANDS = {
    "sync": _session,
    "plan": _session,
    "status": _status,
    "forget": _forget,
    "history": _backup,
    "restore": _backup,
    "agent": _agent,
    "help": _help,
}
