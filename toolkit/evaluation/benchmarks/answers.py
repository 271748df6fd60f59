"""Questions with short right answers: the question heard, its passage read, or the reverse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit.data.fields import prompt_fields
from toolkit.data.manifest import ManifestError, Row, read_manifest
from toolkit.evaluation.benchmarks.base import (
    SLOT_LABELS,
    Benchmark,
    Decoded,
    against,
    agreement,
    agreement_table,
    markdown,
)
from toolkit.evaluation.benchmarks.items import BenchmarkItem
from toolkit.evaluation.metrics import Contains, ExactMatch, TokenF1
from toolkit.evaluation.score_plans import ScorePlan
from toolkit.evaluation.scoring import interval
from toolkit.evaluation.statistics import by_unit
from toolkit.evaluation.tables import with_interval

METRICS = (ExactMatch(), TokenF1(), Contains())
#: Of a question that is heard, about a passage that is read.
HEARD_QUESTION = (
    "Somebody asks a question about this passage: {context}\n"
    "Answer the question in a few words from the passage."
)


class Answers(Benchmark):
    """Question answering on a manifest whose rows have an ``answer``.

    Exact match and F1 are SQuAD's, the best of a row's right answers (``attributes.answers``);
    ``contains`` forgives an answer in a sentence. Beside them stands what one constant answer, the
    one that is right most often, would reach.

    Parameters
    ----------
    path : str
        The manifest.
    instruction : str
        ``{context}``, ``{question}`` and ``{language}`` stand for the row's.
    inputs, limit, max_new_tokens, batch_size, describe
        As for `Benchmark`. Under ``blank`` what the instruction holds stays.

    Example
    -------
    >>> Answers("test.jsonl").instruction.splitlines()[0]
    'Somebody asks a question about this passage: {context}'
    """

    kind = "question answering"

    def __init__(
        self,
        path: str,
        instruction: str = HEARD_QUESTION,
        inputs: Sequence[str] = ("text", "speech", "blank"),
        limit: int | None = None,
        max_new_tokens: int = 24,
        batch_size: int = 16,
        describe: Callable[[Row], str] | None = None,
    ) -> None:
        super().__init__(path, [path], inputs, limit, max_new_tokens, batch_size, describe)
        self.instruction = instruction

    def read(self) -> list[BenchmarkItem]:
        items = []
        for line, row in enumerate(read_manifest(self.path), 1):
            if not row.answer:
                raise ManifestError(self.path, line, "answer", "is missing: what is the right one?")
            text = self.instruction
            for name, value in prompt_fields(row).items():
                text = text.replace(f"{{{name}}}", value)
            for name in ("context", "question"):
                if f"{{{name}}}" in self.instruction and getattr(row, name) is None:
                    raise ManifestError(
                        self.path, line, name, "is missing, and the instruction speaks of it"
                    )
            right = dict.fromkeys([row.answer, *row.attributes.get("answers", ())])
            items.append(
                BenchmarkItem(
                    id=row.id,
                    audio=row.audio,
                    instruction=text,
                    group="answers",
                    label=row.answer,
                    metric="exact match",
                    # Several questions on one passage rise and fall together.
                    extra={
                        "answers": list(right),
                        "unit": row.attributes.get("prompt", row.audio),
                    },
                )
            )
        return items

    def score(self, items: list[BenchmarkItem], decoded: Decoded, plan: ScorePlan) -> dict:
        units = [item.unit for item in items]

        def numbers(answers: Sequence[str]) -> dict[str, list]:
            rows = [
                {"id": i.id, "answer": answer, "references": i.extra["answers"]}
                for i, answer in zip(items, answers, strict=True)
            ]
            return {m.name: by_unit(units, m.statistics(rows)) for m in METRICS}

        pairs = {
            name: numbers([rows[i.id]["answer"] for i in items]) for name, rows in decoded.items()
        }
        common = Counter(item.label for item in items).most_common(1)[0][0]
        constant = numbers([common] * len(items))
        metrics = [m.name for m in METRICS]
        scores: dict[str, Any] = {
            "kind": "answers",
            "n": len(items),
            "majority": {
                "label": common, **{m: interval(constant[m], plan)["value"] for m in metrics}
            },
            "metrics": {
                m: {name: interval(own[m], plan) for name, own in pairs.items()} for m in metrics
            },
            "speech_minus": {
                m: against({name: own[m] for name, own in pairs.items()}, plan) for m in metrics
            },
            "agreement": agreement(items, decoded, plan),
        }  # fmt: skip
        scores["summary"] = scores["metrics"]
        return scores

    def table(self, scores: Mapping[str, Any]) -> str:
        metrics = list(scores["metrics"])
        labels = {**SLOT_LABELS, "text": "its transcript (the text LLM)"}
        lines = []
        for name in scores["metrics"][metrics[0]]:
            cells = []
            for metric in metrics:
                cell = with_interval(scores["metrics"][metric][name], 2)
                rival = scores["speech_minus"][metric].get(name)
                cells.append(f"{cell}, p {rival['p']:.3f}" if rival else cell)
            lines.append([labels.get(name, name), *cells])
        constant = scores["majority"]
        lines.append(
            [f"always “{constant['label']}”", *(f"{constant[metric]:.2f}" for metric in metrics)]
        )
        table = markdown(["in the audio slot", *metrics], lines)
        return (
            f"{table}\n\np: paired bootstrap against speech.\n\n"
            f"{agreement_table(scores['agreement'])}"
        )
