"""One manifest row: its fields, its checks and the content key of its audio."""

from __future__ import annotations

import difflib
import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from toolkit.data.digests import file_digest

REQUIRED = ("id", "audio", "duration", "text", "language", "speaker")
# Word times come from aligners that work on frames: allow them to end one frame late.
_WORD_TOLERANCE_S = 0.1


class ManifestError(ValueError):
    """A manifest is wrong: the message names file, line, field and remedy.

    Attributes
    ----------
    path, line, field : str, int, str
        Where; line 0 means the file as a whole.
    """

    def __init__(self, path: str | os.PathLike[str], line: int, field: str, problem: str) -> None:
        self.path, self.line, self.field = str(path), line, field
        place = f"{path}:{line}" if line else f"{path}"
        super().__init__(f"{place}: {f'field {field!r}: ' if field else ''}{problem}")


@dataclass(frozen=True, slots=True)
class Row:
    """One utterance. Corpora have a million of them, hence the slots.

    Attributes
    ----------
    id : str
        Unique within a manifest.
    audio : str
        Audio file; absolute once read. In the file it may be relative to the manifest's folder.
    duration : float
        Seconds of speech, from ``offset``.
    text : str
        Transcript, under the text policy its recipe documents.
    language : str
        Language code, e.g. ``"en"``.
    speaker : str
        Speaker or voice.
    offset : float
        Where the utterance starts in the audio file, in seconds.
    words : tuple of (str, float, float), optional
        Word, start, end; seconds from the start of the utterance (not of the file).
    attributes : dict
        Anything else, e.g. ``{"gender": "female"}``. Fields of one's own live here.
    translations : dict of str to str
        Language code to text.
    question, answer, context : str, optional
        For question answering.
    asr_text : str, optional
        What a recogniser heard.
    speech_seconds : float, optional
        How long somebody speaks, as voice activity detection tells.

    Example
    -------
    >>> row = Row("a", "/data/a.wav", 1.5, "Thank you.", "en", "allison", offset=2.0)
    >>> list(row.to_dict())
    ['id', 'audio', 'duration', 'text', 'language', 'speaker', 'offset']
    """

    id: str
    audio: str
    duration: float
    text: str
    language: str
    speaker: str
    offset: float = 0.0
    words: tuple[tuple[str, float, float], ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    translations: dict[str, str] = field(default_factory=dict)
    question: str | None = None
    answer: str | None = None
    context: str | None = None
    asr_text: str | None = None
    speech_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Fields in their fixed order; optional ones only where set."""
        out: dict[str, Any] = {name: getattr(self, name) for name in REQUIRED}
        if self.offset:
            out["offset"] = self.offset
        if self.words is not None:
            out["words"] = [list(word) for word in self.words]
        for name in ("attributes", "translations", "question", "answer", "context", "asr_text"):
            if getattr(self, name):
                out[name] = getattr(self, name)
        if self.speech_seconds is not None:
            out["speech_seconds"] = self.speech_seconds
        return out

    def audio_key(self) -> str:
        """Content key of the audio: equal for equal sound, wherever the file lies.

        Returns
        -------
        str
            32 hexadecimal digits of SHA-256 over the file's bytes, offset and duration.

        Raises
        ------
        toolkit.data.audio.AudioError
            With reason ``missing`` if the file does not exist.

        Example
        -------
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.wav")
        ...     _ = path.write_bytes(b"abc")
        ...     one = Row("a", str(path), 1.0, "", "en", "s").audio_key()
        ...     two = Row("b", str(path), 1.0, "other", "en", "s").audio_key()
        ...     three = Row("a", str(path), 0.5, "", "en", "s").audio_key()
        >>> one == two, one == three, len(one)
        (True, False, 32)
        """
        try:
            stat = os.stat(self.audio)
        except OSError as error:
            from toolkit.data.audio import AudioError

            raise AudioError(self.audio, "missing", str(error)) from error
        digest = file_digest(self.audio, stat.st_size, stat.st_mtime_ns)
        key = f"{digest}|{self.offset:.6f}|{self.duration:.6f}"
        return hashlib.sha256(key.encode()).hexdigest()[:32]


_FIELDS = tuple(f.name for f in fields(Row))


def _number(
    value: Any, path: str, line: int, name: str, minimum: float, exclusive: bool = False
) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ManifestError(path, line, name, f"expected a number of seconds, got {value!r}")
    if not math.isfinite(value) or value < minimum or (exclusive and value == minimum):
        bound = f"{'more than' if exclusive else 'at least'} {minimum:g}"
        raise ManifestError(
            path, line, name, f"must be a finite number, {bound}; got {value!r}. Re-run prepare."
        )
    return float(value)


def _words(
    value: Any, duration: float, path: str, line: int
) -> tuple[tuple[str, float, float], ...]:
    if not isinstance(value, (list, tuple)):
        raise ManifestError(path, line, "words", 'expected a list of ["word", start, end] entries')
    out: list[tuple[str, float, float]] = []
    for i, entry in enumerate(value):
        name = f"words[{i}]"
        if not isinstance(entry, (list, tuple)) or len(entry) != 3 or not isinstance(entry[0], str):
            raise ManifestError(path, line, name, f'not ["word", start, end]: {entry!r}')
        start = _number(entry[1], path, line, name, 0.0)
        end = _number(entry[2], path, line, name, start)
        if end > duration + _WORD_TOLERANCE_S:
            raise ManifestError(
                path, line, name,
                f"ends at {end:g} s, after the utterance's {duration:g} s; times count from the "
                "start of the utterance, not of the file",
            )  # fmt: skip
        if out and start < out[-1][2]:
            raise ManifestError(path, line, name, "starts before the previous word ends; sort them")
        out.append((entry[0], start, end))
    return tuple(out)


def parse_row(
    data: Mapping[str, Any], path: str | os.PathLike[str] = "<row>", line: int = 0
) -> Row:
    """Check one manifest entry and build its `Row`.

    Parameters
    ----------
    data : mapping
        The decoded JSON object.
    path, line : str, int
        For messages; a relative ``audio`` is resolved against the folder of ``path``.

    Returns
    -------
    Row

    Raises
    ------
    ManifestError
        Naming file, line, field and remedy.

    Example
    -------
    >>> entry = {"id": "a", "audio": "a.wav", "duration": 1}
    >>> entry |= {"text": "Hi.", "language": "en", "speaker": "s"}
    >>> parse_row(entry, "/data/train.jsonl", 1).audio
    '/data/a.wav'
    >>> try:
    ...     parse_row({**entry, "speakr": "s"}, "/data/train.jsonl", 7)
    ... except ManifestError as error:
    ...     print(str(error).partition(";")[0])
    /data/train.jsonl:7: field 'speakr': unknown field (did you mean 'speaker'?)
    """
    path = str(path)
    if not isinstance(data, Mapping):
        raise ManifestError(path, line, "", f"expected a JSON object, got {type(data).__name__}")
    for name in data:
        if name not in _FIELDS:
            close = difflib.get_close_matches(name, _FIELDS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ManifestError(
                path, line, name, f"unknown field{hint}; fields of your own go under 'attributes'"
            )
    for name in REQUIRED:
        if name not in data:
            raise ManifestError(
                path, line, name, f"is missing; every row needs {', '.join(REQUIRED)}"
            )
    values: dict[str, Any] = dict(data)
    for name in ("id", "audio", "text", "language", "speaker"):
        if not isinstance(values[name], str):
            raise ManifestError(path, line, name, f"expected a string, got {values[name]!r}")
        if name != "text" and not values[name].strip():
            raise ManifestError(path, line, name, "must not be empty")
    values["duration"] = _number(values["duration"], path, line, "duration", 0.0, exclusive=True)
    values["offset"] = _number(values.get("offset", 0.0), path, line, "offset", 0.0)
    if values.get("speech_seconds") is not None:
        seconds = _number(values["speech_seconds"], path, line, "speech_seconds", 0.0)
        values["speech_seconds"] = seconds
    if values.get("words") is not None:
        values["words"] = _words(values["words"], values["duration"], path, line)
    for name in ("attributes", "translations"):
        values[name] = values.get(name) or {}
        if not isinstance(values[name], Mapping):
            raise ManifestError(path, line, name, f"expected an object, got {values[name]!r}")
        values[name] = dict(values[name])
    for language, text in values["translations"].items():
        if not isinstance(text, str):
            raise ManifestError(path, line, f"translations.{language}", "expected a string")
    for name in ("question", "answer", "context", "asr_text"):
        if values.get(name) is not None and not isinstance(values[name], str):
            raise ManifestError(path, line, name, f"expected a string, got {values[name]!r}")
    if not os.path.isabs(values["audio"]):
        folder = os.path.dirname(os.path.abspath(path))
        values["audio"] = os.path.normpath(os.path.join(folder, values["audio"]))
    return Row(**values)
