"""Small benchmarks in the public formats, written from a manifest whose rows have attributes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.data.fields import stable_hash
from toolkit.data.rows import Row
from toolkit.files import atomic_write
from toolkit.teachers.seed_transcript import SeedTranscript

#: Attribute -> task's name, and the question; its options are the values that the rows have.
QUESTIONS = {
    "gender": ("GenderRecognition", "What is the gender of the speaker?"),
    "accent": ("AccentClassification", "Which accent does the speaker have?"),
    "pitch": ("PitchClassification", "How high is the pitch of the voice?"),
    "volume": ("VolumeClassification", "How loud is the speech?"),
    "speaking_speed": ("SpeedClassification", "How fast does the speaker talk?"),
    "noise_level": ("NoiseLevelClassification", "How high is the level of the background noise?"),
    "reverberation": ("ReverberationClassification", "How strong is the reverberation?"),
}
#: Constraint, its arguments, and how it is asked for; {word} is one of the transcript's.
_CLOSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("change_case:english_capital", {}, "Write your whole answer in capital letters."),
    ("change_case:english_lowercase", {}, "Write your whole answer in lower-case letters."),
    ("detectable_format:json_format", {}, "Give your whole answer in JSON format."),
    ("startend:quotation", {}, "Wrap your whole answer in double quotation marks."),
    ("detectable_format:title", {}, "Wrap your whole answer in double angular brackets, as in "
     "<<answer>>."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "The answer is:"},
     'Start your answer with "The answer is:"'),
    ("startend:end_checker", {"end_phrase": "That is all."}, 'End your answer with "That is all."'),
)  # fmt: skip
_CREATIVE: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("detectable_format:number_bullet_lists", {"num_bullets": 2},
     "Describe the audio in exactly 2 bullet points."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3},
     "Summarize the audio in exactly 3 bullet points."),
    ("keywords:existence", {"keywords": ["voice"]},
     'Describe the speaker, and use the word "voice".'),
    ("keywords:forbidden_words", {"forbidden_words": ["audio", "speaker"]},
     'Say what is said here without the words "audio" and "speaker".'),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 20},
     "Describe the audio in less than 20 words."),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 30},
     "Describe the audio in at least 30 words."),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3},
     "Continue what the speaker says in less than 3 sentences."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2},
     "Write a story about the audio in 2 paragraphs, separated by the markdown divider ***."),
)  # fmt: skip
_REASONING = ("Think step by step.", "Explain your reasoning before you answer.")


def write_embedded(
    rows: Sequence[Row],
    folder: str | os.PathLike[str],
    per_task: int = 40,
    seed: int = 0,
    describe: Callable[[Row], str] | None = None,
) -> dict[str, Path]:
    """Write three small benchmarks about a manifest's clips; equal rows give equal bytes.

    Audio is not copied: the files name it by a path relative to where their format looks for it.

    Parameters
    ----------
    rows : sequence of Row
        With attributes, see `toolkit.data.labeller.ATTRIBUTES`.
    folder : path
        Gets ``dynamic_superb``, ``speech_ifeval`` and ``air_bench_chat``.
    per_task : int
        Items of each classification task and constraint type (a quarter of it, at least 2).
    seed : int
        Of the choice of clips.
    describe : callable Row -> str, optional
        What the text LLM reads; `toolkit.teachers.SeedTranscript` by default.

    Returns
    -------
    dict of str to Path
        Name to folder, as `Classification`, `InstructionFollowing` and `Chat` read them.
    """
    root = Path(folder).absolute()
    describe = describe or SeedTranscript()
    # Every task asks about other clips, in an order that does not depend on the manifest's.
    tasks = {
        name: sorted(rows, key=lambda row, name=name: stable_hash(f"{seed}|{name}|{row.id}"))
        for name in (*QUESTIONS, "closed", "creative", "reasoning", "chat")
    }
    options = {
        name: sorted({r.attributes[name] for r in rows if name in r.attributes})
        for name in QUESTIONS
    }
    asked = {name: options[name] for name in QUESTIONS if len(options[name]) > 1}
    superb = root / "dynamic_superb"
    for name in asked:
        place = superb / f"{QUESTIONS[name][0]}_SpokenAttributes" / "test"
        chosen = _balanced(tasks[name], name, per_task)
        entries = {
            os.path.relpath(row.audio, place): {
                "instruction": _question(name, asked[name]),
                "label": row.attributes[name],
                "seed_transcript": describe(row),
            }
            for row in chosen
        }
        _write(place / "metadata.json", [json.dumps(entries, indent=1, ensure_ascii=False)])
    ifeval = root / "speech_ifeval"
    for part, entries in _following(tasks, asked, max(2, per_task // 4), describe).items():
        lines = []
        for number, (row, entry) in enumerate(entries):
            entry["audio_filepath"] = os.path.relpath(row.audio, ifeval / "audios")
            lines.append(json.dumps({"id": number, **entry}, ensure_ascii=False))
        _write(ifeval / "eval_data" / f"{part}.jsonl", lines)
    # The formats' own folders must exist for relative paths through them to resolve.
    (ifeval / "audios").mkdir(parents=True, exist_ok=True)
    air = root / "air_bench_chat"
    place = air / "speech_QA_SpokenAttributes"
    place.mkdir(parents=True, exist_ok=True)
    entries = [
        {
            "path": os.path.relpath(row.audio, place),
            "question": "Describe the speaker's voice and how the recording sounds.",
            "answer_gt": _reference(row),
            "meta_info": describe(row),
            "task_name": "speech_QA",
            "dataset_name": "SpokenAttributes",
            "uniq_id": number,
        }
        for number, row in enumerate(tasks["chat"][:per_task])
    ]
    _write(air / "Chat_meta.json", [json.dumps(entries, indent=1, ensure_ascii=False)])
    return {"dynamic_superb": superb, "speech_ifeval": ifeval, "air_bench_chat": air}


def _write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, "".join(f"{line}\n" for line in lines).encode())


def _question(name: str, options: Sequence[str]) -> str:
    listed = ", ".join(options[:-1]) + f" or {options[-1]}"
    return f"{QUESTIONS[name][1]} The answer could be {listed}."


def _balanced(rows: Sequence[Row], name: str, count: int) -> list[Row]:
    """Values in turn, as far as they go: no majority class worth guessing."""
    queues: dict[str, list[Row]] = {}
    for row in rows:
        if name in row.attributes:
            queues.setdefault(row.attributes[name], []).append(row)
    turns = max((len(queue) for queue in queues.values()), default=0)
    dealt = [queues[v][i] for i in range(turns) for v in sorted(queues) if i < len(queues[v])]
    return dealt[:count]


def _following(
    tasks: Mapping[str, Sequence[Row]],
    options: Mapping[str, Sequence[str]],
    count: int,
    describe: Callable[[Row], str],
) -> dict[str, list[tuple[Row, dict[str, Any]]]]:
    def entry(row: Row, instruction: str, metric: str, **more: Any) -> tuple[Row, dict[str, Any]]:
        fields = {"audio_filepath": "", "seed_transcript": describe(row)}
        return row, {**fields, "instruction": instruction, "metric": metric, **more}

    parts: dict[str, list] = {
        "closed_ended_questions": [],
        "closed_ended_questions-woprompt": [],
        "creative_writing": [],
        "chain-of-thought": [],
    }
    names = [n for n in ("gender", "pitch", "noise_level") if n in options] or list(options)
    for k, (constraint, arguments, wording) in enumerate(_CLOSED):
        rows = tasks["closed"][k * count : (k + 1) * count] or tasks["closed"][:count]
        for i, row in enumerate(rows):
            name = names[i % len(names)]
            question = _question(name, options[name])
            more = {"dataset": QUESTIONS[name][0], "label": row.attributes.get(name, "")}
            rule = {"instruction_id_list": [constraint], "kwargs": [arguments]}
            asked = f"{question}\n{wording}"
            parts["closed_ended_questions"].append(entry(row, asked, "accuracy", **more, **rule))
            parts["closed_ended_questions-woprompt"].append(
                entry(row, question, "accuracy", **more)
            )
    for k, (constraint, arguments, wording) in enumerate(_CREATIVE):
        rows = tasks["creative"][k * count : (k + 1) * count] or tasks["creative"][:count]
        rule = {"instruction_id_list": [constraint], "kwargs": [arguments]}
        parts["creative_writing"] += [
            entry(row, wording, "open", dataset="SpokenAttributes", **rule) for row in rows
        ]
    for i, row in enumerate(tasks["reasoning"][: 4 * count]):
        name = names[i % len(names)]
        asked = f"{_question(name, options[name])}\n{_REASONING[i % len(_REASONING)]}"
        parts["chain-of-thought"].append(entry(row, asked, "cot", dataset=QUESTIONS[name][0]))
    return parts


def _reference(row: Row) -> str:
    a = row.attributes
    clauses = []
    if "gender" in a:
        accent = f" with a {a['accent']} accent" if "accent" in a else ""
        clauses.append(f"The speaker is {a['gender']}{accent}")
    for name, words in (
        ("pitch", "the pitch is {}"),
        ("speaking_speed", "the pace is {}"),
        ("volume", "the speech is {}"),
        ("noise_level", "the level of noise is {}"),
        ("reverberation", "the reverberation is {}"),
    ):
        if name in a:
            clauses.append(words.format(a[name]))
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}."
