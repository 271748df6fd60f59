"""What is decoded, as the YAML declares it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from toolkit.data.example import Example
from toolkit.data.fields import prompt_fields
from toolkit.data.manifest import Row
from toolkit.data.splits import spread
from toolkit.teachers.pool import InstructionPool, Task, is_trained

if TYPE_CHECKING:
    from toolkit.evaluation.benchmarks.base import Benchmark

#: What every recipe can decode.
_COMMON = ("speech", "text", "asr", "blank", "shuffled", "untrained")
#: What can stand in the audio slot. ``text`` is the topline, ``asr`` the cascade, the next three
#: are controls: silence of the same length, another utterance, the projector before training.
#: ``pretrained`` is speech through the projector as the first phase left it, ``pads_kept`` through
#: the trained one with the vectors behind the words that it otherwise drops.
INPUTS = (*_COMMON, "pretrained", "pads_kept")
#: Inputs that are the item's own speech through another projector.
OTHER_PROJECTORS = ("untrained", "pretrained", "pads_kept")
#: Inputs that the LLM reads as published, without what training did to it.
TEXT_INPUTS = ("text", "asr")


@dataclass(frozen=True)
class DecodeItem:
    """One question to the model.

    Attributes
    ----------
    row : Row
    task, wording, instruction : str
    seen_task, seen_wording : bool
        Whether training used the task, and may have used the wording.
    repeat : bool
        Asked for the word error rate, in the one wording that the text LLM obeys best; not one of
        the items that tasks and wordings are compared on.
    references : tuple of str
        Right answers, the one that stands for all first; empty where the task has none.
    language : str
        Code of the language a right answer is in, empty where it does not matter.
    """

    row: Row
    task: str
    wording: str
    instruction: str
    seen_task: bool
    seen_wording: bool
    repeat: bool = False
    references: tuple[str, ...] = ()
    language: str = ""

    @property
    def id(self) -> str:
        """Key in the decoded file."""
        return f"{self.row.id}|{self.wording}" + ("|repeat" if self.repeat else "")

    def example(self) -> Example:
        """What the collator makes a batch of."""
        fields = prompt_fields(self.row, self.instruction)
        return Example(self.row, self.task, fields, wording=self.wording)


def decode_item(task: Task, row: Row, index: int, repeat: bool = False) -> DecodeItem:
    """The question of one wording about one row, seen or not as the pool declares the task.

    Parameters
    ----------
    task : Task
    row : Row
    index : int
        Of the wording.
    repeat : bool

    Returns
    -------
    DecodeItem
    """
    return DecodeItem(
        row=row,
        task=task.name,
        wording=f"{task.name}/{index}",
        instruction=task.instruct(index, row),
        seen_task=task.seen,
        seen_wording=task.seen and index in task.wording_ids(held_out=False),
        repeat=repeat,
        references=task.references(row),
        language=task.language,
    )


def _in_order(key: str, asked: Sequence[str]) -> list[str]:
    """Inputs as they are decoded: the text branch first, as the others are compared with it."""
    unknown = [name for name in asked if name not in INPUTS]
    if unknown:
        raise ValueError(f"decode.{key}: unknown {unknown}; there are {', '.join(INPUTS)}")
    return ["text", "speech", *(i for i in asked if i not in ("text", "speech"))]


@dataclass(frozen=True)
class DecodeRun:
    """Questions on one manifest, for some inputs.

    Attributes
    ----------
    name : str
        Of the decoded files.
    manifest : str
    inputs : list of str
    items : callable list of Row -> list of DecodeItem
    """

    name: str
    manifest: str
    inputs: list[str]
    items: Callable[[list[Row]], list[DecodeItem]]


class DecodePlan:
    """Test sets, tasks and inputs.

    Parameters
    ----------
    sets : mapping of str to str
        Name -> manifest.
    inputs : list of str
        Any of ``speech, text, asr, blank, shuffled, untrained, pretrained, pads_kept``; ``speech``
        and ``text`` always run. The first six by default: ``pretrained`` needs two phases,
        ``pads_kept`` a projector that trims pads.
    pool : InstructionPool, optional
    items_per_task : int
        Utterances per task and set, spread evenly over the manifest.
    more_items : mapping of str to int, optional
        Other numbers for single tasks.
    repeat_items : int
        Utterances to be repeated, for the word error rate.
    repeat_min_words : int
        Shorter utterances are not asked for: a small LLM takes a lone word for a topic.
    max_new_tokens, batch_size : int
    grid : list of str, optional
        Sets to run the generalisation benchmark on too: every utterance of a task in all wordings.
    grid_items : int
        Utterances per task of the benchmark.
    grid_inputs : list of str
        ``text`` and ``speech`` always run.
    same_utterances : bool
        Ask every task about the same utterances, to compare tasks; different ones otherwise.
    describe : callable, optional
        What the text branch reads about a row in the audio slot, such as
        `toolkit.teachers.SeedTranscript`; the gold transcript by default.
    benchmarks : mapping of str to Benchmark, optional
        Name -> one of `toolkit.evaluation.benchmarks`; each has inputs and lengths of its own.

    Raises
    ------
    ValueError
        For an unknown input or set.

    Example
    -------
    >>> plan = DecodePlan({"recorded": "test.jsonl"}, grid=["recorded"], grid_items=2)
    >>> [(run.name, run.inputs[:3]) for run in plan.runs()]
    [('recorded', ['text', 'speech', 'asr']), ('recorded_grid', ['text', 'speech', 'asr'])]
    """

    def __init__(
        self,
        sets: Mapping[str, str],
        inputs: list[str] | None = None,
        pool: InstructionPool | None = None,
        items_per_task: int = 40,
        more_items: Mapping[str, int] | None = None,
        repeat_items: int = 40,
        repeat_min_words: int = 1,
        max_new_tokens: int = 40,
        batch_size: int = 24,
        grid: list[str] | None = None,
        grid_items: int = 4,
        grid_inputs: Sequence[str] = ("text", "speech", "asr"),
        describe: Callable[[Row], str] | None = None,
        same_utterances: bool = False,
        benchmarks: Mapping[str, Benchmark] | None = None,
    ) -> None:
        self.sets = dict(sets)
        self.inputs = _in_order("inputs", inputs or _COMMON)
        self.grid = list(grid or [])
        self.grid_items = grid_items
        self.grid_inputs = _in_order("grid_inputs", grid_inputs)
        unknown = [name for name in self.grid if name not in self.sets]
        if unknown:
            raise ValueError(f"decode.grid: no sets {unknown}; there are {', '.join(self.sets)}")
        self.pool = pool or InstructionPool()
        self.items_per_task = items_per_task
        self.more_items = dict(more_items or {})
        self.repeat_items = repeat_items
        self.repeat_min_words = repeat_min_words
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.describe = describe
        self.same_utterances = same_utterances
        self.benchmarks = dict(benchmarks or {})

    def runs(
        self, repeat_wording: int = 0, trained: Collection[str] | None = None
    ) -> list[DecodeRun]:
        """What is decoded: each set, and the benchmark on the sets that have one.

        Parameters
        ----------
        repeat_wording : int
            See `items`.
        trained : collection of str, optional
            Tasks that training had; those that the pool declares as seen by default.

        Returns
        -------
        list of DecodeRun
        """

        def asked(items: Callable[[list[Row]], list[DecodeItem]]):
            """The items as training has seen them."""
            if trained is None:
                return items
            return lambda rows: [self._seen_by(item, trained) for item in items(rows)]

        items = asked(partial(self.items, repeat_wording=repeat_wording))
        grid_of = asked(self.grid_of)
        sets = [DecodeRun(name, m, self.inputs, items) for name, m in self.sets.items()]
        grids = [
            DecodeRun(f"{name}_grid", self.sets[name], self.grid_inputs, grid_of)
            for name in self.grid
        ]
        return sets + grids

    def _seen_by(self, item: DecodeItem, trained: Collection[str]) -> DecodeItem:
        """The item as a training on some tasks has seen it, whatever the pool declares."""
        task = is_trained(item.task, trained)
        first_half = self.pool[item.task].wording_ids(held_out=False)
        wording = task and int(item.wording.rsplit("/", 1)[1]) in first_half
        return replace(item, seen_task=task, seen_wording=wording)

    def grid_of(self, rows: list[Row]) -> list[DecodeItem]:
        """Questions of the generalisation benchmark: the same utterances in every wording.

        Parameters
        ----------
        rows : list of Row

        Returns
        -------
        list of DecodeItem
        """
        found = []
        for task in self.pool:
            chosen = spread([r for r in rows if task.accepts(r)], self.grid_items)
            found += [
                decode_item(task, row, index)
                for row in chosen
                for index in range(len(task.wordings))
            ]
        return found

    def items(self, rows: list[Row], repeat_wording: int = 0) -> list[DecodeItem]:
        """Questions on a test set: repetitions, and every task, seen and held-out wordings in turn.

        Parameters
        ----------
        rows : list of Row
        repeat_wording : int
            Wording of the repetitions, chosen by the text LLM's own errors on other rows: many
            wordings measure how well it obeys, one measures what it heard.

        Returns
        -------
        list of DecodeItem
        """
        found = []
        if (transcription := self.pool.transcript_task) is not None:
            long_enough = [r for r in rows if len(r.text.split()) >= self.repeat_min_words]
            found += [
                decode_item(transcription, row, repeat_wording, repeat=True)
                for row in spread(long_enough, self.repeat_items)
            ]
        for number, task in enumerate(self.pool):
            count = self.more_items.get(task.name, self.items_per_task)
            able = [row for row in rows if task.accepts(row)]
            if not self.same_utterances:
                # Tasks ask about different utterances: the more there are, the surer the totals.
                start = number * len(able) // max(len(self.pool.tasks) * count, 1)
                able = able[start:] + able[:start]
            for order, row in enumerate(spread(able, count)):
                # A task with a single wording holds none out.
                choices = task.wording_ids(held_out=order % 2 == 1) or task.wording_ids(False)
                index = choices[(order // 2) % len(choices)]
                found.append(decode_item(task, row, index))
        return found
