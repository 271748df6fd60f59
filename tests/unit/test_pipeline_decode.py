"""The decode and report stages: which weights and settings answers are of, and whose numbers."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tests.tiny_models import MAX_SECONDS, save_llama, save_whisper, spoken_rows
from toolkit.encoders import WhisperEncoder
from toolkit.evaluation.benchmarks.items import BenchmarkItem
from toolkit.interleavers import SpeechOnly
from toolkit.llms import CausalLM, Prompt
from toolkit.models import SpeechLLM
from toolkit.pipeline.benchmarks import whole_files
from toolkit.pipeline.context import RunContext
from toolkit.pipeline.marks import Marks
from toolkit.pipeline.stages.decode import SETTINGS, _drop_other_weights, _pretrained
from toolkit.pipeline.stages.report import render
from toolkit.pipeline.training import check_start, run_phase, start_folder, trained_tasks
from toolkit.projectors import WindowQFormer
from toolkit.training import whole_llm_tensors
from toolkit.training.checkpoint import WEIGHTS, CheckpointError, load_best, trained_tensors


@pytest.fixture
def model(tmp_path) -> SpeechLLM:
    encoder = WhisperEncoder(str(save_whisper(tmp_path / "whisper")), max_seconds=MAX_SECONDS)
    llm = CausalLM(str(save_llama(tmp_path / "llm")))
    projector = WindowQFormer(
        encoder.dim, llm.dim, hidden_dim=16, num_heads=2, ffn_dim=24, frame_rate=encoder.frame_rate
    )
    torch.manual_seed(0)
    for block in (projector, encoder, llm):
        block.materialise()
    return SpeechLLM(encoder, projector, SpeechOnly(), llm, Prompt()).eval()


def run_of(root, settings=None):
    """What these functions read of a run's context."""
    tree = settings if settings is not None else {}
    return SimpleNamespace(
        exp=root, phase_folder=lambda name: root / name, config=SimpleNamespace(select=tree.get)
    )


def save_best(folder, tensors) -> None:
    (folder / "best").mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(plain, str(folder / "best" / WEIGHTS))


def test_the_first_phases_projector_comes_without_its_llm(model, tmp_path):
    """Both phases trained all of the LLM: only the last one's may answer."""
    untrained = copy.deepcopy(model.projector)
    name = next(n for n, _ in model.llm.named_parameters() if "q_proj" in n)
    weights = {f"projector.{n}": p for n, p in model.projector.named_parameters()}
    frozen = next(iter(weights))
    first = {n: torch.full_like(p, 0.25) for n, p in weights.items() if n != frozen}
    of_llm = model.llm.state_dict()[name]
    save_best(tmp_path / "pretrain", {**first, f"llm.{name}": torch.zeros_like(of_llm)})
    last = {n: torch.full_like(p, 0.75) for n, p in weights.items()}
    save_best(tmp_path / "train", {**last, f"llm.{name}": torch.ones_like(of_llm)})
    load_best(tmp_path / "train", model)
    projector, carried = model.projector, model.carried_weights
    found = _pretrained(run_of(tmp_path), model, untrained)
    for n, p in found.named_parameters():
        # What the first phase did not train is as at the start, not as the last phase left it.
        expected = untrained.get_parameter(n) if f"projector.{n}" == frozen else 0.25
        assert torch.all(p == expected), n
    assert found is not untrained and model.projector is projector
    assert all(torch.all(p == 0.75) for p in projector.parameters())
    assert torch.all(model.llm.state_dict()[name] == 1.0)
    # So that the LLM is known to have changed, and the published one is loaded for the topline.
    assert model.carried_weights == carried and set(whole_llm_tensors(model)) == {name}


def test_a_first_phase_without_a_projector_is_refused(model, tmp_path):
    context = run_of(tmp_path)
    with pytest.raises(FileNotFoundError, match="pretrained.*stage 6"):
        _pretrained(context, model, model.projector)
    name, tensor = next(iter(model.llm.state_dict().items()))
    model.projector.register_buffer("fitted", torch.ones(2))
    saved = trained_tensors({"projector": model.projector}, {"llm": []})
    assert saved.keys() == {"projector.fitted"}
    save_best(tmp_path / "pretrain", {f"llm.{name}": tensor, **saved})
    with pytest.raises(CheckpointError, match="trained no projector"):
        _pretrained(context, model, model.projector)


def test_the_main_phase_may_start_from_another_run(model, tmp_path):
    elsewhere = tmp_path / "other" / "seed1" / "pretrain"
    context = run_of(tmp_path / "own", {"phases.train.start": str(elsewhere)})
    assert start_folder(context) == elsewhere
    assert "phases.train.start" in check_start(context) and str(elsewhere) in check_start(context)
    with pytest.raises(FileNotFoundError, match="no finished phase"):
        run_phase(context, "train")
    weights = {f"projector.{n}": torch.full_like(p, 0.25) for n, p in
               model.projector.named_parameters()}  # fmt: skip
    save_best(elsewhere, weights)
    assert check_start(context) is None
    found = _pretrained(context, model, copy.deepcopy(model.projector))
    assert all(torch.all(p == 0.25) for p in found.parameters())
    # Without the key it is the run's own first phase, which a recipe need not have.
    own = run_of(tmp_path / "own")
    assert start_folder(own) == tmp_path / "own" / "pretrain" and check_start(own) is None


def test_tasks_are_held_out_only_from_a_training_that_was(tmp_path):
    """Systems can be scored before a run is trained: its pool says then what it will train."""
    tree = {"phases.train": {"lr": 0.1}}
    config = SimpleNamespace(select=tree.get)
    context = RunContext(config=config, recipe=tmp_path, work=tmp_path, exp=tmp_path / "exp")
    assert trained_tasks(context) is None
    # With the first phase's weights alone, these are decoded, and have seen no task.
    save_best(context.phase_folder("pretrain"), {"projector.a": torch.zeros(2)})
    assert trained_tasks(context) == []
    save_best(context.phase_folder("train"), {"projector.a": torch.zeros(2)})
    assert trained_tasks(context) is None
    for facts, tasks in (({}, None), ({"tasks": ["title"]}, ["title"])):
        Marks(context.exp).finish("train", {}, {}, facts, seconds=1.0)
        assert trained_tasks(context) == tasks
    tree["phases.train"] = "off"
    assert trained_tasks(context) == []


def test_answers_of_other_settings_or_weights_are_dropped(tmp_path):
    tree = {key: {"of": key, "batch_size": 4} for key in SETTINGS}
    context = run_of(tmp_path, tree)
    save_best(tmp_path / "train", {"projector.a": torch.zeros(2)})
    answers = tmp_path / "decode" / "tones.text.jsonl"

    def kept(phase="train", wording=0) -> bool:
        """Whether answers of before are there after a new start."""
        answers.parent.mkdir(exist_ok=True)
        answers.write_text("{}\n")
        _drop_other_weights(context, phase, wording)
        return answers.exists()

    assert not kept() and kept()
    for key in SETTINGS:
        tree[key]["of"] = "something else"
        assert not kept() and kept(), key
    tree["decode"]["batch_size"] = 8
    assert kept()
    del tree["annotate"]
    assert not kept() and kept()
    assert not kept(wording=3) and kept(wording=3)
    # The first phase's projector is one of the inputs.
    for value in (1.0, 2.0):
        save_best(tmp_path / "pretrain", {"projector.a": torch.full((2,), value)})
        assert not kept() and kept()
    save_best(tmp_path / "train", {"projector.a": torch.ones(2)})
    assert not kept() and kept()
    # Or that of the run it started from.
    tree["phases.train.start"] = str(tmp_path / "other")
    save_best(tmp_path / "other", {"projector.a": torch.zeros(2)})
    assert not kept() and kept()


def test_only_rows_of_whole_files_stand_for_the_clips_of_a_benchmark(tmp_path):
    rows = spoken_rows(tmp_path, 4, "u")
    items = [BenchmarkItem(row.id, row.audio, "What is said?", "all") for row in rows[:3]]
    half = rows[1].duration / 2
    known = whole_files(
        items,
        [
            rows[0],
            # Each is as long as the other half, and says something else.
            replace(rows[1], duration=half),
            replace(rows[1], id="second", offset=half, duration=half),
            replace(rows[2], id="cut", duration=rows[2].duration - 0.1),
            rows[2],
            replace(rows[2], id="tail", offset=0.1, duration=rows[2].duration - 0.1),
            # Nobody asks about it: it need not even be there.
            replace(rows[3], audio=str(tmp_path / "absent.wav")),
        ],
    )
    assert known == {rows[0].audio: rows[0], rows[2].audio: rows[2]}


def scored(seed, **more):
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    wer = {**value, "n": 4, "substitutions": 1, "deletions": 0, "insertions": 0, "words": 2}
    task = {"n": 4, "following": 1.0, "rouge_l": 0.5, "perplexity": 2.0}
    entry = {"n": 4, "wer": wer, "rouge_l": value, "perplexity": value, "following": {}}
    entry |= {"tasks": {"title": task}, "metrics": {}}
    against = {"wer": {"difference": 0.25, "p": 0.02}}
    sets = {"speech": entry, "text": entry, "blank": {**entry, "against_speech": against}}
    return {"seed": seed, "smoke": False, "normaliser": "english", "sets": {"tones": sets}} | more


def test_a_report_says_whose_tests_and_what_intervals_it_shows(tmp_path):
    def report(*runs):
        folders = [tmp_path / f"seed{run['seed']}" for run in runs]
        for folder, run in zip(folders, runs, strict=True):
            folder.mkdir(exist_ok=True)
            (folder / "scores.json").write_text(json.dumps(run))
        return render("tiny", folders)

    one = report(scored(3, bootstrap=50, confidence=0.9))
    assert "Intervals: 90 % bootstrap over utterances;" in one and "Paired tests" not in one
    assert "blanked audio (control) minus speech: wer +0.250 (p ≤ 0.02)" in one
    both = report(*(scored(seed, bootstrap=50, confidence=0.9) for seed in (3, 4)))
    assert "Paired tests (seed 3):" in both and "Tasks (seed 3):" in both
    drawn = report(scored(6, bootstrap=50, confidence=0.9, resampled="recordings"))
    assert "Intervals: 90 % bootstrap over recordings;" in drawn
    # A score file of before says neither, and is of the defaults.
    old = report(scored(5))
    assert "Intervals: 95 % bootstrap over items;" in old and "(p = 0.020)" in old
