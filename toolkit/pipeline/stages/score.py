"""Stage 9: metrics with controls and intervals."""

from __future__ import annotations

import json
import logging

from toolkit.evaluation import ScorePlan
from toolkit.evaluation.benchmarks.base import Benchmark
from toolkit.evaluation.decoding import read_decoded, read_run
from toolkit.pipeline.context import RunContext
from toolkit.pipeline.marks import write_json
from toolkit.pipeline.measures import model_measures
from toolkit.pipeline.scores import score_runs

log = logging.getLogger("toolkit")


def run(context: RunContext) -> dict:
    """Write ``<exp>/scores.json``.

    Parameters
    ----------
    context : RunContext

    Returns
    -------
    dict
        The headline numbers.
    """
    objects = context.config.build("decode", "score")
    plan, score = objects["decode"], objects["score"]
    decoded = ((part, read_run(context.exp / "decode", part)) for part in plan.runs())
    scores = score_runs(context, decoded, plan, score)
    scores["headline"] = {
        f"{name} {kind}": {
            "wer": round(entry["wer"]["value"], 3),
            "rouge_l": round(entry["rouge_l"]["value"], 3),
            "perplexity": round(entry["perplexity"]["value"], 2),
        }
        for name, inputs in scores["sets"].items()
        for kind, entry in inputs.items()
    }
    for name, benchmark in plan.benchmarks.items():
        scored = _benchmark(context, name, benchmark, score)
        scores.setdefault("benchmarks", {})[name] = scored
        log.info("benchmark %s:\n%s", name, scored["table"])
    topline = context.exp / "topline.json"
    if topline.exists():
        scores["topline"] = json.loads(topline.read_text())
    scores.update(model_measures(context, score, plan.sets))
    write_json(context.exp / "scores.json", scores)
    for line, numbers in scores["headline"].items():
        log.info("%-24s WER %.3f, ROUGE-L %.3f, perplexity %.2f", line, *numbers.values())
    return scores["headline"]


def _benchmark(context: RunContext, name: str, benchmark: Benchmark, plan: ScorePlan) -> dict:
    """Scores of a benchmark, and their table."""
    decoded = {
        kind: {
            row["wording"]: row
            for row in read_decoded(context.exp / "decode" / f"benchmark-{name}.{kind}.jsonl")
        }
        for kind in benchmark.inputs
    }
    # Clips that the encoder cannot read were left out, and counted, by the decode stage.
    items = [item for item in benchmark.items() if item.id in decoded["text"]]
    scores = benchmark.score(items, decoded, plan)
    return {**scores, "format": benchmark.kind, "table": benchmark.table(scores)}
