"""Questions by template: what they find, what they refuse to ask, and the spoken ones."""

import numpy as np
import pytest

from recipes.asterisk_sounds.question_templates import questions_of
from recipes.asterisk_sounds.questions import prepare, question_rows
from recipes.asterisk_sounds.spoken_questions import spoken_question
from toolkit.data.audio import read_audio, write_audio
from toolkit.data.manifest import Row, read_manifest, write_manifest
from toolkit.data.splits import group_key


def asked(text):
    return {q.text: q.answers[0] for q in questions_of(text)[0]}


@pytest.mark.parametrize(
    "text, question, answer",
    [
        (
            "Press 6 to play the next message.",
            "Which key do you press to play the next message?",
            "6",
        ),
        ("Press star for help or pound to exit.", "Which key do you press for help?", "star"),
        ("Press star for help or pound to exit.", "Which key do you press to exit?", "pound"),
        (
            "To speak with a customer advocate, press two.",
            "Which key do you press to speak with a customer advocate?",
            "2",
        ),
        ("press * to toggle pause, press # to stop", "What can you do by pressing pound?", "stop"),
        (
            "Please enter your password followed by the pound key.",
            "Which key do you press after entering your password?",
            "pound",
        ),
        (
            "Please enter your password followed by the pound key.",
            "What are you asked to enter?",
            "your password",
        ),
        (
            "Please leave your message after the tone.",
            "When are you asked to leave your message?",
            "after the tone",
        ),
        ("You are now unmuted", "Are you muted or unmuted?", "unmuted"),
        ("press star to return to the main menu", "Where can you return to?", "the main menu"),
        (
            "the conference will begin when the leader arrives",
            "Who has to arrive for the conference to begin?",
            "the leader",
        ),
        (
            "Use the 7 key for Q, and the 9 key for Z.",
            "Which key do you use for the letter Z?",
            "9",
        ),
        (
            "Please enter the first three letters of your name.",
            "How many letters of your name are you asked to enter?",
            "3",
        ),
        (
            "That is not a valid password. Please try again.",
            "What are you asked to do?",
            "try again",
        ),
        ("Your message has been saved.", "What has been saved?", "Your message"),
    ],
)
def test_templates_read_facts(text, question, answer):
    assert asked(text)[question] == answer


def test_counts_only_where_every_key_was_understood():
    counted = "For how many keys does it say what they do?"
    assert asked("press 1 to accept this call, or 2 to reject it")[counted] == "2"
    # Two keys share one clause: a count would be wrong, and so would either key's purpose.
    pair = asked("Press 1 to mute, 4 or 6 to decrease or increase the volume, or 8 to exit.")
    assert counted not in pair
    assert not any("decrease" in question for question in pair)


@pytest.mark.parametrize(
    "text",
    [
        "Press one to listen to ...",  # goes on in another recording
        "press",
        "Goodbye.",
        "If you dial 1234 you can try to ring the console.",
        "You are about to enter an echo test.",
    ],
)
def test_nothing_is_asked_that_the_prompt_leaves_open(text):
    assert asked(text) == {}


def test_two_answers_to_one_question_are_left_out_and_counted():
    found, counts = questions_of("Press 1 to exit. Press 2 to exit.")
    assert "Which key do you press to exit?" not in {q.text for q in found}
    assert counts["ambiguous"] == 1


def test_rows_inherit_the_prompt_and_hold_all_answers():
    row = Row("p", "/p.wav", 2.0, "Press pound to exit.", "en", "s", attributes={"key": "x"})
    rows, counts = question_rows([row, Row("q", "/q.wav", 1.0, "Hello.", "en", "s")])
    assert counts["prompts_without_a_fact"] == 1
    assert [r.id for r in rows] == ["p-q1", "p-q2"]
    assert rows[0].audio == "/p.wav" and rows[0].attributes["key"] == "x"
    assert rows[0].attributes["answers"][:3] == ["pound", "pound key", "#"]


def prompts(folder, parts):
    rng = np.random.default_rng(0)
    for part, texts in parts.items():
        rows = []
        for i, text in enumerate(texts):
            path = folder / "wav" / f"{part}{i}.wav"
            write_audio(path, (0.1 * rng.standard_normal(16_000)).astype(np.float32))
            rows.append(Row(f"{part}{i}", str(path), 1.0, text, "en", "s"))
        write_manifest(folder / f"{part}.jsonl", rows)


def test_spoken_question_follows_the_recording(tmp_path):
    pytest.importorskip("hibari")
    pytest.importorskip("espeakng_loader")
    parts = {
        "train": ["Press 1 to exit."],
        "dev": ["Press 2 to go on."],
        "test": ["Press 3 to stop.", "Hello."],
    }
    prompts(tmp_path / "data" / "asterisk_sounds" / "en", parts)
    report = prepare(tmp_path, limit=1)
    for part, texts in parts.items():
        (written,) = read_manifest(report.manifests[part])
        (spoken,) = read_manifest(report.manifests[f"{part}_spoken"])
        assert spoken.text == f"{texts[0]} {written.question}"
        assert spoken.question is None and spoken.answer == written.answer
        wave = read_audio(spoken.audio)
        assert len(wave) / 16_000 == pytest.approx(spoken.duration, abs=1e-3)
        # The recording, untouched, then silence, then speech.
        original = read_audio(written.audio)
        assert np.abs(wave[:16_000] - original).max() < 1e-3
        assert np.abs(wave[16_000:25_600]).max() < 1e-3
        assert np.abs(wave[25_600:]).max() > 0.1
    assert report.facts["Coverage (test)"]["prompts with a question"] == 1
    # The same bytes again, and nothing is synthesised twice.
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.wav")}
    again = prepare(tmp_path, limit=1)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.wav")} == before
    assert read_manifest(again.manifests["dev_spoken"]) == read_manifest(
        report.manifests["dev_spoken"]
    )


def test_held_out_voices_speak_test_questions(tmp_path):
    pytest.importorskip("espeakng_loader")
    from toolkit.data.synthesis import HELD_OUT

    path = tmp_path / "a.wav"
    write_audio(path, np.full(1600, 0.1, np.float32))
    (row, *_), _ = question_rows([Row("p", str(path), 0.1, "Press 1 to exit.", "en", "s")])
    spoken = spoken_question(row, tmp_path, held_out=True)
    assert spoken.attributes["question_voice"].rpartition("+")[2] in HELD_OUT


@pytest.mark.real
def test_real_transcripts(recorded_prompts):
    """Every answer can be read in its transcript, and no split shares a template."""
    templates = {}
    covered = 0
    for part in ("train", "dev", "test"):
        given = read_manifest(recorded_prompts / f"{part}.jsonl")
        rows, _ = question_rows(given)
        covered += len({row.attributes["prompt"] for row in rows})
        templates[part] = {group_key(row.text) for row in rows}
        for row in rows:
            assert row.question.endswith("?") and "..." not in row.question
            said = {w.strip(".,;:!?") for w in row.text.lower().split()}
            kind = row.attributes["question_kind"]
            if kind != "how_many":
                answers = " ".join(row.attributes["answers"]).lower().split()
                assert said & set(answers), row
    assert covered >= 8
    assert not templates["train"] & templates["test"]
