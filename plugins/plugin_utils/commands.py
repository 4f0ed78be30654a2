# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Invoke's tasks do: choose inventory and pairs, run sessions and playbooks, show results.

Sessions themselves are run by runs.py. Errors are PairsyncError; `told` makes them the task's end.
"""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..module_utils import reports
from ..module_utils.pairsync.model.errors import EXIT_FATAL, PairsyncError, UsageError
from . import rendering

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from invoke.context import Context

    from .fleet import Fleet
    from .runs import Options
    from .topology import Pair

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "inventories/local"
SITE = ROOT / "inventories/site"

# Tasks that are about one replica, and may name a path in it.
_OF_ONE = ("history", "restore")

_PAIR_COLUMNS = ("pair", "tree", "a", "b", "mode", "route")


@contextmanager
def told() -> Iterator[None]:
    """Turn an error that explains itself into invoke's way to end: one sentence, exit code 3."""
    from invoke.exceptions import Exit

    try:
        yield
    except PairsyncError as error:
        raise Exit(f"pairsync: {rendering.escape(error)}", code=EXIT_FATAL) from error
    except KeyboardInterrupt as error:
        said = "pairsync: interrupted; run the same command again, it goes on where it stopped"
        raise Exit(said, code=EXIT_FATAL) from error


def take_locations() -> None:
    """Let `invoke sync A B` mean `invoke sync --at A --at B`.

    Invoke knows positional arguments only as required ones. Its program has split the command
    line when it loads the tasks, but not yet understood it: the words are spelled out in between.
    """
    from invoke.main import program

    core = getattr(program, "core", None)
    if core is not None:
        core.unparsed[:] = spelled_out(core.unparsed)


def spelled_out(words: Sequence[str]) -> list[str]:
    """Return a command line with the flags that may be left out before HOST:PATH and PATH.

    They are those right after `sync` or `plan`, the second one after `--add`, and the one right
    after `history` or `restore`, which a path in it may follow.
    """
    result: list[str] = []
    flag = ""
    for index, word in enumerate(words):
        before = words[index - 1] if index else ""
        if before in ("sync", "plan", *_OF_ONE):
            flag = "--at"
        elif index > 1 and words[index - 2] in _OF_ONE and flag and not word.startswith("-"):
            result += ["--path", word]
            flag = ""
            continue
        elif index > 1 and words[index - 2] == "--add":
            flag = "--add"
        if flag and _is_location(word):
            result.append(flag)
        else:
            flag = ""
        result.append(word)
    return result


def _is_location(word: str) -> bool:
    """Say whether a word can only be a directory: no flag and no task looks like that."""
    return not word.startswith("-") and (":" in word or "/" in word or word.startswith((".", "~")))


def options(
    *, dry_run: bool, batch: bool, route: str, confirm: str, policy: Mapping[str, str]
) -> Options:
    """Return what the user asked for; raises UsageError for a word that means nothing."""
    from ..module_utils.pairsync.model.policy import ROUTES
    from ..module_utils.pairsync.model.spec import parse_policy
    from .runs import Options
    from .trees import suggestion

    given = {key: value for key, value in policy.items() if value}
    parse_policy(given)
    if route and route not in ROUTES:
        raise UsageError(
            f"route: {route!r} is not one of {', '.join(ROUTES)}", suggestion(route, ROUTES)
        )
    attended = sys.stdin.isatty()
    if not (attended or batch or dry_run):
        rendering.say("No terminal on standard input: nobody is asked, as with --batch.")
    return Options(
        dry_run=dry_run,
        interactive=attended and not batch,
        route=route,
        confirm=confirm,
        policy=given,
    )


def inventory_in_use(asked: str = "") -> Path:
    """Return the inventory: the one asked for, PAIRSYNC_INVENTORY, the site's own, or the demo."""
    named = asked or os.environ.get("PAIRSYNC_INVENTORY", "")
    if named:
        return Path(named).expanduser().absolute()
    return SITE if SITE.exists() else LOCAL


def load(asked: str = "") -> Fleet:
    """Read the inventory in use; raises PairsyncError."""
    # Before Ansible is imported: it reads its configuration then, and ours knows the collection.
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    from .fleet import load_fleet

    return load_fleet([inventory_in_use(asked)])


def choose(fleet: Fleet, names: Sequence[str], tree: str, limit: str) -> list[Pair]:
    """Return the pairs that are meant, each once; all that the inventory has without any name.

    Raises PairsyncError when there are none.
    """
    from .topology import match_pairs
    from .trees import suggestion

    if not fleet.pairs:
        raise PairsyncError(
            "unknown_pair",
            f"the inventory {fleet.sources[0]} has no pairs",
            "add one with `invoke pairs --add HOST:PATH HOST:PATH`",
        )
    found = {pair.name: pair for pair in fleet.pairs if tree in ("", pair.tree)}
    if names:
        matched = [match_pairs(fleet.pairs, name, tree or None) for name in names]
        found = {pair.name: pair for pairs in matched for pair in pairs}
    if not found:
        known = suggestion(tree, (pair.tree for pair in fleet.pairs))
        raise PairsyncError("unknown_pair", f"no pair has the tree {tree}", known)
    if limit:
        allowed = {pair.name for pair in fleet.limited(limit)}
        found = {name: pair for name, pair in found.items() if name in allowed}
        if not found:
            raise PairsyncError(
                "unknown_pair", f"none of these pairs matches {limit!r}", "see `invoke pairs`"
            )
    return list(found.values())


def sync(
    options: Options,
    *,
    locations: Sequence[str] = (),
    names: Sequence[str] = (),
    tree: str = "",
    limit: str = "",
    inventory: str = "",
) -> int:
    """Run a session for each pair that is meant, show what happened, and return the worst exit.

    locations: two of them instead of pairs of the inventory. Raises PairsyncError before the
    first session only; later errors are rows of the table.
    """
    # Before Ansible is imported, as in load.
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    from .runs import pair_of_locations

    if not locations:
        fleet = load(inventory)
        return _sync(choose(fleet, names, tree, limit), fleet.variables, options)
    if len(locations) != 2 or names:
        raise UsageError(
            "either two directories or pairs of the inventory",
            "write `invoke sync HOST:PATH HOST:PATH` or `invoke sync --pair HOST:HOST`",
        )
    pair, variables = pair_of_locations(*locations)
    return _sync([pair], variables, options)


def _sync(pairs: Sequence[Pair], variables: Mapping[str, Any], options: Options) -> int:
    from .runs import running

    rows = []
    worst = 0
    with running(variables, options) as runner:
        for pair in pairs:
            name = display_name(pair, pairs)
            if len(pairs) > 1:
                rendering.say(f"\n{rendering.escape(name)}")
            report = runner.run(pair)
            code = int(report.get("exit", EXIT_FATAL))
            worst = max(worst, code)
            if code and not (options.dry_run and code == 1):
                text = f"pairsync: {reports.sentence(report)}"
                rendering.say(rendering.escape(text), sys.stderr)
            rows.append(rendering.outcome_row(name, report))
            if runner.left:
                worst = EXIT_FATAL
                break
    rendering.say("")
    rendering.table(rendering.OUTCOME_COLUMNS, rows)
    return worst


def display_name(pair: Pair, pairs: Sequence[Pair]) -> str:
    """Return `a:b`, as people type it, with the tree where the two hosts have several."""
    several = sum(set(one.hosts) == set(pair.hosts) for one in pairs) > 1
    return ":".join(pair.hosts) + (f"@{pair.tree}" if several else "")


def list_pairs(asked: str = "", limit: str = "") -> None:
    """Show the pairs of the inventory in use; raises PairsyncError."""
    fleet = load(asked)
    rows = [
        (
            ":".join(pair.hosts),
            pair.tree,
            f"{pair.a.host}:{pair.a.path}",
            f"{pair.b.host}:{pair.b.path}",
            pair.policy.get("mode", "two-way"),
            pair.route or "auto",
        )
        for pair in choose(fleet, (), "", limit)
    ]
    rendering.say(f"Inventory: {rendering.escape(fleet.sources[0])}\n")
    rendering.table(_PAIR_COLUMNS, rows)


def status(*, names: Sequence[str] = (), limit: str = "", inventory: str = "") -> int:
    """Show how old each pair is; return the worst exit code of their last runs.

    A pair that never ran, or whose host does not answer, counts as 3. Raises PairsyncError.
    """
    from .statuses import STATUS_COLUMNS, statuses

    fleet = load(inventory)
    pairs = choose(fleet, names, "", limit)
    found = [(display_name(pair, pairs), one) for pair, one in statuses(pairs, fleet.variables)]
    rendering.table(STATUS_COLUMNS, [(name, *one.cells()) for name, one in found])
    return max(one.exit for _name, one in found)


def backup(
    command: str,
    words: Sequence[str],
    *,
    at: str = "",
    names: Sequence[str] = (),
    tree: str = "",
    host: str = "",
    inventory: str = "",
    as_json: bool = False,
) -> int:
    """Run `history` or `restore` where the replicas are that are meant; return the exit code.

    words: of the binary's command, after the root. at: one location instead of pairs of the
    inventory. Raises PairsyncError.
    """
    fleet = load(inventory)
    from . import backups

    if not at:
        places = backups.places_of(choose(fleet, names, tree, ""), fleet.variables, host)
    elif names or host or tree:
        raise UsageError(
            "either a directory or a replica of the inventory",
            f"write `invoke {command} HOST:PATH` or `invoke {command} --pair HOST:HOST`",
        )
    else:
        places = [backups.place_at(at, fleet.variables)]
    if command == "restore":
        places = [backups.the_one(places)]
    return backups.run(command, places, words, fleet.variables, as_json=as_json)


def add_pair(locations: Sequence[str], *, tree: str = "", inventory: str = "") -> None:
    """Add a pair to the inventory, the site's own by default, and say what comes next.

    Raises PairsyncError.
    """
    from .pairs_edit import add_pair as add

    if len(locations) != 2:
        raise UsageError(
            "a pair is two directories", "write `invoke pairs --add HOST:PATH HOST:PATH`"
        )
    target = inventory_in_use(inventory)
    if target == LOCAL and not inventory:
        target = SITE
    known = load(str(target)).hosts if target.exists() else ()
    a, b = locations
    added = add(target / "pairs.yml", a, b, tree=tree or None, known=known)
    load(str(target))
    pair = added.name.partition("@")[0].replace("+", ":")
    shown = rendering.escape(target)
    rendering.say(
        f"Added {added.name} to {shown}." if added.changed else f"{shown} has it already."
    )
    suffix = "" if target == inventory_in_use() else f" --inventory {shlex.quote(str(target))}"
    rendering.say(
        f"Next, to install pairsync on its hosts:\n  invoke bootstrap{suffix}\n"
        f"Then, to look at the plan and propagate:\n  invoke sync --pair {pair}{suffix}"
    )


def build(out: Path) -> None:
    """Build the binary to the file out, and show what it is; raises PairsyncError."""
    from .binary import BuildError
    from .binary import build as built_to

    try:
        built = built_to(out)
    except (BuildError, OSError) as error:
        raise UsageError(
            str(error), "run it in a checkout, or choose another file with --out"
        ) from error
    rendering.say(
        f"{built.path}\nversion {built.version}, protocol {built.protocol}\nsha256 {built.digest}"
    )


def fill_demo() -> None:
    """Fill the demo's two directories if neither exists, and say so; raises PairsyncError."""
    from .examples import fill

    for pair in load(str(LOCAL)).pairs:
        a, b = (Path(one.path).expanduser() for one in (pair.a, pair.b))
        try:
            if fill(a, b):
                rendering.say(f"Filled {a} and {b} with a small training directory in two halves.")
        except OSError as error:
            raise UsageError(
                f"the demo's directories cannot be written: {error}", "make room or give the right"
            ) from error


def bootstrap(
    context: Context, *, host: str = "", limit: str = "", become: bool = False, inventory: str = ""
) -> None:
    """Install the sync binary on the hosts of the inventory in use, and check parity.

    host: one more, by name or address; only that one is installed then, unless limit says more.
    """
    source = inventory_in_use(inventory)
    load(inventory)
    words = ["--become"] if become else []
    if source == LOCAL:
        fill_demo()
    if host:
        from .fingerprints import show_fingerprint

        show_fingerprint(host)
        words += ["--inventory", f"{host},"]
        limit = limit or host
    if limit:
        words += ["--limit", limit]
    playbook(context, "bootstrap", words, inventory)


def playbook(context: Context, name: str, words: Sequence[str], inventory: str = "") -> None:
    """Run one of our playbooks on the inventory in use; raises invoke's Exit when it fails."""
    from invoke.exceptions import Exit

    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        str(ROOT / "playbooks" / f"{name}.yml"),
        "--inventory",
        str(inventory_in_use(inventory)),
        *words,
    ]
    environment = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        # The collection is found by what is installed beside the interpreter, too.
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_DEPRECATION_WARNINGS": "false",
    }
    result = context.run(
        shlex.join(command),
        warn=True,
        env=environment,
        # A child that is to colour its output needs a terminal; without ours it gets none.
        pty=sys.stdout.isatty() and sys.stdin.isatty(),
        in_stream=None if sys.stdin.isatty() else False,
    )
    if result is None or result.exited != 0:
        raise Exit(
            f"pairsync: {name} failed; correct what it names above and run it again",
            code=EXIT_FATAL,
        )
