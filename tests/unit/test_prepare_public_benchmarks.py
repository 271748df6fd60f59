"""Public benchmarks in their releases' layouts, to manifests of their clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.public_benchmarks.prepare import prepare
from tests.decoded_items import wav
from tests.public_benchmarks import write_air, write_ifeval, write_superb
from toolkit.data.audio import AudioError
from toolkit.data.manifest import read_manifest, validate
from toolkit.evaluation.benchmarks import (
    BenchmarkError,
    Chat,
    Classification,
    InstructionFollowing,
)

RELEASED = {
    "dynamic_superb": (Classification, write_superb),
    "speech_ifeval": (InstructionFollowing, write_ifeval),
    "air_bench_chat": (Chat, write_air),
}


@pytest.fixture
def released(tmp_path):
    """Name to benchmark, each in a folder of its own."""
    return {
        name: kind(str(write(tmp_path / "released" / name)))
        for name, (kind, write) in RELEASED.items()
    }


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_each_release_becomes_a_manifest_of_its_clips(released, tmp_path):
    report = prepare(tmp_path / "work", released)
    folder = tmp_path / "work/data/public_benchmarks"
    rows = {name: read_manifest(path) for name, path in report.manifests.items()}
    # Eight questions of Speech-IFEval are about one clip.
    counts = {"dynamic_superb": 5, "speech_ifeval": 1, "air_bench_chat": 3, "clips": 9}
    assert {name: len(own) for name, own in rows.items()} == counts
    for name, path in report.manifests.items():
        assert path == folder / f"{name}.jsonl" and not validate(path).problems
    for name, benchmark in released.items():
        # Each question finds the row of its clip by the path.
        assert {item.audio for item in benchmark.items()} == {row.audio for row in rows[name]}
    assert len({row.id for row in rows["clips"]}) == 9
    assert {row.duration for row in rows["clips"]} == {0.5}
    told = json.loads((folder / "report.json").read_text())
    assert told["facts"]["Questions (speech_ifeval)"] == {
        "chain of thought": 2, "closed-ended": 2, "creative": 4,
    }  # fmt: skip
    assert told["parts"]["clips"]["rows"] == 9
    before = everything(folder)
    assert str(prepare(tmp_path / "work", released)) == str(report)
    assert everything(folder) == before


def test_the_first_release_of_speech_ifeval_has_other_names(tmp_path):
    root = write_ifeval(tmp_path / "data")
    data = root / "eval_data"
    (data / "closed_ended_questions.jsonl").rename(data / "close.jsonl")
    (data / "creative_writing.jsonl").rename(data / "open.jsonl")
    prepare(tmp_path / "work", {"speech_ifeval": InstructionFollowing(str(root))})
    report = (tmp_path / "work/data/public_benchmarks/report.md").read_text()
    assert "- creative: 4" in report and "- closed-ended: 2" in report


def test_without_any_benchmark_there_is_an_empty_manifest(tmp_path):
    """Recipes name it whether or not the files are on the machine."""
    for none in ({}, None):
        report = prepare(tmp_path, none)
        assert read_manifest(report.manifests["clips"]) == []
        assert list(report.manifests) == ["clips"]


def test_what_two_benchmarks_share_stands_once_in_the_manifest_of_all(tmp_path):
    root = str(write_superb(tmp_path / "superb"))
    some = {
        "all": Classification(root),
        "few": Classification(root, limit=1),
        "one": Classification(root, tasks=["SpokenTerm_Made"]),
    }
    report = prepare(tmp_path / "work", some)
    # Nothing is annotated that is not asked about.
    counts = {name: part["rows"] for name, part in report.parts.items()}
    assert counts == {"all": 5, "few": 2, "one": 1, "clips": 5}
    with pytest.raises(ValueError, match="'clips' is the manifest of all clips; call"):
        prepare(tmp_path / "work", {"clips": some["all"]})


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("dynamic_superb", r"holds no <task>/test/metadata.json; give the folder that holds"),
        ("speech_ifeval", r"eval_data: holds no questions .* give the folder that holds eval_data"),
        ("air_bench_chat", r"Chat_meta.json: no such file; give the folder that holds it"),
    ],
)
def test_another_folder_is_refused_by_name(tmp_path, name, remedy):
    elsewhere = tmp_path / "elsewhere"
    for folder in (elsewhere, elsewhere / "empty"):
        folder.mkdir()
        with pytest.raises(BenchmarkError, match=rf"^{folder}.*{remedy}"):
            prepare(tmp_path / "work", {name: RELEASED[name][0](str(folder))})
    assert not (tmp_path / "work").exists()


def test_a_task_that_is_not_there_is_named_beside_those_that_are(tmp_path):
    root = write_superb(tmp_path / "superb")
    wanted = Classification(str(root), tasks=["Emotion_Made", "SpokenTerm_Made"])
    there = "there are EmotionRecognition_Made, SpokenTerm_Made"
    with pytest.raises(BenchmarkError, match=f"^{root}: .* for Emotion_Made; {there}"):
        prepare(tmp_path / "work", {"dynamic_superb": wanted})


@pytest.mark.parametrize("name", RELEASED)
def test_a_clip_that_is_missing_or_broken_is_named_with_its_question(released, tmp_path, name):
    items = released[name].items()
    clip = Path(items[-1].audio)
    first = next(item.id for item in items if item.audio == str(clip))
    said = rf"question '{first}' is about it; the benchmark's audio has to be whole"
    for reason, content in (("missing", None), ("empty", b""), ("corrupt", b"no sound at all")):
        clip.unlink()
        if content is not None:
            clip.write_bytes(content)
        with pytest.raises(AudioError, match=f"^{clip}: {reason}: {said}"):
            prepare(tmp_path / "work", released)
        wav(clip)
    prepare(tmp_path / "work", released)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("dynamic_superb/SpokenTerm_Made/test/metadata.json", "[]", "expected an object"),
        ("dynamic_superb/SpokenTerm_Made/test/metadata.json", "{", "no JSON"),
        (
            "dynamic_superb/SpokenTerm_Made/test/metadata.json",
            '{"a.wav": {"instruction": "x", "label": "y", "file2": "b.wav"}}',
            "entry a.wav: asks about two files .* list `tasks` without this one",
        ),
        (
            "speech_ifeval/eval_data/chain-of-thought.jsonl",
            '\n{"audio_filepath": "a.wav", "instruction": "x"}\n',
            "entry 2: field 'seed_transcript': expected text",
        ),
        (
            "speech_ifeval/eval_data/creative_writing.jsonl",
            '{"audio_filepath": "a.wav", "instruction": "x", "seed_transcript": "y"}\n',
            "entry 1: instruction_id_list is empty",
        ),
        ("air_bench_chat/Chat_meta.json", '{"path": "0.wav"}', "expected a list of entries"),
        (
            "air_bench_chat/Chat_meta.json",
            '[{"path": "0.wav", "task_name": "speech_QA", "question": "x"}]',
            "entry 0: field 'dataset_name': expected text",
        ),
    ],
)
def test_a_file_in_another_format_is_named_with_its_entry(
    released, tmp_path, file, content, problem
):
    path = tmp_path / "released" / file
    path.write_text(content)
    with pytest.raises(BenchmarkError, match=f"(?s)^{path}: .*{problem}"):
        prepare(tmp_path / "work", released)
