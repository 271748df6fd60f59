"""One training or decoding item, and a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from toolkit.data.manifest import Row
from toolkit.segments import Response, Segment, Speech


@dataclass(frozen=True, slots=True)
class Example:
    """An utterance with what to do about it.

    Attributes
    ----------
    row : Row
        The manifest row: audio, transcript, speaker.
    task : str
        Task name (``"repetition"``, ``"transcription"`` ...): the key of per-task curves and
        scores.
    fields : dict of str to str
        Values of the prompt's fields, ``instruction`` first of all.
    response : tuple of int or None
        Target token ids, end-of-turn token included; None when the phase has no text target
        (embedding pretraining) or at decoding.
    wording : str
        Identifier of the instruction's wording inside its task, e.g. ``"repetition/3"``.
    set_name : str
        The data set of the phase's mixture it came from.
    reads : str, optional
        What the text branch, and the teacher before it, reads in the audio slot: a description, for
        example. The row's transcript where None.
    aims : str, optional
        What losses on the transcript aim at instead of it: a line of the clip's attributes, for
        example.
    """

    row: Row
    task: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    response: tuple[int, ...] | None = None
    wording: str = ""
    set_name: str = ""
    reads: str | None = None
    aims: str | None = None

    @property
    def aim(self) -> str:
        """The text that losses on the transcript aim at."""
        return self.row.text if self.aims is None else self.aims

    @property
    def id(self) -> str:
        """Unique within a phase's data: utterance, task and wording."""
        return "|".join(part for part in (self.row.id, self.wording or self.task) if part)


@dataclass
class Batch:
    """Examples with planned inputs and their audio, either waveforms or cached frames.

    Attributes
    ----------
    examples : list of Example
    plans : list of list of Segment
        What the LLM reads, per example; ends with `Response` when there is a target.
        Empty lists when the phase runs no LLM.
    text_plans : list of list of Segment
        The same prompt with the transcript in the audio slot: what the text branch (teacher) reads.
    waveforms, wave_lengths : Tensor (A, N) float32, Tensor (A,) int64, or None
        16 kHz audio of the ``A`` clips.
    frames, frame_lengths : Tensor (A, L, T, D), Tensor (A,) int64, or None
        Cached encoder frames; exactly one of waveforms and frames is given.
    clip_of : list of list of int
        ``clip_of[i][j]`` is the clip index (row of ``waveforms``/``frames``) of example i's audio j
        (or of its j-th speech segment when the interleaver cuts before encoding).
    transcript_ids : list of tuple of int
        LLM tokens of each transcript, for losses on the transcript (CTC, embedding matching).
    vector_lengths : list of int or None
        Vectors the projector will make of each clip, where a formula knows it before the forward.
    """

    examples: list[Example]
    plans: list[list[Segment]]
    text_plans: list[list[Segment]]
    clip_of: list[list[int]]
    waveforms: Tensor | None = None
    wave_lengths: Tensor | None = None
    frames: Tensor | None = None
    frame_lengths: Tensor | None = None
    transcript_ids: list[tuple[int, ...]] = field(default_factory=list)
    vector_lengths: list[int] | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def ids(self) -> list[str]:
        """Ids of the examples, for messages."""
        return [example.id for example in self.examples]

    def response_tokens(self) -> int:
        """Number of supervised tokens, known before the forward."""
        return sum(
            len(segment.ids)
            for plan in self.plans
            for segment in plan
            if isinstance(segment, Response)
        )

    def transcript_tokens(self) -> int:
        """Number of transcript tokens, known before the forward."""
        return sum(len(ids) for ids in self.transcript_ids)

    def has_speech(self) -> bool:
        """Whether any plan contains speech."""
        return any(isinstance(segment, Speech) for plan in self.plans for segment in plan)

    def to(self, device: str | torch.device) -> Batch:
        """Move the tensors, without waiting for the copies."""
        for name in ("waveforms", "wave_lengths", "frames", "frame_lengths"):
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, tensor.to(device, non_blocking=True))
        return self


def pad_frames(frames: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Right-pad cached frames of several clips.

    Parameters
    ----------
    frames : sequence of Tensor (L, T_i, D)

    Returns
    -------
    Tensor (A, L, max T_i, D)
        Zero beyond each length.
    Tensor (A,), int64

    Example
    -------
    >>> padded, lengths = pad_frames([torch.ones(1, 2, 3), torch.ones(1, 1, 3)])
    >>> tuple(padded.shape), lengths.tolist()
    ((2, 1, 2, 3), [2, 1])
    """
    lengths = torch.tensor([f.shape[1] for f in frames])
    layers, _, dim = frames[0].shape
    padded = frames[0].new_zeros(len(frames), layers, int(lengths.max()), dim)
    for i, f in enumerate(frames):
        padded[i, :, : f.shape[1]] = f
    return padded, lengths
