"""The SpeechMapper recipes fit together, hold the paper's numbers, and their commands load."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from recipes.asterisk_sounds.spoken_prompts import prepare as speak_prompts
from recipes.asterisk_sounds.spoken_prompts import takes_of
from toolkit.cli.main import parse
from toolkit.component import count_parameters
from toolkit.config import load
from toolkit.data.audio import read_audio
from toolkit.data.manifest import Row, read_manifest, validate, write_manifest
from toolkit.data.synthesis import HELD_OUT
from toolkit.models import SpeechLLM

ROOT = Path(__file__).resolve().parents[2]
PAPER = ["librispeech/speechmapper", "covost2/speechmapper", "spoken_squad/speechmapper"]
SMALL = ["asterisk_sounds/speechmapper", "asterisk_sounds/speechmapper_tasks"]


@pytest.fixture(autouse=True)
def recipes_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def path_of(name: str) -> Path:
    return ROOT / "recipes" / name / "train.yaml"


def read(name: str, *overrides: str):
    return load(path_of(name), ["work=work", *overrides])


def blocks(config) -> SpeechLLM:
    return SpeechLLM(
        config.encoder, config.projector, config.interleaver, config.llm, config.prompt
    )


def documented(name: str) -> list[list[str]]:
    """Overrides of every command on a recipe's page and in its script that has some."""
    page = (path_of(name).parent / "README.md").read_text().replace("\\\n", " ")
    script = re.sub(r" \\\n# +", " ", (ROOT / "egs" / name / "run.sh").read_text())
    lines = re.findall(rf"^egs/{name}/run\.sh (.*)$", page, re.MULTILINE)
    # In a script, what a command does stands behind it, at some distance.
    told = re.findall(r"^#   \./run\.sh (.*)$", script, re.MULTILINE)
    lines += [re.split(r"\s{2,}", line)[0] for line in told]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        overrides = (
            [] if "--help" in words else parse(["run", str(path_of(name)), *words]).overrides
        )
        if overrides:
            found.append(overrides)
    return found


COMMANDS = [(name, command) for name in PAPER + SMALL for command in documented(name)]


def test_pages_document_their_operating_points():
    assert {name for name, _ in COMMANDS} == {*PAPER, *SMALL}


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=lambda v: v if "/" in v else "")
def test_documented_commands_load(name, command):
    config = read(name, *command)
    blocks(config)
    for phase in config.phases.values():
        assert set(phase.data) | set(phase.validation) <= set(config.sets)
        where, term = phase.select.split("/", 1)
        assert where in phase.validation
        if term in phase.losses:
            assert phase.losses[term].weight_at(1.0) > 0


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_blocks_and_numbers(name):
    config = read(name)
    # The paper's 277.03 M, and a layer norm behind each stack of layers.
    norms = 2 * (1024 + 2048)
    found = count_parameters(blocks(config).projector.materialise("meta"))
    assert found == 277_031_936 + norms
    assert config.encoder.frames == 2 and config.encoder.encoder.taps == [23]
    assert config.encoder.frame_rate == 25.0 and config.llm.lora is None
    assert (config.llm.source, config.llm.dim) == ("hub:utter-project/EuroLLM-9B-Instruct", 4096)
    train = config.phases["train"]
    assert (train.optimizer_steps, train.batch_items, train.accumulation) == (1000, 12, 8)
    assert (train.lr, train.schedule, train.trainable) == (1e-4, "constant", ["projector"])
    assert config.decode.max_new_tokens == 150


def test_pretraining_is_the_papers_and_needs_no_llm():
    phases = read("librispeech/speechmapper").phases
    pretrain = phases["pretrain"]
    assert not pretrain.runs_llm() and phases["train"].runs_llm()
    weights = {term: loss.weight_at(0.5) for term, loss in pretrain.losses.items()}
    assert weights == {"words": 5.0, "pads": 5.0, "cosine": 100.0, "contrast": 0.0}
    assert (pretrain.optimizer_steps, pretrain.warmup_steps) == (2_000_000, 100_000)
    assert (pretrain.lr, pretrain.schedule) == (1e-4, "cosine")
    tuned = {term: loss.weight_at(0.0) for term, loss in phases["train"].losses.items()}
    assert tuned == pytest.approx({"response": 0.1, "words": 4.5, "pads": 4.5})
    seven = read("librispeech/speechmapper", "alpha=7.0", "reduction=sum_dim").phases["pretrain"]
    assert [seven.losses[term].weight for term in ("words", "pads")] == [7.0, 3.0]
    assert {seven.losses[term].reduction for term in ("words", "pads")} == {"sum_dim"}


@pytest.mark.parametrize("name", PAPER[1:])
def test_second_stages_go_on_from_the_pretraining(name):
    """What was pretrained can be loaded: the same blocks, and the folder that its run writes."""
    first, second = read(PAPER[0]), read(name)
    assert second.phases["train"].start == f"work/exp/{PAPER[0]}/seed1/pretrain"
    assert set(second.phases) == {"train"} and "pretrained" in second.decode.inputs
    # Longer clips may be read; the blocks that weights are loaded into are the same.
    for key in ("encoder", "projector", "llm"):
        own, other = (
            re.sub(r", 'max_seconds': \d+", "", repr(c.select(key))) for c in (first, second)
        )
        assert own == other, key
    # Task-specific: cross-entropy alone, so that nothing is left out for its number of tokens.
    weights = {term: loss.weight_at(0.5) for term, loss in second.phases["train"].losses.items()}
    assert weights == {"response": 1.0, "words": 0.0, "pads": 0.0}
    agnostic = read(name, "sigma=0.9").phases["train"].losses
    assert agnostic["words"].weight_at(0.5) == pytest.approx(4.5)


def test_tasks_of_the_recipes():
    translation = read("covost2/speechmapper")
    assert [task.name for task in translation.teacher.pool] == ["en_de", "en_zh"]
    assert translation.teacher.pool.instruction("en_zh/0").endswith("Chinese:")
    questions = read("spoken_squad/speechmapper")
    assert questions.phases["train"].data == {"questions": 0.5, "asr": 0.5}
    assert "passage" in questions.teacher.pool.instruction("question_answering/0")
    assert questions.encoder.max_seconds == 180
    small = read("asterisk_sounds/speechmapper_tasks")
    names = [task.name for task in small.teacher.pool]
    assert names[-2:] == ["question_answering", "spoken_question"]
    assert names[:-2] == ["es_en", "fr_en", "it_en", "ru_en", "en_es", "en_fr"]
    # Every task of the teacher is asked in decoding, and has a metric of its own.
    asked = [task.name for task in small.decode.pool]
    assert asked == [*names, "repetition"]
    assert all(small.score.metrics_of(name) for name in names)
    assert small.phases["train"].data == {"tasks": 0.5, "asr": 0.5}
    # What is taught is what is trained on; what is tried on text is no training row.
    taught = set(small.teacher.manifests)
    assert set(map(str, small.sets["tasks"].manifests)) < taught
    assert not set(small.teacher.topline_manifests) & set(map(str, small.sets["tasks"].manifests))


@pytest.mark.parametrize("name", PAPER + SMALL)
def test_quick_blocks_load(name):
    quick = load(path_of(name), ["work=work"], instantiate=False).tree["quick"]
    config = load(path_of(name), [dict(quick), "work=work"])
    assert all(phase.optimizer_steps <= 10 for phase in config.phases.values())
    assert all(phase.start is None for phase in config.phases.values())
    assert ("pretrained" in config.decode.inputs) == ("pretrain" in config.phases)


def test_prompts_are_spoken_by_training_voices_of_their_language(tmp_path):
    pytest.importorskip("espeakng_loader")
    folder = tmp_path / "data" / "asterisk_sounds"
    said = {"es": "Pulse uno para salir.", "ru": "Нажмите один."}
    for language, text in said.items():
        rows = [
            Row(f"{language}{i}", "/a.wav", 1.0, text, language, "s", translations={"en": "Exit."})
            for i in range(2)
        ]
        write_manifest(folder / language / "train.jsonl", rows)
    report = speak_prompts(tmp_path, languages=list(said), takes=2, nj=1)
    for language, text in said.items():
        path = report.manifests[f"{language}/train"]
        assert validate(path, check_audio=True).ok
        rows = read_manifest(path)
        # A text that two prompts share is spoken once a voice.
        assert len(rows) == 2 and {row.text for row in rows} == {text}
        assert len({row.audio for row in rows}) == 2
        for row in rows:
            voice, _, variant = row.attributes["voice"].partition("+")
            assert voice == language and variant not in HELD_OUT
            assert row.translations == {"en": "Exit."}
            assert abs(read_audio(row.audio)).max() > 0.01
    with pytest.raises(ValueError, match="no voice for"):
        speak_prompts(tmp_path, languages=["de"])
    row = Row("a", "/a.wav", 1.0, said["es"], "es", "s")
    assert takes_of(row, 2) == takes_of(row, 3)[:2]
