"""The backbone LLM says what it hears, of clips that it reads about: DeSTA2's targets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from toolkit.data.manifest import Row
from toolkit.data.measures import word_of
from toolkit.teachers.answers import TeachItem
from toolkit.teachers.behaviour import BehaviourTeacher
from toolkit.teachers.checks import grounded, words
from toolkit.teachers.named_values import named_values
from toolkit.teachers.pool import InstructionPool, Task
from toolkit.teachers.seed_transcript import SeedTranscript

if TYPE_CHECKING:
    from toolkit.llms import CausalLM

PROMPTS = ("single", "detailed", "listed", "pool")
_REFUSAL = re.compile(
    r"\bas an? (?:ai|text|large language|language)\b"
    r"|\bi(?:'m| am)? ?(?:sorry|apologi[sz]e)\b"
    r"|\bi (?:can(?:no|')t|am (?:not able|unable) to|do(?: not|n't)(?: have the ability to)?)"
    r" (?:actually |directly |physically )?(?:hear|listen|process|play|access|have access)\b"
    r"|\b(?:please|could you) (?:provide|upload|share)\b[^.?!]*\b(?:audio|recording|file|clip)\b",
    re.IGNORECASE,
)


def is_description(answer: str, text: str = "") -> bool:
    """Says something, and is no refusal to listen; what it was asked about does not matter.

    Parameters
    ----------
    answer : str
    text : str
        What was read, or said: words of refusal that stand there too are a quote of the speaker.

    Example
    -------
    >>> is_description("I hear a woman who speaks fast.")
    True
    >>> is_description("As an AI, I have no ears."), is_description("I can't hear audio files.")
    (False, False)
    >>> is_description('A man says "I am sorry".', "I am sorry.")
    True
    """
    told = text.replace("\u2019", "'").lower()
    refusals = _REFUSAL.finditer(answer.replace("\u2019", "'"))
    return len(words(answer)) >= 3 and all(found[0].lower() in told for found in refusals)


#: The one prompt of DeSTA2.
PAPER_TASK = Task("description", ("What can you hear from the audio?",), is_description)
#: The same question for small LLMs, which invent rather than read when the aspects are not named.
DETAILED_TASK = Task(
    "description",
    (
        "Describe the speaker's gender, accent, pitch, volume and speaking speed, and the noise "
        "level and reverberation of the recording.",
    ),
    is_description,
)
#: For LLMs that lose the thread even so: values, one after another, are little more than copied.
LISTED_TASK = Task(
    "description",
    (
        "Listen to the audio. Name the value of each: Gender, Accent, Pitch, Volume, Speaking "
        "speed, Noise level, Reverberation.",
    ),
    is_description,
)
_TRAINED = {"single": PAPER_TASK, "detailed": DETAILED_TASK, "listed": LISTED_TASK}
#: Prompts of the same kind, our own wordings: the successor's pool is not reproduced.
HEARING_TASKS = (
    Task(
        "description",
        (
            "What can you hear from the audio?",
            "Describe the audio.",
            "What do you hear in this recording?",
            "Tell me everything you notice in this clip.",
            "Listen to the recording and describe it.",
            "What is there to hear in this audio clip?",
            "Give a description of this recording.",
            "Please report all that can be heard here.",
        ),
        is_description,
    ),
    Task(
        "speaker",
        (
            "Who is speaking in the audio? Describe the speaker.",
            "What can you tell about the person who speaks?",
            "Describe the voice that you hear.",
            "What kind of speaker is this?",
            "Characterise the person in this recording.",
            "What does the voice tell about its owner?",
            "Give a short portrait of the speaker.",
            "Whose voice might this be? Describe it.",
        ),
        is_description,
    ),
    Task(
        "delivery",
        (
            "How does the speaker talk?",
            "Describe the manner of speaking in the audio.",
            "In what way are the words said?",
            "How does the speech sound?",
            "Comment on pitch, loudness and speed of the speech.",
            "Describe the speaking style that you hear.",
            "In which manner is the sentence spoken?",
            "What stands out in the delivery of the words?",
        ),
        is_description,
    ),
    Task(
        "surroundings",
        (
            "How good is the recording? Describe noise and room.",
            "What can you hear of the surroundings?",
            "Describe the acoustic conditions of the audio.",
            "Under what conditions was this recorded?",
            "What does the background sound like?",
            "Comment on the sound quality of this clip.",
            "Is the audio clean? Describe what disturbs it.",
            "What can be said about the place of the recording?",
        ),
        is_description,
    ),
)


class DescriptionPool(InstructionPool):
    """Prompts that ask what can be heard.

    Parameters
    ----------
    prompts : str
        ``"single"``: the paper's one prompt. ``"detailed"``: one prompt of ours that names what to
        attend to, for LLMs too small for the paper's; ``"listed"``: one that asks for values alone,
        for still smaller ones. ``"pool"``: several tasks in eight wordings each, half of them held
        out, as DeSTA2.5-Audio draws from a pool.
    unseen : bool
        Beside a single prompt, list the pool's other prompts as held out: for decoding a model
        that was trained on the single one.
    also : iterable of Task or str
        Further tasks that training never sees, such as names of `toolkit.teachers.CONTENT_TASKS`.
    only : iterable of str, optional
        Keep these tasks.

    Raises
    ------
    ValueError
        For another word, or an unknown task.

    Example
    -------
    >>> [task.name for task in DescriptionPool("single")]
    ['description']
    >>> pool = DescriptionPool(also=["repetition"], only=["speaker", "repetition"])
    >>> [(task.name, task.seen) for task in pool]
    [('speaker', True), ('repetition', False)]
    """

    def __init__(
        self,
        prompts: str = "pool",
        unseen: bool = False,
        also: Iterable[Task | str] = (),
        only: Iterable[str] | None = None,
    ) -> None:
        if prompts not in PROMPTS:
            raise ValueError(f"prompts: {prompts!r} is not one of {', '.join(PROMPTS)}")
        self.prompts = prompts
        tasks = list(HEARING_TASKS)
        held_out = [task if isinstance(task, Task) else _content_task(task) for task in also]
        if prompts != "pool":
            trained = _TRAINED[prompts]
            first, *others = HEARING_TASKS
            left = tuple(w for w in first.wordings if w not in trained.wordings)
            rewording = replace(first, name="rewording", wordings=left)
            held_out = [rewording, *others, *held_out] if unseen else held_out
            tasks = [trained]
        super().__init__([*tasks, *(replace(task, seen=False) for task in held_out)], only)


def _content_task(name: str) -> Task:
    return InstructionPool(only=[name])[name]


class DescriptionTeacher(BehaviourTeacher):
    """The backbone answers "what can you hear" from a seed transcript with attributes.

    DeSTA2 (Lu et al., 2024, arXiv:2409.20007, section 3): the teacher's only difference from
    `BehaviourTeacher` is what stands in the slot. The student is asked the same prompt with speech
    in place of the description, so that the target comes from its own LLM's distribution and the
    LLM can stay frozen. Replies are kept unedited; those that refuse to listen, or share no word
    with the description, are dropped and counted (``check_answers``). The paper's decoding settings
    are unknown; here it is greedy.

    Parameters
    ----------
    manifests, per_utterance, task_weights, max_new_tokens, batch_size, topline_items
        See `BehaviourTeacher`.
    check_answers, seed, llm, stop_strings
        See `BehaviourTeacher`.
    faithful : sequence of str
        Attributes that a reply has to give the row's own value and no other; replies that do not
        are dropped and counted. Ours, for LLMs that misread what stands before their eyes; the
        paper keeps whatever the LLM says. A row without an attribute is not asked for it.
    pool : InstructionPool, optional
        ``DescriptionPool("single")`` by default, the paper's one prompt.
    describe : callable (Row) -> str, optional
        What the teacher reads; `SeedTranscript` by default.

    Example
    -------
    >>> row = Row("a", "/a.wav", 2.0, "Hello.", "en", "s", attributes={"gender": "female"})
    >>> teacher = DescriptionTeacher(["train.jsonl"], describe=SeedTranscript(["gender"]))
    >>> teacher.reads(row)
    '[00:00:00 - 00:00:02] Hello. (Gender: female)'
    >>> [item.instruction for item in teacher.plan([row])]
    ['What can you hear from the audio?']
    """

    def __init__(
        self,
        manifests: list[str],
        pool: InstructionPool | None = None,
        describe: Callable[[Row], str] | None = None,
        per_utterance: int = 1,
        task_weights: Mapping[str, float] | None = None,
        max_new_tokens: int = 80,
        batch_size: int = 32,
        topline_items: int = 24,
        check_answers: bool = True,
        seed: int = 0,
        llm: CausalLM | None = None,
        faithful: Sequence[str] = (),
        stop_strings: Sequence[str] = (),
    ) -> None:
        super().__init__(
            manifests,
            pool or DescriptionPool("single"),
            per_utterance,
            task_weights,
            max_new_tokens,
            batch_size,
            topline_items,
            check_answers,
            seed,
            llm=llm,
            stop_strings=stop_strings,
        )
        self.describe = describe or SeedTranscript()
        self.faithful = tuple(faithful)

    def reads(self, row: Row) -> str:
        """What the teacher reads in the audio slot about a row: its description."""
        return self.describe(row)

    def passes(self, item: TeachItem, response: str) -> bool:
        """Whether an answer describes what was read."""
        return super().passes(item, response) and grounded(response, self.reads(item.row))

    def select(self, items: list[TeachItem], answers: list[dict]) -> tuple[list[dict], Counter]:
        """Filter answers into target rows; see `BehaviourTeacher.select`.

        Raises
        ------
        ValueError
            When ``faithful`` names an attribute that no row has as a word.
        """
        kept, counts = super().select(items, answers)
        if not self.faithful:
            return kept, counts
        rows = {item.row.id: item.row for item in items}
        values = {
            name: {i: word_of(row, name) for i, row in rows.items()} for name in self.faithful
        }
        options = {name: sorted(set(filter(None, own.values()))) for name, own in values.items()}
        for name, found in options.items():
            if not found:
                raise ValueError(
                    f"faithful: no row has {name!r} as a word in its attributes; the manifests "
                    f"are {', '.join(self.manifests)}"
                )
        right = []
        for target in kept:
            said = named_values(target["response"], options, spoken=rows[target["id"]].text)
            wanted = {name: own[target["id"]] for name, own in values.items()}
            wrong = [name for name, value in wanted.items() if value and said[name] != {value}]
            if wrong:
                counts["kept"] -= 1
                counts[f"dropped: {target['task']} not faithful"] += 1
            else:
                right.append(target)
        return right, counts
