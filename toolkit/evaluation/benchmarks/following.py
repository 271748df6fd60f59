"""Instruction following in Speech-IFEval's format: IFrate, and forgetting against the text LLM.

``<path>/eval_data/`` holds ``closed_ended_questions.jsonl``, ``creative_writing.jsonl``,
``chain-of-thought.jsonl`` and, without the constraints, ``closed_ended_questions-woprompt.jsonl``;
``<path>/audios/`` the clips. The text LLM reads each entry's ``seed_transcript``.
"""

from __future__ import annotations

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
    agreement_table,
    macro,
    markdown,
)
from toolkit.evaluation.benchmarks.classification import consecutive_words
from toolkit.evaluation.benchmarks.constraints import CHECKERS, READINGS, follows
from toolkit.evaluation.benchmarks.items import (
    BenchmarkError,
    BenchmarkItem,
    read_json_lines,
    text_field,
)
from toolkit.evaluation.benchmarks.judge import demonstrates_reasoning
from toolkit.evaluation.score_plans import ScorePlan
from toolkit.evaluation.scoring import interval
from toolkit.evaluation.tables import with_interval
from toolkit.text import word_errors

CLOSED, CREATIVE, REASONING, PLAIN = "closed-ended", "creative", "chain of thought", "unconstrained"
#: Part -> names of its file: the one of the README, then that of the first release.
FILES = {
    CLOSED: ("closed_ended_questions.jsonl", "close.jsonl"),
    CREATIVE: ("creative_writing.jsonl", "open.jsonl"),
    REASONING: ("chain-of-thought.jsonl",),
    PLAIN: ("closed_ended_questions-woprompt.jsonl", "close-woprompt.jsonl"),
}


class InstructionFollowing(Benchmark):
    """Speech-IFEval, or another set in its format.

    The rate of a part is the share of answers that obey all their constraints; IFrate is the mean
    of the parts that could be scored (chain of thought needs a judge); forgetting is
    ``(IFrate - IFrate of the text LLM) / IFrate of the text LLM``.

    Parameters
    ----------
    path : str
        Folder with ``eval_data`` and ``audios``.
    parts : sequence of str, optional
        Out of closed-ended, creative, chain of thought, unconstrained; those whose file is there by
        default.
    manifests, inputs, limit, max_new_tokens, batch_size, describe
        As for `Benchmark`. The authors let models write 2,048 new tokens.
    """

    kind = "instruction following (Speech-IFEval format)"

    def __init__(
        self,
        path: str,
        parts: Sequence[str] | None = None,
        manifests: Sequence[str] = (),
        inputs: Sequence[str] = ("text", "speech", "blank"),
        limit: int | None = None,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        describe: Callable[[Row], str] | None = None,
    ) -> None:
        super().__init__(path, manifests, inputs, limit, max_new_tokens, batch_size, describe)
        unknown = sorted(set(parts or ()) - set(FILES))
        if unknown:
            raise ValueError(f"parts: unknown {unknown}; there are {', '.join(FILES)}")
        self.parts = None if parts is None else list(parts)

    def read(self) -> list[BenchmarkItem]:
        root = Path(self.path)
        items: list[BenchmarkItem] = []
        for part in self.parts or FILES:
            paths = [root / "eval_data" / name for name in FILES[part]]
            found = [path for path in paths if path.exists()]
            if found:
                items += self._part(part, found[0], root / "audios")
            elif self.parts:
                raise BenchmarkError(paths[0], "", f"no such file; part {part!r} was asked for")
        if not items:
            known = ", ".join(names[0] for names in FILES.values())
            raise BenchmarkError(
                root / "eval_data",
                "",
                f"holds no questions ({known}); give the folder that holds eval_data and audios, "
                "as released",
            )
        return items

    @staticmethod
    def _part(part: str, file: Path, audios: Path) -> list[BenchmarkItem]:
        items = []
        for line, entry in read_json_lines(file):
            names = entry.get("instruction_id_list") or []
            arguments = entry.get("kwargs") or [{} for _ in names]
            unknown = [name for name in names if name not in CHECKERS]
            if unknown:
                raise BenchmarkError(file, line, f"no checker for {unknown}")
            if len(names) != len(arguments):
                raise BenchmarkError(file, line, "kwargs and instruction_id_list differ in length")
            if not names and part in (CLOSED, CREATIVE):
                raise BenchmarkError(file, line, "instruction_id_list is empty: nothing to check")
            audio = text_field(entry, "audio_filepath", file, line)
            items.append(
                BenchmarkItem(
                    # The parts of the release number their entries, but not all of them.
                    id=f"{part}/{entry.get('id', line)}",
                    audio=os.path.abspath(audios / audio),
                    instruction=text_field(entry, "instruction", file, line),
                    group=part,
                    label=str(entry.get("label") or ""),
                    description=text_field(entry, "seed_transcript", file, line),
                    constraints=tuple(zip(names, arguments, strict=True)),
                    metric=str(entry.get("metric", "")),
                    extra={"dataset": str(entry.get("dataset", ""))},
                )
            )
        return items

    def score(self, items: list[BenchmarkItem], decoded: Decoded, plan: ScorePlan) -> dict:
        parts = {part: [i for i in items if i.group == part] for part in FILES}
        parts = {part: own for part, own in parts.items() if own}
        scores: dict[str, Any] = {"kind": "following", "n": len(items), "readings": {}}
        judged: dict[str, list[float]] = {}
        units = {part: [i.unit for i in own] for part, own in parts.items()}
        scores["unjudged"] = 0
        if REASONING in parts and plan.judge is not None:
            judged, units[REASONING] = self._reasoning(parts[REASONING], decoded, plan)
            scores["unjudged"] = len(parts[REASONING]) - len(units[REASONING])
        for reading in READINGS:
            values = {
                name: self._values(parts, rows, reading) | (
                    {REASONING: judged[name]} if name in judged else {}
                )
                for name, rows in decoded.items()
            }  # fmt: skip
            scores["readings"][reading] = self._reading(values, units, plan)
        rule = {n: self._values(parts, rows, "authors") for n, rows in decoded.items()}
        scores["constraints"] = self._constraints(parts, rule)
        scores["parts"] = {part: len(own) for part, own in parts.items()}
        scores["left_out"] = [REASONING] if REASONING in parts and not judged else []
        scores["tasks"] = {
            part: {name: self._tasks(parts[part], rows) for name, rows in decoded.items()}
            for part in (CLOSED, PLAIN)
            if part in parts
        }
        scores["agreement"] = agreement(items, decoded, plan)
        main = scores["readings"]["authors"]
        scores["summary"] = {"IFrate": main["if_rate"], "forgetting": main["forgetting"]}
        return scores

    @staticmethod
    def _values(parts, rows, reading: str) -> dict[str, list[float]]:
        """Part -> whether each answer obeys all of its constraints."""
        return {
            part: [
                float(all(follows(n, rows[i.id]["answer"], a, reading) for n, a in i.constraints))
                for i in parts[part]
            ]
            for part in (CLOSED, CREATIVE)
            if part in parts
        }

    @staticmethod
    def _reasoning(
        own, decoded: Decoded, plan: ScorePlan
    ) -> tuple[dict[str, list[float]], list[str]]:
        """Verdicts on the items that have one under every input, and the units of these."""
        verdicts = {
            name: demonstrates_reasoning(
                plan.judge, [(i.instruction, rows[i.id]["answer"]) for i in own]
            )
            for name, rows in decoded.items()
        }
        kept = [k for k in range(len(own)) if all(v[k] is not None for v in verdicts.values())]
        if not kept:
            return {}, []
        found = {n: [float(v[k]) for k in kept] for n, v in verdicts.items()}
        return found, [own[k].unit for k in kept]

    @staticmethod
    def _reading(
        values: Mapping[str, Mapping[str, list[float]]],
        units: Mapping[str, Sequence[str]],
        plan: ScorePlan,
    ) -> dict:
        pairs = {name: macro(groups, units) for name, groups in values.items()}
        out: dict[str, Any] = {
            "parts": {
                name: {
                    part: interval(macro({part: own}, units), plan) for part, own in groups.items()
                }
                for name, groups in values.items()
            },
            "if_rate": {name: interval(p, plan) for name, p in pairs.items()},
            "speech_minus": against(pairs, plan),
            "forgetting": {},
        }
        for name, own in pairs.items():
            text = pairs["text"]
            if name == "text" or not own or not any(p[0] for p in text):
                continue
            # One ratio over the same items: IFrate over the text LLM's, less one.
            ratio = [(a[0], b[0]) for a, b in zip(own, text, strict=True)]
            out["forgetting"][name] = {k: v - 1 for k, v in interval(ratio, plan).items()}
        return out

    @staticmethod
    def _constraints(parts, values) -> dict[str, dict]:
        out: dict[str, dict] = {}
        for part in (CLOSED, CREATIVE):
            for k, item in enumerate(parts.get(part, ())):
                name = "+".join(name for name, _ in item.constraints)
                entry = out.setdefault(name, {"n": 0, **dict.fromkeys(values, 0.0)})
                entry["n"] += 1
                for kind, groups in values.items():
                    entry[kind] += groups[part][k]
        for entry in out.values():
            for kind in values:
                entry[kind] /= entry["n"]
        return out

    @staticmethod
    def _tasks(own: list[BenchmarkItem], rows) -> dict[str, float]:
        """Was the question answered? Accuracy by consecutive words, word errors of transcripts."""
        groups: dict[str, list] = {}
        for item in own:
            answer = rows[item.id]["answer"]
            if item.metric == "wer":
                counts = word_errors(item.label, answer, "basic")
                groups.setdefault(f"{item.extra['dataset']} WER", []).append(
                    (counts.errors, counts.words)
                )
            elif item.label:
                right = consecutive_words(answer, item.label)
                groups.setdefault(f"{item.extra['dataset']} accuracy", []).append((right, 1))
        return {
            name: sum(p[0] for p in g) / max(sum(p[1] for p in g), 1) for name, g in groups.items()
        }

    def table(self, scores: Mapping[str, Any]) -> str:
        main = scores["readings"]["authors"]
        careful = scores["readings"]["careful"]
        parts = list(main["parts"]["speech"])
        lines = []
        for name in main["parts"]:
            forgetting = main["forgetting"].get(name)
            lines.append(
                [
                    SLOT_LABELS.get(name, name),
                    *(with_interval(main["parts"][name][p], 2) for p in parts),
                    with_interval(main["if_rate"][name], 2),
                    with_interval(careful["if_rate"][name], 2),
                    with_interval(forgetting, 3) if forgetting else "-",
                ]
            )
        header = ["in the audio slot", *parts, "IFrate", "IFrate, careful rules", "forgetting"]
        text = markdown(header, lines)
        if scores["left_out"]:
            text += f"\n\nWithout a judge, so not in IFrate: {', '.join(scores['left_out'])}."
        return f"{text}\n\n{agreement_table(scores['agreement'])}"
