"""Tasks with right answers: translation between languages, and questions about what was said.

As for the content tasks, the first half of a task's wordings is for training, the second half for
testing prompt generalisation. The wordings are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from toolkit.teachers.checks import words
from toolkit.teachers.pool import InstructionPool, Task
from toolkit.text import LANGUAGES, chrf, language_of, token_f1, word_error_rate

#: Two-letter codes (ISO 639-1) to what an instruction calls the language.
NAMES = {
    "ar": "Arabic",
    "ca": "Catalan",
    "cy": "Welsh",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fa": "Persian",
    "fr": "French",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "lv": "Latvian",
    "mn": "Mongolian",
    "nl": "Dutch",
    "pt": "Portuguese",
    "ru": "Russian",
    "sl": "Slovenian",
    "sv": "Swedish",
    "ta": "Tamil",
    "tr": "Turkish",
    "zh": "Chinese",
}
TRANSLATION_WORDINGS = (
    "Translate the following into {name}:",
    "Translate this sentence to {name}:",
    "Give the {name} translation of this:",
    "What is this in {name}?",
    "How would you say this in {name}?",
    "Put the following into {name}:",
    "Write in {name} what is said here:",
    "Say this in {name}:",
)
QUESTION_WORDINGS = (
    "Answer the question about the following {passage} with a few words. {question}",
    "{question} Answer briefly, from this {passage}:",
    "Read what is said and answer. Question: {question}",
    "Here is a question: {question} The answer is in this text:",
    "Use the {passage} below to answer this question in as few words as possible: {question}",
    "According to the following, {question}",
    "{question} Give only the answer. The text:",
    "Find the answer to this question in the text below. {question}",
)
SPOKEN_QUESTION_WORDINGS = (
    "Answer the question at the end with a few words:",
    "A text is followed by a question. Answer it briefly:",
    "Listen to the end and answer what is asked there:",
    "Give a short answer to the last question:",
    "What is the answer to the question that is asked at the end?",
    "The last sentence is a question. Answer it in as few words as possible:",
    "Answer what you are asked in the end. Only the answer:",
    "Somebody asks about what was said before. Answer briefly:",
)


def is_in_language(answer: str, transcript: str, language: str) -> bool:
    """The answer is in the language asked for, and not the transcript again."""
    copied = word_error_rate(transcript, answer) <= 0.2
    # A name or a number is the same in both languages.
    short = len(words(transcript)) <= 2
    candidates = {*LANGUAGES, language}
    return bool(answer) and (short or not copied) and language_of(answer, candidates) == language


def is_short_answer(answer: str, transcript: str) -> bool:
    """Something was said, and it is shorter than the transcript or a few words."""
    count = len(words(answer))
    return 0 < count <= max(8, len(words(transcript)) - 1)


def translation_pool(
    pairs: Sequence[Sequence[str]], held_out: Sequence[Sequence[str]] = ()
) -> InstructionPool:
    """Translation tasks named ``<source>_<target>``, with references in ``translations``.

    Parameters
    ----------
    pairs : sequence of (source, target)
        Language codes of speech and answer.
    held_out : sequence of (source, target)
        Pairs that training does not see.

    Returns
    -------
    InstructionPool

    Raises
    ------
    ValueError
        For a language without an English name here, or a pair of one language.

    Example
    -------
    >>> pool = translation_pool([["es", "en"]], held_out=[["en", "fr"]])
    >>> [(task.name, task.target, task.seen) for task in pool]
    [('es_en', 'translations.en', True), ('en_fr', 'translations.fr', False)]
    >>> pool.instruction("en_fr/3")
    'What is this in French?'
    """
    tasks = []
    for seen, group in ((True, pairs), (False, held_out)):
        for source, target in group:
            unknown = [code for code in (source, target) if code not in NAMES]
            if unknown or source == target:
                problem = f"no language {unknown[0]!r}" if unknown else "both languages are one"
                raise ValueError(f"pair {source!r}, {target!r}: {problem}; there are {list(NAMES)}")
            tasks.append(
                Task(
                    name=f"{source}_{target}",
                    wordings=tuple(w.format(name=NAMES[target]) for w in TRANSLATION_WORDINGS),
                    check=partial(is_in_language, language=target),
                    seen=seen,
                    target=f"translations.{target}",
                    language=target,
                    source_languages=(source,),
                    score=chrf,
                )
            )
    return InstructionPool(tasks)


def question_pool(
    spoken: bool = False, name: str = "question_answering", passage: str = "announcement"
) -> InstructionPool:
    """Question answering, with the row's ``question`` in the instruction and ``answer`` as target.

    Parameters
    ----------
    spoken : bool
        The question is heard behind the passage, as ``attributes.spoken_question`` says: the
        instruction only points at it.
    name : str
        Of the task.
    passage : str
        What the instructions call the passage.

    Returns
    -------
    InstructionPool

    Example
    -------
    >>> from toolkit.data import Row
    >>> row = Row("a", "/a.wav", 1.0, "Press 2.", "en", "s", question="Which key?", answer="2")
    >>> task = question_pool()["question_answering"]
    >>> task.instruct(2, row), task.reference(row)
    ('Read what is said and answer. Question: Which key?', '2')
    """
    wordings = SPOKEN_QUESTION_WORDINGS if spoken else QUESTION_WORDINGS
    task = Task(
        name,
        tuple(wording.replace("{passage}", passage) for wording in wordings),
        is_short_answer,
        target="answer",
        score=token_f1,
        requires="attributes.spoken_question" if spoken else "question",
    )
    return InstructionPool([task])


def joined(*pools: InstructionPool) -> InstructionPool:
    """One pool of the tasks of several.

    Raises
    ------
    ValueError
        When two have a task of one name.

    Example
    -------
    >>> [t.name for t in joined(question_pool(), translation_pool([["es", "en"]]))]
    ['question_answering', 'es_en']
    """
    tasks = [task for pool in pools for task in pool]
    if len({task.name for task in tasks}) < len(tasks):
        raise ValueError(f"two tasks of one name among {[task.name for task in tasks]}")
    return InstructionPool(tasks)
