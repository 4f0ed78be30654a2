# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load an Ansible inventory into this process, for Invoke's tasks.

Ansible reads it, with every plugin, group_vars and template, so that tasks and playbooks see the
same fleet. Loading takes about a quarter of a second, nearly all of it Ansible's imports.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..module_utils.pairsync.model.errors import PairsyncError, UsageError
from .topology import PAIRS_GROUP, pair_from_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .topology import Pair


@dataclass(frozen=True)
class Fleet:
    """An inventory that has been read.

    sources: where from. variables: host name to its variables, templated when they are looked at
    (the `inventory` of reach.pair_spec). hosts: the machines, in inventory order. pairs: round by
    round, empty when the inventory has none. manager: Ansible's InventoryManager.
    """

    sources: tuple[str, ...]
    variables: Mapping[str, Mapping[str, Any]]
    hosts: tuple[str, ...]
    pairs: tuple[Pair, ...]
    manager: Any

    def limited(self, pattern: str) -> tuple[Pair, ...]:
        """Return the pairs that match a pattern of Ansible's `--limit`.

        Raises PairsyncError with the code `unknown_pair` when none does.
        """
        from ansible.errors import AnsibleError

        try:
            names = {host.name for host in self.manager.get_hosts(pattern)}
        except AnsibleError as error:
            raise UsageError(f"the pattern {pattern!r} is malformed: {error}") from error
        found = tuple(pair for pair in self.pairs if pair.name in names)
        if not found:
            raise PairsyncError(
                "unknown_pair",
                f"no pair matches {pattern!r}",
                "patterns look like pairs_with_HOST, tree_NAME or 'HOST+*'",
            )
        return found


def load_fleet(sources: Sequence[str | Path]) -> Fleet:
    """Read inventory directories or files as Ansible does.

    Raises PairsyncError (UsageError): a source that does not exist, a mistake in pairs.yml in its
    own words, anything else in Ansible's words.
    """
    paths = tuple(str(source) for source in sources)
    for path in paths:
        # Ansible would take a missing directory for a host's name and go on with a warning.
        if "," not in path and not Path(path).exists():
            raise UsageError(
                f"there is no inventory {path}",
                "name an existing one with --inventory, or write one with `invoke pairs --add`",
            )
    from ansible.errors import AnsibleError
    from ansible.parsing.dataloader import DataLoader
    from ansible.vars.hostvars import HostVars
    from ansible.vars.manager import VariableManager

    _find_collections()
    loader = DataLoader()
    # The plugin need not make Ansible complain: pair_error is read below.
    loader.reads_pair_error = True
    _unlock(loader)
    manager = _manager(loader, paths)
    try:
        manager.parse_sources()
    except AnsibleError as error:
        raise UsageError(f"the inventory cannot be read: {error}", "correct it") from error
    variables = HostVars(manager, VariableManager(loader=loader, inventory=manager), loader)
    pairs = manager.groups[PAIRS_GROUP].get_hosts() if PAIRS_GROUP in manager.groups else []
    for host in pairs:
        if "pair_error" in host.vars:
            raise UsageError(str(host.vars["pair_error"]))
    names = {host.name for host in pairs}
    return Fleet(
        sources=paths,
        variables=variables,
        hosts=tuple(name for name in manager.hosts if name not in names),
        pairs=tuple(pair_from_variables(host.vars) for host in pairs),
        manager=manager,
    )


def _manager(loader: Any, paths: Sequence[str]) -> Any:
    """Return an InventoryManager that asks our plugin first, with nothing read yet."""
    from ansible.inventory.manager import InventoryManager

    from ..inventory.pairs import InventoryModule

    # Asked first, it also says what is wrong with a pairs.yml that is not even YAML.
    plugin = InventoryModule()
    plugin._load_name = plugin._original_path = plugin.NAME  # noqa: SLF001 - set by Ansible's loader

    class Manager(InventoryManager):  # type: ignore[misc]  # Ansible is untyped
        def _fetch_inventory_plugins(self) -> list[Any]:
            return [plugin, *super()._fetch_inventory_plugins()]

    return Manager(loader=loader, sources=list(paths), parse=False)


def _find_collections() -> None:
    """Let Ansible find plugins in collections, as its own commands do when they start."""
    from ansible.plugins.loader import init_plugin_loader
    from ansible.utils.collection_loader import AnsibleCollectionConfig

    if AnsibleCollectionConfig.collection_finder is not None:
        return
    init_plugin_loader()
    # From here on Ansible imports collections, and refuses one whose package it has not loaded
    # itself. Ours was: its packages are loaded once more; the modules in them stay as they are.
    package = __name__.rpartition(".plugins.")[0]
    parts = package.split(".")
    for count in range(1, len(parts) + 1):
        sys.modules.pop(".".join(parts[:count]), None)
    importlib.import_module(package)


def _unlock(loader: Any) -> None:
    """Give the loader the vault passwords that Ansible's configuration names."""
    from ansible import constants

    if not constants.DEFAULT_VAULT_IDENTITY_LIST and not constants.DEFAULT_VAULT_PASSWORD_FILE:
        return
    from ansible.cli import CLI

    loader.set_vault_secrets(
        CLI.setup_vault_secrets(
            loader,
            vault_ids=list(constants.DEFAULT_VAULT_IDENTITY_LIST or []),
            vault_password_files=[],
            ask_vault_pass=False,
            auto_prompt=False,
        )
    )
