"""Prepare function and pool of the tiny DeSTA2 recipe: copied beside its YAML, as users' are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from tiny_models import WORD_SECONDS, spoken_rows

from toolkit.data.audio import read_audio, write_audio
from toolkit.data.manifest import write_manifest
from toolkit.teachers import DescriptionPool, InstructionPool

PARTS = {"train": 12, "dev": 4, "test": 4}


def prepare(work: str, nj: int = 1) -> str:
    """Write wavs and three manifests with attributes; the last clip of each part is silence."""
    folder = Path(work, "data", "described").absolute()
    for seed, (part, count) in enumerate(PARTS.items()):
        rows = [
            replace(row, attributes={"gender": ("male", "female")[i % 2], "pitch_hz": 100.0 + i})
            for i, row in enumerate(spoken_rows(folder, count, part, seed))
        ]
        for row in rows:
            # Words end before the next one begins: what never pauses is background.
            wave = read_audio(row.audio).reshape(-1, round(16_000 * WORD_SECONDS))
            wave[:, 2 * wave.shape[1] // 3 :] *= 0.01
            write_audio(row.audio, wave.flatten())
        silent = rows[-1]
        write_audio(silent.audio, np.zeros(round(16_000 * silent.duration), np.float32))
        write_manifest(folder / f"{part}.jsonl", rows)
    return f"{sum(PARTS.values())} utterances"


def pool(prompts: str = "pool", unseen: bool = False) -> InstructionPool:
    """The library's prompts, with no floor: a random LLM describes nothing."""
    tasks = DescriptionPool(prompts, unseen)
    return InstructionPool([replace(task, floor=0.0) for task in tasks])
