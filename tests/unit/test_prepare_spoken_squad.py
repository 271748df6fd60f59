"""Spoken-SQuAD in its real layout: SQuAD's JSON with heard texts, a WAV file a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from recipes.spoken_squad.prepare import prepare
from toolkit.data.audio import read_audio
from toolkit.data.manifest import ManifestError, read_manifest, validate

RATE = 24_000
# (title, [(gold passage, recognised passage, sentences, [(id, question, gold, recognised)])])
TEST = [
    (
        "Super_Bowl_50",
        [
            (
                "Super Bowl 50 was a game. Denver won 24-10.",
                "super bowl fifty was a game. denver one twenty four to ten.",
                2,
                [
                    ("56be4db0", "Which team won?", ["Denver", "Denver"], ["denver", "denver"]),
                    ("56be4db1", "What was it?", ["a game"], [""]),
                ],
            ),
            ("Nobody asks about this.", "nobody asks about this.", 1, []),
        ],
    ),
    (
        "Warsaw",
        [
            (
                "Warsaw is the capital. It lies on the Vistula.",
                "warsaw is the capital. it lies on the vista.",
                11,
                [("5733a5f5", "What is Warsaw?", ["the capital"], ["capital", "the capital"])],
            )
        ],
    ),
]
TRAIN = [
    (
        f"Topic_{i}",
        [
            (
                f"Passage {i} {j} of the topic.",
                f"passage {i} {j} of the topic.",
                1 + j,
                [(f"t{i}{j}", "Which passage?", [f"Passage {i} {j}"], [f"passage {i} {j}"])],
            )
            for j in range(2)
        ],
    )
    for i in range(5)
]


def squad_json(topics, spoken: bool) -> dict:
    def answers(texts, context):
        return [{"answer_start": max(context.find(text), 0), "text": text} for text in texts]

    data = []
    for title, paragraphs in topics:
        listed = []
        for gold, heard, _, asked in paragraphs:
            context = heard if spoken else gold
            qas = [
                {"answers": answers(own if spoken else best, context), "question": q, "id": name}
                for name, q, best, own in asked
            ]
            listed.append({"context": context, "qas": qas})
        data.append({"title": title, "paragraphs": listed})
    return {"data": data, "version": "1.1"}


def level(topic: int, paragraph: int, sentence: int) -> float:
    return (1 + topic + 2 * paragraph + 3 * sentence) / 50


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "Spoken-SQuAD"
    for part, folder, topics in (("train", "train_wav", TRAIN), ("test", "dev_wav", TEST)):
        wavs = root / "Spoken-SQuAD_audio" / folder
        wavs.mkdir(parents=True)
        text = json.dumps(squad_json(topics, spoken=True))
        (root / f"spoken_{part}-v1.1.json").write_text(text)
        for i, (_, paragraphs) in enumerate(topics):
            for j, (_, _, sentences, _) in enumerate(paragraphs):
                for k in range(sentences):
                    wave = np.full(RATE // 10, level(i, j, k), np.float32)
                    soundfile.write(wavs / f"{i}_{j}_{k}.wav", wave, RATE)
    for name, topics in (("train-v1.1.json", TRAIN), ("dev-v1.1.json", TEST)):
        (tmp_path / name).write_text(json.dumps(squad_json(topics, spoken=False)))
    return root


def test_a_row_a_question_on_whole_passages(source, tmp_path):
    report = prepare(tmp_path / "work", source, squad=tmp_path, dev_share=0.2, nj=1)
    assert all(validate(path, check_audio=True).ok for path in report.manifests.values())
    parts = {part: read_manifest(path) for part, path in report.manifests.items()}
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 8, "dev": 2, "test": 3}
    titles = {part: {row.attributes["title"] for row in rows} for part, rows in parts.items()}
    assert not titles["train"] & titles["dev"] and len(titles["dev"]) == 1
    by_id = {row.id: row for row in parts["test"]}
    row = by_id["spoken_squad-56be4db0"]
    assert row.text == TEST[0][1][0][0] and row.asr_text == TEST[0][1][0][1]
    assert (row.question, row.answer) == ("Which team won?", "Denver")
    assert row.attributes == {
        "title": "Super_Bowl_50", "passage": "test_0_0", "answers": ["Denver", "denver"],
    }  # fmt: skip
    # The recogniser's answer is empty, SQuAD's is not.
    assert by_id["spoken_squad-56be4db1"].attributes["answers"] == ["a game"]
    assert row.audio == by_id["spoken_squad-56be4db1"].audio
    # Eleven sentences, in the order of their numbers and not of their names.
    capital = by_id["spoken_squad-5733a5f5"]
    wave = read_audio(capital.audio)
    assert len(wave) / 16_000 == pytest.approx(1.1, abs=1e-3) == capital.duration
    levels = [float(np.median(wave[k * 1600 : (k + 1) * 1600])) for k in range(11)]
    assert levels == pytest.approx([level(1, 0, k) for k in range(11)], abs=1e-3)
    assert report.facts["Passages (test)"]["passages"] == 2
    # What was joined before is kept.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")}
    again = prepare(tmp_path / "work", source, squad=tmp_path, dev_share=0.2, nj=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")} == before
    assert read_manifest(again.manifests["train"]) == parts["train"]


def test_without_squad_texts_are_the_recognisers(source, tmp_path):
    report = prepare(tmp_path / "work", source, pause=0.5, nj=1)
    test = {row.id: row for row in read_manifest(report.manifests["test"])}
    assert set(test) == {"spoken_squad-56be4db0", "spoken_squad-5733a5f5"}
    row = test["spoken_squad-56be4db0"]
    assert row.text == row.asr_text == TEST[0][1][0][1] and row.answer == "denver"
    assert row.duration == pytest.approx(0.7, abs=1e-3)
    assert report.dropped == {"test: questions without an answer": 1}
    assert "no gold" in report.facts["Text policy"]


def test_passages_without_all_of_their_sentences_are_counted(source, tmp_path):
    wavs = source / "Spoken-SQuAD_audio"
    (wavs / "dev_wav" / "1_0_4.wav").unlink()
    (wavs / "train_wav" / "2_0_0.wav").unlink()
    (wavs / "train_wav" / "3_1_0.wav").write_bytes(b"RIFF")
    report = prepare(tmp_path / "work", source, squad=tmp_path, nj=1)
    assert report.dropped == {
        "test: passages with a sentence missing": 1,
        "train: passages without a recording": 1,
        "train: passages: audio_corrupt": 1,
    }
    ids = {row.id for row in read_manifest(report.manifests["train"])}
    ids |= {row.id for row in read_manifest(report.manifests["dev"])}
    assert ids == {f"spoken_squad-t{i}{j}" for i in range(5) for j in range(2)} - {
        "spoken_squad-t20", "spoken_squad-t31",
    }  # fmt: skip


def test_what_is_missing_or_damaged_is_named(source, tmp_path):
    work = tmp_path / "work"
    with pytest.raises(FileNotFoundError, match="spoken_train-v1.1.json is missing; get it from"):
        prepare(work, tmp_path)
    with pytest.raises(FileNotFoundError, match="train-v1.1.json is missing; get SQuAD 1.1"):
        prepare(work, source, squad=source)
    wavs = source / "Spoken-SQuAD_audio" / "train_wav"
    wavs.rename(wavs.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match="train_wav.zip, which is inside Spoken-SQuAD_audi"):
        prepare(work, source)
    wavs.mkdir()
    with pytest.raises(FileNotFoundError, match="no passage of spoken_train.*has all of its rec"):
        prepare(work, source)
    questions = source / "spoken_train-v1.1.json"
    good = json.loads(questions.read_text())

    def caught(change, squad=None) -> ManifestError:
        content = json.loads(json.dumps(good))
        change(content["data"])
        questions.write_text(json.dumps(content))
        with pytest.raises(ManifestError) as found:
            prepare(work, source, squad=squad)
        return found.value

    error = caught(lambda data: data[1]["paragraphs"][0]["qas"][0].pop("question"))
    assert error.path == str(questions)
    assert error.field == "data[1].paragraphs[0].qas[0].question" and "got None" in str(error)
    error = caught(lambda data: data[0]["paragraphs"][1]["qas"][0].update(answers=[{"text": 3}]))
    assert error.field == "data[0].paragraphs[1].qas[0].answers[0].text"
    error = caught(lambda data: data[4]["paragraphs"][1]["qas"][0].update(id="t00"))
    assert error.field == "data[4].paragraphs[1].qas[0].id" and "twice" in str(error)
    # Another part of SQuAD than that of the recordings.
    error = caught(lambda data: data[3]["paragraphs"][0]["qas"][0].update(id="x"), squad=tmp_path)
    assert error.path == str(tmp_path / "train-v1.1.json")
    assert error.field == "data[3].paragraphs[0]" and "'x'" in str(error)
    questions.write_text('{"data": [\n  {"title": }\n')
    with pytest.raises(ManifestError, match=r"spoken_train-v1.1.json:2: no valid JSON"):
        prepare(work, source)
