"""Stage 10: tables and curves; the only place that writes published numbers."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from pathlib import Path

from toolkit.evaluation.anchor_report import anchor_table, blocking_table
from toolkit.evaluation.generalisation import heat_map
from toolkit.evaluation.merge import merge
from toolkit.evaluation.page import page
from toolkit.evaluation.runs import MergeError
from toolkit.evaluation.tables import (
    LABELS,
    generalisation_table,
    interval_name,
    metric_tables,
    paired_lines,
    results_table,
    task_table,
)
from toolkit.evaluation.text_regression import regression_table
from toolkit.pipeline.context import RunContext
from toolkit.pipeline.marks import Marks
from toolkit.pipeline.table import STAGES
from toolkit.pipeline.topline import best_wording

log = logging.getLogger("toolkit")


def run(context: RunContext) -> dict:
    """Write ``RESULTS.md`` and ``report.html`` beside the runs, and print the former.

    Parameters
    ----------
    context : RunContext

    Returns
    -------
    dict
        Path of the report.
    """
    if not (context.exp / "scores.json").exists():
        log.info("no scores.json yet: run stages 8 and 9 first")
        return {}
    folders = sorted(context.exp.parent.glob("seed*"))
    runs = [f for f in folders if (f / "scores.json").exists()]
    text = render(f"{context.title} ({context.status})", runs)
    for path in (context.exp / "RESULTS.md", context.exp.parent / "RESULTS.md"):
        path.write_text(text)
    try:
        html = page(merge(runs), f"Results: {context.title} ({context.status})")
    except MergeError as error:
        log.warning("no report.html: %s", error)
    else:
        (context.exp.parent / "report.html").write_text(html, encoding="utf-8")
    print(text)
    return {"report": str(context.exp.parent / "RESULTS.md")}


def render(title: str, runs: list[Path]) -> str:
    """The report of one or several seeds.

    Parameters
    ----------
    title : str
    runs : list of Path
        Run folders with ``scores.json``.

    Returns
    -------
    str
        Markdown.
    """
    scores = [json.loads((run / "scores.json").read_text()) for run in runs]
    seeds = ", ".join(str(s["seed"]) for s in scores)
    lines = [f"# Results: {title}", ""]
    if any(s["smoke"] for s in scores):
        lines += [
            "**SMOKE run: every stage on a handful of utterances; these numbers mean nothing.**",
            "",
        ]
    lines += _environment(runs[0])
    lines += [
        f"Seeds: {seeds}. Intervals: {interval_name(scores[0])}; ± is the standard deviation over "
        "seeds.",
        "",
    ]
    first = f"seed {scores[0]['seed']}"
    for name in scores[0]["sets"]:
        n = scores[0]["sets"][name]["speech"]["n"]
        repeats = scores[0]["sets"][name]["speech"]["wer"]["n"]
        lines += [f"## {name} ({n} items of the tasks, {repeats} repetitions)", ""]
        lines += [results_table(scores, name), ""]
        paired = paired_lines(scores[0], name)
        if paired and len(scores) > 1:
            lines += [f"Paired tests ({first}):", ""]
        lines += [*paired, ""]
        lines += [f"Tasks ({first}):", "", task_table(scores[0], name), ""]
        lines += metric_tables(scores, name)
        lines += _model_measures(runs, scores, name)
    lines += _generalisation(scores[0], runs[0])
    for name, entry in scores[0].get("benchmarks", {}).items():
        lines += [f"## {name}: {entry['format']} ({entry['n']} items, {first})"]
        lines += ["", entry["table"], ""]
    topline = scores[0].get("topline")
    if topline:
        left = ", ".join(topline["left_out"]) or "none"
        lines += [
            f"Tasks left out of training because the text LLM itself does not carry them: {left}.",
            "",
        ]
        wordings = topline["wordings"]
        if wordings:
            best = best_wording(wordings)
            lines += [
                f"Repetitions are asked for in wording {best}, in which the text LLM errs least on "
                f"the development set (WER {wordings[best]:.3f}; the worst of "
                f"{len(wordings)}: {max(wordings.values()):.3f}).",
                "",
            ]
    lines += _times(runs)
    # What --force set aside (train.DATE-TIME) is no part of the run.
    curves = [
        path
        for run in runs
        for path in sorted(run.glob("*/curves/*.png"))
        if "." not in path.relative_to(run).parts[0]
    ]
    lines += [
        f"![{p.parent.parent.name}: {p.stem}]({os.path.relpath(p, runs[0].parent)})" for p in curves
    ]
    return "\n".join(lines) + "\n"


def _generalisation(scores: dict, run: Path) -> list[str]:
    """The benchmark's table, and its heat map beside the scores."""
    lines: list[str] = []
    for name, entry in scores.get("generalisation", {}).items():
        lines += [f"## Generalisation, {name} (seed {scores['seed']})", ""]
        lines += generalisation_table(entry)
        if importlib.util.find_spec("matplotlib"):
            path = heat_map(entry, run / f"{name}.png", lambda k: LABELS.get(k, k).replace("*", ""))
            lines += [f"![{name}: quality by task and wording]({path.relative_to(run.parent)})", ""]
    return lines


def _model_measures(runs: list[Path], scores: list[dict], name: str) -> list[str]:
    """Anchor bias and text regression of a test set, one row per seed."""
    lines: list[str] = []
    measured = {
        f"seed {s['seed']}": s["anchor_bias"][name]
        for s in scores
        if name in s.get("anchor_bias", {})
    }
    if measured:
        lines += [f"### {name}: speech anchor bias", "", anchor_table(measured), ""]
        lines += [blocking_table(measured), ""]
        pictures = [p for run in runs for p in sorted(run.glob(f"anchor_bias/{name}/*.png"))]
        lines += [f"![{p.stem}]({os.path.relpath(p, runs[0].parent)})" for p in pictures]
        lines += [""]
    for s in scores:
        if name in s.get("text_regression", {}):
            lines += [f"### {name}: the LLM on text alone (seed {s['seed']})", ""]
            lines += [regression_table(s["text_regression"][name]), ""]
    return lines


def _environment(run: Path) -> list[str]:
    path = run / "provenance" / "environment.json"
    if not path.exists():
        return []
    facts = json.loads(path.read_text())
    machine, packages = facts["machine"], facts["packages"]
    versions = ", ".join(
        f"{k} {packages[k]}" for k in ("python", "torch", "transformers", "speechbrain")
    )
    accelerators = ", ".join(machine["accelerators"]) or "no accelerator"
    return [
        f"Machine: {machine['processor']}, {machine['cores']} cores, {accelerators}. {versions}. "
        f"Commit {facts['git'][:12] or 'unknown'}.",
        "",
    ]


def _times(runs: list[Path]) -> list[str]:
    path = runs[0] / "times.json"
    if not path.exists():
        return []
    times = json.loads(path.read_text())
    total = sum(times.values()) / 60
    parts = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in times.items())
    marks = Marks(runs[0])
    known = {stage.name: marks.read(stage.name) for stage in STAGES}
    taken = [name for name, mark in known.items() if mark and "taken_from" in mark["facts"]]
    # Their minutes are in the reports of the runs that they were taken from.
    others = f" Taken over from other runs: {', '.join(taken)}." if taken else ""
    return [f"Minutes per stage: {parts}; in all {total:.1f}.{others}", ""]
