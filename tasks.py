# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep directories on a fleet of hosts the same, in both directions.

Each task is a few lines; what it does is in plugins/plugin_utils, mostly in commands.py.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Collection, Exit, task

if TYPE_CHECKING:
    from invoke import Context

ROOT = Path(__file__).resolve().parent

try:
    from ansible_collections.pairsync.fleet.plugins.plugin_utils import commands
except ModuleNotFoundError as missing:
    raise Exit(
        f"pairsync: {missing.name} is not installed for {sys.executable};"
        f" run {shlex.quote(sys.executable)} -m pip install -e {shlex.quote(str(ROOT))}",
        code=3,
    ) from missing

PAIR = "pair to sync, as HOST:HOST (every tree of the two) or its full name; may be repeated"
TREE = "only this tree of the pairs"
LIMIT = "only pairs that match this pattern of Ansible's, for example pairs_with_gpu1"
HOSTS = "only hosts and pairs that match this pattern of Ansible's"
INVENTORY = "inventory; default: $PAIRSYNC_INVENTORY, inventories/site if it exists, else the demo"
AT = "a directory as HOST:PATH, twice; the same as two words right after the task's name"
PREFER = "who wins conflicts: a, b, newer or older; what loses is kept in the backup"
MODE = "two-way, mirror (b becomes a copy of a) or push"
REPLICA = "a replica's directory as HOST:PATH; the same as a word right after the task's name"
HOST = "only replicas on this host"
AS_JSON = "one JSON object per replica"
ROUTE = "direct (host a reaches b), relay (through this machine) or auto"


@task(
    help={
        "host": "one more host, by name or address; its fingerprint is shown",
        "limit": HOSTS,
        "become": "install for all users of the hosts with Ansible's become (sudo)",
        "inventory": INVENTORY,
    }
)
def bootstrap(
    context: Context, host: str = "", limit: str = "", become: bool = False, inventory: str = ""
) -> None:
    """Install the sync binary on every host, link it, and check that all have the same.

    Acts on the hosts of the inventory in use; on the demo's, that is this machine, where it also
    fills two directories to try things with. As root it installs for all users in /usr/bin, else
    for you alone in ~/.local/bin. Run it again to upgrade.
    """
    with commands.told():
        commands.bootstrap(context, host=host, limit=limit, become=become, inventory=inventory)


@task(
    iterable=["pair", "at"],
    help={
        "pair": PAIR,
        "at": AT,
        "tree": TREE,
        "batch": "ask nothing: propagate what is clear, leave conflicts as they are",
        "dry-run": "only show the plan",
        "prefer": PREFER,
        "mode": MODE,
        "route": ROUTE,
        "confirm": "digest of a plan that you have looked at, for what no session does unasked",
        "limit": LIMIT,
        "inventory": INVENTORY,
    },
)
def sync(
    _context: Context,
    pair: Any = None,
    at: Any = None,
    tree: str = "",
    batch: bool = False,
    dry_run: bool = False,
    prefer: str = "",
    mode: str = "",
    route: str = "",
    confirm: str = "",
    limit: str = "",
    inventory: str = "",
) -> None:
    """Bring pairs up to date: show the plan, ask once, propagate.

    invoke sync --pair gpu1:gpu2 runs a session on gpu1, which reaches gpu2 itself, or relays
    through this machine where it cannot. invoke sync gpu1:/data gpu2:/data needs no inventory.
    Without a terminal nobody is asked, as with --batch.

    Ends with 0 when nothing is left to do, 1 when something is in conflict or was skipped, 2 when
    something failed, 3 when a session could not be run or was interrupted.
    """
    policy = {"prefer": prefer, "mode": mode}
    with commands.told():
        options = commands.options(
            dry_run=dry_run, batch=batch, route=route, confirm=confirm, policy=policy
        )
        code = commands.sync(
            options, locations=at, names=pair, tree=tree, limit=limit, inventory=inventory
        )
    if code:
        raise Exit(code=code)


@task(
    iterable=["pair", "at"],
    help={
        "pair": PAIR,
        "at": AT,
        "tree": TREE,
        "prefer": PREFER,
        "mode": MODE,
        "route": ROUTE,
        "limit": LIMIT,
        "inventory": INVENTORY,
    },
)
def plan(
    _context: Context,
    pair: Any = None,
    at: Any = None,
    tree: str = "",
    prefer: str = "",
    mode: str = "",
    route: str = "",
    limit: str = "",
    inventory: str = "",
) -> None:
    """Show what sync would do; change nothing.

    Ends with 0 when there is nothing to do, 1 when something would be done or is in conflict.
    """
    sync(
        _context,
        pair=pair,
        at=at,
        tree=tree,
        dry_run=True,
        prefer=prefer,
        mode=mode,
        route=route,
        limit=limit,
        inventory=inventory,
    )


@task(iterable=["pair"], help={"pair": PAIR, "limit": LIMIT, "inventory": INVENTORY})
def status(_context: Context, pair: Any = None, limit: str = "", inventory: str = "") -> None:
    """Show how old each pair is: when it was last in step, how that ended, what is in conflict."""
    with commands.told():
        code = commands.status(names=pair, limit=limit, inventory=inventory)
    if code:
        raise Exit(code=code)


@task(
    iterable=["pair"],
    help={
        "at": REPLICA,
        "path": "only this path and what lies below it, relative to the replica's directory",
        "run": "only what this run kept",
        "pair": PAIR,
        "tree": TREE,
        "host": HOST,
        "json": AS_JSON,
        "inventory": INVENTORY,
    },
)
def history(
    _context: Context,
    at: str = "",
    path: str = "",
    run: str = "",
    pair: Any = None,
    tree: str = "",
    host: str = "",
    json: bool = False,
    inventory: str = "",
) -> None:
    """Show what the backups of replicas hold: their runs, or the versions of one path.

    invoke history gpu1:/data/model config.json lists the versions of a file on any host that ssh
    knows; invoke history --pair gpu1:gpu2 lists the runs on both hosts of a pair.
    """
    words = [*([path] if path else []), *(["--run", run] if run else [])]
    with commands.told():
        code = commands.backup(
            "history", words, at=at, names=pair, tree=tree, host=host, inventory=inventory,
            as_json=json,
        )  # fmt: skip
    if code:
        raise Exit(code=code)


@task(
    iterable=["pair"],
    help={
        "at": REPLICA,
        "path": "what to bring back, with all that lies below it; without it, a whole run",
        "run": "the run that kept it; default: the newest that did",
        "to": "write copies below this directory of the replica's host instead",
        "pair": PAIR,
        "tree": TREE,
        "host": HOST,
        "json": AS_JSON,
        "inventory": INVENTORY,
    },
)
def restore(
    _context: Context,
    at: str = "",
    path: str = "",
    run: str = "",
    to: str = "",
    pair: Any = None,
    tree: str = "",
    host: str = "",
    json: bool = False,
    inventory: str = "",
) -> None:
    """Bring back what a sync replaced or deleted: a file, a tree, or a whole run.

    invoke restore gpu1:/data/model config.json takes the newest version; invoke history shows the
    others. What it replaces is kept in turn, and the next sync takes the change to the peer.

    Ends with 0 when all is back, 1 when something was left as it is, 2 when something failed.
    """
    given = {"--run": run, "--to": to}
    words = [path] if path else []
    words += [word for flag, value in given.items() if value for word in (flag, value)]
    with commands.told():
        code = commands.backup(
            "restore", words, at=at, names=pair, tree=tree, host=host, inventory=inventory,
            as_json=json,
        )  # fmt: skip
    if code:
        raise Exit(code=code)


@task(help={"limit": HOSTS, "inventory": INVENTORY})
def parity(context: Context, limit: str = "", inventory: str = "") -> None:
    """Check that every host has the same sync binary, also as seen from the pair's other host."""
    with commands.told():
        words = ["--limit", limit] if limit else []
        commands.playbook(context, "parity", words, inventory)


@task(
    iterable=["add"],
    help={
        "add": "HOST:PATH, twice: add this pair to the inventory (inventories/site by default)",
        "tree": "the new pair's tree; default: the name of the first directory",
        "limit": LIMIT,
        "inventory": INVENTORY,
    },
)
def pairs(
    _context: Context, add: Any = None, tree: str = "", limit: str = "", inventory: str = ""
) -> None:
    """List the pairs, or add one: invoke pairs --add gpu1:/data/model gpu2:/data/model.

    The first --add makes inventories/site, which from then on is the inventory in use instead of
    the demo. Hosts are names that ssh knows, or USER@HOST.
    """
    with commands.told():
        if add:
            commands.add_pair(add, tree=tree, inventory=inventory)
        else:
            commands.list_pairs(inventory, limit)


@task(help={"out": "where to write it"})
def build(_context: Context, out: str = "dist/pairsync") -> None:
    """Build the sync binary: one file, the same bytes wherever it is built."""
    with commands.told():
        commands.build(ROOT / out)


@task(
    help={
        "tier": "default, or nightly for the long ones as well",
        "keyword": "only tests whose name matches this expression of pytest's -k",
    }
)
def test(context: Context, tier: str = "default", keyword: str = "") -> None:
    """Install what the tests need where that is possible, and run them."""
    from ansible_collections.pairsync.fleet.plugins.plugin_utils import develop

    develop.test(context, tier=tier, keyword=keyword or None)


@task(help={"only": "only the checkers whose name contains this"})
def lint(context: Context, only: str = "") -> None:
    """Run every checker: style, types, and Ansible's own."""
    from ansible_collections.pairsync.fleet.plugins.plugin_utils import develop

    develop.lint(context, only=only or None)


@task(help={"options": "passed on to the benchmark, for example --options='--help'"})
def bench(context: Context, options: str = "") -> None:
    """Measure pairsync against rsync and Unison, side by side on this machine."""
    with context.cd(shlex.quote(str(ROOT))):
        result = context.run(
            f"{shlex.quote(sys.executable)} -m tests.bench {options}", warn=True, in_stream=False
        )
    if result is None or result.exited:
        raise Exit(code=result.exited if result else 3)


ns = Collection(
    bootstrap, sync, plan, status, history, restore, parity, pairs, build, test, lint, bench
)  # fmt: skip
commands.take_locations()
