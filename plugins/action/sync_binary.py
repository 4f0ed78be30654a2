# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of sync_binary: build or find the file, say its digest, send it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.pairsync.fleet.plugins.module_utils.installation import digest_of
from ansible_collections.pairsync.fleet.plugins.plugin_utils import binary

MODULE = "pairsync.fleet.sync_binary"


class ActionModule(ActionBase):
    """Hands the module a file that is on the host, and the digest that it must have."""

    TRANSFERS_FILES = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the module's result."""
        result = super().run(tmp, task_vars)
        options = dict(self._task.args)
        with tempfile.TemporaryDirectory(prefix="pairsync-") as temporary:
            if options.get("state", "present") == "present" and not options.get("url"):
                self._source(options, Path(temporary))
            answer = self._execute_module(
                module_name=MODULE, module_args=options, task_vars=task_vars
            )
        return {**result, **answer}

    def _source(self, options: dict[str, Any], temporary: Path) -> None:
        """Set src, checksum and version in OPTIONS; send the file unless nothing is to change."""
        name = options.get("name", "pairsync")
        if options.get("src"):
            source = self._local(options["src"])
            options.setdefault("checksum", digest_of(Path(source)))
        elif name == "pairsync":
            source = str(temporary / "pairsync")
            built = self._build(Path(source))
            if options.setdefault("version", built.version) != built.version:
                raise AnsibleActionFail(
                    f"this collection is pairsync {built.version}, not {options['version']}:"
                    " install that version of the collection, or give the binary in src"
                )
            options["checksum"] = built.digest
        else:
            raise AnsibleActionFail(f"where does {name} come from? Give src, or url and checksum")
        options["src"] = source
        if not self._task.check_mode:
            remote = self._make_tmp_path()
            target = f"{remote.rstrip('/')}/received"
            self._transfer_file(source, target)
            self._fixup_perms2((remote, target))
            options["src"] = target

    def _local(self, src: str) -> str:
        """Return SRC's path on the controller; it may lie in a role's or play's files directory."""
        found = str(self._find_needle("files", str(Path(src).expanduser())))
        if Path(found).is_dir():
            raise AnsibleActionFail(
                f"src is a directory, {found}: give the executable itself or a tar archive of it"
            )
        return found

    def _build(self, out: Path) -> binary.Build:
        """Build this collection's pairsync."""
        try:
            return binary.build(out)
        except binary.BuildError as error:
            raise AnsibleActionFail(str(error)) from error
