"""Importers: one corpus in every format is one manifest, under the policies it declares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.import_corpora import (
    lhotse_cut,
    parts_of,
    problems,
    spoken_corpus,
    write_kaldi,
    write_lhotse,
    write_tsv,
)
from toolkit.cli.main import main
from toolkit.data.audio import write_audio
from toolkit.data.importers import ImportProblems, import_corpus
from toolkit.data.manifest import read_manifest, validate


@pytest.fixture
def corpus(tmp_path: Path) -> list[dict]:
    return spoken_corpus(tmp_path)


def test_one_corpus_in_three_formats_is_one_manifest(corpus, tmp_path):
    sources = {
        "tsv": write_tsv(tmp_path, corpus),
        "kaldi": write_kaldi(tmp_path, corpus),
        "lhotse": write_lhotse(tmp_path, [lhotse_cut(row) for row in corpus]),
    }
    texts = {}
    for kind, source in sources.items():
        out = tmp_path / f"from_{kind}"
        report = import_corpus(kind, source, out)
        assert report.facts["split"] == "by speaker"
        texts[kind] = {path.name: path.read_text() for path in sorted(out.glob("*.jsonl"))}
        for name in texts[kind]:
            assert validate(out / name, check_audio=True).ok
    assert texts["tsv"] == texts["kaldi"] == texts["lhotse"]
    parts = parts_of(tmp_path / "from_kaldi")
    assert {name: len(rows) for name, rows in parts.items()} == {"dev": 4, "test": 4, "train": 12}
    speakers = [{row.speaker for row in rows} for rows in parts.values()]
    assert sum(len(own) for own in speakers) == len(set().union(*speakers)) == 5
    piece = next(row for rows in parts.values() for row in rows if row.id == "u13")
    assert (piece.offset, piece.duration) == (0.25, 1.25)


def test_ids_of_files_and_pieces(corpus, tmp_path):
    rows = [{k: v for k, v in row.items() if k != "id"} for row in corpus[8:12]]
    for row in rows[:2]:
        row["start"] = row["end"] = ""
    import_corpus("tsv", write_tsv(tmp_path, rows), tmp_path / "out", split="none")
    ids = [row.id for row in read_manifest(tmp_path / "out" / "train.jsonl")]
    assert ids == ["u08", "u09", "u10-0000250-0001500", "u11-0000250-0001500"]


def test_hugging_face_dataset_with_bytes_and_with_paths(corpus, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = corpus[:10]

    def dataset(chosen, audio):
        return datasets.Dataset.from_dict(
            {
                "audio": [audio(row) for row in chosen],
                "sentence": [row["text"] for row in chosen],
                "speaker_id": [row["speaker"] for row in chosen],
                "id": [row["id"] for row in chosen],
            }
        ).cast_column("audio", datasets.Audio(decode=False))

    def as_bytes(row):
        return {"bytes": (tmp_path / row["audio"]).read_bytes(), "path": None}

    def as_path(row):
        return {"bytes": None, "path": str(tmp_path / row["audio"])}

    dataset(rows, as_path).save_to_disk(tmp_path / "paths")
    both = {"train": dataset(rows[:6], as_bytes), "validation": dataset(rows[6:], as_bytes)}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "bytes")
    import_corpus("tsv", write_tsv(tmp_path, rows), tmp_path / "tsv")
    import_corpus("hf", tmp_path / "paths", tmp_path / "from_paths")
    # Saving embeds what a path named: the same corpus, in files of the import's own.
    for name, expected in parts_of(tmp_path / "tsv").items():
        found = parts_of(tmp_path / "from_paths")[name]
        assert [replace(row, audio="") for row in found] == [
            replace(row, audio="") for row in expected
        ]
        assert [row.audio_key() for row in found] == [row.audio_key() for row in expected]
    report = import_corpus("hf", tmp_path / "bytes", tmp_path / "from_bytes")
    assert report.facts["split"] == "as given by the corpus"
    parts = parts_of(tmp_path / "from_bytes")
    assert [row.id for row in parts["dev"]] == ["u06", "u07", "u08", "u09"]
    assert Path(parts["dev"][0].audio).read_bytes() == (tmp_path / "wav/u06.wav").read_bytes()
    assert "no utterance in test" in report.facts["warnings"]["parts"]


def test_importing_again_brings_the_audio_of_the_new_texts(tmp_path):
    datasets = pytest.importorskip("datasets")
    for turn, level in enumerate((0.1, 0.3)):
        # The same length in the same format: files of one size.
        wav = tmp_path / f"{turn}.wav"
        write_audio(wav, np.full(16000, level))
        columns = {
            "audio": [{"bytes": wav.read_bytes(), "path": None}],
            "sentence": [f"Take {turn}."],
        }
        made = datasets.Dataset.from_dict(columns)
        made = made.cast_column("audio", datasets.Audio(decode=False))
        made.save_to_disk(tmp_path / f"set{turn}")
        import_corpus("hf", tmp_path / f"set{turn}", tmp_path / "out", split="none")
        (row,) = read_manifest(tmp_path / "out" / "train.jsonl")
        assert row.text == f"Take {turn}."
        assert Path(row.audio).read_bytes() == wav.read_bytes()
    assert (tmp_path / "0.wav").stat().st_size == (tmp_path / "1.wav").stat().st_size


def test_lhotse_recordings_with_supervisions_and_word_times(corpus, tmp_path):
    folder = tmp_path / "manifests"
    folder.mkdir()
    cuts = [lhotse_cut(row) for row in corpus]
    for cut, row in zip(cuts, corpus, strict=True):
        cut["recording"]["sources"][0]["source"] = str(tmp_path / row["audio"])
        supervision = cut["supervisions"][0]
        supervision["start"] = cut["start"]
        words = row["text"].split()[: None if row["id"] != "u00" else 2]
        supervision["alignment"] = {
            "word": [[w, cut["start"] + 0.1 * i, 0.05, 0.9] for i, w in enumerate(words)]
        }
    write_lhotse(folder, [cut["recording"] for cut in cuts], "c_recordings.jsonl.gz")
    write_lhotse(folder, [cut["supervisions"][0] for cut in cuts], "c_supervisions.jsonl.gz")
    report = import_corpus("lhotse", folder, tmp_path / "out", split="none")
    rows = read_manifest(tmp_path / "out/train.jsonl")
    assert [(row.offset, row.duration) for row in rows] == [
        (row["start"], round(row["end"] - row["start"], 4)) for row in corpus
    ]
    # Two times for a text of more words fit nowhere: better none than wrong ones.
    assert rows[0].words is None and "1 utterances" in report.facts["warnings"]["word times"]
    for row in rows[1:]:
        assert [word for word, _, _ in row.words] == row.text.split()
        assert row.words[1][1:] == pytest.approx((0.1, 0.15))
    cuts[4]["recording"]["sources"] = ["a"]
    cuts[5]["supervisions"][0]["custom"] = "a"
    write_lhotse(folder, [cut["recording"] for cut in cuts], "c_recordings.jsonl.gz")
    write_lhotse(folder, [cut["supervisions"][0] for cut in cuts], "c_supervisions.jsonl.gz")
    assert problems("lhotse", folder, tmp_path) == [
        ("c_recordings.jsonl.gz", 5, ""), ("c_supervisions.jsonl.gz", 6, ""),
    ]  # fmt: skip
    (folder / "c_recordings.jsonl.gz").unlink()
    assert problems("lhotse", folder, tmp_path)[0][0] == "c_supervisions.jsonl.gz"


def test_audio_over_the_limit_follows_the_declared_policy(corpus, tmp_path):
    source = write_tsv(tmp_path, corpus)
    long = [("corpus.tsv", line, "duration") for line in range(9, 12)]
    assert problems("tsv", source, tmp_path, max_seconds=1.65) == long
    report = import_corpus("tsv", source, tmp_path / "out", max_seconds=1.65, too_long="drop")
    assert report.dropped == {"too_long": 3}
    # A table has no word times: there is nothing to cut at.
    assert problems("tsv", source, tmp_path, max_seconds=1.65, too_long="cut") == long


def test_long_audio_is_cut_at_pauses_and_keeps_every_word(tmp_path):
    write_audio(tmp_path / "a.wav", np.zeros(16000 * 12))
    words = [[f"W{i}", i + 0.1, 0.6 if i % 3 else 0.8, 1.0] for i in range(12)]
    row = {"id": "a", "audio": "a.wav", "start": 0.0, "end": 12.0, "speaker": "s"}
    cut = lhotse_cut(row | {"text": " ".join(word for word, *_ in words)})
    cut["supervisions"][0]["alignment"] = {"word": words}
    import_corpus(
        "lhotse", write_lhotse(tmp_path, [cut]), tmp_path / "out", split="none", max_seconds=5.0,
        too_long="cut", text_case="lower",
    )  # fmt: skip
    rows = read_manifest(tmp_path / "out/train.jsonl")
    assert len(rows) == 3 and all(r.duration <= 5.0 for r in rows)
    assert " ".join(r.text for r in rows) == " ".join(f"w{i}" for i in range(12))
    assert sum(r.duration for r in rows) == pytest.approx(12.0)
    for one, other in zip(rows, rows[1:], strict=False):
        assert one.offset + one.duration == pytest.approx(other.offset)
    starts = [r.offset + w[1] for r in rows for w in r.words]
    assert starts == pytest.approx([i + 0.1 for i in range(12)])
    assert validate(tmp_path / "out/train.jsonl", check_audio=True).ok


def test_pieces_have_the_words_of_the_text_or_are_not_made(tmp_path):
    write_audio(tmp_path / "a.wav", np.zeros(16000 * 12))
    row = {"id": "a", "audio": "a.wav", "start": 0.0, "end": 12.0, "speaker": "s"}
    text = " ".join(f"Word{'abcdefghijkl'[i]}," for i in range(12))
    # As aligners have them: in lower case, without punctuation.
    words = [[f"word{'abcdefghijkl'[i]}", i + 0.1, 0.6, 1.0] for i in range(12)]
    policies = {"split": "none", "max_seconds": 5.0, "too_long": "cut"}
    cut = lhotse_cut(row | {"text": text})
    cut["supervisions"][0]["alignment"] = {"word": words}
    import_corpus("lhotse", write_lhotse(tmp_path, [cut]), tmp_path / "out", **policies)
    rows = read_manifest(tmp_path / "out/train.jsonl")
    assert len(rows) > 1 and " ".join(r.text for r in rows) == text
    assert all([word for word, _, _ in r.words] == r.text.split() for r in rows)
    # An aligner's marks are no words: cut by their times, texts would lose or gain some.
    mark = ["<eps>", 5.0, 0.05, 1.0]
    cut["supervisions"][0]["alignment"]["word"] = [*words[:5], mark, *words[5:]]
    source = write_lhotse(tmp_path, [cut])
    assert problems("lhotse", source, tmp_path, **policies) == [("cuts.jsonl.gz", 1, "duration")]
    with pytest.raises(ImportProblems, match="another number of word times than of words"):
        import_corpus("lhotse", source, tmp_path / "out", **policies)


def test_texts_in_capitals_are_pointed_out_and_mended(corpus, tmp_path, capsys):
    for row in corpus:
        row["text"] = row["text"].upper().translate(str.maketrans("", "", ".,!?"))
    source = write_tsv(tmp_path, corpus)
    assert main(["import", "tsv", str(source), str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "20 rows" not in captured.out and "train 12 rows" in captured.out
    assert "warning: text: all in capitals and without punctuation" in captured.err
    command = ["import", "tsv", str(source), str(tmp_path / "out"), "--text-case", "sentence"]
    assert main(command) == 0
    assert read_manifest(tmp_path / "out/train.jsonl")[0].text[:6] in ("Please", "Press ", "Leave ")


def test_a_split_by_text_says_that_speakers_are_shared(corpus, tmp_path):
    source = write_tsv(tmp_path, corpus)
    report = import_corpus("tsv", source, tmp_path / "out", split="text")
    parts = parts_of(tmp_path / "out")
    assert report.facts["split"].startswith("by text")
    shared = {r.speaker for r in parts["train"]} & {r.speaker for r in parts.get("test", [])}
    assert ("test speakers" in report.facts["warnings"]) == bool(shared)
