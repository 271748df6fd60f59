"""Where a run stands: cursor, clock, what was best; saved and found again."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from toolkit.data.example import Example
from toolkit.files import atomic_write
from toolkit.training.checkpoint import (
    EMA,
    OPTIMISER,
    WEIGHTS,
    CheckpointError,
    Checkpoints,
    link,
    load_optimiser,
    load_tensors,
    optimiser_tensors,
    read_state,
    read_tensors,
    rng_state,
    seed_everything,
    set_rng_state,
    trained_tensors,
)
from toolkit.training.distributed import Ranks
from toolkit.training.phase import Phase
from toolkit.training.record import Sums

if TYPE_CHECKING:
    from toolkit.training.brain import SpeechLLMBrain

AVERAGE = "average"


def data_key(examples: Sequence[Example], costs: np.ndarray, phase: Phase) -> str:
    """Hash of what a cursor points into: examples in order, their costs, how they are batched.

    Parameters
    ----------
    examples : sequence of Example
    costs : ndarray (n, 2)
    phase : Phase

    Returns
    -------
    str
    """
    digest = hashlib.sha256(np.ascontiguousarray(costs).tobytes())
    for example in examples:
        digest.update(f"{example.set_name}|{example.id}\n".encode())
    plan = [sorted(phase.data.items()), vars(phase.budget()), phase.accumulation]
    digest.update(json.dumps([*plan, phase.group_by_instruction]).encode())
    return digest.hexdigest()[:16]


class RunState:
    """The part of a run that is not weights.

    Parameters
    ----------
    out_dir : path
    phase : Phase
    ranks : Ranks
    key : str
        `data_key` of the run.

    Attributes
    ----------
    step : int
        Optimiser steps done.
    cursor : (int, int)
        Epoch and window that come next.
    summary : dict
        Of a finished run.
    """

    def __init__(self, out_dir: Path, phase: Phase, ranks: Ranks, key: str) -> None:
        self.out_dir = out_dir
        self.phase = phase
        self.ranks = ranks
        self.key = key
        self.checkpoints = Checkpoints(out_dir / "checkpoints")
        self.step = 0
        self.cursor = (0, 0)
        self.stopped = ""
        self.metrics: dict[str, float] = {}
        self.best: list[dict[str, Any]] = []
        self.validated: list[int] = []
        self.skipped: Counter[str] = Counter()
        self.loaded = self.lost = self.skipped_steps = self.bad_in_a_row = 0
        self.sums: Sums = {}
        self.summary: dict[str, Any] = {}
        self.seen_elapsed = 0.0
        self._elapsed = 0.0
        self._started = self._saved = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether the phase is over."""
        return bool(self.stopped)

    def elapsed(self) -> float:
        """Seconds of the phase on the wall clock, earlier runs included."""
        return self._elapsed + time.monotonic() - self._started

    def save_due(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        return time.monotonic() - self._saved >= self.phase.checkpoint_every_seconds

    def finish_if_done(self) -> None:
        """Mark the phase as over when steps or seconds have run out."""
        limit = self.phase.max_seconds
        if self.step >= self.phase.optimizer_steps:
            self.stopped = "steps"
        elif limit and self.seen_elapsed >= limit:
            # Decided on the time all ranks saw when the step began, so that they stop together.
            self.stopped = "time"

    def note_metrics(self, metrics: Mapping[str, float]) -> None:
        """Remember a validation and rank its step.

        Raises
        ------
        ValueError
            If the phase selects by a metric there is not.
        """
        self.metrics = dict(metrics)
        self.validated.append(self.step)
        name = self.phase.select
        if name not in metrics:
            raise ValueError(
                f"select: no metric {name!r}; the validation gave {', '.join(sorted(metrics))}"
            )
        if math.isfinite(metrics[name]):
            self.best.append({"step": self.step, "value": metrics[name]})
            sign = 1.0 if self.phase.select_mode == "min" else -1.0
            self.best.sort(key=lambda entry: sign * entry["value"])
            del self.best[max(self.phase.keep_best, 1) :]

    def save(self, brain: SpeechLLMBrain) -> None:
        """Write a checkpoint of this step and remove those no longer wanted."""
        generators = self.ranks.gather(rng_state())
        skipped = self.ranks.gather(dict(self.skipped))
        sums = self.ranks.gather([[*key, *value] for key, value in self.sums.items()])
        self._saved = time.monotonic()
        if self.ranks.main:
            tensors = {
                WEIGHTS: self._weights(brain),
                OPTIMISER: optimiser_tensors(brain.optimiser, brain.named),
            }
            if brain.ema is not None:
                tensors[EMA] = brain.ema.tensors
            content = {
                "step": self.step,
                "cursor": self.cursor,
                "elapsed": self.elapsed(),
                "seed": brain.seed,
                "data_key": self.key,
                "metrics": self.metrics,
                "best": self.best,
                "validated": self.validated,
                "loaded": self.loaded,
                "lost": self.lost,
                "skipped_steps": self.skipped_steps,
                "bad_in_a_row": self.bad_in_a_row,
                "generators": generators,
                "skipped": skipped,
                "sums": sums,
            }
            self.checkpoints.save(self.checkpoints.path(self.step).name, tensors, content)
            self._link_best()
            recent = self.validated[-self.phase.average :] if self.phase.average else []
            self.checkpoints.keep([self.step, *(e["step"] for e in self.best), *recent])
        self.ranks.barrier()

    def _weights(self, brain: SpeechLLMBrain) -> dict[str, torch.Tensor]:
        carried = getattr(brain.model, "carried_weights", ())
        return trained_tensors(brain.modules, brain.groups, carried)

    def resume(self, brain: SpeechLLMBrain) -> None:
        """Go back to the newest checkpoint, if there is one.

        Raises
        ------
        CheckpointError
            If seed, data or batching are not the checkpoint's.
        """
        folder = self.checkpoints.last()
        if folder is None:
            return
        saved = read_state(folder)
        for name, now in (("seed", brain.seed), ("data_key", self.key)):
            if saved[name] != now:
                what = "seed" if name == "seed" else "training data or batching"
                raise CheckpointError(
                    f"{folder}: the {what} changed since this checkpoint; use another --tag, or "
                    "remove the folder to train anew"
                )
        load_tensors(brain.model, read_tensors(folder / WEIGHTS), str(folder))
        load_optimiser(brain.optimiser, brain.named, read_tensors(folder / OPTIMISER))
        if brain.ema is not None:
            brain.ema.load(read_tensors(folder / EMA))
        for name in ("step", "metrics", "best", "validated", "loaded", "lost"):
            setattr(self, name, saved[name])
        self.skipped_steps, self.bad_in_a_row = saved["skipped_steps"], saved["bad_in_a_row"]
        self.cursor = tuple(saved["cursor"])
        self._elapsed = self.seen_elapsed = saved["elapsed"]
        # Not the saved word: the phase may have been given more steps or more time since.
        self.finish_if_done()
        self._restore_rank(saved, brain.seed)
        if self.ranks.main:
            self._link_best()
        self.ranks.barrier()
        self._read_summary()

    def _read_summary(self) -> None:
        """Take over the summary of a run that was finished, and still is."""
        path = self.out_dir / "summary.json"
        if self.finished and path.is_file():
            summary = json.loads(path.read_text(encoding="utf-8"))
            if summary["step"] == self.step:
                self.summary = summary

    def _link_best(self) -> None:
        best = self.best[0]["step"] if self.best else self.step
        link(self.out_dir / "best", self.checkpoints.path(best))

    def _restore_rank(self, saved: Mapping[str, Any], seed: int) -> None:
        """This rank's share of the state; on another number of ranks, fresh generators."""
        if len(saved["generators"]) == self.ranks.world:
            set_rng_state(saved["generators"][self.ranks.rank])
        else:
            seed_everything(seed, self.ranks.rank, self.ranks.world, self.step)
        mine = range(self.ranks.rank, len(saved["skipped"]), self.ranks.world)
        self.sums = {}
        for i in mine:
            self.skipped.update(saved["skipped"][i])
            for task, term, total, count in saved["sums"][i]:
                entry = self.sums.setdefault((task, term), [0.0, 0.0])
                entry[0] += total
                entry[1] += count

    def average(self, brain: SpeechLLMBrain) -> None:
        """Write averaged weights, validate them, and prefer them if they are better."""
        if not (self.phase.average or brain.ema is not None):
            return
        own = {name: tensor.clone() for name, tensor in self._weights(brain).items()}
        if brain.ema is not None:
            mean = own | brain.ema.tensors
        else:
            folders = [
                self.checkpoints.path(step) for step in self.validated[-self.phase.average :]
            ]
            mean = average_weights([f for f in folders if f.is_dir()]) or own
        load_tensors(brain.model, mean)
        metrics = brain.evaluate_losses() if brain.validator.sets else {}
        metrics = self.ranks.gather(metrics)[0]
        state = {"step": self.step, "metrics": metrics}
        if self.ranks.main:
            self.checkpoints.save(AVERAGE, {WEIGHTS: mean}, state)
        value = metrics.get(self.phase.select)
        sign = 1.0 if self.phase.select_mode == "min" else -1.0
        better = not self.best or (
            value is not None and sign * value < sign * self.best[0]["value"]
        )
        if better and self.ranks.main:
            link(self.out_dir / "best", self.checkpoints.root / AVERAGE)
        load_tensors(brain.model, own)
        self.ranks.barrier()

    def write_summary(self, examples: int) -> None:
        """Set `summary` and write ``summary.json``."""
        skipped: Counter[str] = Counter()
        for part in self.ranks.gather(dict(self.skipped)):
            skipped.update(part)
        self.summary = {
            "step": self.step,
            "elapsed": self.elapsed(),
            "stopped": self.stopped,
            "metrics": self.metrics,
            "best": self.best[0] if self.best else None,
            "checkpoint": str((self.out_dir / "best").resolve()),
            "skipped": dict(skipped),
            "skipped_steps": self.skipped_steps,
            "examples": examples,
        }
        if self.ranks.main:
            text = json.dumps(self.summary, indent=2, ensure_ascii=False)
            atomic_write(self.out_dir / "summary.json", text.encode("utf-8"))
        self.ranks.barrier()


def average_weights(folders: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Mean of the weights of some checkpoints; whole numbers (vocabularies) are the last one's.

    Parameters
    ----------
    folders : sequence of path

    Returns
    -------
    dict of str to Tensor
        Empty without folders.
    """
    every = [read_tensors(folder / WEIGHTS) for folder in folders]
    if not every:
        return {}
    return {
        name: torch.stack([one[name].double() for one in every]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in every[-1].items()
    }
