"""A small corpus in the formats that importers read, and what they say of a broken one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from toolkit.data.audio import write_audio
from toolkit.data.importers import ImportProblem, ImportProblems, import_corpus
from toolkit.data.manifest import read_manifest

SENTENCES = ("Please hold the line.", "Press one now.", "Leave a message!", "Who is there?")


def spoken_corpus(folder: Path) -> list[dict]:
    """20 wavs of five speakers; the second half are pieces of longer files."""
    rows = []
    for i in range(20):
        length = 1.0 + 0.1 * i
        write_audio(folder / "wav" / f"u{i:02d}.wav", np.full(int(16000 * length), 0.1))
        piece = i >= 10
        rows.append(
            {
                "id": f"u{i:02d}",
                "audio": f"wav/u{i:02d}.wav",
                "start": 0.25 if piece else 0.0,
                "end": 1.5 if piece else round(length, 4),
                "text": f"{SENTENCES[i % 4]} Number {i}.",
                "speaker": f"s{i % 5}",
            }
        )
    return rows


def write_tsv(folder: Path, rows: list[dict], name: str = "corpus.tsv") -> Path:
    """The corpus as a table."""
    lines = ["\t".join(rows[0]), *("\t".join(str(v) for v in row.values()) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def write_kaldi(folder: Path, rows: list[dict]) -> Path:
    """The corpus as a Kaldi data directory."""
    # Kaldi names recordings and utterances apart.
    files = {
        "wav.scp": [f"rec-{r['id']} {r['audio']}" for r in rows],
        "segments": [f"{r['id']} rec-{r['id']} {r['start']} {r['end']}" for r in rows],
        "text": [f"{r['id']} {r['text']}" for r in rows],
        "utt2spk": [f"{r['id']} {r['speaker']}" for r in rows],
    }
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def lhotse_cut(row: dict) -> dict:
    """An utterance as a cut of lhotse."""
    length = round(row["end"] - row["start"], 4)
    source = {"type": "file", "channels": [0], "source": row["audio"]}
    recording = {"id": f"rec-{row['id']}", "sources": [source], "sampling_rate": 16000}
    supervision = {
        "id": row["id"], "recording_id": recording["id"], "start": 0.0, "duration": length,
        "channel": 0, "text": row["text"], "speaker": row["speaker"], "language": "en",
    }  # fmt: skip
    return {
        "id": f"cut-{row['id']}", "start": row["start"], "duration": length, "channel": 0,
        "supervisions": [supervision], "recording": recording, "type": "MonoCut",
    }  # fmt: skip


def write_lhotse(folder: Path, cuts: list[dict], name: str = "cuts.jsonl.gz") -> Path:
    """Cuts, recordings or supervisions of lhotse."""
    text = "".join(json.dumps(cut) + "\n" for cut in cuts)
    (folder / name).write_bytes(gzip.compress(text.encode()))
    return folder / name


def parts_of(folder: Path) -> dict[str, list]:
    """Rows of every manifest of a folder, by part."""
    return {path.stem: read_manifest(path) for path in sorted(folder.glob("*.jsonl"))}


def problems(kind: str, source: Path, tmp_path: Path, **policies) -> list[tuple[str, int, str]]:
    """File, line and field of every problem that an import is refused for."""
    with pytest.raises((ImportProblem, ImportProblems)) as caught:
        import_corpus(kind, source, tmp_path / "out", **policies)
    found = getattr(caught.value, "problems", [caught.value])
    assert all(problem.path in str(caught.value) for problem in found)
    return [(Path(problem.path).name, problem.line, problem.field) for problem in found]
