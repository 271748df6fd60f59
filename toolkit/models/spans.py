"""Which frames, or which vectors, each speech segment of a plan stands for."""

from __future__ import annotations

from torch import Tensor

from toolkit.data.example import Batch, pad_frames
from toolkit.encoders.base import EncoderOutput
from toolkit.interleavers.slicing import select_by_time
from toolkit.projectors.base import ProjectorOutput
from toolkit.segments import Segment, Speech


def vector_spans(batch: Batch, projected: ProjectorOutput, cut: bool) -> list[list[Tensor]]:
    """Vectors of the speech segments of every plan, in order, cut out of those of whole clips.

    Parameters
    ----------
    batch : Batch
    projected : ProjectorOutput
        Vectors of the clips; with times where a segment is not a whole clip.
    cut : bool
        Whether segments are parts of the clips they name; without, each has a clip of its own.

    Returns
    -------
    list of list of Tensor (S, D_llm)
        By plan.
    """
    lengths = projected.lengths.tolist()
    speech = []
    for plan, clips in zip(batch.plans, batch.clip_of, strict=True):
        row = []
        for order, segment in enumerate(_speech(plan)):
            clip = clips[segment.audio if cut else order]
            vectors = projected.vectors[clip, : lengths[clip]]
            whole = segment.start == 0.0 and segment.end is None
            if cut and not whole:
                times = projected.times[clip, : lengths[clip]]
                vectors = vectors[select_by_time(times, segment.start, segment.end)]
            row.append(vectors)
        speech.append(row)
    return speech


def frame_spans(batch: Batch, encoded: EncoderOutput, frame_rate: float) -> EncoderOutput | None:
    """Frames of the speech segments of all plans as a batch of their own, one row a segment.

    Parameters
    ----------
    batch : Batch
    encoded : EncoderOutput
        Frames of the clips.
    frame_rate : float
        Frames per second.

    Returns
    -------
    EncoderOutput or None
        Rows of at least one frame, in the order of plans and segments; None without segments.
    """
    lengths = encoded.lengths.tolist()
    cuts = []
    for plan, clips in zip(batch.plans, batch.clip_of, strict=True):
        for segment in _speech(plan):
            clip = clips[segment.audio]
            stop = lengths[clip] if segment.end is None else round(segment.end * frame_rate)
            stop = min(max(stop, 1), lengths[clip])
            start = min(round(segment.start * frame_rate), stop - 1)
            cuts.append(encoded.frames[clip, :, start:stop])
    if not cuts:
        return None
    frames, sizes = pad_frames(cuts)
    return EncoderOutput(frames, sizes.to(frames.device))


def deal(batch: Batch, projected: ProjectorOutput) -> list[list[Tensor]]:
    """Vectors of one row a segment, as `frame_spans` made them, given back to their plans.

    Parameters
    ----------
    batch : Batch
    projected : ProjectorOutput

    Returns
    -------
    list of list of Tensor (S, D_llm)
        By plan.
    """
    kept = projected.lengths.tolist()
    vectors = iter([projected.vectors[i, :n] for i, n in enumerate(kept)])
    return [[next(vectors) for _ in _speech(plan)] for plan in batch.plans]


def _speech(plan: list[Segment]) -> list[Speech]:
    return [segment for segment in plan if isinstance(segment, Speech)]
