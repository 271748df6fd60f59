"""Benchmarks of several runs side by side: one row per run and input, numbers of all seeds."""

from __future__ import annotations

from pathlib import Path

from toolkit.evaluation import merged_tables
from toolkit.evaluation.merge import Group, Merged, Run
from toolkit.evaluation.merged_benchmarks import benchmark_tables
from toolkit.evaluation.page import page


def benchmark(speech: float, **more: dict) -> dict:
    """A benchmark's scores as its report has them, without what merging does not read."""
    numbers = {"speech": speech, "blank": 0.25, "text": 1.0}
    cells = {k: {"value": v, "low": v - 0.1, "high": v + 0.1} for k, v in numbers.items()}
    none = {"speech": {"value": float("nan"), "low": 0.0, "high": 0.0}}
    entry = {"format": "made", "n": 7, "summary": {"gender": cells, "pitch": none, **more}}
    return {"benchmarks": {"ears": entry}}


def group(name: str, *scores: dict) -> Group:
    runs = [
        Run(Path("exp", name, f"seed{seed}"), {"seed": seed, "sets": {}, **own}, {})
        for seed, own in enumerate(scores, start=1)
    ]
    return Group(name, "trained", runs)


def test_benchmarks_of_runs_stand_side_by_side() -> None:
    certain = {"speech": {"value": 1.0, "low": 1.0, "high": 1.0}}
    merged = Merged(
        [
            group("tiny/full", benchmark(0.5), benchmark(0.7), benchmark(0.6)),
            group("tiny/plain", benchmark(0.75, noise=certain)),
        ],
        [],
    )
    (table,) = benchmark_tables(merged)
    assert table.title == "ears: made"
    assert table.header == ["run", "in the audio slot", "items", "gender", "pitch", "noise"]
    speech = "speech (this model)"
    assert table.rows[:2] == [
        ["tiny/full", speech, "7", "0.60 ± 0.10", "-", "-"],
        ["tiny/plain", speech, "7", "0.75 [0.65, 0.85]", "-", "1.00 [1.00, 1.00]"],
    ]
    others = [row[1].partition(" ")[0] for row in table.rows[2:]]
    assert others == ["blanked"] * 2 + ["description"] * 2
    text = merged_tables.markdown(merged)
    assert "## ears: made" in text
    assert f"| tiny/full | {speech} | 7 | 0.60 ± 0.10 | - | - |" in text
    assert "<h2>ears: made</h2>" in page(merged)


def test_runs_of_before_there_were_summaries_are_left_out() -> None:
    old = {"benchmarks": {"ears": {"format": "made", "n": 7}}}
    merged = Merged(
        [group("tiny/old", old), group("tiny/new", benchmark(0.5)), group("none", {})], []
    )
    (table,) = benchmark_tables(merged)
    assert {row[0] for row in table.rows} == {"tiny/new"}
    assert benchmark_tables(Merged([group("tiny/old", old)], [])) == []
