# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run short commands on many inventory hosts at once, through Ansible's own connections.

Whatever the inventory says about a host (connection, address, port, user, password) holds here as
it does for any task. Only commands: no module, no Python on the host.
"""

from __future__ import annotations

import queue
import shlex
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from .parity import UnreachableError, last_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .parity import Run

    Answer = TypeVar("Answer")

WORKERS = 20


def runner(host: str, variables: Mapping[str, Any], *, password: str | None) -> Run:
    """Return a function that runs a command line on HOST in a POSIX shell.

    VARIABLES are the host's; PASSWORD is what the user typed for `--ask-pass`, if anything. The
    function raises UnreachableError.
    """
    from ansible import constants
    from ansible.errors import AnsibleError
    from ansible.playbook.play_context import PlayContext
    from ansible.plugins.loader import connection_loader

    kind = variables.get("ansible_connection") or constants.DEFAULT_TRANSPORT
    context = PlayContext(passwords={"conn_pass": password})
    context.remote_addr = host
    connection = connection_loader.get(kind, context)
    if connection is None:
        raise UnreachableError(f"ansible_connection: there is no connection plugin {kind!r}")
    options = connection.option_definitions.values()
    wanted = [entry["name"] for option in options for entry in option.get("vars") or []]
    connection.set_options(
        task_keys={"timeout": context.timeout, "password": password},
        var_options={name: variables[name] for name in wanted if name in variables},
    )

    def run(command: str) -> tuple[int, str, str]:
        try:
            # Not "sudoable": that would ask for a terminal, in which stderr is lost.
            code, output, errors = connection.exec_command(
                f"/bin/sh -c {shlex.quote(command)}", sudoable=False
            )
        except AnsibleError as error:
            raise UnreachableError(last_line(str(error))) from error
        return code, _text(output), _text(errors)

    return run


def _text(data: bytes | str) -> str:
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else data


def all_at_once(
    questions: Sequence[Callable[[], Answer]], late: Callable[[int], Answer], seconds: float
) -> list[Answer]:
    """Return the answers in the order of QUESTIONS, LATE(index) for those that took too long.

    The threads are daemons: a host that hangs must not keep the play from ending.
    """
    answers: dict[int, Answer] = {}
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(questions)):
        waiting.put(index)

    def work() -> None:
        while True:
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            answers[index] = questions[index]()

    threads = [threading.Thread(target=work, daemon=True) for _question in questions[:WORKERS]]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    done = dict(answers)
    return [done[index] if index in done else late(index) for index in range(len(questions))]
