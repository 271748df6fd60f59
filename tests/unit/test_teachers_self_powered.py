"""The tasks of Self-Powered LSM: families, wordings, the check of a language, and the draw."""

from __future__ import annotations

from dataclasses import replace

import pytest

from toolkit.data.manifest import Row
from toolkit.teachers import (
    CONTENT_TASKS,
    BehaviourTeacher,
    self_powered_pool,
    transcription_wordings,
)
from toolkit.teachers.self_powered import HELD_OUT, LANGUAGES, is_in

FAMILIES = ["continuation", "paraphrase", "keywords", "intent", "sentiment", "translation"]
ROWS = [
    Row(f"u{i}", f"u{i}.wav", 1.0, f"please press key number {i}", "en", "s") for i in range(60)
]


def test_six_families_and_transcription_with_five_seen_wordings() -> None:
    pool = self_powered_pool()
    assert [task.name for task in pool.seen()] == [*FAMILIES, "transcription"]
    for task in pool.seen():
        assert len(set(task.wordings)) == len(task.wordings) == 10
        assert len(task.wording_ids(held_out=False)) == 5
    assert {task.name for task in pool if not task.seen} == set(HELD_OUT)
    assert len(set(transcription_wordings())) == 5
    wordings = [w for task in pool.seen() for w in task.wordings]
    assert not set(wordings) & {w for task in CONTENT_TASKS for w in task.wordings}


def test_translations_are_scored_where_the_row_has_one() -> None:
    """The teacher's task is the same one, by name and wording: trained on, then scored."""
    own, scored = self_powered_pool("French"), self_powered_pool("French", references=True)
    assert own["translation"].wordings == scored["translation"].wordings
    there = replace(ROWS[0], translations={"fr": "appuyez sur la touche 0", "es": "pulse 0"})
    assert own["translation"].accepts(ROWS[0]) and not scored["translation"].accepts(ROWS[0])
    assert scored["translation"].references(there) == ("appuyez sur la touche 0",)
    assert scored["translation"].score("appuyez sur", "appuyez sur") == 1.0
    assert [t.target for t in scored if t.name != "translation"] == [""] * (len(scored.tasks) - 1)


def test_the_teacher_is_not_asked_to_transcribe() -> None:
    weights = {"transcription": 0, "keywords": 30}
    teacher = BehaviourTeacher(
        [], self_powered_pool(), per_utterance=1, task_weights=weights, check_answers=False
    )
    asked = [item.task for item in teacher.plan(ROWS)]
    assert asked.count("keywords") > 40 and "transcription" not in asked
    every = BehaviourTeacher([], self_powered_pool(), per_utterance=9, task_weights=weights)
    assert {item.task for item in every.plan(ROWS[:1])} == set(FAMILIES)


def test_truncated_answers_are_dropped_and_counted_and_style_is_kept() -> None:
    teacher = BehaviourTeacher([], self_powered_pool(), check_answers=False)
    items = [i for i in teacher.plan(ROWS[:3])][:3]
    said = {"key": "k", "response_ids": [1], "response": "Sure! Here it is.", "finish": "stop"}
    kept, counts = teacher.select(items, [said, {**said, "finish": "length"}, said])
    assert [row["response"] for row in kept] == ["Sure! Here it is."] * 2
    assert dict(counts) == {"kept": 2, "dropped: truncated": 1}


@pytest.mark.parametrize(
    ("language", "answer"),
    [
        ("Spanish", '"Today is a good day" can be translated as "Hoy es un buen día".'),
        # Of prompts of a word or two.
        ("Spanish", "Añadido."),
        ("Spanish", "noviembre"),
        ("French", "Veuillez laisser votre message."),
        ("Italian", "Lasciate il messaggio."),
        ("German", "Bitte hinterlassen Sie eine Nachricht."),
        ("Chinese", "请留言。"),
    ],
)
def test_a_translation_is_told_by_its_words(language: str, answer: str) -> None:
    assert is_in(language)(answer, "")
    english = (
        "Please leave a message for us, as we come to the office. In the German den, per Los "
        "Angeles, my son has a pour over on the way. No, he is not; so do an old con or me."
    )
    assert not is_in(language)(english, "") and not is_in(language)("Added.", "")
    assert set(LANGUAGES) >= {language}


def test_another_language_is_refused() -> None:
    with pytest.raises(ValueError, match="Spanish"):
        self_powered_pool("Klingon")
