"""Hugging Face datasets that lie on disk: what ``save_to_disk`` wrote, or a folder of Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.data.importers.base import (
    Entry,
    ImportProblem,
    Utterance,
    audio_path,
    part_of,
    segment_id,
)
from toolkit.data.rows import ManifestError
from toolkit.files import atomic_write

#: Column names that datasets of speech use for the same thing, the preferred first.
COLUMNS = {
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text"),
    "id": ("id", "utterance_id", "segment_id"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "locale", "lang"),
}


def read_hub(source: Path, out: Path) -> Iterator[Entry]:
    """Utterances of a dataset on disk; needs the extra ``hf``.

    Audio that the dataset carries as bytes is written to ``out/audio`` as it is, in whatever format
    it has; audio it names by path stays where it is. Nothing is decoded and nothing is downloaded.

    Parameters
    ----------
    source : Path
        Folder written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``, or with Parquet
        files, such as a copy of a dataset's repository.
    out : Path

    Yields
    ------
    Utterance or ManifestError
        ``line`` is the number of the row, from 1.

    Raises
    ------
    ImportProblem
        When the dataset as a whole cannot be used.
    """
    for split, dataset in _load(source).items():
        place = f"{source}[{split}]" if split else str(source)
        columns = _columns(dataset, place)
        # Undecoded: bytes or a path, whichever the dataset has.
        from datasets import Audio

        dataset = dataset.cast_column(columns["audio"], Audio(decode=False))
        for number, row in enumerate(dataset, start=1):
            try:
                yield _utterance(row, columns, split, number, place, source, out)
            except ManifestError as problem:
                yield problem


def _load(source: Path) -> dict[str, Any]:
    from datasets import Dataset, DatasetDict, load_from_disk

    if not source.is_dir():
        raise ImportProblem(source, 0, "", "is no folder; save the dataset with `save_to_disk`")
    if (source / "dataset_dict.json").exists() or (source / "state.json").exists():
        loaded = load_from_disk(str(source))
        return dict(loaded) if isinstance(loaded, DatasetDict) else {"": loaded}
    files = sorted(source.rglob("*.parquet"))
    if not files:
        raise ImportProblem(
            source, 0, "", "holds no dataset of `save_to_disk` and no .parquet file"
        )
    by_part: dict[str, list[str]] = {}
    for file in files:
        by_part.setdefault(part_of(file.name) or "", []).append(str(file))
    return {part: Dataset.from_parquet(paths) for part, paths in by_part.items()}


def _columns(dataset: Any, place: str) -> dict[str, str]:
    names = dataset.column_names
    from datasets import Audio

    typed = [name for name, feature in dataset.features.items() if isinstance(feature, Audio)]
    audio = "audio" if "audio" in names else next(iter(typed), None)
    if audio is None:
        raise ImportProblem(place, 0, "audio", f"no such column; there are {', '.join(names)}")
    found = {"audio": audio}
    for field, known in COLUMNS.items():
        match = next((name for name in known if name in names), None)
        if match is not None:
            found[field] = match
    if "text" not in found:
        raise ImportProblem(
            place, 0, "text", f"no column {' or '.join(COLUMNS['text'])}; there are "
            f"{', '.join(names)}: rename one with `rename_column`",
        )  # fmt: skip
    return found


def _utterance(
    row: dict[str, Any], columns: dict[str, str], split: str, number: int, place: str,
    source: Path, out: Path,
) -> Utterance:  # fmt: skip
    audio, text = row[columns["audio"]], row[columns["text"]]
    if not isinstance(text, str):
        raise ImportProblem(place, number, columns["text"], f"expected a string, got {text!r}")
    if not isinstance(audio, dict) or not (audio.get("bytes") or audio.get("path")):
        raise ImportProblem(place, number, columns["audio"], "holds neither bytes nor a path")
    name = Path(audio.get("path") or "").name
    given = row.get(columns.get("id", ""))
    fallback = "-".join(part for part in (split, f"{number:07d}") if part)
    if audio.get("bytes"):
        path = out / "audio" / (split or "all") / f"{number:07d}{_suffix(name, audio['bytes'])}"
        # Of equal content, not of equal size: clips of one length in one format often have that.
        if not path.exists() or path.read_bytes() != audio["bytes"]:
            atomic_write(path, audio["bytes"])
        file = os.path.abspath(path)
        own = segment_id(name, 0.0, None) if name else fallback
    else:
        file = audio_path(audio["path"], source, place, number)
        own = segment_id(file, 0.0, None)
    speaker, language = (row.get(columns.get(key, "")) for key in ("speaker", "language"))
    return Utterance(
        id=str(given) if given not in (None, "") else own,
        audio=file,
        text=text,
        path=place,
        line=number,
        speaker=None if speaker in (None, "") else str(speaker),
        language=language if isinstance(language, str) and language else None,
        part=part_of(split) if split else None,
    )


def _suffix(name: str, content: bytes) -> str:
    """Of the audio's format: the dataset's own name for it, or by its first bytes."""
    if Path(name).suffix:
        return Path(name).suffix
    magic = {b"fLaC": ".flac", b"OggS": ".ogg", b"RIFF": ".wav"}
    return magic.get(content[:4], ".mp3")
