"""Open questions in AIR-Bench-Chat's format, scored by a judge.

``<path>/Chat_meta.json`` lists ``path, question, answer_gt, meta_info, task_name, dataset_name,
uniq_id``; a clip lies at ``<path>/<task_name>_<dataset_name>/<path>``. The judge reads the meta
information, the question, the reference answer and the model's, and gives each answer a score from
1 to 10; a second pass swaps their places, so that a judge's liking for one place cancels out.

The published script sends temperature 2.0 for a random half of the items; judging here is at
temperature 0, so scores are reproducible and not those of that script.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.data.rows import Row
from toolkit.evaluation.benchmarks.base import (
    SLOT_LABELS,
    Benchmark,
    Decoded,
    against,
    agreement,
    macro,
    markdown,
)
from toolkit.evaluation.benchmarks.items import BenchmarkError, BenchmarkItem, text_field
from toolkit.evaluation.benchmarks.judge import Judge, Messages, two_scores
from toolkit.evaluation.score_plans import ScorePlan
from toolkit.evaluation.scoring import interval
from toolkit.evaluation.tables import with_interval

#: Tasks of the benchmark -> the categories it reports.
CATEGORIES = {
    "speech_QA": "speech",
    "speech_dialogue_QA": "speech",
    "sound_QA": "sound",
    "sound_generation_QA": "sound",
    "music_QA": "music",
    "music_generation_analysis_QA": "music",
    "speech_and_sound_QA": "speech and sound",
    "speech_and_music_QA": "speech and music",
}
_ROLE = "You check the quality of answers, helpfully and precisely."
_REQUEST = (
    "Two assistants were given the description and the question above. Rate the helpfulness, "
    "relevance, accuracy and comprehensiveness of their answers. Give each an overall score from 1 "
    "to 10; higher is better. Write a single line with only two values, the scores of Assistant 1 "
    "and Assistant 2, separated by a space."
)


def conversation(item: BenchmarkItem, first: str, second: str) -> Messages:
    """What the judge reads.

    Parameters
    ----------
    item : BenchmarkItem
    first, second : str
        The answers of Assistant 1 and Assistant 2.

    Returns
    -------
    list of dict
        One user turn.

    Example
    -------
    >>> item = BenchmarkItem("1", "/a.wav", "Who speaks?", "speech", "A man.", "Gender: male")
    >>> text = conversation(item, "A man.", "A woman.")[0]["content"]
    >>> text.index("A man.") < text.index("A woman.")
    True
    """
    parts = [
        _ROLE,
        f"[Detailed Audio Description]\n{item.description}",
        f"[Question]\n{item.instruction}",
        f"[The Start of Assistant 1's Answer]\n{first}\n[The End of Assistant 1's Answer]",
        f"[The Start of Assistant 2's Answer]\n{second}\n[The End of Assistant 2's Answer]",
        f"[System]\n{_REQUEST}",
    ]
    return [{"role": "user", "content": "\n".join(parts)}]


def judge_pairs(
    judge: Judge, items: Sequence[BenchmarkItem], answers: Sequence[str]
) -> list[tuple[float, float] | None]:
    """Scores of the references and of the answers, each the mean over both orders.

    Parameters
    ----------
    judge : Judge
    items : sequence of BenchmarkItem
        Their ``label`` is the reference answer.
    answers : sequence of str

    Returns
    -------
    list of (float, float) or None
        Reference's and answer's score; None where a pass gave no two scores.
    """
    pairs = list(zip(items, answers, strict=True))
    forward = judge([conversation(item, item.label, answer) for item, answer in pairs])
    swapped = judge([conversation(item, answer, item.label) for item, answer in pairs])
    out: list[tuple[float, float] | None] = []
    for one, other in zip(map(two_scores, forward), map(two_scores, swapped), strict=True):
        if one is None or other is None:
            out.append(None)
        else:
            out.append(((one[0] + other[1]) / 2, (one[1] + other[0]) / 2))
    return out


class Chat(Benchmark):
    """AIR-Bench-Chat, or another set in its format.

    Parameters
    ----------
    path : str
        Folder with ``Chat_meta.json``.
    categories : sequence of str, optional
        Out of speech, sound, music, speech and sound, speech and music; all by default.
    manifests, inputs, limit, max_new_tokens, batch_size, describe
        As for `Benchmark`.
    """

    kind = "open questions (AIR-Bench-Chat format)"

    def __init__(
        self,
        path: str,
        categories: Sequence[str] | None = None,
        manifests: Sequence[str] = (),
        inputs: Sequence[str] = ("text", "speech", "blank"),
        limit: int | None = None,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        describe: Callable[[Row], str] | None = None,
    ) -> None:
        super().__init__(path, manifests, inputs, limit, max_new_tokens, batch_size, describe)
        self.categories = None if categories is None else list(categories)

    def read(self) -> list[BenchmarkItem]:
        file = Path(self.path) / "Chat_meta.json"
        if not file.exists():
            raise BenchmarkError(
                file, "", "no such file; give the folder that holds it, as released"
            )
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BenchmarkError(file, "", f"no JSON ({error})") from error
        if not isinstance(entries, list):
            raise BenchmarkError(file, "", "expected a list of entries")
        items = []
        for number, entry in enumerate(entries):
            if not isinstance(entry, Mapping):
                raise BenchmarkError(file, number, f"expected an object, got {entry!r}")
            task = text_field(entry, "task_name", file, number)
            # A set of one's own may have tasks of its own: they are categories by themselves.
            category = CATEGORIES.get(task, task)
            if self.categories is not None and category not in self.categories:
                continue
            folder = f"{task}_{text_field(entry, 'dataset_name', file, number)}"
            clip = text_field(entry, "path", file, number)
            items.append(
                BenchmarkItem(
                    id=str(entry.get("uniq_id", number)),
                    audio=os.path.abspath(Path(self.path, folder, clip)),
                    instruction=text_field(entry, "question", file, number),
                    group=category,
                    label=text_field(entry, "answer_gt", file, number),
                    description=text_field(entry, "meta_info", file, number),
                    metric="judge",
                )
            )
        return items

    def score(self, items: list[BenchmarkItem], decoded: Decoded, plan: ScorePlan) -> dict:
        scores: dict[str, Any] = {"kind": "chat", "n": len(items), "judged": False}
        scores["agreement"] = agreement(items, decoded, plan)
        scores["summary"] = {"ROUGE-L": {n: e["rouge_l"] for n, e in scores["agreement"].items()}}
        if plan.judge is None:
            return scores
        verdicts = {
            name: judge_pairs(plan.judge, items, [rows[i.id]["answer"] for i in items])
            for name, rows in decoded.items()
        }
        # Inputs are compared on the items that both passes scored under all of them.
        kept = [k for k in range(len(items)) if all(v[k] for v in verdicts.values())]
        scores["unjudged"] = len(items) - len(kept)
        if not kept:
            return scores
        scores["judged"] = True
        groups = sorted({items[k].group for k in kept})
        units = {g: [items[k].unit for k in kept if items[k].group == g] for g in groups}
        pairs: dict[str, list] = {}
        for name, found in verdicts.items():
            by_group = {g: [found[k] for k in kept if items[k].group == g] for g in groups}
            given = {g: [v[1] for v in own] for g, own in by_group.items()}
            reference = {g: [v[0] for v in own] for g, own in by_group.items()}
            wins = {g: [float(v[1] > v[0]) for v in own] for g, own in by_group.items()}
            pairs[name] = macro(given, units)
            scores.setdefault("inputs", {})[name] = {
                "score": interval(pairs[name], plan),
                "reference": interval(macro(reference, units), plan),
                "wins": interval(macro(wins, units), plan),
                "categories": {
                    g: interval(macro({g: own}, units), plan) for g, own in given.items()
                },
            }
        scores["speech_minus"] = against(pairs, plan)
        scores["summary"]["score"] = {n: e["score"] for n, e in scores["inputs"].items()}
        return scores

    def table(self, scores: Mapping[str, Any]) -> str:
        if not scores["judged"]:
            rouge = scores["agreement"]["speech"]["rouge_l"]
            return (
                "Not judged (`score.judge` names no judge, or it gave no scores). ROUGE-L to the "
                f"text LLM's answers: {with_interval(rouge)}."
            )
        lines = [
            [
                SLOT_LABELS.get(name, name),
                *(with_interval(entry[key], 2) for key in ("score", "reference", "wins")),
            ]
            for name, entry in scores["inputs"].items()
        ]
        table = markdown(["in the audio slot", "score", "reference's score", "wins"], lines)
        return f"{table}\n\n{scores['unjudged']} of {scores['n']} items without two scores."
