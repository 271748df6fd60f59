"""One question of a benchmark, whatever file it came from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolkit.data.audio import AudioError, audio_info
from toolkit.data.rows import Row
from toolkit.evaluation.plans import DecodeItem


class BenchmarkError(ValueError):
    """A benchmark's file is not in its format: the message names file, entry, field and remedy."""

    def __init__(self, path: str | os.PathLike[str], entry: object, problem: str) -> None:
        super().__init__(f"{path}: {f'entry {entry}: ' if entry != '' else ''}{problem}")


@dataclass(frozen=True)
class BenchmarkItem:
    """One question about one clip.

    Attributes
    ----------
    id : str
        Unique in its benchmark.
    audio : str
        Absolute path.
    instruction : str
        What is asked, constraints included.
    group : str
        What results are grouped by: task, part or category.
    label : str
        Right answer, or the reference answer of a judged item; empty where there is none.
    description : str
        What the text LLM reads instead of the audio (Speech-IFEval's seed transcript, AIR-Bench's
        meta information); empty where the benchmark has none.
    constraints : tuple of (str, dict)
        Checker ids with their arguments, for instruction following.
    metric : str
        How the item is scored, in the words of its benchmark.
    """

    id: str
    audio: str
    instruction: str
    group: str
    label: str = ""
    description: str = ""
    constraints: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    metric: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What is resampled, as questions on it rise and fall together: the clip by default."""
        return str(self.extra.get("unit", self.audio))

    def decode_item(self, row: Row, name: str) -> DecodeItem:
        """What the decode stage asks the model.

        Parameters
        ----------
        row : Row
            Of the audio, with its transcript where one is known.
        name : str
            Of the benchmark.

        Returns
        -------
        DecodeItem
        """
        return DecodeItem(
            row=row,
            task=name,
            wording=self.id,
            instruction=self.instruction,
            seen_task=False,
            seen_wording=False,
        )


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Entries of a JSON-lines file with their line numbers.

    Raises
    ------
    BenchmarkError
        For a missing file or a line that is no JSON object.
    """
    path = Path(path)
    if not path.exists():
        raise BenchmarkError(path, "", "no such file; give the folder of the benchmark as released")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise BenchmarkError(path, number, f"no JSON ({error})") from error
            if not isinstance(entry, dict):
                raise BenchmarkError(path, number, "expected a JSON object")
            yield number, entry


def text_field(entry: Mapping[str, Any], name: str, path: str | Path, where: object) -> str:
    """A field that must be text.

    Raises
    ------
    BenchmarkError

    Example
    -------
    >>> text_field({"label": "yes"}, "label", "a.json", 3)
    'yes'
    """
    value = entry.get(name)
    if not isinstance(value, str):
        raise BenchmarkError(path, where, f"field {name!r}: expected text, got {value!r}")
    return value


def rows_of(items: list[BenchmarkItem], known: Mapping[str, Row]) -> dict[str, Row]:
    """A manifest row per audio file of a benchmark.

    Parameters
    ----------
    items : list of BenchmarkItem
    known : mapping of str to Row
        Absolute audio path to a row that has transcripts or annotations.

    Returns
    -------
    dict of str to Row
        By audio path. A clip nobody knows gets a row without a transcript.

    Raises
    ------
    toolkit.data.audio.AudioError
        If a file is missing or unreadable, naming it: a benchmark is never scored in part.
    """
    rows: dict[str, Row] = {}
    for item in items:
        if item.audio in rows:
            continue
        row = known.get(os.path.abspath(item.audio))
        if row is None:
            try:
                seconds = audio_info(item.audio).duration
            except AudioError as error:
                detail = (
                    f"question {item.id!r} is about it; the benchmark's audio has to be whole and "
                    "lie where its release has it"
                )
                raise AudioError(item.audio, error.reason, detail) from error
            # Files in different folders may share a name.
            digest = hashlib.sha256(item.audio.encode()).hexdigest()[:8]
            row = Row(
                id=f"{Path(item.audio).stem}-{digest}",
                audio=item.audio,
                duration=round(seconds, 4),
                text="",
                language="en",
                speaker="unknown",
            )
        rows[item.audio] = row
    return rows


def as_text(row: Row, description: str) -> Row:
    """The row as the text LLM reads it: the description stands where the speech would.

    Example
    -------
    >>> row = Row("a", "/a.wav", 1.0, "Hi.", "en", "s")
    >>> as_text(row, "[00:00:00 - 00:00:01] Hi.(Gender: male)").text
    '[00:00:00 - 00:00:01] Hi.(Gender: male)'
    >>> as_text(row, "").text
    'Hi.'
    """
    return replace(row, text=description) if description else row
