"""What one training phase is: what trains, on what, by which losses, for how long."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from toolkit.data.batching import Budget
from toolkit.losses.base import LLM_NEEDS, Loss
from toolkit.losses.measures import Measure

SCHEDULES = ("cosine", "linear", "constant")


@dataclass
class Phase:
    """One phase of a recipe, as declared in its YAML.

    Parameters
    ----------
    trainable : sequence of str
        Modules that train, as paths from the model: ``projector``, ``llm``, ``encoder.layers.3``.
        Of a module with LoRA adapters only the adapters train. Everything else is frozen.
    data : mapping of str to float
        Training sets and their weights in the mixture.
    losses : mapping of str to Loss
    optimizer_steps : int
    lr : float or mapping of str to float
        Peak learning rate, or one per trainable module.
    weight_decay : float
        Of matrices; vectors (biases, gains) are not decayed.
    betas : (float, float)
        Of AdamW.
    warmup_steps : int
        Linear warm-up; no longer than the phase.
    schedule : str
        ``cosine``, ``linear`` or ``constant`` after the warm-up.
    min_lr_ratio : float
        Share of the peak learning rate at the end.
    clip : float, optional
        Largest gradient norm, over all parameter groups together.
    batch_tokens, batch_seconds, batch_items : optional
        Limits of a padded micro-batch: LLM positions, audio seconds, items.
    accumulation : int
        Micro-batches (over all ranks) of an optimiser step.
    group_by_instruction : bool
        Let items of one instruction share batches: a longer constant prefix for the LLM to run
        once.
    validate_every : int
        Optimiser steps between validations.
    validation : sequence of str
        Validation sets; without any, the last checkpoint is the best.
    measures : mapping of str to Measure
        What validations measure beside the losses; logged as ``<set>/<measure>/<quantity>``.
    gradient_norms : bool
        Log the gradient norm of each term of the objective, at one more backward pass a term on
        every step that is logged.
    select : str
        Validation metric that decides what is best, e.g. ``loss``, ``dev/response``, or a name the
        validation hook returns.
    select_mode : str
        ``min`` or ``max``.
    keep_best : int
        Best checkpoints to keep.
    average : int
        Average the weights of this many last checkpoints at the end (0: off).
    ema : float, optional
        Decay of an exponential moving average of the weights, e.g. 0.999.
    checkpoint_every_seconds : float
    max_seconds : float, optional
        Wall-clock budget: the phase stops at a step boundary, and the schedule runs to its end by
        whichever of steps and time runs out first.
    freeze : sequence of str
        Patterns of parameter names inside ``trainable`` that stay frozen.
    start : str, optional
        Of the main phase: folder of a finished phase, of this or another run, whose best weights it
        starts from (``work/exp/<corpus>/<method>/seed1/pretrain``). By default the pretraining of
        its own run, where it has one.
    nonfinite_patience : int
        Consecutive optimiser steps with a non-finite loss or gradient before training is given up.

    Example
    -------
    >>> phase = Phase(["projector"], {"a": 1.0}, {}, optimizer_steps=10, warmup_steps=2)
    >>> [round(phase.lr_factor(step, phase.progress(step)), 2) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    trainable: Sequence[str]
    data: Mapping[str, float]
    losses: Mapping[str, Loss]
    optimizer_steps: int
    lr: float | Mapping[str, float] = 1e-3
    weight_decay: float = 0.01
    betas: Sequence[float] = (0.9, 0.98)
    warmup_steps: int = 0
    schedule: str = "cosine"
    min_lr_ratio: float = 0.0
    clip: float | None = 1.0
    batch_tokens: float | None = None
    batch_seconds: float | None = None
    batch_items: int | None = None
    accumulation: int = 1
    group_by_instruction: bool = False
    validate_every: int = 500
    validation: Sequence[str] = ()
    measures: Mapping[str, Measure] = field(default_factory=dict)
    gradient_norms: bool = False
    select: str = "loss"
    select_mode: str = "min"
    keep_best: int = 1
    average: int = 0
    ema: float | None = None
    checkpoint_every_seconds: float = 600.0
    max_seconds: float | None = None
    freeze: Sequence[str] = field(default_factory=tuple)
    start: str | None = None
    nonfinite_patience: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.trainable, str):
            self.trainable = [self.trainable]
        if not self.trainable:
            raise ValueError("phase: `trainable` is empty; name what trains, e.g. [projector]")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: {self.schedule!r} is not one of {', '.join(SCHEDULES)}")
        if self.select_mode not in ("min", "max"):
            raise ValueError(f"select_mode: {self.select_mode!r} is neither min nor max")
        if self.optimizer_steps < 1 or self.accumulation < 1 or self.validate_every < 1:
            raise ValueError("optimizer_steps, accumulation and validate_every are at least 1")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps: {self.warmup_steps} is negative")
        if self.ema is not None and not 0.0 < self.ema < 1.0:
            raise ValueError(f"ema: {self.ema} is not between 0 and 1")
        if self.ema is not None and self.average:
            raise ValueError("set `average` or `ema`, not both")
        if isinstance(self.lr, Mapping):
            missing = [name for name in self.trainable if name not in self.lr]
            surplus = [name for name in self.lr if name not in self.trainable]
            if missing or surplus:
                raise ValueError(
                    f"lr names {sorted(self.lr)} but trainable is {list(self.trainable)}; "
                    "give one learning rate per trainable module"
                )
        shared = sorted({"loss", *self.losses} & set(self.measures))
        if shared:
            raise ValueError(f"measures: {shared} are names of losses; give the measures others")
        self.budget()

    def budget(self) -> Budget:
        """Limits of a micro-batch; 16 items where the recipe sets none."""
        if self.batch_tokens is None and self.batch_seconds is None and self.batch_items is None:
            return Budget(items=16)
        return Budget(self.batch_tokens, self.batch_seconds, self.batch_items)

    def module_lr(self, name: str) -> float:
        """Peak learning rate of a trainable module."""
        return float(self.lr[name] if isinstance(self.lr, Mapping) else self.lr)

    def progress(self, step: int, elapsed: float = 0.0) -> float:
        """Share of the phase done: by steps or, with a wall-clock budget, by time if that is more.

        Parameters
        ----------
        step : int
            Optimiser steps done.
        elapsed : float
            Seconds of training, earlier runs included.

        Returns
        -------
        float
            In [0, 1].
        """
        share = step / self.optimizer_steps
        if self.max_seconds:
            share = max(share, elapsed / self.max_seconds)
        return min(share, 1.0)

    def lr_factor(self, step: int, progress: float) -> float:
        """Learning rate as a share of its peak.

        Parameters
        ----------
        step : int
            Optimiser steps done before this one.
        progress : float
            Share of the phase done.

        Returns
        -------
        float
        """
        warmup = min(self.warmup_steps, self.optimizer_steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.schedule == "constant":
            return 1.0
        warm = warmup / self.optimizer_steps
        share = min(max((progress - warm) / (1.0 - warm), 0.0), 1.0) if warm < 1.0 else 1.0
        shape = (
            0.5 * (1.0 + math.cos(math.pi * share)) if self.schedule == "cosine" else 1.0 - share
        )
        return self.min_lr_ratio + (1.0 - self.min_lr_ratio) * shape

    def needs(self, progress: float) -> frozenset[str]:
        """What the terms of non-zero weight need computed."""
        active = [loss for loss in self.losses.values() if loss.weight_at(progress) != 0.0]
        return frozenset().union(*(loss.needs for loss in active))

    def trains(self, block: str) -> bool:
        """Whether anything of a block (``encoder``, ``projector``, ``llm``) is trained."""
        return block in {path.partition(".")[0] for path in self.trainable}

    def loads_llm(self) -> bool:
        """Whether more of the LLM is needed than its tokenizer and embedding table."""
        return self.runs_llm() or self.trains("llm")

    def runs_llm(self) -> bool:
        """Whether any term or measure, at any time, needs the LLM's body."""
        measured = frozenset().union(*(measure.needs for measure in self.measures.values()))
        return bool(LLM_NEEDS & measured and self.validation) or any(
            LLM_NEEDS.intersection(loss.needs)
            and (callable(loss.weight) or float(loss.weight) != 0.0)
            for loss in self.losses.values()
        )
