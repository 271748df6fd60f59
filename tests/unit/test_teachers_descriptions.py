"""Seed transcripts word by word, prompts, filters, and what the student is trained on."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_models import save_llama  # noqa: E402

from toolkit.data.manifest import Row, write_manifest  # noqa: E402
from toolkit.data.sets import TargetSet  # noqa: E402
from toolkit.evaluation import DecodePlan  # noqa: E402
from toolkit.llms import CausalLM, Prompt  # noqa: E402
from toolkit.teachers import (  # noqa: E402
    BehaviourTeacher,
    DescriptionPool,
    DescriptionTeacher,
    SeedTranscript,
)
from toolkit.teachers.answers import AnswerStore, ask  # noqa: E402
from toolkit.teachers.behaviour import for_backbone  # noqa: E402
from toolkit.teachers.descriptions import HEARING_TASKS, is_description  # noqa: E402
from toolkit.teachers.seed_transcript import ATTRIBUTES  # noqa: E402


def row(name="u0", text="These days are long gone.", duration=1.6, **attributes) -> Row:
    return Row(name, f"/{name}.wav", duration, text, "en", "s", attributes=attributes)


EVERYTHING = {
    "gender": "female", "accent": "Scottish", "age": 20, "emotion": "neutral", "pitch": "high",
    "volume": "normal", "speaking_speed": "fast", "noise_level": "moderate",
    "reverberation": "low", "intent": "statement",
}  # fmt: skip
STAMP = "[00:00:00 - 00:00:02] These days are long gone."
# fmt: off
# attributes, settings, what follows the text
RENDERED = [
    ({}, {"attributes": ["gender"]},
     ""),
    ({"gender": "male"}, {"attributes": ["gender"]},
     " (Gender: male)"),
    ({"gender": "male"}, {},
     " (Gender: male, Duration: 1.6 s, Language: en)"),
    (EVERYTHING, {},
     " (Gender: female, Accent: Scottish, Age: 20 years, Emotion: neutral, Pitch: high, "
     "Volume: normal, Speaking speed: fast, Noise level: moderate, Reverberation: low, "
     "Duration: 1.6 s, Intent: statement, Language: en)"),
    ({"snr_level": 15.24, "noise_level": "moderate"}, {"attributes": ["noise_level"]},
     " (Noise level: moderate (signal-to-noise ratio: 15 dB))"),
    ({"reverberation": 31.6}, {"attributes": ["reverberation"]},
     " (Reverberation: 32 dB (clarity index C50))"),
    ({"pitch": 118.4, "volume": -23.0}, {"attributes": ["pitch", "volume"]},
     " (Pitch: 118 Hz (fundamental frequency), Volume: -23 dBFS (speech level))"),
    ({"speaking_speed": 2.46}, {"attributes": ["speaking_speed"]},
     " (Speaking speed: 2.5 syllables per second (speaking rate))"),
    ({"pitch": "low", "pitch_hz": 90}, {"attributes": ["pitch"]},
     " (Pitch: low (fundamental frequency: 90 Hz))"),
    ({"c50_db": 8.0, "snr_db": -3.4}, {"attributes": ["noise_level", "reverberation"]},
     " (Noise level: -3 dB (signal-to-noise ratio), Reverberation: 8 dB (clarity index C50))"),
    ({"pitch": "low", "pitch_hz": 90}, {"attributes": ["pitch"], "numbers": False},
     " (Pitch: low)"),
    ({"pitch": 90, "age": 20}, {"attributes": ["pitch", "age"], "numbers": False},
     " (Age: 20 years)"),
    ({"volume": -0.2}, {"attributes": ["volume"]},
     " (Volume: 0 dBFS (speech level))"),
    ({"emotion": "unknown", "accent": "", "age": None, "pitch": float("nan")},
     {"attributes": ["accent", "age", "emotion", "pitch"]},
     ""),
    ({"gender": "male", "emotion": "sad"}, {"attributes": ["emotion", "gender"]},
     " (Emotion: sad, Gender: male)"),
    ({"mask_worn": True}, {"attributes": ["mask_worn"]},
     " (Mask worn: yes)"),
]
# fmt: on


@pytest.mark.parametrize(("attributes", "settings", "tail"), RENDERED)
def test_rendered_rows(attributes, settings, tail) -> None:
    assert SeedTranscript(**settings)(row(**attributes)) == STAMP + tail


def test_the_twelve_attributes_of_the_paper_are_printed_by_default() -> None:
    paper = {
        "gender", "age", "accent", "emotion", "pitch", "volume", "speaking_speed", "noise_level",
        "reverberation", "duration", "intent",
    }  # fmt: skip
    # The twelfth is the spoken text.
    assert paper | {"language"} == set(ATTRIBUTES)


def test_parts_can_be_left_out() -> None:
    one = row(gender="male")
    assert SeedTranscript(["gender"], spoken_text=False)(one) == (
        "[00:00:00 - 00:00:02] (Gender: male)"
    )
    assert SeedTranscript(["gender"], timestamp=False)(one) == (
        "These days are long gone. (Gender: male)"
    )
    assert SeedTranscript([])(one) == STAMP
    with pytest.raises(ValueError, match="nothing to print"):
        SeedTranscript([], spoken_text=False)


def test_clock_and_segments() -> None:
    assert SeedTranscript([])(row(duration=3725.4)).startswith("[00:00:00 - 01:02:05]")
    # Not even the shortest clip ends when it starts.
    assert SeedTranscript([])(row(duration=0.3)).startswith("[00:00:00 - 00:00:01]")
    talk = row(
        duration=5.0,
        emotion="neutral",
        segments=[
            {"start": 0.0, "end": 2.2, "text": "Hello.", "gender": "male"},
            {"start": 2.4, "end": 5.0, "text": "Hi!", "gender": "female", "emotion": "happy"},
        ],
    )
    assert SeedTranscript(["gender", "emotion", "duration"])(talk).splitlines() == [
        "[00:00:00 - 00:00:02] Hello. (Gender: male, Emotion: neutral, Duration: 2.2 s)",
        "[00:00:02 - 00:00:05] Hi! (Gender: female, Emotion: happy, Duration: 2.6 s)",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I cannot hear audio.",
        "As a text-based AI, I have no ears for that.",
        "I can’t listen to recordings.",
        "I don't have the ability to hear sounds.",
        "Please provide the audio file, then I will describe it.",
        "Yes.",
        "",
    ],
)
def test_refusals_are_no_descriptions(answer) -> None:
    assert not is_description(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "From the audio, I can hear: * A male voice with a Scottish accent",
        "The speaker does not sound happy, and I hear little noise.",
        "I can hear a woman. Please note that the recording is noisy.",
    ],
)
def test_descriptions_are_no_refusals(answer) -> None:
    assert is_description(answer)


def test_quotes_of_the_speaker_are_no_refusals() -> None:
    told = SeedTranscript(["gender"])(row(text="I\u2019m sorry, I can't hear you.", gender="male"))
    quoted = 'A man says: "I\u2019m sorry, I can\u2019t hear you."'
    assert is_description(quoted, told) and not is_description(quoted)
    assert not is_description(quoted, "These days are long gone.")
    # What the speaker did not say is the answer's own.
    assert not is_description("I'm sorry, I can't listen to recordings.", told)
    assert not is_description(f"{quoted} As an AI, I have no ears.", told)


def test_single_prompt_and_pool() -> None:
    rows = [row(f"u{i}", gender="male") for i in range(30)]
    single = DescriptionTeacher([]).plan(rows)
    assert {i.instruction for i in single} == {"What can you hear from the audio?"}
    assert len(single) == 30
    pool = DescriptionPool("pool")
    items = DescriptionTeacher([], pool, per_utterance=2).plan(rows)
    assert {i.task for i in items} == {task.name for task in HEARING_TASKS} and len(items) == 60
    seen = {w for task in HEARING_TASKS for w in task.wordings[:4]}
    assert {i.instruction for i in items} <= seen and len({i.instruction for i in items}) > 8
    (detailed,) = DescriptionPool("detailed")
    assert "speaking speed" in detailed.wordings[0] and len(detailed.wordings) == 1
    (listed,) = DescriptionPool("listed")
    assert listed.instruct(0, rows[0]).endswith("Noise level, Reverberation.")
    rewording = DescriptionPool("detailed", unseen=True)["rewording"]
    assert "What can you hear from the audio?" in rewording.wordings and not rewording.seen
    with pytest.raises(ValueError, match="prompts: 'both'"):
        DescriptionPool("both")
    for task in HEARING_TASKS:
        assert len(set(task.wordings)) == 8


def test_what_training_never_saw_is_held_out() -> None:
    pool = DescriptionPool("single", unseen=True, also=["repetition"])
    assert {t.name: t.seen for t in pool} == {
        "description": True, "rewording": False, "speaker": False, "delivery": False,
        "surroundings": False, "repetition": False,
    }  # fmt: skip
    plan = DecodePlan({"a": "a.jsonl"}, pool=pool, items_per_task=8)
    items = plan.items([row(f"u{i}") for i in range(8)])
    trained = [i.instruction for i in items if i.seen_wording]
    assert trained == ["What can you hear from the audio?"] * 8
    unseen = {i.instruction for i in items if not i.seen_wording}
    assert len(unseen) > 20 and "What can you hear from the audio?" not in unseen
    with pytest.raises(ValueError, match="no task named repetitoin"):
        DescriptionPool(also=["repetitoin"])


def test_a_single_wording_is_seen_and_decodes() -> None:
    plan = DecodePlan({"a": "a.jsonl"}, pool=DescriptionPool("single"), items_per_task=4)
    items = plan.items([row(f"u{i}") for i in range(4)])
    assert [item.wording for item in items] == ["description/0"] * 4
    assert all(item.seen_wording for item in items)
    # With wordings held out, every second item has one of them.
    held = DecodePlan({"a": "a.jsonl"}, pool=DescriptionPool(), items_per_task=4)
    seen = [i.seen_wording for i in held.items([row(f"u{i}") for i in range(4)])]
    assert seen == [True, False] * 8


def answer(text, finish="stop"):
    return {"key": "k", "response_ids": [1, 2], "response": text, "finish": finish}


def test_filters_count_every_reason() -> None:
    teacher = DescriptionTeacher([], describe=SeedTranscript(["gender", "emotion"]))
    rows = [row(f"u{i}", gender="female", emotion="angry") for i in range(5)]
    answers = [
        answer("A female voice that sounds angry."),
        answer("I cannot hear any audio, but the voice is female."),
        answer("There is a dog barking somewhere."),
        answer("A female voice", finish="length"),
        answer(""),
    ]
    targets, counts = teacher.select(teacher.plan(rows), answers)
    assert [t["id"] for t in targets] == ["u0"]
    assert targets[0]["reads"] == f"{STAMP} (Gender: female, Emotion: angry)"
    assert counts == {
        "kept": 1,
        "dropped: description not attempted": 2,
        "dropped: truncated": 1,
        "dropped: empty": 1,
    }


def test_only_faithful_answers_are_kept_where_that_is_asked_for() -> None:
    described = SeedTranscript(["gender", "pitch"])
    rows = [
        row("u0", gender="female", pitch="high"),
        row("u1", gender="female", pitch="high"),
        row("u2", gender="male", pitch="low"),
        row("u3", gender="male", pitch="unknown"),
        row("u4", gender="male", pitch="low"),
    ]
    answers = [
        answer("Gender: female, Pitch: high"),
        answer("Gender: female, Pitch: low"),
        answer("A man or a woman with a low pitch."),
        # Its pitch is not known, nor printed: whatever is said of it.
        answer("Male, with a high pitch."),
        answer("Gender: male, and no more."),
    ]
    teacher = DescriptionTeacher([], describe=described, faithful=["gender", "pitch"])
    targets, counts = teacher.select(teacher.plan(rows), answers)
    assert [t["id"] for t in targets] == ["u0", "u3"]
    assert counts == {"kept": 2, "dropped: description not faithful": 3}
    # The paper's: whatever was said.
    targets, _ = DescriptionTeacher([], describe=described).select(teacher.plan(rows), answers)
    assert len(targets) == 5
    measured = DescriptionTeacher(["a.jsonl"], describe=described, faithful=["pitch_hz"])
    with pytest.raises(ValueError, match=r"no row has 'pitch_hz' as a word.*a\.jsonl"):
        measured.select(teacher.plan(rows), answers)


@pytest.fixture(scope="module")
def llms(tmp_path_factory) -> list[CausalLM]:
    root = tmp_path_factory.mktemp("llms")
    sources = [save_llama(root / str(seed), seed) for seed in (0, 1)]
    return [CausalLM(str(source)).materialise().eval() for source in sources]


def test_teacher_reads_the_description_where_the_student_hears(llms, tmp_path) -> None:
    llm, prompt = llms[0], Prompt("{audio}\n{instruction}")
    rows = [row(f"u{i}", f"press {w}", gender="male") for i, w in enumerate(("one", "two"))]
    teacher = DescriptionTeacher([], describe=SeedTranscript(["gender"]), max_new_tokens=6)
    items = teacher.plan(rows)
    store = AnswerStore(tmp_path / "answers.jsonl")
    answers = ask(items, llm, prompt, store, 6, progress=False, reads=teacher.reads)
    # By hand: the description stands in the slot of the student's own prompt.
    for item, found in zip(items, answers, strict=True):
        text = f"[00:00:00 - 00:00:02] {item.row.text} (Gender: male)"
        message = [{"role": "user", "content": f"{text}\nWhat can you hear from the audio?"}]
        ids = llm.tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_dict=False, return_tensors="pt"
        )
        out = llm.model.generate(
            ids, max_new_tokens=6, do_sample=False, eos_token_id=list(llm.eos_ids), pad_token_id=1
        )[0, ids.shape[1] :].tolist()
        out = out[: out.index(1)] if 1 in out else out
        end = list(prompt.end_ids(llm.tokenizer))
        assert found["response_ids"] == [*out, *end]
    # Asked again, the store answers; a transcript in the slot is another question.
    before = len(store.answers)
    ask(items, llm, prompt, store, 6, progress=False, reads=teacher.reads)
    assert len(store.answers) == before == 2
    ask(items, llm, prompt, store, 6, progress=False)
    assert len(store.answers) == 4


def test_answers_end_before_a_stop_string(llms, tmp_path, monkeypatch) -> None:
    """What the LLM says up to it, with an end of its turn; such answers are kept, not truncated."""
    llm, prompt = llms[1], Prompt("{audio}\n{instruction}")
    monkeypatch.setattr(llm, "eos_ids", (0,))  # one that it never gets to
    rows = [row("u0", "press one", gender="male"), row("u1", "press two", gender="male")]
    store = AnswerStore(tmp_path / "answers.jsonl")

    def said(stop_strings):
        teacher = DescriptionTeacher(
            [], describe=SeedTranscript(["gender"]), max_new_tokens=12, stop_strings=stop_strings
        )
        return teacher.write(teacher.plan(rows), llm, prompt, store)

    free = said([])
    assert {answer["finish"] for answer in free} == {"length"}
    whole = free[0]["response"]
    stop = next(c for c in whole[3:] if c.isalpha() and c not in whole[:3])
    found = said([stop])
    assert len(store.answers) == 4  # another question than without it
    assert found[0]["response"] == whole.partition(stop)[0].strip()
    assert found[0]["finish"] == "stop"
    ids = llm.tokenizer(found[0]["response"], add_special_tokens=False)["input_ids"]
    assert found[0]["response_ids"] == [*ids, *prompt.end_ids(llm.tokenizer)]


@pytest.mark.parametrize("wrong", ["\n\n", ["a", ""]])
def test_stop_strings_are_a_list_of_texts(wrong) -> None:
    with pytest.raises(ValueError, match="stop_strings.*write a list"):
        DescriptionTeacher([], stop_strings=wrong)


def test_targets_carry_what_the_teacher_read_to_the_text_branch(llms, tmp_path) -> None:
    one = row(gender="female")
    write_manifest(tmp_path / "train.jsonl", [one])
    prompt = Prompt()
    line = {
        "key": "k", "id": "u0", "task": "description", "wording": "description/0",
        "instruction": "?", "response_ids": [5, 2], "finish": "stop",
        "prompt": prompt.fingerprint(), "source": "x",
    }  # fmt: skip
    for reads in ({}, {"reads": "A description."}):
        (tmp_path / "targets.jsonl").write_text(json.dumps(line | reads) + "\n")
        taught = TargetSet([tmp_path / "train.jsonl"], tmp_path / "targets.jsonl")
        (example,) = taught.examples(llms[0].tokenizer, prompt)
        assert example.reads == reads.get("reads")


def test_another_llms_words_are_tokenised_for_the_backbone(llms) -> None:
    prompt = Prompt()
    theirs = [{"id": "u0", "response": "press one", "response_ids": [99999]}]
    (target,) = for_backbone(theirs, llms[0], prompt)
    ids = llms[0].tokenizer("press one", add_special_tokens=False)["input_ids"]
    assert target == {
        "id": "u0", "response": "press one",
        "response_ids": [*ids, *prompt.end_ids(llms[0].tokenizer)],
    }  # fmt: skip


def test_behaviour_teacher_still_reads_transcripts() -> None:
    teacher = BehaviourTeacher([])
    assert teacher.reads(row(gender="male")) == "These days are long gone."
    assert teacher.reads(replace(row(), text="")) == ""
