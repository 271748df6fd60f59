"""Named metrics that a `ScorePlan` lists per task: each gives per-item numbers and their total.

A metric never averages averages: it returns what its total is made of, item by item, so that
intervals and paired tests resample items and compute the metric itself (corpus BLEU, not a mean of
sentence BLEUs) on each draw.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from toolkit.evaluation.statistics import ratio
from toolkit.text import rouge_l, squad_normalise, token_f1, word_errors


class MetricError(RuntimeError):
    """A metric cannot be computed: the message names what is missing and what to do."""


class Metric(ABC):
    """Base of metrics over decoded rows.

    Attributes
    ----------
    name : str
        Column of the tables.
    higher_is_better : bool
    scale : float
        Upper end of its range: 1 for rates, 100 for BLEU and chrF.
    """

    name: str = ""
    higher_is_better: bool = True
    scale: float = 1.0

    @property
    def signature(self) -> str:
        """Everything that has to be the same for two numbers to be compared."""
        return ""

    @abstractmethod
    def statistics(self, rows: Sequence[Mapping]) -> np.ndarray:
        """What the metric's total is made of.

        Parameters
        ----------
        rows : sequence of dict
            Decoded rows of one task and input (`toolkit.evaluation.decoding.decoded_row`).

        Returns
        -------
        ndarray (n, k)
            Sums: those of questions on one recording are added up before `combine`.

        Raises
        ------
        MetricError
            When a row lacks what the metric reads, or an optional package is not there.
        """

    def combine(self, values: np.ndarray) -> np.ndarray:
        """The metric of any selection of items; total over total unless a metric says otherwise.

        Parameters
        ----------
        values : ndarray (..., n, k)

        Returns
        -------
        ndarray (...)
        """
        return ratio(values)

    def prepare(self, device: str) -> None:
        """Load what the metric needs, on a device; most need nothing."""
        del device

    def corpus(self, rows: Sequence[Mapping]) -> float:
        """The metric over all rows."""
        return float(self.combine(np.asarray(self.statistics(rows), dtype=float)))


def field(row: Mapping, name: str, metric: Metric) -> str:
    """A field of a decoded row that the metric cannot do without.

    Raises
    ------
    MetricError
        Naming row, field and remedy.
    """
    value = row.get(name)
    if not value:
        raise MetricError(
            f"{metric.name}: decoded row {row.get('id')!r} has no {name!r}; list the metric for "
            f"tasks that have one (ScorePlan.metrics), and decode again if the file is old"
        )
    return value


class WordErrorRate(Metric):
    """Word error rate against the reference, or the transcript where a task has none.

    Parameters
    ----------
    normaliser : str
        As `toolkit.text.normaliser`.

    Example
    -------
    >>> rows = [{"reference": "press one now", "answer": "press now"}]
    >>> round(WordErrorRate("basic").corpus(rows), 3)
    0.333
    """

    name = "WER"
    higher_is_better = False

    def __init__(self, normaliser: str = "english") -> None:
        self.normaliser = normaliser

    @property
    def signature(self) -> str:
        """The normaliser."""
        return f"norm:{self.normaliser}"

    def statistics(self, rows: Sequence[Mapping]) -> np.ndarray:
        """Errors and reference words."""
        counts = [
            word_errors(row.get("reference") or row["transcript"], row["answer"], self.normaliser)
            for row in rows
        ]
        return np.array([(c.errors, c.words) for c in counts], dtype=float)


def _answers(row: Mapping, metric: Metric) -> list[str]:
    """Right answers of a row, the one that stands for all first."""
    return row.get("references") or [field(row, "reference", metric)]


class ExactMatch(Metric):
    """Share of answers equal to one of the right answers, after SQuAD normalisation.

    Example
    -------
    >>> rows = [{"references": ["2", "two"], "answer": "Two."},
    ...         {"reference": "3", "answer": "Press 3"}]
    >>> ExactMatch().corpus(rows)
    0.5
    """

    name = "exact match"
    signature = "norm:squad"

    def statistics(self, rows: Sequence[Mapping]) -> np.ndarray:
        """1 or 0, and 1."""
        hits = [
            squad_normalise(row["answer"]) in map(squad_normalise, _answers(row, self))
            for row in rows
        ]
        return np.array([(float(hit), 1.0) for hit in hits])


class TokenF1(Metric):
    """Mean over answers of the best F1 with any right answer, after SQuAD normalisation.

    Example
    -------
    >>> TokenF1().corpus([{"references": ["pound key", "pound"], "answer": "pound"}])
    1.0
    """

    name = "token F1"
    signature = "norm:squad"

    def statistics(self, rows: Sequence[Mapping]) -> np.ndarray:
        """F1, and 1."""
        return np.array(
            [(max(token_f1(r, row["answer"]) for r in _answers(row, self)), 1.0) for row in rows]
        )


class Contains(Metric):
    """Share of answers that hold a right answer as consecutive words.

    Lenient to an answer in a sentence ("Press 2 to delete"), as containment scoring is; so it
    stands beside exact match, never alone.

    Example
    -------
    >>> rows = [{"reference": "2", "answer": "Press 2."}, {"reference": "2", "answer": "12"}]
    >>> Contains().corpus(rows)
    0.5
    """

    name = "contains"
    signature = "norm:squad"

    def statistics(self, rows: Sequence[Mapping]) -> np.ndarray:
        """1 or 0, and 1."""
        values = []
        for row in rows:
            answer = f" {squad_normalise(row['answer'])} "
            right = [squad_normalise(text) for text in _answers(row, self)]
            values.append((float(any(f" {text} " in answer for text in right if text)), 1.0))
        return np.array(values)


class ReferenceRougeL(Metric):
    """Mean ROUGE-L F1 against the reference.

    Example
    -------
    >>> ReferenceRougeL().corpus([{"reference": "leave a message", "answer": "leave a message"}])
    1.0
    """

    name = "ROUGE-L"
    signature = "norm:basic|beta:1"

    def statistics(self, rows: Sequence[Mapping]) -> np.ndarray:
        """F1, and 1."""
        return np.array([(rouge_l(field(r, "reference", self), r["answer"]), 1.0) for r in rows])
