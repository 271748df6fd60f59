"""Self-Powered LSM, its vanilla control and full fine-tuning through all stages, on tiny models."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tiny_recipe import run_in, write_recipe

from toolkit.cli.main import main
from toolkit.inference import SpeechLLM
from toolkit.pipeline.runner import RunOptions
from toolkit.training.checkpoint import WEIGHTS, read_tensors
from toolkit.training.record import read_lines

RUNS = Path("work/exp/tiny")
BLOCKS = """
$head
projector: !new:toolkit.projectors.WindowQFormer
$ends
    hidden_dim: 16
    num_heads: 2
    ffn_dim: 32

interleaver: !new:toolkit.interleavers.SpeechOnly

llm: !new:toolkit.llms.CausalLM
    source: !ref <llm_source>
    lora: {r: 4, target_modules: all-linear}

prompt: !new:toolkit.llms.Prompt
    user: "{instruction}\\n{audio}"

pool: !apply:toolkit.teachers.self_powered_pool {language: Italian}

teacher: !new:toolkit.teachers.BehaviourTeacher
    manifests: [!ref <data>/train.jsonl, !ref <data>/dev.jsonl]
    pool: !ref <pool>
    per_utterance: 3
    task_weights: {transcription: 0.0}
    max_new_tokens: 10
    topline_items: 4
    check_answers: false

sets:
$taught
    transcription: !new:toolkit.data.TranscriptionSet
        manifests: [!ref <data>/train.jsonl]
        instructions: !apply:toolkit.teachers.transcription_wordings
    transcription_dev: !new:toolkit.data.TranscriptionSet
        manifests: [!ref <data>/dev.jsonl]
        instructions: !apply:toolkit.teachers.transcription_wordings

phases:
    train: !new:toolkit.training.Phase
        trainable: [projector, llm]
        data: {augmented: 0.5, transcription: 0.5}
        validation: [augmented_dev, transcription_dev]
        losses:
            response: !new:toolkit.losses.ResponseCrossEntropy {weight: 1.0}
        optimizer_steps: 6
        validate_every: 3
        warmup_steps: 2
        schedule: linear
        batch_items: 4
        lr: 1.0e-2

decode: !new:toolkit.evaluation.DecodePlan
    sets: {tones: !ref <data>/test.jsonl}
    inputs: [speech, text, blank]
    pool: !ref <pool>
    items_per_task: 2
    max_new_tokens: 6

$tail
    anchor_bias: !new:toolkit.evaluation.AnchorBiasPlan
        pool: !ref <pool>
        clips: 2
        bands: 2
        blocking_items: 4
        max_new_tokens: 6
    text_regression: !new:toolkit.evaluation.TextRegressionPlan
        pool: !ref <pool>
        items_per_task: 2
        max_new_tokens: 6
"""
VANILLA = ["phases.train.data.augmented=null", "phases.train.validation=[transcription_dev]"]
FULL = ["llm.lora=null", "phases.train.lr=1e-3"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which all three ran once."""
    path = write_recipe(recipe.parents[3], "self_powered", BLOCKS, taught="augmented")
    runs = (
        RunOptions(path, overrides=VANILLA, tag="vanilla"),
        RunOptions(path, overrides=FULL, tag="full"),
    )
    return run_in(tmp_path_factory.mktemp("self_powered"), RunOptions(path), *runs) / RUNS


def test_targets_are_of_the_six_families(runs: Path) -> None:
    told = json.loads((runs / "self_powered/seed1/topline.json").read_text())
    targets = lines(runs / "self_powered/seed1/targets.jsonl")
    tasks = {target["task"] for target in targets}
    assert tasks <= set(told["topline"]) - {"transcription", *told["left_out"]} and tasks
    assert all(target["finish"] == "stop" for target in targets)
    counts = told["counts"]
    assert counts["kept"] == len(targets) > 5 and counts["dropped: truncated"] > 0
    assert not any("not attempted" in reason for reason in counts)
    # The control's LLM is asked the same, so that repetitions are asked for in the same wording;
    # it is not trained on the answers.
    for name in ("self_powered_vanilla", "self_powered_full"):
        other = json.loads((runs / name / "seed1/topline.json").read_text())
        assert other["wordings"] == told["wordings"] and other["topline"] == told["topline"]


@pytest.mark.parametrize("name", ["self_powered", "self_powered_vanilla", "self_powered_full"])
def test_what_was_trained_on_what(runs: Path, name: str) -> None:
    folder = runs / name / "seed1/train"
    log = read_lines(folder / "train_log.jsonl")
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    seen = {task for line in log for task in line["tasks"]["response"]}
    assert "transcription" in seen and (seen == {"transcription"}) == ("vanilla" in name)
    rates = [line["lr"]["projector"] for line in log]
    peak = 1e-3 if "full" in name else 1e-2
    assert rates == pytest.approx([peak * x for x in (0.5, 1.0, 1.0, 0.75, 0.5, 0.25)])
    trained = set(read_tensors(folder / "best" / WEIGHTS))
    llm = {tensor for tensor in trained if tensor.startswith("llm.")}
    assert llm and any(tensor.startswith("projector.qformer") for tensor in trained)
    assert not any(tensor.startswith("encoder.") for tensor in trained)
    assert all("lora_" in tensor for tensor in llm) == ("full" not in name)


def test_the_topline_is_that_of_the_llm_as_published(runs: Path) -> None:
    answers = {
        name: {r["id"]: (r["answer"], r["nll"]) for r in lines(path / "decode/tones.text.jsonl")}
        for name in ("self_powered", "self_powered_vanilla", "self_powered_full")
        if (path := runs / name / "seed1")
    }
    first = answers.pop("self_powered")
    assert len(first) > 10
    for other in answers.values():
        assert {k: v[0] for k, v in other.items()} == {k: v[0] for k, v in first.items()}
        for key, (_, nll) in other.items():
            assert nll == pytest.approx(first[key][1], abs=2e-3)


@pytest.mark.parametrize("name", ["self_powered", "self_powered_vanilla", "self_powered_full"])
def test_anchor_bias_and_text_alone_stand_in_the_report(runs: Path, name: str) -> None:
    folder = runs / name / "seed1"
    scores = json.loads((folder / "scores.json").read_text())
    found = scores["anchor_bias"]["tones"]
    assert found["clips"] == 2 and "transcription" not in found["tasks"]
    assert set(found["attention"]) == {"speech", "text", "own text"}
    ratio = found["attention"]["speech"]["all"]["overall"]["ratio"]
    assert 0.0 < ratio["low"] <= ratio["value"] <= ratio["high"] < 1.0
    text = scores["text_regression"]["tones"]
    assert text["perplexity"]["difference"] != 0.0
    assert all(math.isfinite(text["perplexity"][k]["value"]) for k in ("published", "trained"))
    report = (folder.parent / "RESULTS.md").read_text()
    for part in (f"{ratio['value']:.3f}", "speech anchor bias", "LLM on text alone", "ratio.png"):
        assert part in report
    pictures = sorted((folder / "anchor_bias/tones").glob("*.png"))
    assert len(pictures) == 2 and all(p.read_bytes()[:4] == b"\x89PNG" for p in pictures)
    # Recognition is scored on the transcription task.
    assert scores["sets"]["tones"]["speech"]["wer"]["n"] == 4


def test_exports_side_by_side_from_the_command_line(runs: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(runs.parents[2])
    names = ("self_powered", "self_powered_vanilla", "self_powered_full")
    exports = [str(RUNS / name / "seed1/export") for name in names]
    manifest = "work/data/tiny/test.jsonl"
    options = ["--clips", "1", "--bands", "1", "--max-new-tokens", "4", "--out", "side"]
    assert main(["anchor-bias", manifest, *exports, *options]) == 0
    printed = capsys.readouterr().out
    found = json.loads(Path("side/anchor_bias.json").read_text())
    assert set(found) == set(names)
    assert all(f"| {name} | **speech**" in printed for name in names)
    assert len(list(Path("side").glob("heat_*.png"))) == 3 and Path("side/ratio.png").exists()


def test_exports_of_two_methods_side_by_side(runs: Path, finished, capsys, monkeypatch) -> None:
    """Another projector, interleaver and prompt: each export brings its own."""
    monkeypatch.chdir(runs.parents[2])
    exports = [
        str(finished / "work/exp/tiny/mtbi/seed1/export"),
        str(RUNS / "self_powered/seed1/export"),
    ]
    manifest = "work/data/tiny/test.jsonl"
    options = ["--clips", "2", "--bands", "2", "--max-new-tokens", "4", "--out", "methods"]
    assert main(["anchor-bias", manifest, *exports, *options]) == 0
    printed = capsys.readouterr().out
    found = json.loads(Path("methods/anchor_bias.json").read_text())
    assert list(found) == ["mtbi", "self_powered"]
    mtbi, own = (found[name] for name in found)
    # The same clips, tasks and LLM as published; a frozen LLM has no third branch.
    assert (mtbi["items"], mtbi["tasks"]) == (own["items"], own["tasks"])
    assert set(mtbi["attention"]) == {"speech", "text"}
    assert set(own["attention"]) == {"speech", "text", "own text"}
    assert "- mtbi: " in printed and "- self_powered: " in printed
    page = Path("methods/anchor_bias.md").read_text()
    assert all(name in page for name in ("heat_mtbi.png", "heat_self_powered.png", "ratio.png"))


def test_a_fully_trained_export_differs_from_its_source(runs: Path, monkeypatch) -> None:
    monkeypatch.chdir(runs.parents[2])
    loaded = SpeechLLM.from_pretrained(RUNS / "self_powered_full/seed1/export")
    assert loaded.trained_llm
    published = loaded.published_llm().state_dict()
    trained = loaded.model.llm.state_dict()
    assert any(not value.equal(published[name]) for name, value in trained.items())


def test_a_test_set_that_does_not_exist_is_named() -> None:
    from toolkit.evaluation import AnchorBiasPlan
    from toolkit.pipeline.measures import _asked

    sets = {"tones": "test.jsonl", "other": "other.jsonl"}
    assert _asked("score.anchor_bias", None, sets) == []
    assert _asked("score.anchor_bias", AnchorBiasPlan(), sets) == ["tones", "other"]
    assert _asked("score.anchor_bias", AnchorBiasPlan(sets=["other"]), sets) == ["other"]
    with pytest.raises(ValueError, match=r"score.anchor_bias.sets names \['tone'\]"):
        _asked("score.anchor_bias", AnchorBiasPlan(sets=["tone"]), sets)
