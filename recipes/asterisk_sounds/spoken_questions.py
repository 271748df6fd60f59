"""A question that is heard: the prompt's recording, a pause, then the question by synthesis."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from toolkit.data.audio import SAMPLE_RATE, audio_info, read_audio, write_audio
from toolkit.data.manifest import Row
from toolkit.data.synthesis import Take, random_take, synthesise


def telephone_take(seed: int, key: str, held_out: bool) -> Take:
    """A voice drawn for a question, that sounds as the recorded prompts do.

    Parameters
    ----------
    seed : int
    key : str
        Of the question.
    held_out : bool
        A voice that no training utterance has.

    Returns
    -------
    Take
        In the telephone band, without noise, as it stands beside clean recordings.
    """
    take = random_take(seed, key, held_out)
    return replace(take, telephone=True, snr_db=None, level_db=-6.0)


def spoken_question(
    row: Row, folder: Path, seed: int = 0, held_out: bool = False, pause: float = 0.6
) -> Row:
    """A row whose question is heard after the prompt instead of read.

    Parameters
    ----------
    row : Row
        Of `question_rows`.
    folder : Path
        Where the joined audio goes; a file that is there is kept.
    seed : int
        Of the voice.
    held_out : bool
        A voice that no training utterance has.
    pause : float
        Seconds between recording and question.

    Returns
    -------
    Row
        Without ``question``; its text is the transcript and then the question.

    Raises
    ------
    toolkit.data.synthesis.SynthesisError
        Without a synthesiser.
    """
    take = telephone_take(seed, f"question|{row.question}|{row.id}", held_out)
    source = f"{row.audio_key()}|{take}|{row.question}|{pause}"
    path = folder / f"{hashlib.sha256(source.encode()).hexdigest()[:20]}.wav"
    if not path.exists():
        prompt = read_audio(row.audio, row.offset, row.duration)
        gap = np.zeros(round(pause * SAMPLE_RATE), np.float32)
        write_audio(path, np.concatenate([prompt, gap, synthesise(row.question, take)]))
    attributes = {**row.attributes, "question_voice": take.speaker, "spoken_question": row.question}
    return replace(
        row,
        id=f"{row.id}-spoken",
        audio=str(path),
        offset=0.0,
        duration=round(audio_info(path).duration, 4),
        text=f"{row.text} {row.question}",
        words=None,
        question=None,
        asr_text=None,
        translations={},
        attributes=attributes,
    )
