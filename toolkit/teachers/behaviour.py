"""The backbone LLM writes the targets from transcripts: what behaviour imitation imitates."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.manifest import Row
from toolkit.teachers.answers import AnswerStore, TeachItem, ask, ask_endpoint, teach_item
from toolkit.teachers.endpoint import Endpoint
from toolkit.teachers.pool import InstructionPool
from toolkit.text import WordErrors, word_errors

if TYPE_CHECKING:
    from toolkit.llms import CausalLM, Prompt

log = logging.getLogger("toolkit")


class BehaviourTeacher:
    """Plans who is asked what, asks, filters, and writes target rows.

    Teacher and backbone are the same checkpoint and prompt (MTBI checklist: the teacher sees the
    transcript in the slot where the student hears speech). Decoding is greedy; answers that do not
    end within ``max_new_tokens`` are dropped and counted. What the paper's teacher settings were is
    not known; these are ours.

    Parameters
    ----------
    manifests : list of str
        Rows to write targets for.
    pool : InstructionPool, optional
    per_utterance : int
        Different tasks asked about each row.
    task_weights : mapping of str to float, optional
        Relative weight of tasks in the draw.
    max_new_tokens : int
    batch_size : int
    topline_items : int
        Rows on which every task of the pool is tried first, on text.
    endpoint : Endpoint, optional
        A server that answers instead of the recipe's LLM. Imitation wants it to serve that very
        LLM; what it serves is named in every target (``source``) and not checked.
    topline_manifests : list of str, optional
        Where these rows come from; the last of ``manifests``, the development set, by default.
    check_answers : bool
        Also drop targets that fail their task's check.
    seed : int
        Of the draw of tasks and wordings.
    llm : CausalLM, optional
        Another LLM that writes the targets instead of the backbone, as an ablation: its words are
        then tokenised for the backbone.
    stop_strings : sequence of str
        Answers end before the first of these, for LLMs that do not stop by themselves: a blank line
        (two line breaks) keeps their first paragraph. An answer that begins with one is empty.
    """

    def __init__(
        self,
        manifests: list[str],
        pool: InstructionPool | None = None,
        per_utterance: int = 3,
        task_weights: Mapping[str, float] | None = None,
        max_new_tokens: int = 40,
        batch_size: int = 32,
        topline_items: int = 24,
        check_answers: bool = True,
        seed: int = 0,
        topline_manifests: list[str] | None = None,
        llm: CausalLM | None = None,
        endpoint: Endpoint | None = None,
        stop_strings: Sequence[str] = (),
    ) -> None:
        if isinstance(stop_strings, str) or not all(stop_strings):
            raise ValueError(
                f"stop_strings: {stop_strings!r} is no list of texts; "
                'write a list, such as ["\\n\\n"]'
            )
        self.stop_strings = tuple(stop_strings)
        self.manifests = manifests
        self.endpoint = endpoint
        self.topline_manifests = topline_manifests or manifests[-1:]
        self.pool = pool or InstructionPool()
        self.per_utterance = per_utterance
        self.task_weights = task_weights
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.topline_items = topline_items
        self.check_answers = check_answers
        self.seed = seed
        self.llm = llm

    def reads(self, row: Row) -> str:
        """What the teacher reads in the audio slot about a row: its transcript."""
        return row.text

    def plan(self, rows: Iterable[Row], exclude: Iterable[str] = ()) -> list[TeachItem]:
        """Draw tasks and wordings for every row.

        Parameters
        ----------
        rows : iterable of Row
        exclude : iterable of str
            Tasks this LLM cannot do on text.

        Returns
        -------
        list of TeachItem
            A row's draw depends on the seed and the row's id alone.
        """
        items = []
        for row in rows:
            digest = sha256(f"{self.seed}|{row.id}".encode()).digest()
            rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
            left_out = {*exclude, *(task.name for task in self.pool if not task.accepts(row))}
            drawn = self.pool.draw(rng, self.per_utterance, self.task_weights, left_out)
            items += [teach_item(task, row, index) for task, index in drawn]
        return items

    def topline_plan(self, rows: list[Row]) -> list[TeachItem]:
        """Every task on the same few rows, over all wordings in turn."""
        return [
            teach_item(task, row, i % len(task.wordings))
            for task in self.pool
            for i, row in enumerate(self._topline_rows(row for row in rows if task.accepts(row)))
        ]

    def write(
        self, items: list[TeachItem], llm: CausalLM, prompt: Prompt, store: AnswerStore
    ) -> list[dict]:
        """What is to be learnt, one answer per item as `ask` gives them: here, the LLM's own."""
        return self.answers(items, llm, prompt, store)

    def answers(
        self, items: list[TeachItem], llm: CausalLM, prompt: Prompt, store: AnswerStore
    ) -> list[dict]:
        """The text LLM's answers to what it `reads`, by `ask` or `ask_endpoint`."""
        how = {"reads": self.reads, "stop_strings": self.stop_strings}
        if self.endpoint is not None:
            return ask_endpoint(
                items, self.endpoint, llm, prompt, store, self.max_new_tokens, **how
            )
        return ask(items, llm, prompt, store, self.max_new_tokens, self.batch_size, **how)

    def wording_plan(self, rows: list[Row]) -> list[TeachItem]:
        """Repetition in every wording, on the same rows as the topline."""
        task = self.pool.transcript_task
        if task is None:
            return []
        # A small LLM takes a lone word for a topic, whatever the wording.
        sentences = [row for row in rows if len(row.text.split()) >= 3] or rows
        return [
            teach_item(task, row, i)
            for i in range(len(task.wordings))
            for row in self._topline_rows(sentences)
        ]

    @staticmethod
    def wording_errors(items: list[TeachItem], answers: list[dict]) -> dict[str, float]:
        """Word error rate of the text LLM's repetitions, by wording.

        Returns
        -------
        dict of str to float
        """
        errors: dict[str, WordErrors] = {}
        for item, answer in zip(items, answers, strict=True):
            made = word_errors(item.row.text, answer["response"])
            errors[item.wording] = errors.get(item.wording, WordErrors()) + made
        return {wording: total.rate for wording, total in errors.items()}

    def _topline_rows(self, rows: Iterable[Row]) -> list[Row]:
        rows = list(rows)
        step = max(1, len(rows) // self.topline_items)
        return rows[::step][: self.topline_items]

    def passes(self, item: TeachItem, response: str) -> bool:
        """Whether an answer attempts its task."""
        return self.pool[item.task].check(response, self.reads(item.row))

    def topline(self, items: list[TeachItem], answers: list[dict]) -> dict[str, float]:
        """Share of the text LLM's answers that attempt their task.

        Returns
        -------
        dict of str to float
        """
        passed: dict[str, list[bool]] = {}
        for item, answer in zip(items, answers, strict=True):
            passed.setdefault(item.task, []).append(self.passes(item, answer["response"]))
        return {task: sum(values) / len(values) for task, values in passed.items()}

    def carried(self, topline: Mapping[str, float]) -> tuple[list[str], list[str]]:
        """Tasks at or above their floor, and those below it."""
        above = [name for name, share in topline.items() if share >= self.pool[name].floor]
        return above, [name for name in topline if name not in above]

    def select(self, items: list[TeachItem], answers: list[dict]) -> tuple[list[dict], Counter]:
        """Filter answers into target rows.

        Returns
        -------
        list of dict
            Target rows (see `toolkit.data.sets.TargetSet`).
        Counter
            Kept and dropped by reason.
        """
        kept, counts = [], Counter()
        for item, answer in zip(items, answers, strict=True):
            if answer["finish"] != "stop":
                counts["dropped: truncated"] += 1
            elif not answer["response"]:
                counts["dropped: empty"] += 1
            elif self.check_answers and not self.passes(item, answer["response"]):
                counts[f"dropped: {item.task} not attempted"] += 1
            else:
                counts["kept"] += 1
                kept.append(
                    {
                        **answer,
                        "id": item.row.id,
                        "task": item.task,
                        "wording": item.wording,
                        "instruction": item.instruction,
                    }
                )
                read = self.reads(item.row)
                if read != item.row.text:
                    kept[-1]["reads"] = read
        return kept, counts


def for_backbone(targets: Iterable[dict], llm: CausalLM, prompt: Prompt) -> list[dict]:
    """Targets that another LLM wrote, in the backbone's tokens.

    Parameters
    ----------
    targets : iterable of dict
    llm : CausalLM
        The backbone.
    prompt : Prompt

    Returns
    -------
    list of dict
        With ``response_ids`` made of ``response``, end-of-turn token included.
    """
    end = prompt.end_ids(llm.tokenizer)
    return [
        {
            **target,
            "response_ids": [
                *llm.tokenizer(target["response"], add_special_tokens=False)["input_ids"],
                *end,
            ],
        }
        for target in targets
    ]


def describe(topline: Mapping[str, float], below: Iterable[str]) -> list[str]:
    """Lines for the log: the text topline of every task.

    Example
    -------
    >>> describe({"title": 0.5, "topic": 0.1}, ["topic"])
    ['title      0.50', 'topic      0.10  below its floor: left out']
    """
    below = set(below)
    return [
        f"{task:10s} {share:.2f}" + ("  below its floor: left out" if task in below else "")
        for task, share in topline.items()
    ]
