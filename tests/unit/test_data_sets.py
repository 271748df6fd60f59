"""Declared sets: what they list and what they count as dropped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_training import tiny_tokenizer  # noqa: E402

from toolkit.data.manifest import Row, write_manifest  # noqa: E402
from toolkit.data.sets import EmptySetError, SpeechSet, TargetSet, TranscriptionSet  # noqa: E402
from toolkit.data.targets import TargetError  # noqa: E402
from toolkit.llms.prompt import Prompt  # noqa: E402

PROMPT = Prompt("{instruction} : {audio}")
TOKENIZER = tiny_tokenizer()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    rows = [
        Row("a", "/a.wav", 1.0, "one two", "en", "s", translations={"es": "three"}),
        Row("b", "/b.wav", 8.0, "three", "en", "s", question="four"),
        Row("c", "/c.wav", 2.0, "", "en", "s"),
    ]
    write_manifest(path, rows)
    return path


def target(**changes) -> dict:
    line = {
        "key": "k1", "id": "a", "task": "repeat", "wording": "repeat/0", "instruction": "Repeat",
        "response_ids": [6, 7, 1], "response": "one two", "finish": "stop",
        "prompt": PROMPT.fingerprint(), "source": "tiny",
    }  # fmt: skip
    return {**line, **changes}


def write(path: Path, *lines: dict) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_speech_set_has_no_target(manifest: Path) -> None:
    speech = SpeechSet([manifest], max_seconds=5.0)
    (example,) = speech.examples(TOKENIZER, PROMPT)
    assert example.row.id == "a" and example.response is None
    assert speech.dropped == {"too_long": 1, "empty_text": 1}


def test_speech_set_may_aim_at_another_text_than_the_transcript(manifest: Path) -> None:
    """A row that renders as nothing is dropped for it, and one without a transcript is not."""
    speech = SpeechSet(
        [manifest], describe=lambda row: {"a": "", "b": "slow"}.get(row.id, "silent")
    )
    examples = speech.examples(TOKENIZER, PROMPT)
    assert [(e.row.id, e.aim) for e in examples] == [("b", "slow"), ("c", "silent")]
    assert speech.dropped == {"empty_text": 1}
    # What the LLM may read is the row's own.
    assert examples[0].row.text == "three" and examples[0].reads is None
    with pytest.raises(ValueError, match="describe is 'slow'; give what renders a row"):
        SpeechSet([manifest], describe="slow")


def test_transcription_set_tokenises_gold_text(manifest: Path) -> None:
    gold = TranscriptionSet([manifest], ["Repeat", "Answer"])
    first, second = gold.examples(TOKENIZER, PROMPT)
    assert TOKENIZER.convert_ids_to_tokens(first.response) == ["one", "two", "</s>"]
    assert first.wording in ("transcription/0", "transcription/1")
    assert first.fields["instruction"] == ["Repeat", "Answer"][int(first.wording[-1])]
    assert second.fields["question"] == "four"
    assert gold.dropped == {"no_text": 1}


def test_other_gold_targets(manifest: Path) -> None:
    spanish = TranscriptionSet([manifest], ["Answer"], task="es", target="translations.es")
    (example,) = spanish.examples(TOKENIZER, PROMPT)
    assert TOKENIZER.decode(example.response[:1]) == "three"
    with pytest.raises(ValueError, match="not a manifest field"):
        TranscriptionSet([manifest], ["Answer"], target="transcript")


def test_target_set_counts_every_reason(manifest: Path, tmp_path: Path) -> None:
    path = write(
        tmp_path / "targets.jsonl",
        target(),
        target(),
        target(key="k2", wording="repeat/1"),
        target(key="k3", task="summary"),
        target(key="k4", finish="length"),
        target(key="k5", prompt="other"),
        target(key="k6", id="z"),
        target(key="k7", response_ids=[]),
        target(key="k8", id="b"),
    )
    targets = TargetSet(
        [manifest], path, exclude_tasks=["summ*"], exclude_wordings=["*/1"], max_seconds=5.0
    )
    (example,) = targets.examples(TOKENIZER, PROMPT)
    assert (example.id, example.response, example.fields["instruction"]) == (
        "a|repeat/0",
        (6, 7, 1),
        "Repeat",
    )
    assert targets.dropped == {
        "repeated_key": 1,
        "wording": 1,
        "task": 1,
        "truncated": 1,
        "other_prompt": 1,
        "not_in_manifests": 1,
        "empty_response": 1,
        "too_long": 1,
    }


def test_held_out_wordings_complement_each_other(manifest: Path, tmp_path: Path) -> None:
    lines = [target(key=str(i), wording=f"repeat/{i}") for i in range(4)]
    path = write(tmp_path / "targets.jsonl", *lines)
    seen = TargetSet([manifest], path, exclude_wordings=["repeat/3"])
    unseen = TargetSet([manifest], [path], wordings=["repeat/3"])
    ids = [[e.wording for e in s.examples(TOKENIZER, PROMPT)] for s in (seen, unseen)]
    assert ids == [["repeat/0", "repeat/1", "repeat/2"], ["repeat/3"]]


def test_empty_set_says_why(manifest: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "targets.jsonl", target(prompt="other"))
    with pytest.raises(EmptySetError, match="other_prompt: 1"):
        TargetSet([manifest], path).examples(TOKENIZER, PROMPT)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "k"', "targets.jsonl:1: not valid JSON"),
        (json.dumps(target(response_ids="abc")), "field 'response_ids' is not a list"),
        (json.dumps(target(response_ids=[9999])), "written by another LLM"),
    ],
)
def test_wrong_target_files(manifest: Path, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "targets.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(TargetError, match=message):
        TargetSet([manifest], path).examples(TOKENIZER, PROMPT)
    with pytest.raises(TargetError, match="run the teach stage first"):
        TargetSet([manifest], tmp_path / "no.jsonl").examples(TOKENIZER, PROMPT)


def test_rows_come_from_the_given_reader(manifest: Path) -> None:
    row = Row("z", "/z.wav", 1.0, "one", "en", "s", words=(("one", 0.0, 1.0),))
    (example,) = SpeechSet([manifest]).examples(TOKENIZER, PROMPT, rows=lambda path: [row])
    assert example.row.words == (("one", 0.0, 1.0),)
