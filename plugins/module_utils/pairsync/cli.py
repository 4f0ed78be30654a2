# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: arguments, exit codes, and the only place that reads the environment."""

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
from typing import TYPE_CHECKING, Any, Optional

from . import PROTOCOL, __version__
from .model.errors import CODES, EXIT_DONE, EXIT_FATAL, PairsyncError, UsageError
from .model.policy import MODES, PREFERENCES, ROUTES
from .model.spec import PairSpec, ReplicaSpec, parse_location, parse_policy, parse_spec

if TYPE_CHECKING:
    # Loaded by the commands that need it: `--version` must not wait for SQLite and ssh.
    from .session.connect import Local


class _Parser(argparse.ArgumentParser):
    """Usage errors end with our exit code and one sentence."""

    def error(self, message: str) -> Any:
        raise UsageError(message, f"see `{self.prog} --help`")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command; return its exit code."""
    try:
        parser = _parser()
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pairsync", description="Keep pairs of directories the same, in both directions."
    )
    parser.add_argument("--version", action="store_true", help="print version, protocol and build")
    parser.add_argument("--json", action="store_true", help="with --version: as one JSON object")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    sync = commands.add_parser("sync", help="run one session over a pair")
    _session_options(sync)
    plan = commands.add_parser("plan", help="show what sync would do, and write nothing")
    _session_options(plan)
    status = commands.add_parser(
        "status", help="age, conflicts and last run of every pair known here"
    )
    status.add_argument("pair", nargs="?", default="", help="a pair's id or a replica's root")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.add_argument(
        "--max-age", type=int, metavar="SECONDS", help="exit 1 when a pair is older"
    )
    forget = commands.add_parser(
        "forget", help="drop what a pair agreed on: its next run deletes nothing"
    )
    forget.add_argument("a", nargs="?", default="", metavar="A")
    forget.add_argument("b", nargs="?", default="", metavar="B")
    forget.add_argument(
        "--spec", metavar="FILE", help="the pair as JSON (pairsync.spec/1); - is stdin"
    )
    forget.add_argument(
        "--new-id", metavar="ROOT", help="give a copied replica on this host its own id"
    )
    forget.add_argument("--batch", action="store_true", help="never ask")
    agent = commands.add_parser("agent", help="serve one replica on standard input and output")
    agent.add_argument(
        "--policy", metavar="FILE", help="as the forced command of a key: what it may do here"
    )
    _backup_options(commands)
    explain = commands.add_parser("help", help="explain: `help errors` lists the error codes")
    explain.add_argument("topic", nargs="?", default="", choices=("", "errors"))
    return parser


def _backup_options(commands: Any) -> None:
    history = commands.add_parser("history", help="what a replica's backup holds")
    restore = commands.add_parser("restore", help="bring back what a run replaced or deleted")
    for parser in (history, restore):
        parser.add_argument("root", metavar="ROOT", help="the replica's directory on this host")
        parser.add_argument(
            "path", nargs="?", metavar="PATH", help="below ROOT; with all that lies below it"
        )
        parser.add_argument("--run", default="", metavar="RUN", help="only this run's versions")
        parser.add_argument("--json", action="store_true", help="as one JSON object")
    restore.add_argument(
        "--to", default="", metavar="DIR", help="write copies there, and overwrite nothing"
    )
    restore.add_argument(
        "--lock-wait", type=int, default=60, metavar="SECONDS",
        help="for a holder without progress (default 60)",
    )  # fmt: skip


def _session_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "a", nargs="?", default="", metavar="A", help="PATH, HOST:PATH or ssh://HOST//PATH"
    )
    parser.add_argument("b", nargs="?", default="", metavar="B")
    parser.add_argument(
        "--spec", metavar="FILE", help="the pair as JSON (pairsync.spec/1); - is stdin"
    )
    parser.add_argument("--batch", action="store_true", help="never ask; leave conflicts")
    parser.add_argument(
        "--json", action="store_true", help="one report on stdout, all else on stderr"
    )
    parser.add_argument(
        "--events", action="store_true", help="events as JSON lines on stdout, answers on stdin"
    )
    parser.add_argument("--mode", choices=MODES, help="two-way (default), mirror or push")
    parser.add_argument("--prefer", choices=PREFERENCES, help="who wins a conflict")
    parser.add_argument(
        "--ignore",
        action="append",
        metavar="SPEC",
        help="Name, Path, BelowPath or Regex; repeatable",
    )
    parser.add_argument(
        "--path", action="append", metavar="P", help="only this subtree; repeatable"
    )
    parser.add_argument(
        "--confirm", default="", metavar="DIGEST", help="the plan that was approved"
    )
    parser.add_argument(
        "--no-backup", action="store_true", help="keep what is displaced only until the next run"
    )
    parser.add_argument(
        "--max-delete", type=int, metavar="PERCENT", help="brake on deletions (default 50)"
    )
    parser.add_argument(
        "--lock-wait",
        type=int,
        metavar="SECONDS",
        help="for a holder without progress (default 60)",
    )
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="give up after this long")
    parser.add_argument(
        "--route", choices=ROUTES, help="where the session of two remote hosts runs"
    )


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


def _read_spec(options: argparse.Namespace) -> PairSpec:
    """The pair: from --spec, or from two locations, with the policy options on top."""
    if options.spec:
        if options.a or options.b:
            raise UsageError("a pair is named by --spec and by locations", "use one of the two")
        spec = parse_spec(_load_json(options.spec))
    else:
        if not options.a or not options.b:
            raise UsageError(
                "two replicas are expected", "write `pairsync sync A B`, or use --spec"
            )
        spec = PairSpec(a=_location(options.a), b=_location(options.b))
    if not hasattr(options, "mode"):
        return spec
    given: dict[str, Any] = {
        "mode": options.mode,
        "prefer": options.prefer,
        "paths": options.path,
        "max_delete": options.max_delete,
        "lock_wait": options.lock_wait,
        "timeout": options.timeout,
        "backup": {"enabled": False} if options.no_backup else None,
    }
    if options.ignore:
        given["ignore"] = [*spec.policy.ignore, *options.ignore]
    set_here = {key: value for key, value in given.items() if value is not None}
    checked = parse_policy(set_here)
    policy = replace(spec.policy, **{key: getattr(checked, key) for key in set_here})
    unattended = options.spec or options.batch or not sys.stdin.isatty()
    return replace(
        spec, policy=policy, route=options.route or (spec.route if unattended else "auto")
    )


def _location(text: str) -> ReplicaSpec:
    place = parse_location(text)
    if not place.local:
        return place
    try:
        return replace(place, path=os.path.abspath(os.path.expanduser(place.path)))
    except FileNotFoundError as error:
        raise UsageError(
            f"{place.root} is relative to the working directory, which has been deleted",
            "change to a directory that exists, or write an absolute path",
        ) from error


def _load_json(name: str) -> Any:
    try:
        if name == "-":
            return _first_object()
        with open(name, encoding="utf-8") as stream:
            return json.loads(stream.read())
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{name} is not JSON: {error}") from error


def _first_object() -> Any:
    """The JSON at the start of standard input, on one line or many; answers may follow it."""
    text = ""
    while True:
        line = sys.stdin.readline()
        text += line
        try:
            return json.loads(text)
        except ValueError:
            if not line:
                raise


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
        return run_pair(_read_spec(options), how, _build_and_state())


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
        forget(_read_spec(options), _build_and_state(), batch=options.batch)
    return EXIT_DONE


def _help(options: argparse.Namespace) -> int:
    if options.topic == "errors":
        width = max(map(len, CODES))
        sys.stdout.writelines(f"{code:<{width}}  {meaning}\n" for code, meaning in CODES.items())
    else:
        _parser().print_help(sys.stdout)
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
