"""Scores as Markdown: every published number comes through here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

#: What stands in the audio slot, in the words of the tables.
LABELS = {
    "speech": "**speech** (this model)",
    "text": "gold transcript (text topline)",
    "asr": "Whisper transcript (cascade)",
    "blank": "blanked audio (control)",
    "shuffled": "another utterance (control)",
    "untrained": "untrained projector (control)",
    "pretrained": "first phase's projector",
    "pads_kept": "speech, pads kept",
}
#: Resamples of score files that do not say: `ScorePlan`'s default when they were written.
_RESAMPLES = 1000


def interval_name(scores: Mapping) -> str:
    """What the intervals of a score file are.

    Parameters
    ----------
    scores : dict
        Contents of ``scores.json``. One that does not name what was resampled is of the time when
        that was utterances; one without its confidence, items.

    Example
    -------
    >>> interval_name({"confidence": 0.9, "resampled": "recordings"})
    '90 % bootstrap over recordings'
    >>> interval_name({"confidence": 0.9}), interval_name({})
    ('90 % bootstrap over utterances', '95 % bootstrap over items')
    """
    unit = scores.get("resampled", "utterances" if "confidence" in scores else "items")
    return f"{100 * scores.get('confidence', 0.95):g} % bootstrap over {unit}"


def with_interval(entry: Mapping[str, float | None], digits: int = 3) -> str:
    """``value [low, high]``.

    Example
    -------
    >>> with_interval({"value": 0.25, "low": 0.2, "high": 0.3125}, 2)
    '0.25 [0.20, 0.31]'
    """
    if entry["value"] is None or math.isnan(entry["value"]):
        return "-"
    return f"{entry['value']:.{digits}f} [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"


def over_seeds(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation over seeds.

    Example
    -------
    >>> over_seeds([0.2, 0.4])
    '0.300 ± 0.141'
    """
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


def results_table(runs: Sequence[Mapping], name: str) -> str:
    """Inputs of one test set as rows.

    Parameters
    ----------
    runs : sequence of dict
        Contents of ``scores.json``, one per seed: one run shows bootstrap intervals, several show
        the mean and standard deviation over seeds.
    name : str
        Test set.

    Returns
    -------
    str
        Markdown.
    """
    # Seeds may differ in what they decoded: a recipe may have changed between them.
    inputs: dict[str, list[Mapping]] = {}
    for run in runs:
        for kind, scored in run["sets"].get(name, {}).items():
            inputs.setdefault(kind, []).append(scored)
    normaliser = runs[0]["normaliser"]
    lines = [
        f"| in the audio slot | repeat WER ({normaliser}) | sub / del / ins / words "
        "| heard WER | ROUGE-L to the text branch | perplexity of its answer "
        "| follows: seen / held-out wording / held-out task |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, entries in inputs.items():
        cells = [LABELS.get(kind, kind)]
        wer = entries[0]["wer"]
        counts = (wer["substitutions"], wer["deletions"], wer["insertions"], wer["words"])
        for metric, digits in (("wer", 3), ("heard_wer", 3), ("rouge_l", 3), ("perplexity", 2)):
            found = [e[metric] for e in entries if metric in e]
            if len(found) > 1:
                cells.append(over_seeds([e["value"] for e in found], digits))
            else:
                alone = " (1 seed)" if len(runs) > 1 else ""
                cells.append(with_interval(found[0], digits) + alone if found else "-")
        cells.insert(2, " / ".join(str(c) for c in counts))
        shares = []
        for group in ("seen wording", "held-out wording", "held-out task"):
            found = [e["following"][group]["value"] for e in entries if group in e["following"]]
            shares.append(f"{statistics.mean(found):.2f}" if found else "-")
        cells.append(" / ".join(shares))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def task_table(scores: Mapping, name: str) -> str:
    """Speech against the text branch and the blank control, task by task."""
    sets = scores["sets"][name]
    kinds = [k for k in ("speech", "text", "blank") if k in sets]
    lines = [
        "| task | n | "
        + " | ".join(f"follows, {k}" for k in kinds)
        + " | ROUGE-L, speech | ROUGE-L, blank |",
        "|---|---|" + "---|" * (len(kinds) + 2),
    ]
    for task, entry in sets["speech"]["tasks"].items():
        cells = [task, str(entry["n"])]
        cells += [f"{sets[k]['tasks'][task]['following']:.2f}" for k in kinds]
        cells.append(f"{entry['rouge_l']:.3f}")
        blank = sets.get("blank")
        cells.append(f"{blank['tasks'][task]['rouge_l']:.3f}" if blank else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def metric_tables(runs: Sequence[Mapping], name: str) -> list[str]:
    """The metrics that the recipe lists for single tasks, one table a task, inputs as rows.

    Parameters
    ----------
    runs : sequence of dict
        Contents of ``scores.json``, one per seed: a metric that one run has shows its bootstrap
        interval, one of several the mean and standard deviation over these, and the first run's
        paired tests.
    name : str
        Test set.

    Returns
    -------
    list of str
        Markdown lines; none where no metric is listed.
    """
    scores = runs[0]
    resamples = scores.get("bootstrap", _RESAMPLES)
    lines: list[str] = []
    for task, inputs in _listed(runs, name).items():
        heads = {label: own[0] for metrics in inputs.values() for label, own in metrics.items()}
        n = next(iter(heads.values()))["n"]
        arrows = {label: "↑" if e["higher_is_better"] else "↓" for label, e in heads.items()}
        head = " | ".join(f"{label} {arrow}" for label, arrow in arrows.items())
        lines += [f"### {task} ({n} items)", "", f"| in the audio slot | {head} |"]
        lines.append("|---|" + "---|" * len(heads))
        for kind, metrics in inputs.items():
            tested = scores["sets"][name].get(kind, {}).get("metrics", {}).get(task, {})
            cells = []
            for label, shown in heads.items():
                if label not in metrics:
                    cells.append("-")
                    continue
                digits = 1 if shown["scale"] > 1 else 3
                values = [entry["value"] for entry in metrics[label]]
                text = with_interval(metrics[label][0], digits)
                if len(values) > 1:
                    text = over_seeds(values, digits)
                against = tested.get(label, {}).get("against_speech")
                cells.append(text + (f", p {_p(against['p'], resamples)}" if against else ""))
            lines.append(f"| {LABELS.get(kind, kind)} | " + " | ".join(cells) + " |")
        signatures = [f"{k}: `{e['signature']}`" for k, e in heads.items() if e["signature"]]
        of = f" (seed {scores['seed']})" if len(runs) > 1 else ""
        lines += ["", f"p: paired bootstrap against speech{of}. " + "; ".join(signatures), ""]
    return lines


def _listed(runs: Sequence[Mapping], name: str) -> dict[str, dict[str, dict[str, list[Mapping]]]]:
    """Task -> input -> metric -> its entry in each run that has one.

    A recipe may have listed a metric between two seeds: not all runs have it, the first or another.
    """
    found: dict[str, dict[str, dict[str, list[Mapping]]]] = {}
    for run in runs:
        for kind, scored in run["sets"].get(name, {}).items():
            for task, metrics in scored.get("metrics", {}).items():
                own = found.setdefault(task, {}).setdefault(kind, {})
                for label, entry in metrics.items():
                    own.setdefault(label, []).append(entry)
    return found


def generalisation_table(scores: Mapping[str, Mapping]) -> list[str]:
    """The generalisation benchmark of one set, inputs or systems as rows.

    Parameters
    ----------
    scores : mapping of str to dict
        Of `toolkit.evaluation.generalisation.generalisation`.

    Returns
    -------
    list of str
        Markdown lines.
    """
    quadrants = list(next(iter(scores.values()))["quality"])
    lines = [
        "| in the audio slot | follows / Q: " + " | ".join(quadrants) + " | PG | TG | spread |",
        "|---|" + "---|" * (len(quadrants) + 3),
    ]
    for name, entry in scores.items():
        cells = [
            " / ".join(_number(entry[what][label]) for what in ("following", "quality"))
            for label in quadrants
        ]
        cells += [with_interval(entry[what], 2) for what in ("pg", "tg")]
        cells.append(f"{entry['spread']:.3f}")
        lines.append(f"| {LABELS.get(name, name)} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Q: task metric, 0 where the task is not attempted. PG: Q of seen tasks, held-out over "
        "seen wordings. TG: Q of held-out tasks over that of the text LLM on gold transcripts. "
        "Spread: standard deviation of Q over wordings.",
        "",
    ]
    for name, entry in scores.items():
        if worst := entry["worst"]:
            kind = "seen" if worst["seen"] else "held out"
            lines.append(
                f"- worst wording, {LABELS.get(name, name)}: {worst['wording']} ({kind}), Q "
                f"{worst['quality']:.2f}: “{worst['instruction']}”"
            )
    return [*lines, ""]


def _number(entry: Mapping) -> str:
    return "-" if entry["value"] is None else f"{entry['value']:.2f}"


def paired_lines(scores: Mapping, name: str) -> list[str]:
    """Paired bootstrap of every other input against speech.

    Parameters
    ----------
    scores : dict
        Contents of ``scores.json``.
    name : str
        Test set.

    Returns
    -------
    list of str
        Markdown lines.
    """
    lines = []
    resamples = scores.get("bootstrap", _RESAMPLES)
    for kind, entry in scores["sets"][name].items():
        against = entry.get("against_speech")
        if against:
            parts = [
                f"{metric} {values['difference']:+.3f} (p {_p(values['p'], resamples)})"
                for metric, values in against.items()
            ]
            lines.append(f"- {LABELS.get(kind, kind)} minus speech: {', '.join(parts)}")
    return lines


def _p(value: float, resamples: int) -> str:
    return f"≤ {1 / resamples:g}" if value <= 1 / resamples else f"= {value:.3f}"
