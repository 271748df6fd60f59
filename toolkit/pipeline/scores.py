"""Scores of decoded test sets, of a run's own answers as of other systems'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from toolkit.evaluation.generalisation import generalisation
from toolkit.evaluation.plans import DecodePlan, DecodeRun
from toolkit.evaluation.score_plans import ScorePlan
from toolkit.evaluation.scoring import score_set
from toolkit.pipeline.context import RunContext


def score_runs(
    context: RunContext,
    decoded: Iterable[tuple[DecodeRun, Mapping[str, list[dict]]]],
    plan: DecodePlan,
    score: ScorePlan,
) -> dict[str, Any]:
    """Score every part of a decode plan.

    Parameters
    ----------
    context : RunContext
    decoded : iterable of (DecodeRun, mapping of str to list of dict)
        A part of the plan and its decoded rows by input or system.
    plan : DecodePlan
    score : ScorePlan

    Returns
    -------
    dict
        What ``scores.json`` begins with: how it was scored, ``sets`` and ``generalisation`` by
        part.
    """
    for metric in score.all_metrics():
        metric.prepare(context.device)
    sets, grids = {}, {}
    for part, rows in decoded:
        if part.name in plan.sets:
            sets[part.name] = score_set(rows, score, plan.pool)
        else:
            grids[part.name] = generalisation(rows, score, plan.pool)
    return {
        "normaliser": score.normaliser,
        "bootstrap": score.bootstrap,
        "confidence": score.confidence,
        "resampled": "recordings",
        "smoke": context.smoke,
        "seed": context.seed,
        "sets": sets,
        "generalisation": grids,
    }
