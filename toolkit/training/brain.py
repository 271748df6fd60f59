"""The training loop: whole windows, exact resume, no waiting for the device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import speechbrain
import torch
from speechbrain import Stage
from torch import Tensor

from toolkit.data.collate import Collator
from toolkit.data.example import Batch, Example
from toolkit.losses.base import LossInput
from toolkit.training.checkpoint import load_trained, preserved_rng, seed_everything
from toolkit.training.curves import draw_curves
from toolkit.training.distributed import Ranks
from toolkit.training.hooks import Hooks
from toolkit.training.loader import Window, note_vectors, train_windows
from toolkit.training.mixture import mix
from toolkit.training.monitor import Monitor
from toolkit.training.optimisation import (
    MovingAverage,
    build_optimiser,
    check_text_branch,
    clip_gradients,
    model_modules,
    parameter_table,
    select_trainable,
    set_learning_rate,
    set_modes,
)
from toolkit.training.phase import Phase
from toolkit.training.record import Journal, count_by_task
from toolkit.training.run_state import RunState, data_key
from toolkit.training.signals import REQUEUE_EXIT, StopRequest
from toolkit.training.term_gradients import TermGradients
from toolkit.training.validation import Validator


class SpeechLLMBrain(speechbrain.Brain):
    """Trains one phase; started again it goes on where it was.

    Keeps SpeechBrain's shape (`compute_forward`, `compute_objectives`, stages, run options) with a
    loop of its own, in which:

    - an optimiser step is a window of micro-batches; every term is divided by its count over the
      whole window, all ranks included, so the gradient does not depend on how items fall into
      micro-batches;
    - gradients are clipped over all parameter groups together and summed over ranks once per
      window;
    - losses stay on the device until they are logged;
    - frozen modules stay in evaluation mode, trained parameters are float32;
    - a checkpoint holds everything that decides what follows: killed and resumed, a run gives the
      losses it would have given.

    Parameters
    ----------
    model : object
        With modules ``encoder``, ``projector``, ``llm`` (materialised, data-dependent settings
        fitted) and ``forward(batch, needs, progress) -> LossInput``.
    phase : Phase
    train_examples, valid_examples : dict of str to list of Example
        By set name.
    collator : Collator
    out_dir : path
        ``checkpoints/``, ``best`` (a link), logs, curves and ``summary.json`` go here.
    seed : int
    precision : str
        ``fp32``, or ``bf16`` for autocast.
    num_workers : int
        Loader processes.
    log_every : int
        Optimiser steps between log lines.
    hooks : Hooks, optional
    progress_bar : bool
    """

    def __init__(
        self,
        model: Any,
        phase: Phase,
        train_examples: Mapping[str, list[Example]],
        valid_examples: Mapping[str, list[Example]],
        collator: Collator,
        out_dir: str | Path,
        seed: int,
        precision: str = "fp32",
        num_workers: int = 0,
        log_every: int = 10,
        hooks: Hooks | None = None,
        progress_bar: bool = True,
    ) -> None:
        if not phase.losses:
            raise ValueError("phase: `losses` is empty; name at least one loss")
        self.model = model
        self.phase = phase
        self.collator = collator
        self.out_dir = Path(out_dir)
        self.seed = seed
        self.num_workers = num_workers
        self.log_every = log_every
        self.hooks = hooks
        self.progress_bar = progress_bar
        modules = model_modules(model)
        self.groups = select_trainable(modules, phase)
        check_text_branch(self.groups, phase)
        self.named = [pair for named in self.groups.values() for pair in named]
        self.parameters = [parameter for _, parameter in self.named]
        self.ranks = Ranks(self.parameters[0].device)
        self.mixture = mix(train_examples, phase, model, collator, seed, self.ranks)
        self.table = parameter_table(modules, self.groups)
        super().__init__(
            modules=modules,
            run_opts={
                "device": str(self.parameters[0].device),
                "precision": precision,
                "eval_precision": precision,
            },
        )
        self.optimiser = build_optimiser(self.groups, phase)
        self.ema = MovingAverage(self.named, phase.ema) if phase.ema else None
        self.validator = Validator(
            model, valid_examples, phase.losses, collator, phase.budget(), self.ranks, num_workers,
            phase.measures,
        )  # fmt: skip
        self.current_progress = 0.0
        self.term_gradients: TermGradients | None = None

    def print_trainable_parameters(self) -> None:
        """Print and save the table of parameters."""
        if self.ranks.main:
            print(self.table, flush=True)
            self.out_dir.mkdir(parents=True, exist_ok=True)
            (self.out_dir / "parameters.txt").write_text(self.table + "\n", encoding="utf-8")

    def compute_forward(self, batch: Batch, stage: Stage) -> LossInput:
        """What the losses of non-zero weight need.

        Parameters
        ----------
        batch : Batch
        stage : speechbrain.Stage

        Returns
        -------
        LossInput
        """
        valid = stage != Stage.TRAIN
        progress = 1.0 if valid else self.current_progress
        needs = self.validator.needs if valid else self.phase.needs(progress)
        return self.model.forward(batch, needs, progress)

    def compute_objectives(
        self, predictions: LossInput, batch: Batch, stage: Stage
    ) -> dict[str, Tensor]:
        """Per-example sums of every term of non-zero weight.

        Parameters
        ----------
        predictions : LossInput
        batch : Batch
        stage : speechbrain.Stage

        Returns
        -------
        dict of str to Tensor (B,)
        """
        progress = 1.0 if stage != Stage.TRAIN else self.current_progress
        return {
            name: loss(predictions)
            for name, loss in self.phase.losses.items()
            if loss.weight_at(progress) != 0.0
        }

    def fit(self) -> dict[str, Any]:
        """Train to the end of the phase, resuming from the newest checkpoint.

        Returns
        -------
        dict
            ``step``, ``elapsed`` (s), ``stopped`` (``steps`` or ``time``), ``metrics`` (of the last
            validation), ``best`` and ``checkpoint`` (folder of the weights to use), ``skipped`` (by
            reason), ``skipped_steps`` (non-finite), ``examples``. Also in ``summary.json``.

        Raises
        ------
        SystemExit
            With `REQUEUE_EXIT` after SIGTERM or SIGUSR1, a checkpoint written.
        TrainingDiverged
            After ``nonfinite_patience`` steps in a row.
        """
        seed_everything(self.seed, self.ranks.rank)
        key = data_key(self.mixture.examples, self.mixture.costs, self.phase)
        self.state = RunState(self.out_dir, self.phase, self.ranks, key)
        self.state.resume(self)
        if self.state.summary:
            load_trained(self.out_dir / "best", self.model)
            return self.state.summary
        self.journal = Journal(self.out_dir, self.state.step, self.ranks.rank)
        self.monitor = Monitor(self.state, self.journal, self.log_every)
        try:
            with StopRequest() as stop:
                self._train(stop)
            self._finish()
        finally:
            self.journal.close()
        return self.state.summary

    def _train(self, stop: StopRequest) -> None:
        from tqdm import tqdm

        state, phase = self.state, self.phase
        self.norm = torch.zeros((), device=self.device)
        set_modes(self.modules, self.groups, True)
        windows = train_windows(
            self.mixture.examples, self.collator, self.mixture.sampler, state.cursor, state.step,
            lambda step: phase.progress(step, state.seen_elapsed), self.num_workers,
        )  # fmt: skip
        bar = tqdm(
            total=phase.optimizer_steps, initial=state.step, unit="step", dynamic_ncols=True,
            disable=not (self.progress_bar and self.ranks.main),
        )  # fmt: skip
        # Closing ends the loader's workers, however the loop is left.
        with bar, closing(windows):
            while not state.finished:
                window = next(windows)
                save, halt = self.fit_window(window, stop)
                state.step += 1
                state.cursor = self.mixture.sampler.after(window.epoch, window.window)
                state.finish_if_done()
                bar.update()
                log = state.step % self.log_every == 0 or state.finished
                # Looking costs nothing where there is no device to wait for.
                if log or save or halt or self.device_type == "cpu":
                    self.monitor.inspect(self.rates, self.norm, bar, log)
                if state.step % phase.validate_every == 0 or state.finished:
                    save |= self._validate()
                if save or halt or state.finished:
                    state.save(self)
                if hasattr(self.hooks, "on_step"):
                    self.hooks.on_step(state.step)
                if halt and not state.finished:
                    raise SystemExit(REQUEUE_EXIT)
        windows.close()

    def fit_window(self, window: Window, stop: StopRequest) -> tuple[bool, bool]:
        """One optimiser step.

        Parameters
        ----------
        window : Window
            This rank's micro-batches.
        stop : StopRequest

        Returns
        -------
        bool
            Whether a checkpoint is due by time.
        bool
            Whether a rank was told to stop.
        """
        state, phase = self.state, self.phase
        for batch in window.batches:
            note_vectors(self.model, batch)
        by_task = [count_by_task(phase.losses, batch) for batch in window.batches]
        local = {
            name: sum(terms[name] for tasks in by_task for terms in tasks.values())
            for name in phase.losses
        }
        main = float(self.ranks.main)
        elapsed, due, halt, loaded, lost, *shared = self.ranks.sum(
            [
                main * state.elapsed(),
                main * state.save_due(),
                stop.requested,
                sum(len(batch) for batch in window.batches),
                len(window.skipped),
                *local.values(),
            ]
        )
        counts = dict(zip(local, shared, strict=True))
        self.monitor.note_window(window, int(loaded), int(lost), len(self.mixture.examples))
        progress = self.current_progress = phase.progress(state.step, elapsed)
        state.seen_elapsed = elapsed
        self.rates = set_learning_rate(self.optimiser, phase.lr_factor(state.step, progress))
        if loaded:
            self.optimiser.zero_grad(set_to_none=True)
            apart = phase.gradient_norms and (state.step + 1) % self.log_every == 0
            self.term_gradients = TermGradients(phase.losses, self.parameters) if apart else None
            total = torch.zeros((), device=self.device)
            for batch, tasks in zip(window.batches, by_task, strict=True):
                total += self.fit_batch(batch, tasks, counts)
            if self.term_gradients is not None:
                self.monitor.term_norms = self.term_gradients.norms(self.ranks)
            self._update(total)
        return bool(due), bool(halt)

    def fit_batch(
        self, batch: Batch, tasks: Mapping[str, Mapping[str, int]], counts: Mapping[str, float]
    ) -> Tensor:
        """Add a micro-batch's share of the window's gradient.

        Parameters
        ----------
        batch : Batch
        tasks : mapping of str to mapping of str to int
            The batch's counts by task and term.
        counts : mapping of str to float
            The window's counts by term, all ranks included.

        Returns
        -------
        Tensor ()
            The weighted loss, no gradient.
        """
        with self.training_ctx:
            predictions = self.compute_forward(batch.to(self.device), Stage.TRAIN)
            values = self.compute_objectives(predictions, batch, Stage.TRAIN)
        loss = torch.zeros((), device=self.device)
        for name, value in values.items():
            if counts[name]:
                weight = self.phase.losses[name].weight_at(self.current_progress)
                share = weight / counts[name] * value.float().sum()
                if self.term_gradients is not None:
                    self.term_gradients.add(name, share)
                loss = loss + share
        if loss.requires_grad:
            loss.backward()
        self.monitor.record.add(self.state.step + 1, values, batch, tasks)
        return loss.detach()

    def _update(self, total: Tensor) -> None:
        """Sum gradients over ranks, clip, step; a non-finite step is left out on the device."""
        total = self.ranks.sum_gradients(self.parameters, total)
        self.norm = clip_gradients(self.parameters, self.phase.clip)
        bad = (~torch.isfinite(self.norm + total)).float()
        self.optimiser.found_inf = bad
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update()
        self.monitor.record.close_step(self.state.step + 1, bad)

    def evaluate_losses(self) -> dict[str, float]:
        """Losses of the validation sets with the present weights; see `Validator.run`."""

        def values(batch: Batch, needs: frozenset[str]) -> tuple[LossInput, Mapping[str, Tensor]]:
            with self.evaluation_ctx:
                predictions = self.compute_forward(batch.to(self.device), Stage.VALID)
                return predictions, self.compute_objectives(predictions, batch, Stage.VALID)

        metrics, skipped = self.validator.run(values)
        self.monitor.note_skipped(skipped, "validation")
        return metrics

    def _validate(self) -> bool:
        """Validate and note the metrics; returns whether there was anything to validate on."""
        if not self.validator.sets:
            return False
        state = self.state
        set_modes(self.modules, self.groups, False)
        with preserved_rng(), self.monitor.paused():
            metrics = self.evaluate_losses()
            if self.ranks.main and hasattr(self.hooks, "on_validation"):
                metrics |= dict(self.hooks.on_validation(state.step) or {})
        # Every rank decides by rank 0's metrics.
        metrics = self.ranks.gather(metrics)[0]
        set_modes(self.modules, self.groups, True)
        state.note_metrics(metrics)
        if self.ranks.main:
            self.journal.write("valid_log.jsonl", {"step": state.step, "metrics": metrics})
            self.journal.scalars(state.step, {f"valid/{k}": v for k, v in metrics.items()})
        return True

    def _finish(self) -> None:
        """Average where asked for, draw the curves, write the summary."""
        state = self.state
        set_modes(self.modules, self.groups, False)
        state.average(self)
        if self.ranks.main:
            try:
                draw_curves(self.out_dir)
            except ImportError as error:
                # A finished training is not lost for want of a picture.
                print(error, flush=True)
        state.write_summary(len(self.mixture.examples))
        load_trained(self.out_dir / "best", self.model)
        if self.ranks.main:
            print(json.dumps(state.summary, ensure_ascii=False), flush=True)
