"""What a benchmark promises to the decode, score and report stages."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.manifest import Row, write_manifest
from toolkit.data.splits import spread
from toolkit.evaluation.benchmarks.items import BenchmarkItem, as_text, rows_of
from toolkit.evaluation.plans import INPUTS, OTHER_PROJECTORS, DecodeItem
from toolkit.evaluation.score_plans import ScorePlan
from toolkit.evaluation.scoring import interval
from toolkit.evaluation.statistics import by_unit, paired_bootstrap
from toolkit.evaluation.tables import LABELS, with_interval
from toolkit.text import rouge_l

#: Input -> item id -> decoded row (``answer``, ``nll``, ``tokens`` and more).
Decoded = Mapping[str, Mapping[str, Mapping[str, Any]]]
#: What stands in the audio slot, in the words of the tables.
SLOT_LABELS = {**LABELS, "text": "description (the text LLM)"}


class Benchmark(ABC):
    """A set of questions about clips, and rules to score answers.

    Under the input ``text`` the LLM reads the description that the benchmark gives of a clip, the
    transcript where it gives none: the same LLM without ears, which forgetting is measured against.
    Under ``blank`` the audio is silent and the transcript, where the model's prompt has one, stays:
    what the audio adds.

    Parameters
    ----------
    path : str
        The benchmark's files as released.
    manifests : sequence of str
        Manifests that know transcripts and annotations of the clips, matched by audio path; a row
        that is a part of its file stands for no clip.
    inputs : sequence of str
        Out of `toolkit.evaluation.plans.INPUTS`, those of other projectors (``untrained``,
        ``pretrained``) aside; ``text`` and ``speech`` always run.
    limit : int, optional
        Items of each group, spread evenly.
    max_new_tokens : int
    batch_size : int
    describe : callable (Row) -> str, optional
        What the text LLM reads of a clip whose attributes a manifest knows, such as the
        `toolkit.teachers.SeedTranscript` that targets were written from; the benchmark's own
        description by default.

    Raises
    ------
    ValueError
        For an unknown input.
    """

    #: Name of the format, for tables.
    kind = "benchmark"

    def __init__(
        self,
        path: str,
        manifests: Sequence[str] = (),
        inputs: Sequence[str] = ("text", "speech", "blank"),
        limit: int | None = None,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        describe: Callable[[Row], str] | None = None,
    ) -> None:
        known = [name for name in INPUTS if name not in OTHER_PROJECTORS]
        unknown = [name for name in inputs if name not in known]
        if unknown:
            raise ValueError(f"benchmark inputs: unknown {unknown}; there are {', '.join(known)}")
        self.path = str(path)
        self.manifests = list(manifests)
        self.inputs = ["text", "speech", *(i for i in inputs if i not in ("text", "speech"))]
        self.limit = limit
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.describe = describe

    @abstractmethod
    def read(self) -> list[BenchmarkItem]:
        """All items of the files.

        Raises
        ------
        toolkit.evaluation.benchmarks.items.BenchmarkError
            Naming file, entry and remedy.
        """

    @abstractmethod
    def score(self, items: list[BenchmarkItem], decoded: Decoded, plan: ScorePlan) -> dict:
        """Numbers of every input.

        Parameters
        ----------
        items : list of BenchmarkItem
        decoded : mapping of str to mapping of str to decoded row
        plan : ScorePlan

        Returns
        -------
        dict
            JSON values: ``n``; ``summary`` (label -> input -> value with interval), by which runs
            are laid side by side; and the benchmark's own.
        """

    @abstractmethod
    def table(self, scores: Mapping[str, Any]) -> str:
        """The scores as Markdown."""

    def items(self) -> list[BenchmarkItem]:
        """The items that are asked: `read`, thinned out to ``limit`` per group.

        Returns
        -------
        list of BenchmarkItem

        Raises
        ------
        ValueError
            If two items share an id or nothing is there.
        """
        found = self.read()
        if not found:
            raise ValueError(f"{self.path}: the benchmark has no items")
        if len({item.id for item in found}) != len(found):
            raise ValueError(f"{self.path}: two items have one id")
        if self.limit is None:
            return found
        groups: dict[str, list[BenchmarkItem]] = {}
        for item in found:
            groups.setdefault(item.group, []).append(item)
        return [item for group in groups.values() for item in spread(group, self.limit)]

    def decode_items(
        self, items: list[BenchmarkItem], rows: Mapping[str, Row], name: str, source: str
    ) -> list[DecodeItem]:
        """The questions under one input.

        Parameters
        ----------
        items : list of BenchmarkItem
        rows : mapping of str to Row
            By audio path.
        name : str
            Of the benchmark in the recipe.
        source : str
            Input: under ``text`` the description stands in the slot.

        Returns
        -------
        list of DecodeItem
        """
        out = []
        for item in items:
            row = rows[item.audio]
            if source == "text":
                own = self.describe is not None and row.attributes
                row = as_text(row, self.describe(row) if own else item.description)
            out.append(item.decode_item(row, name))
        return out

    def write_manifest(self, path: str | os.PathLike[str]) -> int:
        """Write a manifest of the clips, so that stages before decoding can work on them.

        Parameters
        ----------
        path : path

        Returns
        -------
        int
            Clips.
        """
        rows = rows_of(self.items(), {})
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_manifest(path, rows.values())
        return len(rows)


def agreement(items: Sequence[BenchmarkItem], decoded: Decoded, plan: ScorePlan) -> dict[str, dict]:
    """How close the answers are to those of the text LLM that read the description.

    Parameters
    ----------
    items : sequence of BenchmarkItem
    decoded : mapping
        With the input ``text``.
    plan : ScorePlan

    Returns
    -------
    dict of str to dict
        For each other input, ``rouge_l`` and ``nll_per_token`` of the text answer, with intervals.
    """
    text = decoded["text"]
    out = {}
    for name, rows in decoded.items():
        if name == "text":
            continue
        told = [i for i in items if rows[i.id]["tokens"]]
        agreed = by_unit(
            [i.unit for i in items],
            [(rouge_l(text[i.id]["answer"], rows[i.id]["answer"]), 1) for i in items],
        )
        losses = by_unit(
            [i.unit for i in told], [(rows[i.id]["nll"], rows[i.id]["tokens"]) for i in told]
        )
        out[name] = {"rouge_l": interval(agreed, plan), "nll_per_token": interval(losses, plan)}
    return out


def agreement_table(scores: Mapping[str, Mapping]) -> str:
    """What `agreement` found, as Markdown.

    Parameters
    ----------
    scores : mapping of str to dict

    Returns
    -------
    str
        Empty where there is nothing but text.

    Example
    -------
    >>> same = {"value": 0.0, "low": 0.0, "high": 0.0}
    >>> print(agreement_table({"blank": {"rouge_l": same, "nll_per_token": same}}).splitlines()[-1])
    | blanked audio (control) | 0.000 [0.000, 0.000] | 1.00 [1.00, 1.00] |
    """
    if not scores:
        return ""
    lines = []
    for name, entry in scores.items():
        perplexity = {
            key: value if value is None or math.isnan(value) else math.exp(value)
            for key, value in entry["nll_per_token"].items()
        }
        agreed = with_interval(entry["rouge_l"])
        lines.append([SLOT_LABELS.get(name, name), agreed, with_interval(perplexity, 2)])
    header = ["in the audio slot", "ROUGE-L to the text LLM's answer", "perplexity of its answer"]
    return markdown(header, lines)


def macro(
    groups: Mapping[str, Sequence[float]], units: Mapping[str, Sequence[str]]
) -> list[np.ndarray]:
    """Mean of the groups' means, as what is resampled: clips, not questions on them.

    Parameters
    ----------
    groups : mapping of str to sequence of float
        Values of the items; a single group for its own mean.
    units : mapping of str to sequence of str
        `BenchmarkItem.unit` of the same items, for these groups and maybe others.

    Returns
    -------
    list of ndarray (2,)
        One per unit, for `toolkit.evaluation.statistics.bootstrap`: their ratio is the mean.

    Example
    -------
    >>> pairs = macro({"a": [1, 1, 1, 1], "b": [0]}, {"a": ["u", "v", "u", "w"], "b": ["u"]})
    >>> [pair.tolist() for pair in pairs]
    [[0.5, 1.5], [0.25, 0.25], [0.25, 0.25]]
    """
    return by_unit(
        [unit for name in groups for unit in units[name]],
        [(value / len(own), 1 / len(own)) for own in groups.values() for value in own],
    )


def against(
    values: Mapping[str, Sequence[tuple[float, float]]], plan: ScorePlan, name: str = "speech"
) -> dict[str, dict[str, float]]:
    """Each input minus one of them, on the same items.

    Parameters
    ----------
    values : mapping of str to sequence of (numerator, denominator)
    plan : ScorePlan
    name : str

    Returns
    -------
    dict of str to dict
        ``difference`` (of ``name`` minus the other) and ``p`` of the paired bootstrap.
    """
    out = {}
    for other, pairs in values.items():
        if other != name and pairs:
            difference, p = paired_bootstrap(values[name], pairs, plan.bootstrap)
            out[other] = {"difference": difference, "p": p}
    return out


def markdown(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table.

    Example
    -------
    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    header = list(header)
    out = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return "\n".join([*out, *(f"| {' | '.join(line)} |" for line in lines)])
