# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a peer may at most send, checked before anything is allocated for it."""

from __future__ import annotations

MOST_FRAME = 2 << 20  # bytes of one frame
MOST_HELLO = 4 << 10  # bytes of the frame by which an end introduces itself
MOST_BULK = 1 << 30  # bytes of binary data kept at a time
UNFOLDED = 16 << 20  # bytes that the paths of any list may come to
MOST_TIMES = 128  # as many bytes as were sent, its paths may come to beyond that
MOST_REPORT = 16 << 20  # bytes of a session's report
MOST_NESTING = 32  # levels of one JSON value
MOST_DIGITS = 24  # of one number in JSON
MOST_NOISE = 64 << 10  # bytes before the handshake that are searched for it
MOST_NAME = 255  # bytes of one path component
MOST_DEPTH = 1024  # components of one path
MOST_TARGET = 4096  # bytes of a symlink's text, or of a reason
MOST_RECORDS = 10_000_000  # entries in one list
MOST_SIZE = (1 << 63) - 1  # bytes of one file; also what SQLite can hold

BEAT_SECONDS = 5.0  # an idle end says that it is alive this often
SILENCE_SECONDS = 60.0  # a peer that says nothing for this long is given up
SLOWEST = 256  # bytes in a second: a frame that has begun must come at this pace
STALL_SECONDS = 3600.0  # a peer that is alive, but takes no frame for this long, is given up
CLOSE_SECONDS = 10.0  # what is queued gets this long to be written when a connection ends
HANDSHAKE_SECONDS = 60.0  # from the start of ssh to a complete hello
