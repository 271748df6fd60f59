"""Public benchmarks in the layouts of their releases, with a handful of questions each."""

from __future__ import annotations

import json
from pathlib import Path

from tests.decoded_items import wav


def write_superb(root: Path) -> Path:
    """Two tasks of Dynamic-SUPERB: a folder each, one of them with text beside the question."""
    folder = root / "EmotionRecognition_Made" / "test"
    labels = ["happy", "sad", "happy", "angry"]
    entries = {
        f"{i}.wav": {"instruction": "Which emotion? happy, sad or angry.", "label": label}
        for i, label in enumerate(labels)
    }
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps(entries))
    other = root / "SpokenTerm_Made" / "test"
    other.mkdir(parents=True)
    (other / "metadata.json").write_text(
        json.dumps({"a.wav": {"instruction": "Is it said?", "label": "yes", "text": "river"}})
    )
    for path in [*(folder / f"{i}.wav" for i in range(4)), other / "a.wav"]:
        wav(path)
    return root


def write_ifeval(root: Path) -> Path:
    """Speech-IFEval as its README draws it, without the optional part."""
    seed = "[00:00:00 - 00:00:02] Hi there.(Gender: Male, Emotion: sad)"
    closed = {
        "audio_filepath": "Gender_recognition/a.wav", "seed_transcript": seed,
        "instruction": "Tell the gender.\nAnswer in capitals.", "dataset": "Gender_recognition",
        "metric": "accuracy", "instruction_id_list": ["change_case:english_capital"],
        "kwargs": [{}], "label": "male",
    }  # fmt: skip
    asr = {**closed, "metric": "wer", "label": "HI THERE", "dataset": "ASR"}
    creative = {
        **closed, "metric": "open", "instruction": "2 bullet points",
        "instruction_id_list": ["detectable_format:number_bullet_lists"],
        "kwargs": [{"num_bullets": 2}],
    }  # fmt: skip
    thought = {
        "audio_filepath": "Gender_recognition/a.wav", "seed_transcript": seed,
        "instruction": "Step by step.", "dataset": "Gender_recognition", "metric": "cot",
    }  # fmt: skip
    files = {
        "closed_ended_questions": [{"id": 0, **closed}, {"id": 1, **asr}],
        "creative_writing": [{"id": i, **creative} for i in range(2, 6)],
        "chain-of-thought": [thought, thought],
    }
    data = root / "eval_data"
    data.mkdir(parents=True)
    for name, entries in files.items():
        (data / f"{name}.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    wav(root / "audios" / "Gender_recognition" / "a.wav")
    return root


def write_air(root: Path) -> Path:
    """AIR-Bench-Chat: one file about all clips, a folder a task and corpus."""
    entries = [
        {
            "path": f"{i}.wav", "question": f"Q{i}?", "answer_gt": f"R{i}.",
            "meta_info": "Gender: male", "task_name": task, "dataset_name": "made", "uniq_id": i,
        }
        for i, task in enumerate(["speech_QA", "speech_dialogue_QA", "music_QA"])
    ]  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    (root / "Chat_meta.json").write_text(json.dumps(entries))
    for entry in entries:
        wav(root / f"{entry['task_name']}_made" / entry["path"])
    return root
