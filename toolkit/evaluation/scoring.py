"""Decoded files to numbers: word errors, agreement with the text branch, instruction following."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from toolkit.evaluation.score_plans import ScorePlan
from toolkit.evaluation.statistics import bootstrap, by_unit, paired_bootstrap
from toolkit.teachers.pool import InstructionPool
from toolkit.text import WordErrors, rouge_l, word_errors

#: Word error rates, and the field of a decoded row that holds the words.
_SAID = {"wer": "answer", "heard_wer": "heard"}


def repetition_errors(rows: Iterable[Mapping], normaliser: str) -> dict[str, dict[str, WordErrors]]:
    """Word errors of the items that were asked for them (`DecodeItem.repeat`).

    Parameters
    ----------
    rows : iterable of dict
        Decoded rows.
    normaliser : str

    Returns
    -------
    dict of str to dict
        ``wer`` of the answers and ``heard_wer`` of what the projector recognised, without the LLM:
        errors by item, in the order of the rows. Empty where not all rows have it.
    """
    repeats = [row for row in rows if row.get("repeat")]
    found = {}
    for metric, said in _SAID.items():
        whole = all(said in row for row in repeats)
        found[metric] = {
            row["id"]: word_errors(row["transcript"], row[said], normaliser)
            for row in repeats
            if whole
        }
    return found


def task_rows(rows: Iterable[Mapping]) -> list[Mapping]:
    """The answers on which tasks and wordings are compared."""
    return [row for row in rows if not row.get("repeat")]


def utterance_of(row: Mapping) -> str:
    """What a decoded row is a question on; the item itself where it does not say."""
    return row.get("utterance", row["id"])


def recordings(rows: Iterable[Mapping]) -> dict[str, str]:
    """What is resampled: the recording that each utterance is of.

    Several questions on one recording are no independent samples, whatever their rows are called.

    Parameters
    ----------
    rows : iterable of dict
        Decoded rows.

    Returns
    -------
    dict of str to str
        Utterance -> the first, by name, of the utterances of its recording: the same in every copy
        of the data, as the path of a recording is not.

    Example
    -------
    >>> rows = [{"id": "b", "clip": "1"}, {"id": "a", "clip": "1"}, {"id": "c"}]
    >>> recordings(rows)
    {'b': 'a', 'a': 'a', 'c': 'c'}
    """
    clips: dict[str, set[str]] = {}
    clip_of = {utterance_of(row): row.get("clip") or utterance_of(row) for row in rows}
    for utterance, clip in clip_of.items():
        clips.setdefault(clip, set()).add(utterance)
    return {utterance: min(clips[clip]) for utterance, clip in clip_of.items()}


def score_set(
    decoded: Mapping[str, list[dict]], plan: ScorePlan, pool: InstructionPool
) -> dict[str, dict]:
    """Score all inputs of one test set.

    Intervals and paired tests resample recordings, with all that is asked about each.

    Parameters
    ----------
    decoded : mapping of str to list of dict
        Input -> decoded rows, the same items in the same order.
    plan : ScorePlan
    pool : InstructionPool
        For the tasks' checks.

    Returns
    -------
    dict of str to dict
        Input -> ``wer`` (rate, interval, counts), ``heard_wer`` where the projector recognises
        tokens, ``rouge_l`` and ``perplexity`` of the text branch's answer (value, interval),
        ``following`` per group and per task, ``metrics`` per task as the plan lists them, ``n``;
        and for controls ``p`` of the paired comparison with speech.
    """
    text = {row["id"]: row for row in decoded["text"]}
    # One map for all inputs: files of an older version do not name the recording.
    of = recordings(decoded["text"])
    unit = {row["id"]: of[utterance_of(row)] for row in decoded["text"]}
    errors = {name: repetition_errors(rows, plan.normaliser) for name, rows in decoded.items()}
    tasks = {name: task_rows(rows) for name, rows in decoded.items()}
    numbers = {
        name: {
            metric: by_unit([unit[i] for i in items], items.values())
            for metric, items in item_pairs(rows, text, errors[name]).items()
        }
        for name, rows in decoded.items()
    }
    listed = {name: _task_statistics(rows, plan, unit) for name, rows in tasks.items()}
    scores = {}
    for name, rows in tasks.items():
        pairs, repeated = numbers[name], errors[name]["wer"]
        total = sum(repeated.values(), WordErrors())
        entry = {
            "n": len(rows),
            "wer": {
                **interval(pairs["wer"], plan),
                "n": len(repeated),
                "substitutions": total.substitutions,
                "deletions": total.deletions,
                "insertions": total.insertions,
                "words": total.words,
            },
            "rouge_l": interval(pairs["rouge_l"], plan),
            "perplexity": {k: math.exp(v) for k, v in interval(pairs["nll"], plan).items()},
            "following": {k: interval(v, plan) for k, v in _groups(rows, pool, unit).items()},
            "tasks": _tasks(rows, text, pool),
            "metrics": _task_metrics(listed[name], listed.get("speech"), name, plan),
        }
        if pairs["heard_wer"]:
            entry["heard_wer"] = interval(pairs["heard_wer"], plan)
        if name not in ("speech", "text") and "speech" in numbers:
            entry["against_speech"] = {
                metric: dict(
                    zip(
                        ("difference", "p"),
                        paired_bootstrap(pairs[metric], numbers["speech"][metric], plan.bootstrap),
                        strict=True,
                    )
                )
                for metric in ("wer", "rouge_l", "nll")
                # Nothing to compare where no task repeats, or another system gives no likelihoods.
                if pairs[metric] and numbers["speech"][metric]
            }
        scores[name] = entry
    return scores


def item_pairs(
    rows: Iterable[Mapping],
    text: Mapping[str, Mapping],
    errors: Mapping[str, Mapping[str, WordErrors]],
) -> dict[str, dict[str, tuple[float, float]]]:
    """What ratios are made of: numerator and denominator of each item, by its id.

    Parameters
    ----------
    rows : iterable of dict
        Decoded rows.
    text : mapping of str to dict
        The text branch's rows by id.
    errors : mapping of str to mapping of str to WordErrors
        `repetition_errors` of the rows.

    Returns
    -------
    dict of str to dict
        ``wer`` and ``heard_wer`` (of repetitions alone), ``rouge_l`` and ``nll`` (of the items of
        the tasks), each in the order of the rows; empty where rows do not have what it takes.
    """
    words = {
        metric: {i: (e.errors, e.words) for i, e in own.items()} for metric, own in errors.items()
    }
    rows = task_rows(rows)
    return {
        **words,
        "rouge_l": {r["id"]: (rouge_l(text[r["id"]]["answer"], r["answer"]), 1) for r in rows},
        "nll": {r["id"]: (r["nll"], r["tokens"]) for r in rows if "nll" in r},
    }


def _task_statistics(rows, plan: ScorePlan, unit: Mapping) -> dict[str, dict[str, tuple]]:
    """Per task and listed metric: the metric, what its total is made of, number of items."""
    by_task: dict[str, list] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    return {
        task: {
            m.name: (m, by_unit([unit[row["id"]] for row in own], m.statistics(own)), len(own))
            for m in metrics
        }
        for task, own in by_task.items()
        if (metrics := plan.metrics_of(task))
    }


def _task_metrics(own, speech, name: str, plan: ScorePlan) -> dict[str, dict[str, dict]]:
    """Values, intervals, and the paired comparison with speech."""
    found: dict[str, dict[str, dict]] = {}
    for task, metrics in own.items():
        for label, (metric, values, n) in metrics.items():
            value, low, high = bootstrap(
                values, plan.bootstrap, plan.confidence, statistic=metric.combine
            )
            entry = {"value": value, "low": low, "high": high, "n": n}
            entry |= {"signature": metric.signature, "scale": metric.scale}
            entry["higher_is_better"] = metric.higher_is_better
            if name != "speech" and speech is not None:
                difference, p = paired_bootstrap(
                    values, speech[task][label][1], plan.bootstrap, statistic=metric.combine
                )
                entry["against_speech"] = {"difference": difference, "p": p}
            found.setdefault(task, {})[label] = entry
    return found


def interval(pairs: Sequence[tuple[float, float]], plan: ScorePlan) -> dict[str, float]:
    """A ratio statistic as tables show it.

    Parameters
    ----------
    pairs : sequence of (numerator, denominator)
    plan : ScorePlan

    Returns
    -------
    dict of str to float
        ``value``, ``low`` and ``high``; not a number where there is no pair.
    """
    if not pairs:
        return {"value": math.nan, "low": math.nan, "high": math.nan}
    value, low, high = bootstrap(pairs, plan.bootstrap, plan.confidence)
    return {"value": value, "low": low, "high": high}


def _groups(rows, pool: InstructionPool, unit: Mapping) -> dict[str, list]:
    """Instruction following by what training has seen, summed over the items of a recording."""
    groups: dict[str, tuple[list, list]] = {}
    for row in rows:
        if not row["seen_task"]:
            group = "held-out task"
        else:
            group = "seen wording" if row["seen_wording"] else "held-out wording"
        passed = pool[row["task"]].check(row["answer"], row["transcript"])
        units, pairs = groups.setdefault(group, ([], []))
        units.append(unit[row["id"]])
        pairs.append((float(passed), 1))
    return {group: by_unit(units, pairs) for group, (units, pairs) in groups.items()}


def _tasks(rows, text, pool: InstructionPool) -> dict[str, dict]:
    tasks: dict[str, dict[str, list]] = {}
    for row in rows:
        entry = tasks.setdefault(
            row["task"], {"following": [], "rouge_l": [], "nll": [], "tokens": []}
        )
        entry["following"].append(pool[row["task"]].check(row["answer"], row["transcript"]))
        entry["rouge_l"].append(rouge_l(text[row["id"]]["answer"], row["answer"]))
        entry["nll"].append(row.get("nll", math.nan))
        entry["tokens"].append(row.get("tokens", 0))
    return {
        name: {
            "n": len(e["following"]),
            "following": sum(e["following"]) / len(e["following"]),
            "rouge_l": sum(e["rouge_l"]) / len(e["rouge_l"]),
            "perplexity": math.exp(sum(e["nll"]) / max(sum(e["tokens"]), 1)),
        }
        for name, e in tasks.items()
    }
