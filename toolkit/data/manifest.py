"""The manifest: JSON lines that say which audio holds which words, and one validator for them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from toolkit.data.rows import REQUIRED, ManifestError, Row, parse_row
from toolkit.files import atomic_write

__all__ = [
    "REQUIRED",
    "ManifestError",
    "Report",
    "Row",
    "parse_row",
    "read_manifest",
    "validate",
    "write_manifest",
]


def _entries(path: str | os.PathLike[str]) -> Iterator[tuple[int, Row | ManifestError]]:
    """Every line as a row or as what is wrong with it: what reading and validating share."""
    seen: dict[str, int] = {}
    try:
        stream = open(path, encoding="utf-8")
    except OSError as error:
        raise ManifestError(
            path, 0, "", f"cannot be read ({error.strerror}); run the prepare stage first"
        ) from error
    with stream:
        try:
            for number, text in enumerate(stream, start=1):
                if not text.strip():
                    continue
                try:
                    row = parse_row(json.loads(text), path, number)
                except json.JSONDecodeError as error:
                    yield number, ManifestError(
                        path, number, "", f"not valid JSON ({error.msg} at column {error.colno}); "
                        "a half-written line means the writer was killed: re-run it",
                    )  # fmt: skip
                    continue
                except ManifestError as error:
                    yield number, error
                    continue
                if row.id in seen:
                    yield number, ManifestError(
                        path, number, "id", f"{row.id!r} repeats line {seen[row.id]}; rename one"
                    )  # fmt: skip
                    continue
                seen[row.id] = number
                yield number, row
        except UnicodeDecodeError as error:
            raise ManifestError(path, 0, "", f"is not UTF-8 text ({error}); convert it") from error


def read_manifest(path: str | os.PathLike[str]) -> list[Row]:
    """Read a manifest, stopping at the first mistake.

    Parameters
    ----------
    path : str or path
        A JSON-lines file; blank lines are skipped.

    Returns
    -------
    list of Row
        In file order, ``audio`` absolute.

    Raises
    ------
    ManifestError
        Naming file, line, field and remedy.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "train.jsonl")
    ...     write_manifest(path, [Row("a", str(Path(folder, "a.wav")), 1.0, "Hi.", "en", "s")])
    ...     on_disk = json.loads(path.read_text())["audio"]
    ...     back = read_manifest(path)
    >>> on_disk, back[0].text
    ('a.wav', 'Hi.')
    """
    rows = []
    for _, entry in _entries(path):
        if isinstance(entry, ManifestError):
            raise entry
        rows.append(entry)
    return rows


def write_manifest(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write rows in the given order, atomically: readers see the old file or the whole new one.

    Audio below the manifest's folder is written relative to it, so that the folder can move. Every
    row passes the same checks as on reading.

    Parameters
    ----------
    path : str or path
        Its folder is created.
    rows : iterable of Row

    Raises
    ------
    ManifestError
        For a row that could not be read back, or a repeated id.
    """
    path = Path(path).absolute()
    lines, seen = [], {}
    for number, row in enumerate(rows, start=1):
        parse_row(row.to_dict(), path, number)
        if row.id in seen:
            raise ManifestError(path, number, "id", f"{row.id!r} repeats line {seen[row.id]}")
        seen[row.id] = number
        audio = Path(row.audio)
        if audio.is_absolute() and audio.is_relative_to(path.parent):
            row = replace(row, audio=audio.relative_to(path.parent).as_posix())
        lines.append(json.dumps(row.to_dict(), ensure_ascii=False))
    atomic_write(path, "".join(line + "\n" for line in lines).encode("utf-8"))


@dataclass
class Report:
    """What `validate` found.

    Attributes
    ----------
    path : str
    rows : int
        Good rows.
    seconds : float
        Their total duration.
    languages, speakers : Counter
        Good rows by language and by speaker.
    problems : list of ManifestError
        Everything wrong, in file order.
    """

    path: str
    rows: int = 0
    seconds: float = 0.0
    languages: Counter[str] = field(default_factory=Counter)
    speakers: Counter[str] = field(default_factory=Counter)
    problems: list[ManifestError] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong and there is at least one row."""
        return not self.problems and self.rows > 0

    def __str__(self) -> str:
        head = (
            f"{self.path}: {self.rows} rows, {self.seconds / 3600:.2f} h, "
            f"{len(self.speakers)} speakers, {len(self.problems)} problems"
        )
        return "\n".join([head, *(str(problem) for problem in self.problems)])


def validate(path: str | os.PathLike[str], check_audio: bool = False) -> Report:
    """Check a whole manifest and list everything that is wrong with it.

    Parameters
    ----------
    path : str or path
    check_audio : bool
        Open every file's header too: it must exist and hold ``offset + duration`` seconds.

    Returns
    -------
    Report

    Raises
    ------
    ManifestError
        Only if the file itself cannot be read.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "m.jsonl")
    ...     rest = '"text": "", "language": "en", "speaker": "s"}'
    ...     _ = path.write_text(
    ...         '{"id": "a"}\\n{"id": "b", "audio": "b.wav", "duration": -1, ' + rest)
    ...     report = validate(path)
    >>> report.ok, [(p.line, p.field) for p in report.problems]
    (False, [(1, 'audio'), (2, 'duration')])
    """
    report = Report(str(path))
    for number, entry in _entries(path):
        if isinstance(entry, Row) and check_audio:
            problem = _audio_problem(entry, path, number)
            entry = problem or entry
        if isinstance(entry, ManifestError):
            report.problems.append(entry)
            continue
        report.rows += 1
        report.seconds += entry.duration
        report.languages[entry.language] += 1
        report.speakers[entry.speaker] += 1
    return report


def _audio_problem(row: Row, path: str | os.PathLike[str], line: int) -> ManifestError | None:
    from toolkit.data.audio import AudioError, audio_info

    try:
        info = audio_info(row.audio)
    except AudioError as error:
        return ManifestError(path, line, "audio", str(error))
    # Durations are rounded to milliseconds in manifests.
    if row.offset + row.duration > info.duration + 2e-3:
        return ManifestError(
            path, line, "duration",
            f"offset + duration is {row.offset + row.duration:.3f} s but {row.audio} holds "
            f"{info.duration:.3f} s; re-run prepare",
        )  # fmt: skip
    return None
