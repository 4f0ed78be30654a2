# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error root, and the closed list of codes that a report can carry."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_SKIPPED = 1
EXIT_FAILED = 2
EXIT_FATAL = 3

CODES: dict[str, str] = {
    "usage": "the command line, a pair or a specification is wrong",
    "unknown_pair": "no pair of that name is known",
    "unreachable": "a host could not be reached",
    "host_key": "a host's key is unknown or has changed",
    "auth": "a host accepted none of the keys offered to it",
    "policy": "a host's policy does not allow what a session with this key asked for",
    "binary_missing": "pairsync is not installed on a host",
    "python": "a host has no Python 3.9 or newer",
    "version": "the two hosts run versions that do not understand each other",
    "noise": "a login shell printed text into the connection",
    "root_missing": "a replica's directory is not there",
    "root_not_dir": "a replica's path is not a directory",
    "root_overlap": "the two replicas are the same directory, or one lies inside the other",
    "root_identity": "a replica is not the one that was last synced, or belongs to another user",
    "root_emptied": "a replica has lost all it held",
    "replica_cloned": "two replicas on different file systems carry one id",
    "mass_change": "more would be deleted than the policy allows",
    "locked": "another session holds the pair or the root",
    "space": "a file system is full, or would be",
    "backup_full": "what would be replaced cannot be kept in the backup",
    "protocol": "the peer said something that makes no sense, or stopped talking",
    "interrupted": "the session was interrupted",
    "internal": "a fault in pairsync itself",
}


def printable(text: str) -> str:
    """A text as one line that no terminal, log or line-based reader can misread."""
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable()
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


class PairsyncError(Exception):
    """A fatal error of a session: nothing, or not everything, was done.

    code: one of CODES. message: one sentence, what is wrong and where. next: the safe next step.
    host: the host it happened on, where that is known. Whatever they quote, all are printable.
    """

    exit_code = EXIT_FATAL

    def __init__(self, code: str, message: str, next: str = "", host: str = "") -> None:  # noqa: A002 - the report's own word
        if code not in CODES:
            message, code = f"{message} (unknown error code {code!r})", "internal"
        super().__init__(message)
        self.code = code
        self.message = printable(message)
        self.next = printable(next)
        self.host = printable(host)

    def __str__(self) -> str:
        """The sentence and the next step, as a person reads them."""
        return f"{self.message}; {self.next}" if self.next else self.message

    def sentence(self) -> str:
        """The error with its host, where the message does not name it already."""
        named = not self.host or self.host in self.message
        return str(self) if named else f"{self.host}: {self}"

    def as_json(self) -> dict[str, str | None]:
        """The report's `error` object."""
        return {
            "code": self.code,
            "host": self.host or None,
            "message": self.message,
            "next": self.next or None,
        }


class UsageError(PairsyncError):
    """The command line, a pair or a specification is wrong."""

    def __init__(self, message: str, next: str = "") -> None:  # noqa: A002 - the report's own word
        super().__init__("usage", message, next)


_COMPARE = "run the same command again; if it stays, compare `pairsync --version` on both hosts"


class ProtocolError(PairsyncError):
    """The peer's message breaks the protocol, or does not come."""

    def __init__(self, message: str, host: str = "", step: str = "") -> None:
        """step: what to do next, where it is not about what the peer said."""
        super().__init__(
            "protocol",
            message,
            step or _COMPARE,
            host,
        )


class LinkError(ProtocolError):
    """Nothing comes from the peer, or nothing more."""

    def __init__(self, message: str, host: str) -> None:
        super().__init__(
            message,
            host,
            f"see that {host} runs and can be reached, then run the same command again:"
            " it goes on where this one stopped",
        )
