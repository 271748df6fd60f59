"""Benchmarks go through decode, score and report, and survive a second run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from chat_server import Server
from conftest import copy_until

from toolkit.data.manifest import read_manifest, write_manifest
from toolkit.evaluation.benchmarks import write_embedded

BENCHMARKS = """decode.benchmarks={
    classes: !new:toolkit.evaluation.benchmarks.Classification
        {path: sets/dynamic_superb, manifests: [work/data/tiny/test.jsonl], max_new_tokens: 3},
    following: !new:toolkit.evaluation.benchmarks.InstructionFollowing
        {path: sets/speech_ifeval, inputs: [text, speech, blank, shuffled],
         max_new_tokens: 3},
    descriptions: !new:toolkit.evaluation.benchmarks.Descriptions
        {path: described.jsonl, describe: !new:toolkit.teachers.SeedTranscript {},
         pool: !new:toolkit.teachers.DescriptionPool {}, attributes: [gender, pitch],
         limit: 3, max_new_tokens: 3},
    chat: !new:toolkit.evaluation.benchmarks.Chat {path: sets/air_bench_chat, max_new_tokens: 3}}"""


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def test_benchmarks_through_the_stages(finished, stages, tmp_path, server):
    copy_until(finished, tmp_path, "data", "annotations", "targets", "cache", "exp")
    rows = read_manifest(tmp_path / "work/data/tiny/test.jsonl")
    described = [
        replace(row, attributes={"gender": ("female", "male")[i % 2], "pitch": "low"})
        for i, row in enumerate(rows)
    ]
    write_embedded(described, tmp_path / "sets", per_task=4)
    write_manifest(tmp_path / "described.jsonl", described)
    overrides = [" ".join(BENCHMARKS.split())]
    context = stages(8, 10, overrides=overrides, force=True)
    scores = json.loads((context.exp / "scores.json").read_text())
    assert set(scores["benchmarks"]) == {"classes", "following", "descriptions", "chat"}
    classes = scores["benchmarks"]["classes"]
    assert classes["n"] == 4 and set(classes["strict"]) == {"text", "speech", "blank"}
    assert "shuffled" in scores["benchmarks"]["following"]["agreement"]
    report = Path(context.exp, "RESULTS.md").read_text()
    assert "## classes: classification (Dynamic-SUPERB format) (4 items" in report
    assert set(scores["benchmarks"]["descriptions"]["tasks"]) == {"gender", "pitch"}
    assert "## descriptions: attributes that descriptions name (3 items" in report
    assert report.count("ROUGE-L to the text LLM's answer |") == 2
    files = sorted(p for p in (context.exp / "decode").glob("benchmark-*.jsonl"))
    assert len(files) == 3 + 4 + 3 + 3
    text = json.loads((context.exp / "decode/benchmark-chat.text.jsonl").read_text().split("\n")[0])
    assert text["transcript"].startswith("[00:00:00 - ")  # the LLM read the description
    assert "Not judged" in report and scores["benchmarks"]["following"]["left_out"]
    # Decoded by the same weights and settings: nothing is asked again.
    before = {p: p.stat().st_mtime_ns for p in files}
    stages(8, 9, overrides=overrides, force=True)
    assert before == {p: p.stat().st_mtime_ns for p in files}
    # A judge is asked about these answers, and about each pair of them once.
    server.reply = lambda text: "8 6" if "two values" in text else "So: Result: YES"
    judge = (
        "score.judge=!new:toolkit.evaluation.benchmarks.ServedJudge {endpoint: "
        f'!new:toolkit.teachers.Endpoint {{url: "{server.url}"}}, store: verdicts.jsonl}}'
    )
    stages(9, 10, overrides=[*overrides, judge], force=True)
    scores = json.loads((context.exp / "scores.json").read_text())["benchmarks"]
    chat = scores["chat"]["inputs"]
    # Two points for the first place are nobody's advantage: places are swapped.
    assert [(e["score"]["value"], e["reference"]["value"]) for e in chat.values()] == [(7, 7)] * 3
    assert scores["chat"]["unjudged"] == 0 and scores["following"]["left_out"] == []
    assert "Not judged" not in Path(context.exp, "RESULTS.md").read_text()
    assert {body["temperature"] for body in server.requests} == {0}
    asked = len(server.requests)
    stages(9, 9, overrides=[*overrides, judge, "score.bootstrap=20"], force=True)
    assert len(server.requests) == asked
    assert before == {p: p.stat().st_mtime_ns for p in files}
