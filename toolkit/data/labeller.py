"""Attributes of speech in words and numbers, so that any manifest can be described.

The twelve attributes are those of DeSTA2's metadata (project page); which of them a row has depends
on its corpus. Where a corpus has no annotation, `AttributeLabeller` computes pitch, volume,
speaking speed, signal-to-noise ratio and C50 from the audio, as stage 3 of a recipe:

    annotate:
        - annotator: !new:toolkit.data.labeller.AttributeLabeller
          manifests: [!ref <data>/train.jsonl]

The paper's borders between "low" and "high" are not known; `BORDERS` are ours.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from toolkit.data.annotation.base import AnnotationError, Annotator
from toolkit.data.audio import SAMPLE_RATE
from toolkit.data.measures import (
    C50_RANGE_DB,
    C50_WEIGHTS,
    SNR_KNOTS,
    Measures,
    measure,
    merged_attributes,
)
from toolkit.data.rows import Row

#: Keys of ``Row.attributes``, in the order of the paper. ``snr_level`` and ``c50_value`` are
#: decibels, ``duration`` seconds, the others words.
ATTRIBUTES = (
    "gender",
    "age",
    "accent",
    "emotion",
    "pitch",
    "volume",
    "speaking_speed",
    "snr_level",
    "c50_value",
    "duration",
    "intent",
    "spoken_text",
)
#: Names of the classes of a quantity, and the borders between them. Pitch is that of the sound,
#: whoever speaks; noise and reverberation are the words for ``snr_level`` and ``c50_value``.
BORDERS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "pitch": (("low", "normal", "high"), (115.0, 190.0)),  # Hz
    "volume": (("quiet", "normal", "loud"), (-34.0, -24.0)),  # dB below full scale, active speech
    "speaking_speed": (("slow", "normal", "fast"), (4.0, 5.5)),  # syllables a second
    "noise_level": (("high", "moderate", "low"), (10.0, 25.0)),  # dB
    "reverberation": (("strong", "moderate", "weak"), (6.0, 15.0)),  # dB
}


def class_of(
    quantity: str,
    value: float,
    borders: Mapping[str, tuple[Sequence[str], Sequence[float]]] = BORDERS,
) -> str:
    """Name the class a measured quantity falls into.

    Parameters
    ----------
    quantity : str
        A key of ``borders``.
    value : float
    borders : mapping, optional

    Returns
    -------
    str

    Example
    -------
    >>> class_of("pitch", 210.0), class_of("noise_level", 5.0), class_of("reverberation", 30.0)
    ('high', 'high', 'weak')
    """
    names, edges = borders[quantity]
    return names[bisect.bisect_right(list(edges), value)]


def attributes_of(
    *,
    pitch_hz: float | None = None,
    level_db: float | None = None,
    syllables_per_second: float | None = None,
    snr_db: float | None = None,
    c50_db: float | None = None,
    borders: Mapping[str, tuple[Sequence[str], Sequence[float]]] = BORDERS,
) -> dict[str, Any]:
    """Describe quantities as manifest attributes; what is None is left out.

    Parameters
    ----------
    pitch_hz, level_db, syllables_per_second, snr_db, c50_db : float, optional
    borders : mapping, optional

    Returns
    -------
    dict
        Classes and decibels under the names of `ATTRIBUTES`; the words for noise and reverberation
        as ``noise_level`` and ``reverberation``; what was measured under its own name.

    Example
    -------
    >>> attributes_of(pitch_hz=101.44, snr_db=14.96)
    {'pitch': 'low', 'pitch_hz': 101.4, 'snr_level': 15.0, 'noise_level': 'moderate'}
    """
    out: dict[str, Any] = {}
    worded = (
        ("pitch", "pitch_hz", pitch_hz, 1),
        ("volume", "level_db", level_db, 1),
        ("speaking_speed", "syllables_per_second", syllables_per_second, 2),
    )
    for name, key, value, digits in worded:
        if value is not None:
            out[name] = class_of(name, value, borders)
            out[key] = round(float(value), digits)
    for name, word, value in (
        ("snr_level", "noise_level", snr_db),
        ("c50_value", "reverberation", c50_db),
    ):
        if value is not None:
            out[name] = round(float(value), 1)
            out[word] = class_of(word, value, borders)
    return out


class AttributeLabeller(Annotator):
    """Computes pitch, volume, speaking speed, SNR and C50 of each row, where it does not have them.

    Parameters
    ----------
    borders : mapping of str to (names, borders), optional
        Instead of those of `BORDERS`.
    only : sequence of str, optional
        Attributes to give, out of pitch, volume, speaking_speed, snr_level, c50_value; all by
        default.
    max_seconds : float
        Longest clip.
    batch_size : int
        Clips read at a time.

    Example
    -------
    >>> labeller = AttributeLabeller(only=["pitch"])
    >>> time = np.arange(16000) / 16000
    >>> voice = sum(np.sin(2 * np.pi * 100 * k * time) / k for k in range(1, 30)).astype(np.float32)
    >>> labeller.label(Row("a", "/a.wav", 1.0, "Hi.", "en", "s"), 0.1 * voice)
    {'pitch': 'low', 'pitch_hz': 100.0}
    """

    kind = "attributes"
    reads_text = True

    def __init__(
        self,
        borders: Mapping[str, tuple[Sequence[str], Sequence[float]]] | None = None,
        only: Sequence[str] | None = None,
        max_seconds: float = 60.0,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        computed = ("pitch", "volume", "speaking_speed", "snr_level", "c50_value")
        unknown = sorted(set(only or ()) - set(computed))
        if unknown:
            raise ValueError(f"labeller: cannot compute {unknown}; choose from {computed}")
        given = {name: (tuple(n), tuple(e)) for name, (n, e) in (borders or {}).items()}
        for name, (names, edges) in given.items():
            if name not in BORDERS:
                raise ValueError(f"labeller.borders: no quantity {name!r}; use {list(BORDERS)}")
            if len(names) != len(edges) + 1 or list(edges) != sorted(edges):
                raise ValueError(f"labeller.borders.{name}: n names need n - 1 rising borders")
        self.borders = BORDERS | given
        self.only = tuple(only or computed)
        self.max_seconds = max_seconds
        self.batch_size = batch_size

    def _build(self, device: torch.device, dtype: torch.dtype) -> None:
        """There are no weights."""

    def fingerprint(self) -> str:
        fitted = [C50_WEIGHTS, SNR_KNOTS, C50_RANGE_DB]
        content = json.dumps([2, self.borders, self.only, *fitted], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def annotate_batch(
        self, rows: Sequence[Row], waves: Sequence[np.ndarray]
    ) -> list[dict[str, Any] | AnnotationError]:
        return [self.label(row, wave) for row, wave in zip(rows, waves, strict=True)]

    def label(self, row: Row, wave: np.ndarray) -> dict[str, Any]:
        """Attributes of one clip.

        Parameters
        ----------
        row : Row
            For its text; its own attributes are not looked at.
        wave : numpy.ndarray (N,), float32
            16 kHz.

        Returns
        -------
        dict
            As of `attributes_of`.
        """
        found: Measures = measure(wave, row.text)
        quantities = {
            "pitch": {"pitch_hz": found.pitch_hz},
            "volume": {"level_db": found.level_db},
            "speaking_speed": {"syllables_per_second": found.syllables_per_second},
            "snr_level": {"snr_db": found.snr_db},
            "c50_value": {"c50_db": found.c50_db},
        }
        chosen = {k: v for name in self.only for k, v in quantities[name].items()}
        return attributes_of(**chosen, borders=self.borders)


def describe_row(row: Row, wave: np.ndarray, labeller: AttributeLabeller) -> dict[str, Any]:
    """All attributes of a row: its own first, computed ones where it has none, length and text.

    Parameters
    ----------
    row : Row
    wave : numpy.ndarray (N,), float32
        16 kHz.
    labeller : AttributeLabeller

    Returns
    -------
    dict
        ``duration`` and ``spoken_text`` are the row's.
    """
    own = {"duration": round(len(wave) / SAMPLE_RATE, 2), "spoken_text": row.text}
    return merged_attributes({**labeller.label(row, wave), **own}, row.attributes)
