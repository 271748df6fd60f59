"""Intents and spoken questions on passages: what is written, and that the benchmarks read it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recipes.asterisk_sounds import understanding
from recipes.asterisk_sounds.questions import question_rows
from toolkit.config import load
from toolkit.data.audio import read_audio, write_audio
from toolkit.data.manifest import ManifestError, Row, read_manifest, write_manifest
from toolkit.evaluation import ScorePlan
from toolkit.evaluation.benchmarks import Answers, Classification
from toolkit.evaluation.benchmarks.items import rows_of

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/asterisk_sounds/self_powered/train.yaml"
TEXTS = {
    "vm-a": ("Press 1 to exit.", "voicemail"),
    "vm-b": ("Press 2 to save this message, or 3 to erase it.", "voicemail"),
    "digits/7": ("Seven.", "number_or_date"),
    "digits/8": ("Eight.", "number_or_date"),
    "tt-joke": ("Weasels.", "joke"),
    "hello": ("Hello.", None),
}


def prompts(folder: Path) -> list[Row]:
    rows = []
    for i, (key, (text, intent)) in enumerate(TEXTS.items()):
        path = folder / "wav" / f"{i}.wav"
        write_audio(path, np.full(8000, 0.1, np.float32))
        own = {"key": key} | ({"intent": intent} if intent else {})
        rows.append(Row(f"p{i}", str(path), 0.5, text, "en", "allison", attributes=own))
    write_manifest(folder / "test.jsonl", rows)
    return rows


def test_intents_are_the_families_of_the_keys(tmp_path):
    rows = prompts(tmp_path / "prompts")
    sizes = understanding.write_intents(rows, tmp_path / "sets")
    assert sizes == {"voicemail": 2, "number or date": 2}  # a family of one is no option
    benchmark = Classification(
        str(tmp_path / "sets"), manifests=[str(tmp_path / "prompts/test.jsonl")]
    )
    items = benchmark.items()
    assert [i.label for i in items] == ["voicemail"] * 2 + ["number or date"] * 2
    assert items[0].instruction.endswith("The answer could be number or date or voicemail.")
    known = rows_of(items, {row.audio: row for row in rows})
    asked = benchmark.decode_items(items, known, "intents", "text")
    assert asked[0].row.text == "Press 1 to exit."  # the text LLM reads the transcript
    answers = {i.id: {"answer": "A number or date.", "nll": 1.0, "tokens": 2} for i in items}
    scores = benchmark.score(items, {"text": answers, "speech": answers}, ScorePlan(bootstrap=20))
    assert scores["summary"]["IntentClassification"]["speech"]["value"] == 0.5
    with pytest.raises(ValueError, match="0 families have 3 prompts or more; there are"):
        understanding.write_intents(rows, tmp_path / "sets", min_items=3)


def test_the_question_is_heard_and_the_passage_is_read(tmp_path, monkeypatch):
    said = []

    def speak(text, take):
        said.append((text, take))
        return np.full(1600 * len(text.split()), 0.2, np.float32)

    monkeypatch.setattr(understanding, "synthesise", speak)
    (row, *_), _ = question_rows(prompts(tmp_path / "prompts"))
    found = understanding.question_on_passage(row, tmp_path / "wav")
    assert found.text == "Which key do you press to exit?" and found.context == "Press 1 to exit."
    assert found.question is None and found.answer == "1" and found.speaker == said[0][1].speaker
    assert found.attributes["answers"] == ["1", "one"] and "key" not in found.attributes
    assert len(read_audio(found.audio)) == 1600 * 7 and found.duration == pytest.approx(0.7)
    from toolkit.data.synthesis import HELD_OUT

    assert said[0][1].voice.partition("+")[2] in HELD_OUT
    assert understanding.question_on_passage(row, tmp_path / "wav") == found and len(said) == 1
    assert understanding.question_on_passage(row, tmp_path / "wav", seed=1).audio != found.audio


def test_answers_by_hand(tmp_path):
    rows = []
    for i, (answers, passage) in enumerate(
        [(["2", "two"], "p0"), (["pound", "#"], "p0"), (["2"], "p1"), (["the tone"], "p2")]
    ):
        path = tmp_path / f"{i}.wav"
        write_audio(path, np.full(1600, 0.1, np.float32))
        rows.append(
            Row(f"q{i}", str(path), 0.1, f"Which {i}?", "en", "s", answer=answers[0],
                context=f"Passage {passage}.", attributes={"answers": answers, "prompt": passage})
        )  # fmt: skip
    write_manifest(tmp_path / "q.jsonl", rows)
    benchmark = Answers(str(tmp_path / "q.jsonl"))
    items = benchmark.items()
    assert "about this passage: Passage p0.\n" in items[0].instruction
    asked = benchmark.decode_items(items, rows_of(items, {r.audio: r for r in rows}), "q", "text")
    assert asked[0].row.text == "Which 0?"
    said = {
        "text": ["2", "pound", "2", "tone"],
        "speech": ["Two.", "the pound key", "3", ""],
        "blank": ["2"] * 4,
    }
    decoded = {
        name: {
            i.id: {"answer": answer, "nll": 1.0, "tokens": 2}
            for i, answer in zip(items, own, strict=True)
        }
        for name, own in said.items()
    }
    scores = benchmark.score(items, decoded, ScorePlan(bootstrap=50))
    exact, contains = (scores["metrics"][name] for name in ("exact match", "contains"))
    assert {n: e["value"] for n, e in exact.items()} == {"text": 1.0, "speech": 0.25, "blank": 0.5}
    assert contains["speech"]["value"] == 0.5
    assert scores["metrics"]["token F1"]["speech"]["value"] == pytest.approx((1 + 2 / 3) / 4)
    assert scores["majority"]["label"] == "2" and scores["majority"]["exact match"] == 0.5
    assert scores["speech_minus"]["exact match"]["blank"]["difference"] == pytest.approx(-0.25)
    # Two questions on one passage are drawn together: some draws have none or all of passage p0.
    assert exact["text"]["low"] == exact["text"]["high"] == 1.0
    table = benchmark.table(scores)
    assert "| always “2” | 0.50 | 0.50 | 0.50 |" in table and "| its transcript (the" in table
    json.dumps(scores)


def test_rows_without_what_is_asked_are_named(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, np.full(1600, 0.1, np.float32))
    manifest = tmp_path / "q.jsonl"
    write_manifest(manifest, [Row("a", str(path), 0.1, "Which?", "en", "s", answer="2")])
    with pytest.raises(ManifestError, match=r"q.jsonl:1: field 'context': is missing"):
        Answers(str(manifest)).items()
    assert Answers(str(manifest), "Answer.").items()[0].label == "2"
    write_manifest(manifest, [Row("a", str(path), 0.1, "Which?", "en", "s", context="x")])
    with pytest.raises(ManifestError, match="field 'answer': is missing"):
        Answers(str(manifest)).items()


def test_prepare_writes_what_the_recipe_reads(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    monkeypatch.syspath_prepend(str(ROOT))
    prompts(tmp_path / "data/asterisk_sounds/en")
    report = understanding.prepare(tmp_path, limit=3)
    rows = read_manifest(report.manifests["passages"])
    assert len(rows) == 3 and all(np.abs(read_audio(row.audio)).max() > 0.05 for row in rows)
    assert report.facts["Intents"] == {"voicemail": 2, "number or date": 2}
    config = load(RECIPE, [f"work={tmp_path}"])
    benchmarks = config.decode.benchmarks
    assert list(benchmarks) == ["intents", "passages"]
    assert {len(b.items()) for b in benchmarks.values()} == {4, 3}
    quick = load(RECIPE, [config.tree["quick"], f"work={tmp_path}"])
    assert quick.decode.benchmarks == {} and "asterisk_understanding" not in quick.corpora
