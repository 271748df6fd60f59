"""The tasks of Self-Powered LSM in our own wordings: six families and transcription.

Yu et al., 2024, arXiv:2410.03798: the backbone LLM augments plain recognition data by writing a
continuation, a repetition in its own words, keywords, the intent, the sentiment and a translation
of each transcript. The released code has five wordings a task; here the first five of each task are
for training and five more are held out, so that generalisation to other wordings can be tested.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from toolkit.teachers import checks
from toolkit.teachers.gold_tasks import NAMES
from toolkit.teachers.pool import InstructionPool, Task
from toolkit.teachers.tasks import CONTENT_TASKS
from toolkit.text import chrf, language_of

#: Frequent words that show a language and are no English words, even in the midst of English;
#: Chinese shows by its characters.
FUNCTION_WORDS = {
    "Spanish": frozenset(
        "el una unos unas de del al que y en por para se su es está lo le más pero como este esta "
        "si sí usted mi muy ya hay ser".split()
    ),
    "French": frozenset(
        "le les une des du et dans avec est sont il elle ce cette que qui ne pas vous votre nous "
        "sur au aux ses ou où".split()
    ),
    "Italian": frozenset(
        "il lo gli una di del della e sono che si su al alla da nel questo questa più".split()
    ),
    "German": frozenset(
        "der das ein eine einen und zu mit für ist sind nicht auf dem sie ich wir ihr es von sich "
        "auch im aus wie aber oder".split()
    ),
}
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
LANGUAGES = (*FUNCTION_WORDS, "Chinese")
_CODES = {name: code for code, name in NAMES.items()}


def is_in(language: str) -> Callable[[str, str], bool]:
    """Check that an answer holds words of a language, beside whatever else it says.

    Answers keep the LLM's own style ("... can be translated as ..."), so English around the
    translation is no fault.

    Parameters
    ----------
    language : str
        One of ``LANGUAGES``.

    Returns
    -------
    callable (answer, transcript) -> bool

    Raises
    ------
    ValueError
        For another language.
    ModuleNotFoundError
        When the check comes to short answers without the extra ``translation``.

    Example
    -------
    >>> is_in("Spanish")("Deje su mensaje después del tono.", "Leave your message.")
    True
    >>> is_in("Spanish")("Leave your message after the tone.", "Leave your message.")
    False
    """
    if language not in LANGUAGES:
        raise ValueError(
            f"translation into {language!r} cannot be checked; choose {', '.join(LANGUAGES)}"
        )

    def check(answer: str, transcript: str) -> bool:
        if language == "Chinese":
            return bool(_CHINESE.search(answer))
        if FUNCTION_WORDS[language].intersection(checks.words(answer)):
            return True
        # A prompt of a word or two ("Añadido.") has none of them.
        return language_of(answer, {"en", _CODES[language]}) == _CODES[language]

    return check


#: Five wordings for training, then five held out.
AUGMENTATION_TASKS = (
    Task(
        "continuation",
        (
            "Continue the text in at most 50 words:",
            "Write what could come next, using no more than 50 words:",
            "Carry the following on for up to 50 words:",
            "Add a fitting continuation of at most 50 words to this:",
            "How might this go on? Write 50 words or fewer:",
            "Go on from where this stops, in 50 words at most:",
            "Extend what is said by up to 50 words:",
            "Give a likely continuation, no longer than 50 words:",
            "Write on from here with not more than 50 words:",
            "What would follow this? Use at most 50 words:",
        ),
        checks.is_not_transcript,
    ),
    Task(
        "paraphrase",
        (
            "Say this again without losing its meaning or any detail:",
            "Restate the following and keep everything it says:",
            "Give the same message once more, with all of its details:",
            "Repeat what this says, keeping the sense and the particulars:",
            "Reproduce the content of this faithfully and completely:",
            "Tell this again so that nothing of its content is lost:",
            "Express the following once more with the same meaning:",
            "Render this again, true to its meaning and details:",
            "Write a version of this that says exactly the same:",
            "Convey the same content again in full:",
        ),
        checks.grounded,
    ),
    Task(
        "keywords",
        (
            "Pull out the keywords of this:",
            "Which terms carry the content here? List them:",
            "Name the key terms, separated by commas:",
            "Find the most telling words in this:",
            "Write down the words that matter most here:",
            "Make a list of the central terms in this:",
            "What are the main words of this? Give only those:",
            "Pick the words that sum this up:",
            "Give the important terms of what follows:",
            "Collect the keywords in what is said:",
        ),
        checks.is_keywords,
    ),
    Task(
        "intent",
        (
            "What is this meant to achieve, and how clearly does it say so?",
            "State the main aim of this and judge how well it comes across:",
            "Work out the purpose of this and say whether it is put clearly:",
            "Why was this said, and is the message easy to understand?",
            "Describe the chief intention here and how effectively it is expressed:",
            "Explain what this wants to bring about and how plainly it is worded:",
            "Give the purpose of this, with a judgement of its clarity:",
            "What does this try to do, and does it succeed in being clear?",
            "Identify the goal behind this and rate how clearly it is conveyed:",
            "Say what the speaker is after and how understandable that is:",
        ),
        checks.is_not_transcript,
    ),
    Task(
        "sentiment",
        (
            "Is the feeling here positive, negative or neutral, and which parts show it?",
            "Judge the sentiment (positive, negative or neutral) and name the words behind it:",
            "Say whether this sounds positive, negative or neutral and what makes it so:",
            "Decide on positive, negative or neutral, and point to what decides it:",
            "Which mood has this, positive, negative or neutral? Give the reasons in it:",
            "Name the tone, positive, negative or neutral, with the parts that create it:",
            "Tell if this is positive, negative or neutral and explain by its words:",
            "Rate this as positive, negative or neutral and quote what led you to it:",
            "Positive, negative or neutral? Say which parts contribute:",
            "Give the sentiment of this (positive, negative or neutral) and its cause:",
        ),
        checks.is_sentiment,
    ),
)
_TRANSLATION = (
    "Translate this into {language}:",
    "Say the following in {language}:",
    "Give the {language} for this:",
    "Put what follows into {language}:",
    "Write a {language} version of this:",
    "How is this said in {language}?",
    "Turn the following into {language}:",
    "Render this in {language}:",
    "Express this in {language}:",
    "What would this be in {language}?",
)
TRANSCRIPTION = Task(
    "transcription",
    (
        "Write down what is said:",
        "Transcribe the speech:",
        "Give the exact words that are spoken:",
        "Put the spoken words into writing:",
        "Note word for word what you hear:",
        "Type out what the speaker says:",
        "Turn the speech into text:",
        "Write the spoken sentence exactly:",
        "Set down the words of the speaker:",
        "What exactly is being said? Write it down:",
    ),
    checks.is_repetition,
)
#: Content tasks that training never sees, for testing whether instructions are still followed.
HELD_OUT = ("title", "question", "reply", "topic")


def self_powered_pool(
    language: str = "Spanish", held_out: bool = True, references: bool = False
) -> InstructionPool:
    """The six augmentation tasks, transcription, and tasks held out whole.

    The teacher should not be asked for transcription, whose target is the gold text: give it
    ``task_weights: {transcription: 0}``.

    Parameters
    ----------
    language : str
        Of the translation task; one of ``LANGUAGES``. The paper's scripts ask for Chinese.
    held_out : bool
        Add the tasks of ``HELD_OUT``.
    references : bool
        Ask for translations only where the row has one (``translations``), and score against it.
        For evaluation: the teacher writes its own, of any row.

    Returns
    -------
    InstructionPool

    Example
    -------
    >>> pool = self_powered_pool("Italian", held_out=False)
    >>> [task.name for task in pool][-3:], pool.instruction("translation/0")
    (['sentiment', 'translation', 'transcription'], 'Translate this into Italian:')
    """
    translation = Task(
        "translation",
        tuple(wording.format(language=language) for wording in _TRANSLATION),
        is_in(language),
    )
    if references:
        code = _CODES[language]
        translation = replace(translation, target=f"translations.{code}", language=code, score=chrf)
    others = [replace(task, seen=False) for task in CONTENT_TASKS if task.name in HELD_OUT]
    tasks = (*AUGMENTATION_TASKS, translation, TRANSCRIPTION, *(others if held_out else ()))
    return InstructionPool(tasks)


def transcription_wordings() -> list[str]:
    """Wordings of the transcription task that training may use, for a `TranscriptionSet`.

    Returns
    -------
    list of str

    Example
    -------
    >>> len(transcription_wordings())
    5
    """
    return [TRANSCRIPTION.wordings[i] for i in TRANSCRIPTION.wording_ids(held_out=False)]
