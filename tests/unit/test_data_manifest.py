"""Manifests: round trips, messages, content keys."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import soundfile

from toolkit.data.audio import AudioError
from toolkit.data.manifest import ManifestError, Row, read_manifest, validate, write_manifest
from toolkit.files import atomic_write

GOOD = {"id": "a", "audio": "a.wav", "duration": 1.0, "text": "Hi.", "language": "en"}
GOOD["speaker"] = "s"


def lines(tmp_path, *entries):
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in entries), "utf-8")
    return path


def test_round_trip_keeps_every_field(tmp_path):
    row = Row(
        "ü", str(tmp_path / "wav" / "a.wav"), 1.25, "Grüß dich.", "de", "s", offset=0.5,
        words=(("Grüß", 0.0, 0.5), ("dich", 0.5, 1.2)), attributes={"gender": "female", "n": [1]},
        translations={"en": "Hello."}, question="q", answer="a", context="c", asr_text="grüß dich",
    )  # fmt: skip
    other = Row("b", "/elsewhere/b.wav", 2.0, "", "en", "t")
    path = tmp_path / "m.jsonl"
    write_manifest(path, [row, other])
    assert read_manifest(path) == [row, other]
    first, second = map(json.loads, path.read_text("utf-8").splitlines())
    assert first["audio"] == "wav/a.wav" and second["audio"] == "/elsewhere/b.wav"
    assert list(second) == ["id", "audio", "duration", "text", "language", "speaker"]


def test_folder_can_move(tmp_path):
    row = Row("a", str(tmp_path / "old" / "a.wav"), 1, "", "en", "s")
    write_manifest(tmp_path / "old" / "m.jsonl", [row])
    os.rename(tmp_path / "old", tmp_path / "new")
    assert read_manifest(tmp_path / "new" / "m.jsonl")[0].audio == str(tmp_path / "new" / "a.wav")


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"speakr": "x"}, "speakr", "did you mean 'speaker'"),
        ({"text": None}, "text", "expected a string"),
        ({"speaker": " "}, "speaker", "must not be empty"),
        ({"duration": 0}, "duration", "more than 0"),
        ({"duration": "1"}, "duration", "expected a number"),
        ({"duration": True}, "duration", "expected a number"),
        ({"duration": float("nan")}, "duration", "finite"),
        ({"offset": -0.1}, "offset", "at least 0"),
        ({"words": [["a", 0.0]]}, "words[0]", "not ["),
        ({"words": [["a", 0.0, 0.4], ["b", 0.3, 0.6]]}, "words[1]", "before the previous"),
        ({"words": [["a", 0.0, 2.0]]}, "words[0]", "not of the file"),
        ({"attributes": []}, None, None),
        ({"attributes": ["x"]}, "attributes", "expected an object"),
        ({"translations": {"fr": 1}}, "translations.fr", "expected a string"),
        ({"asr_text": 3}, "asr_text", "expected a string"),
    ],
)
def test_messages_name_file_line_field(tmp_path, change, field, words):
    path = lines(tmp_path, GOOD, {**GOOD, "id": "b", **change})
    if field is None:
        assert len(read_manifest(path)) == 2
        return
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert caught.value.line == 2 and caught.value.field == field
    assert f"{path}:2" in str(caught.value) and words in str(caught.value)


def test_missing_field_repeated_id_broken_json_are_all_listed(tmp_path):
    path = lines(tmp_path, GOOD, {k: v for k, v in GOOD.items() if k != "text"}, GOOD)
    with open(path, "a") as stream:
        stream.write('{"id": "half')
    report = validate(path)
    assert report.rows == 1 and not report.ok and report.seconds == 1.0
    assert [(p.line, p.field) for p in report.problems] == [(2, "text"), (3, "id"), (4, "")]
    assert "re-run" in str(report.problems[2])


def test_empty_manifest_is_not_ok_and_absent_one_raises(tmp_path):
    assert not validate(lines(tmp_path)).ok
    with pytest.raises(ManifestError, match="prepare stage"):
        read_manifest(tmp_path / "none.jsonl")


def test_audio_is_checked_on_request(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    good, long = GOOD, {**GOOD, "id": "b", "duration": 1.5}
    gone = {**GOOD, "id": "c", "audio": "gone.wav"}
    path = lines(tmp_path, good, long, gone)
    assert validate(path).ok
    problems = validate(path, check_audio=True).problems
    assert [(p.line, p.field) for p in problems] == [(2, "duration"), (3, "audio")]


def test_write_refuses_what_could_not_be_read(tmp_path):
    path = tmp_path / "m.jsonl"
    row = Row("a", "/a.wav", 1.0, "", "en", "s")
    write_manifest(path, [row])
    before = path.read_bytes()
    for bad in ([Row("a", "/a.wav", -1.0, "", "en", "s")], [row, row]):
        with pytest.raises(ManifestError):
            write_manifest(path, bad)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.jsonl"]


def test_atomic_write_failure_keeps_the_old_file(tmp_path, monkeypatch):
    atomic_write(tmp_path / "f", b"old")

    def refuse(*_):
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk"):
        atomic_write(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"


def test_audio_key_follows_content_and_stretch(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)

    def key(name, **kwargs):
        return Row("x", str(tmp_path / name), 1.0, "t", "en", "s", **kwargs).audio_key()

    assert key("a") == key("b") != key("c")
    assert key("a") != key("a", offset=0.5)
    (tmp_path / "a").write_bytes(b"changed")
    assert key("a") != key("b")
    with pytest.raises(AudioError) as caught:
        key("gone")
    assert caught.value.reason == "missing"
