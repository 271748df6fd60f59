"""Instruction pools: tasks, wordings, and which of them training may see."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from toolkit.data.fields import prompt_fields, row_value
from toolkit.data.manifest import Row
from toolkit.teachers.checks import Check

#: Tasks whose right answer is the transcript.
TRANSCRIPT_TASKS = ("repetition", "transcription")


def is_trained(task: str, trained: Collection[str]) -> bool:
    """Whether a task is among those of a training, by whatever name repetition goes there.

    Parameters
    ----------
    task : str
    trained : collection of str
        Names of tasks.

    Returns
    -------
    bool

    Example
    -------
    >>> is_trained("repetition", {"transcription"}), is_trained("title", {"transcription"})
    (True, False)
    """
    return task in trained or (
        task in TRANSCRIPT_TASKS and any(name in trained for name in TRANSCRIPT_TASKS)
    )


@dataclass(frozen=True)
class Task:
    """A thing to do with a transcript.

    Attributes
    ----------
    name : str
    wordings : tuple of str
        Instructions that ask for it; the first half is seen in training (rounded up, so that a
        single wording is seen), the second half is held out. ``{question}``, ``{context}`` and
        ``{language}`` stand for the row's.
    check : callable (answer, transcript) -> bool
        Whether an answer attempted the task.
    seen : bool
        False for tasks held out whole.
    floor : float
        Share of the text LLM's own answers that must pass ``check`` for the LLM to carry the task.
    target : str
        Row field that holds the reference (``text``, ``answer``, ``translations.es``), empty where
        there is none.
    language : str
        Code of the language a right answer is in, where that is known.
    source_languages : tuple of str
        Rows the task is for, by their language; empty for all.
    score : callable (reference, answer) -> float, optional
        How good an answer is, in [0, 1], where there is a reference.
    requires : str
        Another row field without which the task cannot be asked (``question``); empty for none.

    Example
    -------
    >>> task = Task("spanish", ("Translate:",) * 2, bool, target="translations.es")
    >>> row = Row("a", "/a.wav", 1.0, "Hi.", "en", "s", translations={"es": "Hola."})
    >>> task.accepts(row), task.reference(row), task.instruct(0, row)
    (True, 'Hola.', 'Translate:')
    """

    name: str
    wordings: tuple[str, ...]
    check: Check
    seen: bool = True
    floor: float = 0.5
    target: str = ""
    language: str = ""
    source_languages: tuple[str, ...] = ()
    score: Callable[[str, str], float] | None = None
    requires: str = ""

    def accepts(self, row: Row) -> bool:
        """Whether the task can be asked about a row: its language fits, what it needs is there."""
        fits = not self.source_languages or row.language in self.source_languages
        able = not self.requires or bool(row_value(row, self.requires))
        return fits and able and (not self.target or bool(self.reference(row)))

    def reference(self, row: Row) -> str:
        """The row's right answer; empty for tasks without one."""
        return row_value(row, self.target).strip() if self.target else ""

    def references(self, row: Row) -> tuple[str, ...]:
        """All right answers: the reference first, then ``attributes.answers`` of a question."""
        first = self.reference(row)
        others = row.attributes.get("answers", ()) if self.target == "answer" else ()
        return tuple(dict.fromkeys([first, *others])) if first else ()

    def instruct(self, index: int, row: Row) -> str:
        """A wording with the row's fields put in."""
        text = self.wordings[index]
        for name, value in prompt_fields(row).items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def wording_ids(self, held_out: bool) -> list[int]:
        """Indices of the seen or of the held-out wordings."""
        half = (len(self.wordings) + 1) // 2
        return list(range(half, len(self.wordings)) if held_out else range(half))


class InstructionPool:
    """Tasks with their wordings.

    Parameters
    ----------
    tasks : iterable of Task, optional
        Our own content tasks by default.
    only : iterable of str, optional
        Keep these tasks.

    Example
    -------
    >>> pool = InstructionPool(only=["repetition", "title"])
    >>> [task.name for task in pool]
    ['repetition', 'title']
    >>> pool.instruction("repetition/0")
    'Repeat the following sentence word for word:'
    """

    def __init__(
        self, tasks: Iterable[Task] | None = None, only: Iterable[str] | None = None
    ) -> None:
        if tasks is None:
            from toolkit.teachers.tasks import CONTENT_TASKS

            tasks = CONTENT_TASKS
        self.tasks = {task.name: task for task in tasks}
        if only is not None:
            only = list(only)
            unknown = [name for name in only if name not in self.tasks]
            if unknown:
                raise ValueError(
                    f"no task named {', '.join(unknown)}; the pool has {', '.join(self.tasks)}"
                )
            self.tasks = {name: self.tasks[name] for name in only}

    def __iter__(self):
        return iter(self.tasks.values())

    def __getitem__(self, name: str) -> Task:
        return self.tasks[name]

    @property
    def transcript_task(self) -> Task | None:
        """The task whose answers are scored word by word, if the pool has one."""
        return next((self.tasks[name] for name in TRANSCRIPT_TASKS if name in self.tasks), None)

    def instruction(self, wording: str) -> str:
        """Text of a wording given as ``task/index``."""
        task, index = wording.rsplit("/", 1)
        return self.tasks[task].wordings[int(index)]

    def seen(self, exclude: Iterable[str] = ()) -> list[Task]:
        """Tasks training may use."""
        exclude = set(exclude)
        return [task for task in self if task.seen and task.name not in exclude]

    def draw(
        self,
        rng: np.random.Generator,
        count: int,
        weights: Mapping[str, float] | None = None,
        exclude=(),
    ) -> list[tuple[Task, int]]:
        """Different seen tasks, one seen wording each.

        Parameters
        ----------
        rng : numpy.random.Generator
        count : int
            At most the number of seen tasks.
        weights : mapping of str to float, optional
            Relative weight of tasks, 1 where not given.
        exclude : iterable of str
            Tasks to leave out.

        Returns
        -------
        list of (Task, int)
        """
        tasks = self.seen(exclude)
        if not tasks:
            return []
        relative = np.array([(weights or {}).get(task.name, 1.0) for task in tasks])
        count = min(count, int((relative > 0).sum()))
        chosen = rng.choice(len(tasks), size=count, replace=False, p=relative / relative.sum())
        return [(tasks[i], int(rng.choice(tasks[i].wording_ids(held_out=False)))) for i in chosen]
