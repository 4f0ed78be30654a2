# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent behind real pipes in a thread of this process, where tests can reach into it."""

from __future__ import annotations

import contextlib
import os
import threading

from pairsync.model.errors import ProtocolError
from pairsync.replica.local import LocalReplica
from pairsync.wire.frames import FrameReader, FrameWriter
from pairsync.wire.handshake import await_agent, greet
from pairsync.wire.remote import RemoteReplica
from pairsync.wire.serve import serve


class Served(LocalReplica):
    """A replica that is served to one session; says: the descriptor on which it answers."""

    def __init__(self) -> None:
        super().__init__()
        self._reads, self._to_agent = os.pipe()
        self._from_agent, self.says = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with contextlib.suppress(ProtocolError):
            serve(self._reads, self.says, self, "source")

    def _hang_up(self) -> str:
        os.close(self._to_agent)
        self._thread.join(20)
        assert not self._thread.is_alive()
        for fd in (self._reads, self._from_agent, self.says):
            os.close(fd)
        return ""

    def connected(self) -> RemoteReplica:
        """The replica as the session sees it."""
        self._thread.start()
        reader, writer = FrameReader(self._from_agent, "b"), FrameWriter(self._to_agent)
        nonce = "0" * 32
        greet(writer, nonce, "source")
        await_agent(self._from_agent, reader, nonce, "b", "source")
        return RemoteReplica(reader, writer, "b", self._hang_up)
