"""Classification in Dynamic-SUPERB's format: one folder a task, a metadata file each.

``<path>/<Task>_<Corpus>/<split>/metadata.json`` maps a file's name to ``instruction`` and ``label``
(and ``text``, where the question needs some; ``file2`` for pairs). The labels' set stands in the
instructions; here it is every label that the file has.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from toolkit.evaluation.score_plans import ScorePlan
from toolkit.evaluation.scoring import interval
from toolkit.evaluation.tables import with_interval
from toolkit.text import normaliser


def _words(text: str) -> list[str]:
    return normaliser("basic")(text).split()


def consecutive_words(answer: str, label: str) -> bool:
    """The authors' rule: the label's words stand in the answer, one after the other.

    Whisper's basic normaliser is applied to both. A list of all labels passes too.

    Parameters
    ----------
    answer, label : str

    Returns
    -------
    bool

    Example
    -------
    >>> consecutive_words("It is Female.", "female"), consecutive_words("It is female.", "male")
    (True, False)
    >>> consecutive_words("happy, sad, or angry", "sad")
    True
    """
    said, wanted = _words(answer), _words(label)
    return bool(wanted) and any(
        said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1)
    )


def single_label(answer: str, label: str, options: Iterable[str]) -> bool:
    """The strict rule: the answer names the label, and no other option.

    Longer options are looked for first, so that "very high" does not name "high".

    Parameters
    ----------
    answer, label : str
    options : iterable of str
        All labels of the task.

    Returns
    -------
    bool

    Example
    -------
    >>> single_label("happy, sad, or angry", "sad", ["happy", "sad", "angry"])
    False
    >>> single_label("The pitch is very high.", "very high", ["high", "very high"])
    True
    """
    said, wanted = _words(answer), tuple(_words(label))
    spoken = sorted({tuple(_words(option)) for option in (*options, label)} - {()}, key=len)[::-1]
    named, place = set(), 0
    while place < len(said):
        for option in spoken:
            if tuple(said[place : place + len(option)]) == option:
                named.add(option)
                place += len(option)
                break
        else:
            place += 1
    return named == {wanted}


class Classification(Benchmark):
    """Dynamic-SUPERB's tasks, or others in its format.

    Parameters
    ----------
    path : str
        Folder of the tasks.
    tasks : sequence of str, optional
        Names of task folders; all by default.
    split : str
    transcript_text : bool
        Add an entry's ``text`` to the question, as the benchmark's baselines do.
    manifests, inputs, limit, max_new_tokens, batch_size, describe
        As for `Benchmark`.

    Notes
    -----
    Tasks on pairs of files (``file2``) are refused: the prompt has one audio slot.
    """

    kind = "classification (Dynamic-SUPERB format)"

    def __init__(
        self,
        path: str,
        tasks: Sequence[str] | None = None,
        split: str = "test",
        transcript_text: bool = True,
        manifests: Sequence[str] = (),
        inputs: Sequence[str] = ("text", "speech", "blank"),
        limit: int | None = None,
        max_new_tokens: int = 24,
        batch_size: int = 16,
        describe: Callable[[Row], str] | None = None,
    ) -> None:
        super().__init__(path, manifests, inputs, limit, max_new_tokens, batch_size, describe)
        self.tasks = None if tasks is None else list(tasks)
        self.split = split
        self.transcript_text = transcript_text

    def read(self) -> list[BenchmarkItem]:
        root = Path(self.path)
        files = sorted(root.glob(f"*/{self.split}/metadata.json"))
        names = [file.parts[-3] for file in files]
        missing = sorted(set(self.tasks or ()) - set(names))
        if not files:
            raise BenchmarkError(
                root,
                "",
                f"holds no <task>/{self.split}/metadata.json; give the folder that holds the "
                "folders of the tasks, as released",
            )
        if missing:
            raise BenchmarkError(
                root,
                "",
                f"no <task>/{self.split}/metadata.json for {', '.join(missing)}; there are "
                f"{', '.join(names)}",
            )
        items = []
        for name, file in zip(names, files, strict=True):
            if self.tasks is None or name in self.tasks:
                items += self._task(name, file)
        return items

    def _task(self, task: str, file: Path) -> list[BenchmarkItem]:
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BenchmarkError(file, "", f"no JSON ({error})") from error
        if not isinstance(entries, Mapping):
            raise BenchmarkError(file, "", "expected an object: file name -> entry")
        # Of the whole file: what is asked may be a few of its items.
        labels = (entry.get("label") for entry in entries.values() if isinstance(entry, Mapping))
        options = sorted({label for label in labels if isinstance(label, str)})
        out = []
        for name, entry in entries.items():
            if not isinstance(entry, Mapping):
                raise BenchmarkError(file, name, f"expected an object, got {entry!r}")
            if entry.get("file2"):
                raise BenchmarkError(
                    file, name, "asks about two files (file2): list `tasks` without this one"
                )
            instruction = text_field(entry, "instruction", file, name)
            if self.transcript_text and entry.get("text"):
                instruction = f"{instruction}\n{text_field(entry, 'text', file, name)}"
            out.append(
                BenchmarkItem(
                    id=f"{task}/{name}",
                    audio=os.path.abspath(file.parent / name),
                    instruction=instruction,
                    group=task,
                    label=text_field(entry, "label", file, name),
                    description=entry.get("seed_transcript") or "",
                    metric="accuracy",
                    extra={"options": options},
                )
            )
        return out

    def score(self, items: list[BenchmarkItem], decoded: Decoded, plan: ScorePlan) -> dict:
        tasks: dict[str, list[BenchmarkItem]] = {}
        for item in items:
            tasks.setdefault(item.group, []).append(item)
        units = {name: [item.unit for item in own] for name, own in tasks.items()}
        options = {name: list(own[0].extra["options"]) for name, own in tasks.items()}
        rules = {
            "authors": lambda answer, item: consecutive_words(answer, item.label),
            "strict": lambda answer, item: single_label(answer, item.label, options[item.group]),
        }
        scores: dict[str, Any] = {"kind": "classification", "n": len(items), "tasks": {}}
        correct = {
            rule: {
                name: {
                    task: [float(check(rows[i.id]["answer"], i)) for i in own]
                    for task, own in tasks.items()
                }
                for name, rows in decoded.items()
            }
            for rule, check in rules.items()
        }
        for task, own in tasks.items():
            common, count = Counter(i.label for i in own).most_common(1)[0]
            entry = {
                "n": len(own),
                "options": options[task],
                "majority": {"label": common, "value": count / len(own)},
            }
            for rule, found in correct.items():
                pairs = {n: macro({task: groups[task]}, units) for n, groups in found.items()}
                entry[rule] = {name: interval(p, plan) for name, p in pairs.items()}
                entry[f"{rule}_speech_minus"] = against(pairs, plan)
            scores["tasks"][task] = entry
        for rule, found in correct.items():
            pairs = {name: macro(groups, units) for name, groups in found.items()}
            scores[rule] = {name: interval(p, plan) for name, p in pairs.items()}
            scores[f"{rule}_speech_minus"] = against(pairs, plan)
        values = [entry["majority"]["value"] for entry in scores["tasks"].values()]
        scores["majority"] = sum(values) / len(values)
        scores["agreement"] = agreement(items, decoded, plan)
        scores["summary"] = {
            **{task.partition("_")[0]: e["strict"] for task, e in scores["tasks"].items()},
            "mean": scores["strict"],
            "mean, authors' rule": scores["authors"],
        }
        return scores

    def table(self, scores: Mapping[str, Any]) -> str:
        names = list(scores["strict"])
        header = ["task", "n", "majority class"]
        header += [f"{SLOT_LABELS.get(n, n)}, strict" for n in names]
        header += ["speech, authors' rule", "audio adds (strict, p)"]
        lines = []
        for task, e in [*scores["tasks"].items(), ("mean of tasks", scores)]:
            blank = e["strict_speech_minus"].get("blank")
            majority = e["majority"]
            majority = majority["value"] if isinstance(majority, Mapping) else majority
            lines.append(
                [
                    task,
                    str(e["n"]),
                    f"{majority:.2f}",
                    *(with_interval(e["strict"][n], 2) for n in names),
                    with_interval(e["authors"]["speech"], 2),
                    f"{blank['difference']:+.2f} (p {blank['p']:.3f})" if blank else "-",
                ]
            )
        return markdown(header, lines)
