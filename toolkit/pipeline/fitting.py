"""What a projector learns from the training data before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toolkit.data.audio import AudioError, read_audio
from toolkit.data.cache import pad_waves
from toolkit.data.example import Example
from toolkit.data.manifest import Row
from toolkit.data.splits import spread
from toolkit.pipeline.context import RunContext

if TYPE_CHECKING:
    from toolkit.models import SpeechLLM

#: Clips whose frames a projector is fitted to.
FITTED_CLIPS = 200


def fit_projector(
    context: RunContext, model: SpeechLLM, examples: Iterable[Example], frames: bool = True
) -> None:
    """Fit a projector to the texts that losses aim at, and to frames where it asks for them.

    Parameters
    ----------
    context : RunContext
    model : SpeechLLM
    examples : iterable of Example
        Of training; the same ones on every rank.
    frames : bool
        False where weights are loaded that were fitted to frames.
    """
    rows = {
        (e.row.id, e.aim): e.row if e.aims is None else replace(e.row, text=e.aim) for e in examples
    }
    model.projector.fit(list(rows.values()), model.llm.tokenizer)
    if frames and model.projector.fits_frames:
        model.projector.fit_frames(_frames_of(context, model, list(rows.values())))


@torch.no_grad()
def _frames_of(context: RunContext, model: SpeechLLM, rows: list[Row]) -> Iterator[Tensor]:
    """Encoder frames of some training clips, the same ones whatever the order of the rows."""
    cache = context.cache()
    for row in spread(sorted(rows, key=lambda row: row.id), FITTED_CLIPS):
        if cache is not None and not model.encoder.materialised:
            yield cache.get(row.audio_key())
            continue
        try:
            wave = read_audio(row.audio, row.offset, row.duration)
        except AudioError:
            continue  # training counts it by reason
        waves, lengths = pad_waves([wave])
        encoded = model.encoder(waves.to(context.device), lengths.to(context.device))
        yield encoded.frames[0, :, : int(encoded.lengths[0])]
