"""What free descriptions say of a clip: one answer is scored on every attribute that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit.data.manifest import Row, read_manifest
from toolkit.data.measures import word_of
from toolkit.evaluation.benchmarks.base import (
    SLOT_LABELS,
    Benchmark,
    Decoded,
    against,
    agreement,
    agreement_table,
    macro,
    markdown,
)
from toolkit.evaluation.benchmarks.items import BenchmarkError, BenchmarkItem
from toolkit.evaluation.score_plans import ScorePlan
from toolkit.evaluation.scoring import interval
from toolkit.evaluation.tables import with_interval
from toolkit.teachers.named_values import ASPECTS, named_values
from toolkit.teachers.pool import InstructionPool


class Descriptions(Benchmark):
    """Attributes that the model names when it is asked for a description, as it was in training.

    A small LLM often cannot answer a multiple-choice question even where it reads the answer; what
    it says of a clip in its own words can be scored all the same. An attribute is right where the
    description gives it the manifest's value and no other one.

    Parameters
    ----------
    path : str
        A manifest whose rows have the attributes.
    describe : callable (Row) -> str
        What the text LLM reads: the `toolkit.teachers.SeedTranscript` of the targets.
    pool : InstructionPool
        Its first task's first wording is asked.
    attributes : sequence of str
        Out of `ASPECTS`, or other keys of ``Row.attributes`` whose values are words. Numbers, and
        words that say nothing, such as ``unknown``, are no values.
    inputs, limit, max_new_tokens, batch_size
        As for `Benchmark`.

    Raises
    ------
    ValueError
        Without attributes.
    """

    kind = "attributes that descriptions name"

    def __init__(
        self,
        path: str,
        describe: Callable[[Row], str],
        pool: InstructionPool,
        attributes: Sequence[str] = tuple(ASPECTS),
        inputs: Sequence[str] = ("text", "speech", "blank"),
        limit: int | None = None,
        max_new_tokens: int = 80,
        batch_size: int = 16,
    ) -> None:
        super().__init__(path, [path], inputs, limit, max_new_tokens, batch_size, describe)
        if not attributes:
            raise ValueError("Descriptions: name at least one attribute")
        self.pool = pool
        self.attributes = list(attributes)

    def read(self) -> list[BenchmarkItem]:
        rows = read_manifest(self.path)
        task = next(iter(self.pool))
        values = {
            row.id: {name: word for name in self.attributes if (word := word_of(row, name))}
            for row in rows
        }
        options = {
            name: sorted({own[name] for own in values.values() if name in own})
            for name in self.attributes
        }
        if not any(options.values()):
            raise BenchmarkError(
                self.path, "", f"no row has a word for any of {', '.join(self.attributes)}"
            )
        return [
            BenchmarkItem(
                id=row.id,
                audio=row.audio,
                instruction=task.instruct(0, row),
                group=task.name,
                description=self.describe(row) if self.describe else "",
                metric="accuracy",
                extra={
                    "options": options,
                    "spoken": row.text,
                    "values": values[row.id],
                },
            )
            for row in rows
        ]

    def score(self, items: list[BenchmarkItem], decoded: Decoded, plan: ScorePlan) -> dict:
        options = {name: values for name, values in items[0].extra["options"].items() if values}
        said = {
            name: {
                i.id: named_values(rows[i.id]["answer"], options, spoken=i.extra["spoken"])
                for i in items
            }
            for name, rows in decoded.items()
        }
        scores: dict[str, Any] = {"kind": "descriptions", "n": len(items), "tasks": {}}
        right: dict[str, dict[str, list[float]]] = {name: {} for name in decoded}
        units: dict[str, list[str]] = {}
        for attribute in options:
            own = [i for i in items if attribute in i.extra["values"]]
            if not own:
                continue
            units[attribute] = [i.unit for i in own]
            truth = [i.extra["values"][attribute] for i in own]
            common, count = Counter(truth).most_common(1)[0]
            pairs, named = {}, {}
            for name in decoded:
                values = [said[name][i.id][attribute] for i in own]
                hits = [float(v == {t}) for v, t in zip(values, truth, strict=True)]
                right[name][attribute] = hits
                pairs[name] = macro({attribute: hits}, units)
                says = {attribute: [float(bool(v)) for v in values]}
                named[name] = interval(macro(says, units), plan)
            scores["tasks"][attribute] = {
                "n": len(own),
                "options": options[attribute],
                "majority": {"label": common, "value": count / len(own)},
                "strict": {name: interval(p, plan) for name, p in pairs.items()},
                "named": named,
                "strict_speech_minus": against(pairs, plan),
            }
        means = {name: macro(groups, units) for name, groups in right.items()}
        scores["strict"] = {name: interval(p, plan) for name, p in means.items()}
        scores["strict_speech_minus"] = against(means, plan)
        majorities = [entry["majority"]["value"] for entry in scores["tasks"].values()]
        scores["majority"] = sum(majorities) / len(majorities)
        scores["agreement"] = agreement(items, decoded, plan)
        scores["summary"] = {
            **{name.replace("_", " "): e["strict"] for name, e in scores["tasks"].items()},
            "mean": scores["strict"],
        }
        return scores

    def table(self, scores: Mapping[str, Any]) -> str:
        names = list(scores["strict"])
        header = ["attribute", "n", "majority class", *(SLOT_LABELS.get(n, n) for n in names)]
        header += ["named by speech", "audio adds (p)"]
        lines = []
        for attribute, e in [*scores["tasks"].items(), ("mean of attributes", scores)]:
            blank = e["strict_speech_minus"].get("blank")
            majority = e["majority"]
            majority = majority["value"] if isinstance(majority, Mapping) else majority
            lines.append(
                [
                    attribute.replace("_", " "),
                    str(e["n"]),
                    f"{majority:.2f}",
                    *(with_interval(e["strict"][n], 2) for n in names),
                    f"{e['named']['speech']['value']:.2f}" if "named" in e else "-",
                    f"{blank['difference']:+.2f} (p {blank['p']:.3f})" if blank else "-",
                ]
            )
        return f"{markdown(header, lines)}\n\n{agreement_table(scores['agreement'])}"
