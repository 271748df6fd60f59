"""Importers: every mistake in a corpus names its place, in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.import_corpora import (
    lhotse_cut,
    problems,
    spoken_corpus,
    write_kaldi,
    write_lhotse,
    write_tsv,
)
from toolkit.cli.main import main
from toolkit.data.importers import import_corpus
from toolkit.data.manifest import read_manifest


@pytest.fixture
def corpus(tmp_path: Path) -> list[dict]:
    return spoken_corpus(tmp_path)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"audio": "wav/no.wav"}, "audio"),
        ({"audio": ""}, "audio"),
        ({"start": "soon"}, "start"),
        ({"start": "-1"}, "start"),
        ({"end": "nan"}, "end"),
        ({"end": 99.0}, "end"),
        ({"start": 0.5, "end": 0.5}, "end"),
        ({"start": 50.0, "end": 51.0}, "start"),
        ({"id": "u00"}, "id"),
    ],
)
def test_every_mistake_in_a_table_names_line_and_field(corpus, tmp_path, change, place):
    corpus[5] |= change
    source = write_tsv(tmp_path, corpus)
    assert problems("tsv", source, tmp_path) == [("corpus.tsv", 7, place)]
    report = import_corpus("tsv", source, tmp_path / "out", skip_bad=True)
    assert report.dropped == {f"bad_{place}": 1}
    assert sum(part["rows"] for part in report.parts.values()) == 19


def test_header_and_shape_of_a_table(corpus, tmp_path):
    source = write_tsv(tmp_path, corpus)
    good = source.read_text()
    for old, new, line, field in (
        ("\ttext\t", "\ttxt\t", 1, "text"),
        ("\tspeaker\n", "\tspeakr\n", 1, "speakr"),
        ("\ts3\n", "\n", 5, ""),
    ):
        source.write_text(good.replace(old, new, 1))
        assert problems("tsv", source, tmp_path)[0] == ("corpus.tsv", line, field)
    source.write_bytes(good.encode().replace(b"Who", b"\xff"))
    assert problems("tsv", source, tmp_path)[0][0] == "corpus.tsv"


def test_csv_with_quoted_line_breaks_counts_lines_of_the_file(corpus, tmp_path):
    lines = ["audio,text", 'wav/u00.wav,"One,\ntwo ""three"""', "wav/none.wav,four"]
    source = tmp_path / "c.csv"
    source.write_text("\n".join(lines) + "\n")
    assert problems("tsv", source, tmp_path) == [("c.csv", 4, "audio")]
    import_corpus("tsv", source, tmp_path / "out", skip_bad=True, split="none")
    assert read_manifest(tmp_path / "out/train.jsonl")[0].text == 'One,\ntwo "three"'


@pytest.mark.parametrize(
    ("name", "old", "new", "place"),
    [
        ("wav.scp", "rec-u05 wav/u05.wav", "rec-u05 sox -t wav wav/u05.wav - |", ("wav.scp", 6)),
        ("wav.scp", "rec-u05 wav/u05.wav", "rec-u05 flac -cd x; rm y |", ("wav.scp", 6)),
        ("wav.scp", "rec-u05 wav/u05.wav", "rec-u05 foo.ark:345", ("wav.scp", 6)),
        ("wav.scp", "rec-u05 ", "rec-other ", ("segments", 6)),
        ("segments", "u05 rec-u05 0.0", "u05 rec-u05 x", ("segments", 6)),
        ("segments", "u05 rec-u05 0.0 1.5", "u05 rec-u05 0.0 1.5 2", ("segments", 6)),
        ("segments", "u05 rec-u05 0.0 1.5", "u05 rec-u05 0.0 1.5 1", ("segments", 6)),
        ("segments", "u05 ", "other ", ("text", 6)),
    ],
)
def test_every_mistake_in_a_kaldi_directory_names_its_place(
    corpus, tmp_path, name, old, new, place
):
    source = write_kaldi(tmp_path, corpus)
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new))
    assert [found[:2] for found in problems("kaldi", source, tmp_path)] == [place]


def test_a_channel_of_a_stereo_file_is_refused_and_of_a_mono_file_read(corpus, tmp_path):
    source = write_kaldi(tmp_path, corpus)
    segments = (tmp_path / "segments").read_text().splitlines()
    segments[5], segments[6] = f"{segments[5]} 0", f"{segments[6]} A"
    (tmp_path / "segments").write_text("\n".join(segments) + "\n")
    report = import_corpus("kaldi", source, tmp_path / "out", split="none")
    assert report.parts["train"]["rows"] == 20
    for name in ("u05", "u06", "u07"):
        soundfile.write(tmp_path / f"wav/{name}.wav", np.full((32000, 2), 0.1), 16000)
    # The last of the three names no channel: it is mixed, as any file of two channels is.
    assert problems("kaldi", source, tmp_path) == [
        ("segments", 6, "channel"), ("segments", 7, "channel"),
    ]  # fmt: skip


def test_pipes_that_only_decode_are_read_and_none_is_run(corpus, tmp_path):
    source = write_kaldi(tmp_path, corpus)
    text = (tmp_path / "wav.scp").read_text()
    text = text.replace("rec-u05 wav/u05.wav", "rec-u05 flac -c -d -s wav/u05.wav |")
    text = text.replace("rec-u06 wav/u06.wav", f"rec-u06 touch {tmp_path}/ran |")
    (tmp_path / "wav.scp").write_text(text)
    assert problems("kaldi", source, tmp_path) == [("wav.scp", 7, "audio")]
    import_corpus("kaldi", source, tmp_path / "out", skip_bad=True, split="none")
    assert len(read_manifest(tmp_path / "out/train.jsonl")) == 19
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda cut: cut.update(type="MixedCut"), "type"),
        (lambda cut: cut.update(supervisions=[]), "supervisions"),
        (lambda cut: cut["supervisions"][0].pop("text"), "supervisions[0].text"),
        (lambda cut: cut["supervisions"][0].update(duration="x"), "supervisions[0].duration"),
        (lambda cut: cut["recording"].update(transforms=[{"name": "Speed"}]),
         "recording.transforms"),
        (lambda cut: cut["recording"]["sources"][0].update(type="command"),
         "recording.sources[0].type"),
        (lambda cut: cut["recording"]["sources"][0].update(channels=[0, 1]), "channel"),
        (lambda cut: cut.pop("recording"), "recording"),
        (lambda cut: cut["recording"].update(sources=["wav/u05.wav"]), "recording"),
        (lambda cut: cut["recording"].update(sources=1), "recording"),
        (lambda cut: cut.update(supervisions=3), "supervisions"),
        (lambda cut: cut.update(supervisions=[3]), "supervisions[0]"),
        (lambda cut: cut["supervisions"][0].update(alignment=["a"]), "supervisions[0]"),
        (lambda cut: cut["supervisions"][0].update(alignment={"word": [["a", 0.0]]}),
         "supervisions[0]"),
        (lambda cut: cut["supervisions"][0].update(alignment={"word": [["a", "x", 0.1]]}),
         "supervisions[0]"),
        (lambda cut: cut["supervisions"][0].update(custom=["a"]), "supervisions[0]"),
    ],
)  # fmt: skip
def test_cuts_without_a_file_of_their_own_are_refused(corpus, tmp_path, change, field):
    cuts = [lhotse_cut(row) for row in corpus]
    change(cuts[5])
    source = write_lhotse(tmp_path, cuts)
    assert problems("lhotse", source, tmp_path) == [("cuts.jsonl.gz", 6, field)]


def test_mistakes_do_not_end_a_limited_import_before_the_last_part(corpus, tmp_path):
    cuts = [lhotse_cut(row) for row in corpus]
    for cut in cuts[:3]:
        cut["type"] = "MixedCut"
    write_lhotse(tmp_path, cuts[:10], "cuts_train.jsonl.gz")
    write_lhotse(tmp_path, cuts[10:15], "cuts_dev.jsonl.gz")
    write_lhotse(tmp_path, cuts[15:], "cuts_test.jsonl.gz")
    report = import_corpus("lhotse", tmp_path, tmp_path / "out", limit=1, skip_bad=True)
    assert {name: part["rows"] for name, part in report.parts.items()} == {
        "train": 1, "dev": 1, "test": 1,
    }  # fmt: skip
    assert report.dropped == {"bad_type": 3}


def test_mistakes_reach_the_command_line_as_messages(tmp_path, capsys):
    assert main(["import", "kaldi", str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    assert "there is no such file or folder" in capsys.readouterr().err
