"""The DeSTA2 recipe and each ablation of its README load, and change the block they name."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.public_benchmarks import write_air, write_ifeval, write_superb
from toolkit.component import count_parameters
from toolkit.config import load
from toolkit.data.manifest import Row, read_manifest
from toolkit.evaluation.benchmarks import Chat, LocalJudge, ServedJudge
from toolkit.models import SpeechLLM

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/spoken_attributes/desta2/train.yaml"


def ablations() -> dict[str, list[str]]:
    """Tag to overrides, as the README gives them to the shell."""
    text = (RECIPE.parent / "README.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^egs/\S+ --tag .*$", text, re.MULTILINE)
    parts = [shlex.split(line) for line in lines]
    return {words[2]: words[3:] for words in parts}


def read(*overrides: str):
    return load(RECIPE, ["work=work", *overrides])


def blocks(config) -> SpeechLLM:
    return SpeechLLM(
        config.encoder, config.projector, config.interleaver, config.llm, config.prompt
    )


@pytest.fixture(autouse=True)
def recipes_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def test_recipe_is_the_method() -> None:
    config = read()
    assert blocks(config).projector.input_layers == config.encoder.num_layers == 4
    assert config.encoder.taps == [0, 1, 2, 3]
    assert config.phases["train"].trainable == ["projector"] and config.llm.lora is None
    assert config.teacher.llm is None and config.teacher.describe is config.decode.describe
    assert [len(task.wordings) for task in config.teacher.pool] == [1]
    paper = read("pool.prompts=single").teacher.pool["description"]
    assert paper.wordings == ("What can you hear from the audio?",)
    # The teacher's one wording is the only one that counts as seen at decoding.
    seen = [(t.name, t.wording_ids(False)) for t in config.decode.pool if t.seen]
    assert seen == [("description", [0])]
    # Annotated, exported and served by the same annotators.
    stored = [block["annotator"] for block in config.annotate]
    assert list(config.interleaver.annotators) == stored


def test_the_warm_start_aims_at_the_line_that_the_teacher_reads() -> None:
    """The line without its text, and no LLM body; off by one override, as in the paper."""
    config = read()
    row = Row(
        "a", "/a.wav", 1.6, "These days are long gone.", "en", "s",
        attributes={"gender": "male", "pitch": "low", "snr_level": 15.2, "accent": "British"},
    )  # fmt: skip
    aim = config.sets["attributes"].describe
    assert aim is config.sets["attributes_dev"].describe
    assert aim(row) == "(Gender: male, Pitch: low, Accent: British)"
    assert config.describe(row).endswith(f"These days are long gone. {aim(row)}")
    # Values keep their places: only names of accents differ in their number of tokens.
    assert config.describe.attributes[-1] == "accent"
    phase = config.phases["pretrain"]
    assert phase.trainable == ["projector"] and not phase.runs_llm()
    train = {str(path) for path in config.sets["described"].manifests}
    assert {str(path) for path in config.sets["attributes"].manifests} == train
    assert read("phases.pretrain=null").select("phases.pretrain") is None


def test_recorded_voices_in_other_languages_go_without_a_transcript() -> None:
    """The English recogniser leaves them out; the benchmark of recorded voices asks about them."""
    planner = read().interleaver
    italian = Row("it", "/it.wav", 2.0, "Buongiorno.", "it", "s", speech_seconds=1.5)
    assert planner.slot_text(italian) is None and planner.inference_text(italian) is None
    heard = replace(italian, asr_text="Hello.", language="en")
    assert planner.inference_text(heard) == "Hello."


def test_benchmarks_are_about_voices_that_training_never_heard() -> None:
    config = read()
    benchmarks = config.decode.benchmarks
    assert list(benchmarks) == ["descriptions", "recorded", "questions", "following"]
    trained = {str(path) for name in config.sets for path in config.sets[name].manifests}
    for benchmark in benchmarks.values():
        assert benchmark.inputs == ["text", "speech", "blank"]
        assert benchmark.describe is config.describe  # what the targets were written from
        assert set(benchmark.manifests) <= {config.decode.sets["other_voices"], config.recorded}
        assert not trained & set(benchmark.manifests)
        annotated = [path for block in config.annotate for path in block["manifests"]]
        assert all(annotated.count(path) == 2 for path in benchmark.manifests)
    # The model is asked as it was trained, and in questions that it never saw.
    assert benchmarks["descriptions"].pool is config.teacher.pool
    assert config.tree["corpora"]["spoken_attributes"].value["recorded"] > 0


def test_open_questions_are_asked_and_judged_by_an_override_each() -> None:
    assert read().score.judge is None
    asked = ["decode.benchmarks.chat=!ref <chat>", "score.judge=!ref <judge>"]
    readme = (RECIPE.parent / "README.md").read_text()
    assert all(f"'{override}'" in readme for override in asked)
    config = read(*asked, "judge.endpoint.url=http://here:1/v1")
    chat, following = (config.decode.benchmarks[name] for name in ("chat", "following"))
    assert isinstance(chat, Chat) and list(config.decode.benchmarks)[:4] == list(
        read().decode.benchmarks
    )
    assert (chat.describe, chat.manifests) == (following.describe, following.manifests)
    # Where the corpus writes it, beside the others.
    assert Path(chat.path) == Path(following.path).with_name("air_bench_chat")
    assert isinstance(config.score.judge, ServedJudge)
    assert config.score.judge.endpoint.url == "http://here:1/v1"
    (local,) = re.findall(r"'(score\.judge=!new:[^']*)'", readme)
    assert isinstance(read(local).score.judge, LocalJudge)
    short = load(RECIPE, [read().tree["quick"], "work=work", *asked]).decode.benchmarks["chat"]
    assert (short.limit, short.max_new_tokens) == (2, 8)


def test_a_quick_run_shrinks_the_benchmarks() -> None:
    full = read()
    quick = full.tree["quick"]
    (corpus,) = quick["corpora"].values()
    config = load(RECIPE, [quick, "work=work"])
    assert corpus["recorded"] == 0 and "recorded" not in config.decode.benchmarks
    for name, benchmark in config.decode.benchmarks.items():
        before = full.decode.benchmarks[name]
        assert type(benchmark) is type(before) and benchmark.path == before.path
        assert benchmark.limit <= 2 and benchmark.max_new_tokens < before.max_new_tokens


def test_the_script_runs_the_readmes_ablations_at_one_budget() -> None:
    script = ROOT / "egs/spoken_attributes/desta2/ablations.sh"
    done = subprocess.run([script, "--list"], capture_output=True, text=True, check=True)
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert lines[0] == ["base"]
    assert {words[0]: words[1:] for words in lines[1:]} == ablations()
    (line,) = re.findall(r"^budget=\((.*)\)$", script.read_text(), re.MULTILINE)
    budget = shlex.split(line)
    phases = read(*budget).phases
    limits = {name: (p.optimizer_steps, p.max_seconds) for name, p in phases.items()}
    assert limits == {"pretrain": (2000, None), "train": (300, None)}
    # Behind the budget, as the script gives them.
    for name, overrides in ablations().items():
        assert CHANGED[name](read(*budget, *overrides))


ATTRIBUTE_SETS = ("attributes", "attributes_dev")
CHANGED = {
    "last_layer": lambda c: (c.encoder.taps, c.projector.input_layers) == ([3], 1),
    "no_transcript": lambda c: c.interleaver.transcript == "none",
    "no_warm_start": lambda c: c.select("phases.pretrain") is None,
    # The warm start drops clips whose line has more tokens than there are queries.
    "fewer_queries": lambda c: (
        c.projector.num_queries == 20
        and all(len(c.sets[name].describe.attributes) == 4 for name in ATTRIBUTE_SETS)
    ),
    "other_teacher": lambda c: c.teacher.llm is not None and c.teacher.llm.source != c.llm.source,
    # Nor does the warm start know any.
    "no_attributes": lambda c: (c.describe.attributes, c.select("phases.pretrain")) == ((), None),
    "warm_start_only": lambda c: c.select("phases.train") is None,
    "teacher_logits": lambda c: c.phases["train"].losses["behaviour"].weight == 1.0,
    "lora": lambda c: c.phases["train"].trainable == ["projector", "llm"] and c.llm.lora["r"] == 16,
}


def test_every_ablation_of_the_readme_is_checked() -> None:
    assert ablations().keys() == CHANGED.keys()
    assert all(overrides for overrides in ablations().values())


@pytest.mark.parametrize("tag", CHANGED)
def test_ablation_loads_and_changes_its_block(tag) -> None:
    assert not CHANGED[tag](read())
    config = read(*ablations()[tag])
    assert CHANGED[tag](config)
    blocks(config)


@pytest.mark.parametrize(
    "override",
    [
        'prompt.turns=[{role: audio, content: "{audio}"}, {role: user, content: "{instruction}"}]',
        "pool.prompts=pool",
        "pool.prompts=single",
        "interleaver.transcript=text",
        "interleaver.min_speech_seconds=0",
        "describe.numbers=true",
        "teacher.check_answers=false",
        "projector.num_queries=64",
        "projector.standardise=false",
        "projector.ffn_dim=3072",
        "encoder.frames=1",
    ],
)
def test_options_of_the_readme_load(override) -> None:
    assert override in (RECIPE.parent / "README.md").read_text()
    blocks(read(override))


@pytest.mark.parametrize(
    ("overrides", "taps"),
    [
        ([], [2, 5, 8, 11]),
        (
            ["whisper=hub:openai/whisper-large-v3", "encoder.layers=evenly:8"],
            [3, 7, 11, 15, 19, 23, 27, 31],
        ),
    ],
)
def test_recipe_at_the_papers_scale(overrides, taps) -> None:
    config = load(ROOT / "recipes/vctk/desta2/train.yaml", ["work=work", *overrides])
    assert blocks(config).encoder.taps == taps
    assert config.projector.num_queries == 64 and config.llm.dim == 4096
    if not overrides:
        assert count_parameters(config.projector.materialise("meta")) == 22_251_776
    phase = config.phases["train"]
    assert (phase.lr, tuple(phase.betas), phase.warmup_steps) == (1e-4, (0.9, 0.98), 2000)
    assert [t.wordings for t in config.teacher.pool] == [("What can you hear from the audio?",)]


PUBLIC = {
    "dynamic_superb": write_superb,
    "speech_ifeval": write_ifeval,
    "air_bench_chat": write_air,
}


def at_scale(*overrides: str):
    return load(ROOT / "recipes/vctk/desta2/train.yaml", ["work=work", *overrides])


def test_without_public_benchmarks_the_recipe_runs_as_it_is(tmp_path) -> None:
    config = at_scale()
    assert config.decode.benchmarks == {} and config.score.judge is None
    config.corpora["public_benchmarks"](work=tmp_path / "work")
    (manifest,) = (tmp_path / "work/data/public_benchmarks").glob("*.jsonl")
    assert Path(config.clips).parts[1:] == manifest.relative_to(tmp_path / "work").parts
    assert read_manifest(manifest) == []


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_benchmark_is_prepared_transcribed_and_asked_by_one_override(
    name, tmp_path
) -> None:
    PUBLIC[name](tmp_path / "released")
    on = [f"benchmarks.{name}=!ref <{name}>", f"{name}.path={tmp_path / 'released'}"]
    config = at_scale(*on)
    assert list(config.decode.benchmarks) == [name]
    report = config.corpora["public_benchmarks"](work=tmp_path / "work")
    benchmark = config.decode.benchmarks[name]
    clips = {row.audio for row in read_manifest(report.manifests["clips"])}
    assert {item.audio for item in benchmark.items()} == clips
    # The transcript that stands beside the speech is written of these clips too.
    assert benchmark.manifests == [config.clips]
    kinds = {b["annotator"].kind: b["manifests"] for b in config.annotate}
    assert config.clips in kinds["asr_text"] and config.clips in kinds["speech_seconds"]
    assert config.interleaver.missing == "error"
    # A quick run asks little of it.
    quick = config.tree["quick"]
    short = load(config.path, [quick, "work=work", *on]).decode.benchmarks[name]
    assert short.limit == 2 and short.max_new_tokens == 8 and short.path == benchmark.path


def test_public_benchmarks_go_together_and_are_judged_on_request() -> None:
    config = at_scale(*(f"benchmarks.{n}=!ref <{n}>" for n in PUBLIC), "score.judge=!ref <judge>")
    assert list(config.decode.benchmarks) == list(PUBLIC)
    assert isinstance(config.score.judge, ServedJudge)
    assert config.decode.benchmarks["air_bench_chat"].categories == ["speech"]
    readme = (ROOT / "recipes/vctk/desta2/README.md").read_text()
    (local,) = re.findall(r"'(score\.judge=!new:[^']*)'", readme)
    assert isinstance(at_scale(local).score.judge, LocalJudge)


def test_more_prompts_are_drawn_for_teacher_and_decoding_alike() -> None:
    config = read("pool.prompts=pool")
    assert len(list(config.teacher.pool)) == 4
    assert {t.name for t in config.decode.pool if t.seen} == {t.name for t in config.teacher.pool}
