# Copyright: pairsync contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small training directory in two halves, so that a new user's first sync shows something."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CONFIG = {"batch_size": 32, "learning_rate": 0.0001, "model": "transformer", "steps": 40000}

# The size of the two checkpoints' data, in bytes.
_WEIGHTS = 200_000


def fill(trainer: Path, evaluator: Path) -> bool:
    """Create both directories, the trainer's and the evaluator's; leave them alone if one exists.

    Return whether they were created. The same contents every time; only config.json is in both.
    Errors: OSError.
    """
    if trainer.exists() or evaluator.exists():
        return False
    _write(trainer, _trained())
    _write(evaluator, _evaluated())
    return True


def _trained() -> dict[str, bytes]:
    """Return what the host that trains has."""
    files = {
        "config.json": _json(CONFIG),
        "checkpoint": b'model_checkpoint_path: "model.ckpt-32036"\n'
        b'all_model_checkpoint_paths: "model.ckpt-30011"\n'
        b'all_model_checkpoint_paths: "model.ckpt-32036"\n',
        "events.out.tfevents.1534965067.left": _noise("events of left", 20_000),
        "logs/train.log": _log("step {step} loss {value}", 200),
    }
    for step in (30011, 32036):
        name = f"model.ckpt-{step}"
        files[f"{name}.data-00000-of-00001"] = _noise(name, _WEIGHTS)
        files[f"{name}.index"] = _noise(f"{name}.index", 4_000)
        files[f"{name}.meta"] = _noise(f"{name}.meta", 30_000)
    return files


def _evaluated() -> dict[str, bytes]:
    """Return what the host that evaluates has."""
    return {
        "config.json": _json(CONFIG),
        "events.out.tfevents.1534965067.right": _noise("events of right", 8_000),
        "evaluation/accuracy-30011.json": _json({"accuracy": 0.9123, "step": 30011}),
        "logs/evaluate.log": _log("step {step} accuracy {value}", 40),
    }


def _write(root: Path, files: Mapping[str, bytes]) -> None:
    root.mkdir(parents=True)
    for name, contents in files.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(contents)


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _log(line: str, count: int) -> bytes:
    """Return lines that look like a log's."""
    text = (line.format(step=step * 100, value=round(2 / (1 + step), 4)) for step in range(count))
    return "".join(f"{one}\n" for one in text).encode()


def _noise(seed: str, size: int) -> bytes:
    """Return bytes that do not compress, the same for the same seed."""

    def blocks() -> Iterator[bytes]:
        block = seed.encode()
        for _number in range(size // 32 + 1):
            block = hashlib.sha256(block).digest()
            yield block

    return b"".join(blocks())[:size]
