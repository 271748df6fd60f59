"""From examples to whole accumulation windows of batches, in loader workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from toolkit.data.batching import MicroBatch, WindowSampler
from toolkit.data.collate import Collator, NothingReadable, Skipped
from toolkit.data.example import Batch, Example
from toolkit.data.transcript import transcript_lengths


class Job(NamedTuple):
    """One micro-batch to load, and where it belongs."""

    epoch: int
    window: int
    step: int
    part: int
    parts: int
    picks: MicroBatch
    progress: float


@dataclass
class Window:
    """This rank's batches of an optimiser step.

    Attributes
    ----------
    epoch, window : int
        Cursor of the window.
    step : int
        Optimiser steps done before it.
    batches : list of Batch
        Micro-batches with at least one usable example.
    skipped : list of Skipped
    """

    epoch: int
    window: int
    step: int
    batches: list[Batch] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


class _Batches(Dataset):
    """Collates one job; unreadable audio becomes data, not an exception."""

    def __init__(self, examples: Sequence[Example], collator: Collator) -> None:
        self.examples = examples
        self.collator = collator

    def __getitem__(self, job: Job) -> tuple[Job, Batch | None, list[Skipped]]:
        if not job.picks:
            return job, None, []
        examples = [self.examples[pick.index] for pick in job.picks]
        try:
            batch, skipped = self.collator(examples, [p.visit for p in job.picks], job.progress)
        except NothingReadable as error:
            return job, None, error.skipped
        return job, batch, skipped


class _Jobs:
    """Every micro-batch from a cursor on, for ever; windows without any are one empty job."""

    def __init__(
        self,
        sampler: WindowSampler,
        cursor: tuple[int, int],
        step: int,
        progress: Callable[[int], float],
    ) -> None:
        self.sampler, self.cursor, self.step, self.progress = sampler, cursor, step, progress

    def __iter__(self) -> Iterator[Job]:
        walk = self.sampler.walk(*self.cursor)
        for step, (epoch, window, micro) in enumerate(walk, start=self.step):
            progress = self.progress(step)
            for part, picks in enumerate(micro or [[]]):
                yield Job(epoch, window, step, part, max(len(micro), 1), picks, progress)


def _worker_init(_: int) -> None:
    # The main process decides when to stop; a queue's signal reaches the whole process group.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS cannot tell who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)


def _obey(parent: int) -> None:
    """Leave when the main process says so: at its end it waits for the workers it terminates."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _loader(examples: Sequence[Example], collator: Collator, jobs: Any, workers: int) -> DataLoader:
    return DataLoader(
        _Batches(examples, collator),
        sampler=jobs,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_worker_init,
        # Its own generator: starting a loader must not draw from training's random numbers.
        generator=torch.Generator().manual_seed(0),
    )


def train_windows(
    examples: Sequence[Example],
    collator: Collator,
    sampler: WindowSampler,
    cursor: tuple[int, int],
    step: int,
    progress: Callable[[int], float],
    workers: int = 0,
) -> Iterator[Window]:
    """Whole windows of batches, for ever.

    Parameters
    ----------
    examples : sequence of Example
        All examples, numbered as the sampler numbers them.
    collator : Collator
    sampler : WindowSampler
    cursor : (int, int)
        Epoch and window to start at.
    step : int
        Optimiser steps done.
    progress : callable
        Step to share of the phase done, for curricula. Asked when a step's batches are planned,
        which loader processes do some steps ahead.
    workers : int
        Loader processes.

    Yields
    ------
    Window
    """
    window = None
    for job, batch, skipped in _loader(
        examples, collator, _Jobs(sampler, cursor, step, progress), workers
    ):
        if job.part == 0:
            window = Window(job.epoch, job.window, job.step)
        if batch is not None:
            window.batches.append(batch)
        window.skipped += skipped
        if job.part == job.parts - 1:
            yield window


def fixed_batches(
    examples: Sequence[Example], collator: Collator, plan: Sequence[MicroBatch], workers: int = 0
) -> Iterator[tuple[Batch | None, list[Skipped]]]:
    """The batches of a fixed plan, once, with the curriculum at its end."""
    jobs = [Job(0, i, 0, 0, 1, picks, 1.0) for i, picks in enumerate(plan)]
    for _, batch, skipped in _loader(examples, collator, jobs, workers):
        yield batch, skipped


def note_vectors(model: Any, batch: Batch) -> None:
    """Set ``batch.vector_lengths`` where the projector's lengths follow from the clips' lengths.

    Parameters
    ----------
    model : object
        With ``encoder.output_lengths`` and ``projector.output_lengths``.
    batch : Batch
        Still on the host: no device is waited for.
    """
    if not getattr(model.projector, "exact_lengths", False):
        return
    frames = batch.frame_lengths
    if frames is None:
        frames = model.encoder.output_lengths(batch.wave_lengths)
    batch.vector_lengths = model.projector.output_lengths(frames).tolist()


def example_costs(model: Any, collator: Collator, examples: Sequence[Example]) -> np.ndarray:
    """What each example costs: LLM positions (an upper bound) and audio seconds.

    Positions are the prompt around the slot, the transcript (text a planner may put in the slot,
    and targets of transcript losses), the most vectors the projector makes of the clip, and the
    response.

    Parameters
    ----------
    model : object
        With ``encoder.output_lengths`` and ``projector.max_output_length``.
    collator : Collator
    examples : sequence of Example

    Returns
    -------
    ndarray (n, 2), float64
    """
    seconds = np.array([example.row.duration for example in examples], dtype=float)
    rate = model.encoder.sample_rate
    samples = torch.from_numpy(np.maximum(np.round(seconds * rate), 1).astype(np.int64))
    vectors = model.projector.max_output_length(model.encoder.output_lengths(samples))
    tokens = np.asarray(vectors.cpu(), dtype=float)
    prompts: dict[tuple, int] = {}
    read = collator.interleaver.slot_text if collator.run_llm else lambda _: None
    slots = [read(example.row) or "" for example in examples]
    # All texts at once: a call of the tokenizer for each takes most of a large corpus's start.
    own = (example.aim for example in examples)
    different = list(dict.fromkeys(chain.from_iterable(zip(own, slots, strict=True))))
    lengths = transcript_lengths(collator.tokenizer, different)
    texts = dict(zip(different, lengths, strict=True))
    for i, (example, slot) in enumerate(zip(examples, slots, strict=True)):
        tokens[i] += max(texts[example.aim], texts[slot])
        if not collator.run_llm:
            continue
        key = tuple(sorted(example.fields.items()))
        if key not in prompts:
            rendered = collator.prompt.render(collator.tokenizer, example.fields, None)
            first, last = rendered.slot
            prompts[key] = len(rendered.ids) - (last - first)
        tokens[i] += prompts[key] + len(example.response or ())
    return np.stack([tokens, seconds], axis=1)
