"""The loop's policies: what trains, what is skipped, what is kept."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_training import (  # noqa: E402
    TinyModel,
    VectorSize,
    tiny_brain,
    tiny_examples,
    tiny_phase,
    tiny_rows,
    tiny_tokenizer,
)

from toolkit.interleavers import SpeechOnly  # noqa: E402
from toolkit.losses import ResponseCrossEntropy  # noqa: E402
from toolkit.training import Hooks, NoUsableAudio, Phase, TrainingDiverged, load_best  # noqa: E402
from toolkit.training.checkpoint import load_tensors, read_tensors  # noqa: E402
from toolkit.training.optimisation import (  # noqa: E402
    build_optimiser,
    clip_gradients,
    model_modules,
    select_trainable,
    set_modes,
)
from toolkit.training.record import read_lines  # noqa: E402


class NotANumber(VectorSize):
    """Non-finite for one utterance."""

    def __init__(self, row_id: str) -> None:
        super().__init__()
        self.row_id = row_id

    def forward(self, inputs):
        bad = [math.nan if e.row.id == self.row_id else 1.0 for e in inputs.batch.examples]
        return super().forward(inputs) * torch.tensor(bad)


def test_frozen_modules_stay_frozen_and_in_evaluation_mode(tmp_path: Path) -> None:
    brain = tiny_brain(tmp_path / "run", tiny_phase(optimizer_steps=2))
    before = {n: p.clone() for n, p in brain.model.named_parameters()}
    modes = []
    watched = (brain.model.encoder, brain.model.llm.drop, brain.model.projector.drop)

    class Look(Hooks):
        def on_step(self, step):
            modes.append([module.training for module in watched])

    brain.hooks = Look()
    brain.fit()
    assert modes == [[False, False, True]] * 2
    for name, parameter in brain.model.named_parameters():
        assert torch.equal(before[name], parameter) != name.startswith("projector")


def test_training_lowers_the_loss_and_leaves_everything_behind(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    phase = tiny_phase(
        trainable=["projector", "llm"], lr={"projector": 0.02, "llm": 0.05}, optimizer_steps=40,
        validate_every=20, losses={"ce": ResponseCrossEntropy()},
    )  # fmt: skip
    summary = tiny_brain(folder, phase, dropout=0.0).fit()
    lines = read_lines(folder / "train_log.jsonl")
    first, last = (sum(line["losses"]["ce"] for line in part) for part in (lines[:5], lines[-5:]))
    assert last < 0.7 * first
    assert set(lines[0]["lr"]) == {"projector", "llm"} and "repeat" in lines[5]["tasks"]["ce"]
    assert {"tokens_per_second", "audio_seconds_per_second", "padding"} <= set(lines[0])
    assert summary["metrics"]["loss"] == pytest.approx(summary["metrics"]["dev/ce"])
    assert summary == json.loads((folder / "summary.json").read_text())
    assert Path(summary["checkpoint"]).is_dir() and (folder / "curves" / "loss_ce.png").is_file()
    assert (
        list((folder / "tensorboard").iterdir())
        and "projector" in (folder / "parameters.txt").read_text()
    )
    fresh = TinyModel(tiny_tokenizer())
    load_best(folder, fresh)
    saved = read_tensors(folder / "best" / "trainable.safetensors")
    assert torch.equal(fresh.projector.up.weight, saved["projector.up.weight"])
    assert not any(name.startswith("encoder") for name in saved)


def test_nonfinite_steps_are_left_out_named_and_end_training(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    losses = {"ce": ResponseCrossEntropy(), "size": NotANumber("u0-3")}
    phase = tiny_phase(losses=losses, data={"a": 1.0}, accumulation=1, optimizer_steps=8)
    brain = tiny_brain(folder, phase)
    summary = brain.fit()
    lines = read_lines(folder / "nonfinite.jsonl")
    assert summary["skipped_steps"] == len(lines) == 2
    assert lines[0]["terms"] == {"size": ["u0-3|repeat/0"]}
    assert all(torch.isfinite(p).all() for p in brain.parameters)
    state = brain.optimiser.state[brain.parameters[0]]
    assert float(state["step"]) == 8 - 2
    phase = tiny_phase(losses=losses, data={"a": 1.0}, batch_items=7, accumulation=1,
                       nonfinite_patience=3)  # fmt: skip
    with pytest.raises(TrainingDiverged, match="3 optimiser steps"):
        tiny_brain(tmp_path / "bad", phase).fit()


def test_a_log_ends_where_a_kill_cut_it_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    whole = {"step": 1, "id": "one\u2028two"}
    lines = json.dumps(whole, ensure_ascii=False) + '\n{"step": 2, "id": "\u00e9'
    path.write_bytes(lines.encode()[:-1])  # within a character
    assert read_lines(path) == [whole]
    assert read_lines(tmp_path / "absent") == []


def test_unreadable_audio_is_skipped_by_reason_unless_nothing_is_left(tmp_path: Path) -> None:
    rows = tiny_rows(tmp_path / "data", 6)
    Path(rows[2].audio).write_bytes(b"")
    examples = tiny_examples(rows, tiny_tokenizer())
    phase = tiny_phase(data={"a": 1.0}, accumulation=1, optimizer_steps=3)
    summary = tiny_brain(tmp_path / "run", phase, train={"a": examples}).fit()
    assert summary["skipped"] == {"empty": 1} and summary["step"] == 3
    assert read_lines(tmp_path / "run" / "skipped.jsonl")[0]["id"] == examples[2].id
    for row in rows:
        Path(row.audio).unlink()
    with pytest.raises(NoUsableAudio, match="missing"):
        tiny_brain(tmp_path / "none", phase, train={"a": examples}).fit()


def test_time_budget_ends_the_phase_and_its_schedule(tmp_path: Path) -> None:
    phase = tiny_phase(optimizer_steps=100_000, max_seconds=1.0, validate_every=50_000)
    summary = tiny_brain(tmp_path / "run", phase).fit()
    assert summary["stopped"] == "time" and 0 < summary["step"] < 100_000
    last = read_lines(tmp_path / "run" / "train_log.jsonl")[-1]
    assert last["lr"]["projector"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_curriculum_ends_with_the_time_budget(tmp_path: Path, workers: int) -> None:
    """Interleavers are told the same progress as losses and learning rates."""
    path = tmp_path / "progress"

    class Watched(SpeechOnly):
        def plan(self, prompt, row, rng, progress=0.0):
            with path.open("a") as file:  # in another process, with workers
                file.write(f"{progress}\n")
            return super().plan(prompt, row, rng, progress)

    phase = tiny_phase(optimizer_steps=100_000, max_seconds=2.0, validate_every=50_000)
    tiny_brain(tmp_path / "run", phase, workers=workers, interleaver=Watched()).fit()
    seen = [float(line) for line in path.read_text().split()]
    trained = [progress for progress in seen if progress < 1.0]  # validations are at the end: 1
    assert trained == sorted(trained) and trained[0] == 0.0
    assert trained[-1] > 0.5  # by steps alone it would be a thousandth


def test_hook_metric_selects_and_keeps_the_best(tmp_path: Path) -> None:
    class Score(Hooks):
        def on_validation(self, step):
            return {"score": {4: 1.0, 8: 3.0, 12: 2.0}[step]}

    phase = tiny_phase(select="score", select_mode="max")
    summary = tiny_brain(tmp_path / "run", phase, Score()).fit()
    assert summary["best"] == {"step": 8, "value": 3.0}
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step_00000008", "step_00000012"]
    with pytest.raises(ValueError, match="the validation gave dev/ce"):
        tiny_brain(tmp_path / "other", tiny_phase(select="wer")).fit()


def test_average_of_the_last_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tiny_brain(folder, tiny_phase(average=2)).fit()
    name, file = "projector.up.weight", "trainable.safetensors"
    parts = [read_tensors(folder / "checkpoints" / f"step_{s:08d}" / file)[name] for s in (8, 12)]
    mean = read_tensors(folder / "checkpoints" / "average" / file)
    torch.testing.assert_close(mean[name], (parts[0] + parts[1]) / 2)
    assert mean["projector.vocabulary"].tolist() == [0, 1, 2]


def test_moving_average_follows_the_weights(tmp_path: Path) -> None:
    phase = tiny_phase(ema=0.5, optimizer_steps=1, validate_every=1, warmup_steps=0)
    brain = tiny_brain(tmp_path / "run", phase)
    start = brain.model.projector.up.weight.detach().clone()
    brain.fit()
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000001"
    end = read_tensors(checkpoint / "trainable.safetensors")["projector.up.weight"]
    mean = read_tensors(checkpoint / "ema.safetensors")["projector.up.weight"]
    torch.testing.assert_close(mean, (start + end) / 2)


def test_later_phase_carries_what_an_earlier_one_trained(tmp_path: Path) -> None:
    tiny_brain(tmp_path / "pretrain", tiny_phase(optimizer_steps=1)).fit()
    brain = tiny_brain(tmp_path / "train", tiny_phase(optimizer_steps=1, trainable=["llm"]))
    load_best(tmp_path / "pretrain", brain.model)
    brain.fit()
    first, second = (
        read_tensors(tmp_path / name / "best" / "trainable.safetensors")
        for name in ("pretrain", "train")
    )
    assert set(second) == set(first) | {"llm.table.weight"}
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_buffers_take_the_saved_size_and_wrong_names_are_refused() -> None:
    model = TinyModel(tiny_tokenizer())
    load_tensors(model, {"projector.vocabulary": torch.arange(9)})
    assert model.projector.vocabulary.tolist() == list(range(9))
    with pytest.raises(ValueError, match="another configuration"):
        load_tensors(model, {"projector.down.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="another configuration"):
        load_tensors(model, {"projector.up.weight": torch.zeros(1, 1)})


def test_clipping_covers_all_parameter_groups() -> None:
    a, b = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    optimiser = build_optimiser({"x": [("x.a", a)], "y": [("y.b", b)]}, tiny_phase(clip=1.0))
    a.grad, b.grad = torch.full((2, 2), 3.0), torch.full((2,), 4.0)
    norm = clip_gradients([a, b], 1.0)
    assert norm == pytest.approx(math.sqrt(4 * 9 + 2 * 16))
    after = sum(float(g["params"][0].grad.square().sum()) for g in optimiser.param_groups)
    assert after == pytest.approx(1.0, rel=1e-4)
    decay = {g["module"]: g["weight_decay"] for g in optimiser.param_groups}
    assert decay == {"x": 0.01, "y": 0.0}


def test_only_adapters_train_where_there_are_any() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(2, 2).to(torch.bfloat16)
            self.drop = nn.Dropout(0.5)
            self.lora_A = nn.Linear(2, 1, bias=False).to(torch.bfloat16)
            self.lora_dropout = nn.Dropout(0.5)

    model = type("M", (), {"projector": nn.Linear(2, 2), "llm": Adapted()})()
    modules = model_modules(model)
    phase = tiny_phase(trainable=["projector", "llm"], freeze=["*.bias"])
    groups = select_trainable(modules, phase)
    assert [name for named in groups.values() for name, _ in named] == [
        "projector.weight",
        "llm.lora_A.weight",
    ]
    assert model.llm.lora_A.weight.dtype == torch.float32
    assert model.llm.base.weight.dtype == torch.bfloat16
    set_modes(modules, groups, True)
    assert model.llm.lora_dropout.training and not model.llm.drop.training
    with pytest.raises(ValueError, match="no module 'decoder'"):
        select_trainable(modules, tiny_phase(trainable=["decoder"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "step"}, "schedule"),
        ({"lr": {"llm": 1.0}}, "one learning rate per trainable module"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"trainable": []}, "trainable"),
        ({"ema": 0.9, "average": 2}, "not both"),
        ({"batch_items": -1}, "positive"),
    ],
)
def test_phase_mistakes_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_phase(**settings)


def test_schedules_and_needs() -> None:
    phase: Phase = tiny_phase(
        schedule="linear", min_lr_ratio=0.1, warmup_steps=0, optimizer_steps=10, max_seconds=100.0,
        losses={"ce": ResponseCrossEntropy(weight=lambda p: 1.0 - p), "size": VectorSize()},
    )  # fmt: skip
    assert phase.lr_factor(5, phase.progress(5)) == pytest.approx(0.55)
    assert phase.progress(1, elapsed=80.0) == 0.8
    assert phase.lr_factor(10, 1.0) == pytest.approx(0.1)
    assert phase.needs(0.0) == {"logits", "vectors"} and phase.needs(1.0) == {"vectors"}
    assert phase.runs_llm()
