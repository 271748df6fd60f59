"""CoVoST 2 in its real layout: Common Voice's archive, CoVoST's tables, what joins them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from recipes.covost2.prepare import prepare, read_table
from toolkit.data.manifest import ManifestError, read_manifest, validate

# As in release 4: the columns of validated.tsv, most of them seldom filled in.
VALIDATED = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent"]
CLIPS = [
    ("3f7c", 1, "When water is scarce, avoid wasting it.", "twenties", "female", "us"),
    ("3f7c", 2, '"Hello," he said.', "twenties", "female", "us"),
    ("91aa", 3, "Everyone has a right to rest.", "", "", ""),
    ("b0b0", 4, "Two people cross the street.", "", "male", ""),
    ("b0b0", 5, "Nobody translated this one.", "", "", ""),
    ("c1c1", 6, "This clip is empty.", "", "", ""),
]
GERMAN = [
    (1, "Wenn Wasser knapp ist, verschwenden Sie es nicht.", "train"),
    (2, '"Hallo," sagte er.', "train_covost"),
    (3, "Jeder hat ein Recht auf Erholung.", "dev"),
    (4, "Zwei Menschen überqueren die Straße.", "test"),
    (5, "", "train"),
    (6, "Diese Aufnahme ist leer.", "test"),
    (7, "Nicht bestätigt.", "train"),
    (1, "Nicht in Version 2.", "dev_covost"),
]
CHINESE = [(1, "如果水资源短缺,不要浪费水。", "train"), (4, "两个人过马路。", "train")]


def name(number: int) -> str:
    return f"common_voice_en_{number:08d}.mp3"


def table(path: Path, header: list[str], rows: list[tuple]) -> None:
    lines = ["\t".join(header), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus" / "en"
    (folder / "clips").mkdir(parents=True)
    rows = []
    for speaker, number, said, age, gender, accent in CLIPS:
        rows.append((speaker, name(number), said, 2, 0, age, gender, accent))
        wave = np.sin(np.arange(48_000 * number // 2) / 40).astype(np.float32) / 4
        soundfile.write(folder / "clips" / name(number), wave, 48_000, format="MP3")
    (folder / "clips" / name(6)).write_bytes(b"")
    table(folder / "validated.tsv", VALIDATED, rows)
    for code, entries in (("de", GERMAN), ("zh-CN", CHINESE)):
        table(
            folder / f"covost_v2.en_{code}.tsv",
            ["path", "translation", "split"],
            [(name(number), text, split) for number, text, split in entries],
        )
    return folder.parent


PAIRS = [["en", "de"], ["en", "zh-CN"]]


def test_tables_are_joined_on_the_clip(source, tmp_path):
    report = prepare(tmp_path / "work", source, PAIRS, nj=2)
    parts = {part: read_manifest(path) for part, path in report.manifests.items()}
    assert all(validate(path, check_audio=True).ok for path in report.manifests.values())
    assert {part: [row.id for row in rows] for part, rows in parts.items()} == {
        "en/train": ["covost2-common_voice_en_00000001", "covost2-common_voice_en_00000002"],
        "en/dev": ["covost2-common_voice_en_00000003"],
        "en/test": ["covost2-common_voice_en_00000004"],
    }
    first, second = parts["en/train"]
    assert first.translations == {"de": GERMAN[0][1], "zh": CHINESE[0][1]}
    assert (first.language, first.speaker) == ("en", "3f7c")
    assert first.duration == pytest.approx(0.5, abs=0.1)
    assert first.attributes == {"age": "twenties", "gender": "female", "accent": "us"}
    # Quotation marks are characters like any other.
    assert (second.text, second.translations) == ('"Hello," he said.', {"de": '"Hallo," sagte er.'})
    assert dict(report.dropped) == {
        "en: de: no translation": 1,
        "en: not in validated.tsv": 1,
        "en: split 'dev_covost'": 1,
        # In German it is a test clip: it may not train.
        "en: zh-CN: in another part for another language": 1,
        "en: audio_empty": 1,
    }
    facts = json.loads((report.folder / "report.json").read_text())["facts"]
    assert facts["Translations (en)"] == {"de": 4, "zh": 1}


def test_a_clip_is_in_one_part_whatever_its_languages(source, tmp_path):
    """What comes first decides; the other language loses the clip."""
    report = prepare(tmp_path / "work", source, PAIRS[::-1], nj=2)
    (moved,) = [
        row for row in read_manifest(report.manifests["en/train"]) if row.id.endswith("00000004")
    ]
    assert moved.translations == {"zh": CHINESE[1][1]}
    assert report.parts["en/test"]["rows"] == 0
    assert report.dropped["en: de: in another part for another language"] == 1


def test_tables_of_the_corpus_own_script_give_the_same(source, tmp_path):
    whole = prepare(tmp_path / "a", source, PAIRS[:1], nj=2)
    said = {name(number): (text, speaker) for speaker, number, text, *_ in CLIPS}
    parts = {"train": ("train", "train_covost"), "dev": ("dev",), "test": ("test",)}
    for part, values in parts.items():
        rows = [
            (name(n), said[name(n)][0], text, said[name(n)][1])
            for n, text, split in GERMAN
            if split in values and name(n) in said
        ]
        header = ["path", "sentence", "translation", "client_id"]
        table(source / "en" / f"covost_v2.en_de.{part}.tsv", header, rows)
    (source / "en" / "validated.tsv").unlink()
    split = prepare(tmp_path / "b", source / "en", PAIRS[:1], nj=2)
    for part, path in whole.manifests.items():
        before, after = read_manifest(path), read_manifest(split.manifests[part])
        assert [(r.id, r.text, r.translations, r.speaker) for r in before] == [
            (r.id, r.text, r.translations, r.speaker) for r in after
        ]


def test_a_limit_takes_from_all_over_each_part(source, tmp_path):
    report = prepare(tmp_path / "work", source, PAIRS[:1], limit=1, nj=2)
    assert [p["rows"] for p in report.parts.values()] == [1, 1, 1]


def test_what_is_missing_or_damaged_is_named(source, tmp_path):
    work = tmp_path / "work"
    with pytest.raises(ValueError, match="no pair en_it; it has from English into ar, ca"):
        prepare(work, source, [["en", "it"]])
    with pytest.raises(FileNotFoundError, match="es has no clips/; unpack es.tar.gz"):
        prepare(work, source, [["es", "en"], ["en", "de"]])
    with pytest.raises(FileNotFoundError, match="covost_v2.en_tr.tsv is missing"):
        prepare(work, source, [["en", "tr"]])
    german = source / "en" / "covost_v2.en_de.tsv"
    good = german.read_text(encoding="utf-8")

    def caught(text: str) -> ManifestError:
        german.write_text(text, encoding="utf-8")
        with pytest.raises(ManifestError) as found:
            prepare(work, source, PAIRS[:1], nj=2)
        return found.value

    lines = good.splitlines()
    error = caught(good.replace("translation", "text", 1))
    assert (error.line, error.field) == (1, "translation") and "path, text, split" in str(error)
    error = caught("\n".join([lines[0], lines[1], "no tabs here"]))
    assert (error.path, error.line) == (str(german), 3) and "1 values" in str(error)
    error = caught("\n".join([*lines[:3], lines[1]]))
    assert (error.line, error.field) == (4, "path") and "occurs twice" in str(error)
    error = caught("\n".join([lines[0], f"clips/{lines[1]}"]))
    assert (error.line, error.field) == (2, "path")
    error = caught(f"{lines[0]}\n{name(9)}\tNein.\ttrain\n")
    assert "Common Voice, release 4" in str(error) and error.field == "path"
    assert "is empty" in str(caught(""))
    german.write_text(good, encoding="utf-8")
    (source / "en" / "clips" / name(3)).unlink()
    error = caught(good)
    assert (error.path, error.line, error.field) == (str(german), 4, "path")
    assert "unpack the archive of clips again" in str(error)
    (source / "en" / "validated.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"validated.tsv is missing"):
        prepare(work, source, PAIRS[:1])


def test_escapes_of_the_tables(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("path\ttranslation\na.mp3\tone\\\ttwo \\\\ three\n")
    assert [row["translation"] for _, row in read_table(path, ["path"])] == ["one\ttwo \\ three"]
