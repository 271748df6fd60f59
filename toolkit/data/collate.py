"""Examples to batches: prompts rendered, inputs planned, audio read. Runs in loader workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from toolkit.data.audio import SAMPLE_RATE, AudioError, read_audio
from toolkit.data.example import Batch, Example, pad_frames
from toolkit.data.fields import stable_hash
from toolkit.data.transcript import TranscriptUnits
from toolkit.segments import Response, Segment, Speech

if TYPE_CHECKING:
    from toolkit.data.manifest import Row
    from toolkit.interleavers.base import Interleaver
    from toolkit.llms.prompt import Prompt

#: Spans cut out of a waveform are widened to this, one analysis window of a speech encoder.
MIN_CLIP_SECONDS = 0.025
#: What may stand in the audio slot at decoding: the model's input and the controls.
SOURCES = ("speech", "text", "asr", "blank", "shuffled")


class FrameSource(Protocol):
    """Anything that holds encoder frames by content key, such as the feature cache."""

    def get(self, key: str) -> Tensor:
        """Frames (L, T, D) of an audio key."""


@dataclass(frozen=True)
class Skipped:
    """An example left out of a batch.

    Attributes
    ----------
    id : str
    reason : str
        The audio's problem, see `toolkit.data.audio.REASONS`.
    detail : str
    """

    id: str
    reason: str
    detail: str


class NothingReadable(ValueError):
    """No example of a batch has usable audio; ``skipped`` says why.

    Attributes
    ----------
    skipped : list of Skipped
    """

    def __init__(self, skipped: list[Skipped]) -> None:
        self.skipped = skipped
        listed = "; ".join(f"{s.id}: {s.detail}" for s in skipped[:3])
        super().__init__(f"none of {len(skipped)} examples has usable audio ({listed})")

    def __reduce__(self) -> tuple[type, tuple[list[Skipped]]]:
        return type(self), (self.skipped,)


def text_read(example: Example) -> str:
    """What the text branch reads in the audio slot of an example."""
    return example.row.text if example.reads is None else example.reads


def item_rng(seed: int, epoch: int, example_id: str) -> np.random.Generator:
    """The random numbers of an item: its own, whatever its batch, worker or rank.

    Parameters
    ----------
    seed, epoch : int
    example_id : str

    Returns
    -------
    numpy.random.Generator

    Example
    -------
    >>> a, b = item_rng(0, 1, "x"), item_rng(0, 1, "x")
    >>> a.random() == b.random(), a.random() == item_rng(0, 2, "x").random()
    (True, False)
    """
    return np.random.default_rng([seed, epoch, stable_hash(example_id)])


class Collator:
    """Turns examples into a `Batch`.

    Parameters
    ----------
    prompt : Prompt
    interleaver : Interleaver
    tokenizer : transformers.PreTrainedTokenizerBase
        The LLM's.
    cache : FrameSource, optional
        Encoder frames by audio key; waveforms are read where there is none.
    seed : int
        Of the planners' random numbers.
    run_llm : bool
        False for phases without the LLM: no prompt is rendered, no input planned.
    units : TranscriptUnits, optional
        Of the projector: the tokens that losses on the transcript see.

    Raises
    ------
    ValueError
        For a cache together with an interleaver that cuts waveforms.
    """

    def __init__(
        self,
        prompt: Prompt,
        interleaver: Interleaver,
        tokenizer: Any,
        cache: FrameSource | None = None,
        seed: int = 0,
        run_llm: bool = True,
        units: TranscriptUnits | None = None,
    ) -> None:
        if cache is not None and interleaver.cut == "before_encode":
            raise ValueError(
                "the interleaver cuts waveforms before encoding, so whole-clip features are of no "
                "use: set `cache: off`, or `cut: after_project`"
            )
        self.prompt = prompt
        self.interleaver = interleaver
        self.tokenizer = tokenizer
        self.cache = cache
        self.seed = seed
        self.run_llm = run_llm
        self.units = units or TranscriptUnits()

    def __call__(
        self,
        examples: Sequence[Example],
        epochs: int | Sequence[int] = 0,
        progress: float = 0.0,
    ) -> tuple[Batch, list[Skipped]]:
        """Build a training batch of the examples whose audio can be read.

        Parameters
        ----------
        examples : sequence of Example
        epochs : int or sequence of int
            Which visit to each example this is: with the seed and the id it fixes its plan.
        progress : float
            Share of the phase done, for curricula.

        Returns
        -------
        Batch
        list of Skipped
            Examples left out because their audio cannot be used.

        Raises
        ------
        NothingReadable
            When no example is left.
        """
        if isinstance(epochs, int):
            epochs = [epochs] * len(examples)
        batch = Batch(examples=[], plans=[], text_plans=[], clip_of=[])
        clips: list[Tensor] = []
        skipped: list[Skipped] = []
        for example, epoch in zip(examples, epochs, strict=True):
            try:
                plan, text_plan = self.plan(example, epoch, progress)
                own = self._clips(example.row, plan)
            except AudioError as error:
                skipped.append(Skipped(example.id, error.reason, str(error)))
                continue
            batch.examples.append(example)
            batch.plans.append(plan)
            batch.text_plans.append(text_plan)
            batch.clip_of.append(list(range(len(clips), len(clips) + len(own))))
            clips += own
            batch.transcript_ids.append(self.units(self.tokenizer, example.aim))
        if not batch.examples:
            raise NothingReadable(skipped)
        if not clips:
            # Text only, cut before encoding: encoder and projector still get one clip to run on.
            clips = [self._waveform(batch.examples[0].row)]
        self._set_clips(batch, clips)
        return batch, skipped

    def for_decoding(
        self,
        examples: Sequence[Example],
        source: str = "speech",
        donors: Sequence[Row] | None = None,
    ) -> Batch:
        """Build a batch to answer: no transcript (but under ``text`` and ``asr``), no response.

        Parameters
        ----------
        examples : sequence of Example
        source : str
            What stands in the audio slot: ``speech``, the ``text`` that the text branch reads (the
            gold transcript, or `Example.reads`), the recogniser's ``asr`` text, ``blank`` (silence
            of the same length) or ``shuffled`` (another utterance's audio). The last two replace
            the sound alone: a transcript beside the speech stays that of the example.
        donors : sequence of Row, optional
            Under ``shuffled``, whose audio each example gets; the next one's in the batch by
            default.

        Returns
        -------
        Batch

        Raises
        ------
        toolkit.data.audio.AudioError
            For audio that cannot be used: a test item is never left out.
        ValueError
            For an unknown source, a missing ``asr_text``, or nothing to shuffle with.
        """
        if source not in SOURCES:
            raise ValueError(f"source: {source!r} is not one of {', '.join(SOURCES)}")
        rows = [example.row for example in examples]
        if source == "shuffled":
            rows = list(donors) if donors is not None else rows[1:] + rows[:1]
            if any(a.id == b.row.id for a, b in zip(rows, examples, strict=True)):
                raise ValueError("shuffled: an example would get its own audio; give `donors`")
        batch = Batch(list(examples), [], [[] for _ in examples], [[] for _ in examples])
        batch.transcript_ids = [() for _ in examples]
        clips: list[Tensor] = []
        for i, (example, row) in enumerate(zip(examples, rows, strict=True)):
            if source in ("text", "asr"):
                text = text_read(example) if source == "text" else example.row.asr_text
                if text is None:
                    raise ValueError(f"row {example.row.id!r} has no asr_text; annotate it first")
                rendered = self.prompt.render(self.tokenizer, example.fields, text)
                batch.plans.append(list(rendered.as_text()))
                continue
            plan = self.interleaver.at_inference(
                self.prompt, self.tokenizer, example.fields, example.row
            )
            own = self._clips(row, plan, blank=source == "blank")
            batch.plans.append(plan)
            batch.clip_of[i] = list(range(len(clips), len(clips) + len(own)))
            clips += own
        if clips:
            self._set_clips(batch, clips, cached=source != "blank")
        return batch

    def plan(
        self, example: Example, epoch: int = 0, progress: float = 0.0
    ) -> tuple[list[Segment], list[Segment]]:
        """What the LLM reads for an example, and what the text branch reads.

        Parameters
        ----------
        example : Example
        epoch : int
        progress : float

        Returns
        -------
        list of Segment
            Ends with `Response` when the example has a target; empty without the LLM.
        list of Segment
            The prompt with what the text branch reads in the slot; empty without the LLM.
        """
        if not self.run_llm:
            return [], []
        said, read = self.interleaver.slot_text(example.row), text_read(example)
        rendered = self.prompt.render(self.tokenizer, example.fields, said)
        rng = item_rng(self.seed, epoch, example.id)
        plan = list(self.interleaver.plan(rendered, example.row, rng, progress))
        if example.response is not None:
            plan.append(Response(example.response))
        if read != said:
            rendered = self.prompt.render(self.tokenizer, example.fields, read)
        return plan, list(rendered.as_text())

    def _set_clips(self, batch: Batch, clips: list[Tensor], cached: bool = True) -> None:
        if self.cache is not None and cached:
            batch.frames, batch.frame_lengths = pad_frames(clips)
        else:
            batch.wave_lengths = torch.tensor([len(clip) for clip in clips])
            batch.waveforms = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)

    def _waveform(self, row: Row, blank: bool = False) -> Tensor:
        waveform = torch.from_numpy(read_audio(row.audio, row.offset, row.duration))
        return torch.zeros_like(waveform) if blank else waveform

    def _clips(self, row: Row, plan: list[Segment], blank: bool = False) -> list[Tensor]:
        """The row's clip; one per speech segment when the waveform is cut."""
        if self.cache is not None and not blank:
            return [self.cache.get(row.audio_key())]
        if not self.run_llm or self.interleaver.cut != "before_encode":
            return [self._waveform(row, blank)]
        spans = [segment for segment in plan if isinstance(segment, Speech)]
        if not spans:
            return []
        waveform = self._waveform(row, blank)
        return [cut_waveform(waveform, span.start, span.end) for span in spans]


def cut_waveform(waveform: Tensor, start: float, end: float | None) -> Tensor:
    """A stretch of a waveform, at least one analysis window long.

    Parameters
    ----------
    waveform : Tensor (N,), float32
        16 kHz.
    start : float
        Seconds.
    end : float or None
        Seconds; None means to the end.

    Returns
    -------
    Tensor (M,), float32

    Example
    -------
    >>> cut_waveform(torch.zeros(16000), 0.25, 0.5).shape
    torch.Size([4000])
    >>> cut_waveform(torch.zeros(16000), 0.999, None).shape
    torch.Size([400])
    """
    size, least = len(waveform), round(MIN_CLIP_SECONDS * SAMPLE_RATE)
    stop = size if end is None else min(round(end * SAMPLE_RATE), size)
    first = max(0, min(round(start * SAMPLE_RATE), stop - least))
    return waveform[first : max(stop, min(first + least, size))]
