# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that are talked to line by line, on this machine."""

from __future__ import annotations

import sys
import time

from ansible_collections.pairsync.fleet.plugins.plugin_utils.remote import LocalProcess, NotThere

ECHO = "import sys\nfor line in sys.stdin: print(line.strip().upper(), flush=True)\n"


def test_lines_go_both_ways():
    process = LocalProcess([sys.executable, "-c", ECHO])
    lines = process.lines()
    process.send("one")
    assert next(lines) == "ONE"
    process.send("two")
    assert next(lines) == "TWO"
    assert process.finish() == 0


def test_a_program_that_fails_says_why():
    code = "import sys; print('noise', file=sys.stderr); sys.exit('the reason')"
    process = LocalProcess([sys.executable, "-c", code])
    assert list(process.lines()) == []
    assert process.finish() == 1
    assert process.last_words() == "the reason"


def test_much_on_stderr_does_not_block_what_is_on_stdout():
    code = "import sys; sys.stderr.write('x' * 1_000_000 + '\\nend\\n'); print('done')"
    process = LocalProcess([sys.executable, "-c", code])
    assert list(process.lines()) == ["done"]
    process.finish()
    assert process.last_words() == "end"


def test_writing_to_a_program_that_has_ended_is_no_error():
    process = LocalProcess([sys.executable, "-c", ""])
    time.sleep(0.2)
    process.send("x" * 100_000)
    assert process.finish() == 0


def test_a_program_can_be_stopped():
    process = LocalProcess([sys.executable, "-c", "import time; time.sleep(60)"])
    process.stop()
    assert process.finish() != 0


def test_a_program_that_is_not_there_ends_like_in_a_shell():
    process = NotThere()
    process.send("{}")
    assert list(process.lines()) == []
    assert process.finish() == 127
