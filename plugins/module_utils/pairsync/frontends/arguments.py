# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of the command line, and the pair that they name."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from typing import Any

from ..model.errors import UsageError
from ..model.policy import MODES, PREFERENCES, ROUTES
from ..model.spec import PairSpec, ReplicaSpec, parse_location, parse_policy, parse_spec


class _Parser(argparse.ArgumentParser):
    """Usage errors end with our exit code and one sentence."""

    def error(self, message: str) -> Any:
        raise UsageError(message, f"see `{self.prog} --help`")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; it raises UsageError."""
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


def read_spec(options: argparse.Namespace) -> PairSpec:
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
