"""Pitch, level, speaking rate, noise and reverberation out of audio alone.

Documented signal processing, no model: pitch by YIN (de Cheveigné and Kawahara 2002), noise by
quantiles of each frequency's power over time (Stahl, Fischer and Bippus 2000), reverberation by the
distribution of decays (the idea of Wen, Habets and Naylor 2008) and a linear map to C50 that was
fitted on generated speech. Their errors are measured in the tests; how good they are on a corpus
should be looked at before its labels are trusted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.data.audio import SAMPLE_RATE, resample
from toolkit.data.rows import Row

_PITCH_RATE = 8000
_PITCH_RANGE_HZ = (60.0, 420.0)
_PITCH_WINDOW, _PITCH_HOP = 320, 80
# YIN's dip: accept the first one below, and call a frame voiced when it is at least this deep.
_DIP, _DIP_MARGIN, _VOICED = 0.12, 0.08, 0.25
_WINDOW, _HOP = 512, 256
_NOISE_QUANTILE = 0.12
_BANDS_HZ = (200, 300, 450, 650, 900, 1200, 1600, 2200, 3000, 3900)
_SLOPE_FRAMES = 5
_SLOPE_QUANTILES = (0.03, 0.08, 0.15, 0.25, 0.4, 0.6, 0.85)
#: Fitted by ``recipes.spoken_attributes.calibrate`` on generated speech of the training voices:
#: weights of `decay_features`, and (estimate, truth) pairs that straighten the noise ratio. The
#: first and the last pair, (3.0, 0.0) and (60.0, 70.0), were added by hand to the fitted ones.
C50_WEIGHTS: tuple[float, ...] = (
    *(-18.3561, -13.5125, -10.4597, 2.2548, 11.5566, 3.5918, -0.3732, 3.0376, -7.4597),
    *(-0.9025, -0.7073, 0.0843, 2.2914, -0.1892),
)
SNR_KNOTS: tuple[tuple[float, float], ...] = (
    *((3.0, 0.0), (4.7, 3.1), (7.5, 7.5), (11.9, 12.7), (15.9, 17.4), (19.7, 22.4), (23.8, 27.2)),
    *((28.3, 32.9), (33.0, 37.4), (37.1, 42.5), (40.6, 47.4), (60.0, 70.0)),
)
#: Decays tell nothing beyond: 25 dB stands for 25 and more.
C50_RANGE_DB = (-5.0, 25.0)
#: Noise hides decays below this ratio.
_C50_FROM_SNR_DB = 8.0
_VOWELS = "aeiouyàâäáãåæèéêëìíîïòóôöõøùúûüýÿœаеёиоуыэюя"
_NUCLEUS = re.compile(f"[{_VOWELS}]+")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d")


#: Attribute as a word -> keys of ``Row.attributes`` that hold the number behind it.
NUMBERS: dict[str, tuple[str, ...]] = {
    "pitch": ("pitch_hz",),
    "volume": ("level_db",),
    "speaking_speed": ("syllables_per_second",),
    "noise_level": ("snr_level", "snr_db"),
    "reverberation": ("c50_value", "c50_db"),
}
#: Values that say nothing.
_UNKNOWN = frozenset({"", "unknown", "none", "n/a", "na", "null", "unk", "?"})


@dataclass(frozen=True)
class Measures:
    """What `measure` finds.

    Attributes
    ----------
    pitch_hz : float or None
        Median fundamental frequency of the voiced frames; None where too little is voiced.
    level_db : float
        Level of the active speech, noise taken off, below full scale (0 dB is a square wave's).
    snr_db : float
        Active speech over noise, between 0 and 70.
    c50_db : float or None
        Clarity, at most 25 dB; None where noise hides the decays or there are too few to tell.
    speech_seconds : float
        From the first to the last active frame.
    syllables_per_second : float or None
        Syllables of the text over ``speech_seconds``; None without a text.
    """

    pitch_hz: float | None
    level_db: float
    snr_db: float
    c50_db: float | None
    speech_seconds: float
    syllables_per_second: float | None = None


def syllables(text: str) -> int:
    """Count syllables by groups of vowel letters, one at least a word; digits count one each.

    A rate's numerator, no phonology: vowels side by side count as one. For languages in Latin and
    Cyrillic letters; English words that end in a silent ``e`` lose it.

    Example
    -------
    >>> [syllables(t) for t in ("Please leave a message.", "Buenos días", "До свидания", "1 2")]
    [5, 3, 4, 2]
    """
    count = 0
    for word in _WORD.findall(text.lower()):
        nuclei = len(_NUCLEUS.findall(word))
        if nuclei > 1 and re.search(rf"[^{_VOWELS}]e$", word) and not word.endswith("le"):
            nuclei -= 1
        count += max(nuclei, 1)
    return count


def pitch_track(wave: np.ndarray) -> np.ndarray:
    """Fundamental frequency of the voiced frames, every 10 ms.

    Parameters
    ----------
    wave : numpy.ndarray (N,), float32
        16 kHz.

    Returns
    -------
    numpy.ndarray (F,), float64
        Hertz, between 60 and 420; only frames that are voiced and not much quieter than the rest.

    Example
    -------
    >>> time = np.arange(16000) / 16000
    >>> voice = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 20))
    >>> round(float(np.median(pitch_track(voice.astype(np.float32)))), 1)
    130.0
    """
    low = resample(wave, SAMPLE_RATE, _PITCH_RATE).astype(np.float64)
    longest = round(_PITCH_RATE / _PITCH_RANGE_HZ[0])
    shortest = round(_PITCH_RATE / _PITCH_RANGE_HZ[1])
    reach = _PITCH_WINDOW + longest + 1
    if len(low) < reach:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(low, reach)[::_PITCH_HOP]
    size = 1 << (reach + _PITCH_WINDOW).bit_length()
    head = np.fft.rfft(frames[:, :_PITCH_WINDOW], size)
    correlation = np.fft.irfft(np.fft.rfft(frames, size) * head.conj(), size)[:, : longest + 2]
    energy = np.cumsum(np.pad(frames**2, ((0, 0), (1, 0))), axis=1)
    lagged = energy[:, _PITCH_WINDOW : _PITCH_WINDOW + longest + 2] - energy[:, : longest + 2]
    difference = np.maximum(lagged[:, :1] + lagged - 2 * correlation, 0.0)
    running = np.cumsum(difference[:, 1:], axis=1) / np.arange(1, longest + 2)
    normal = difference[:, 1:] / np.maximum(running, 1e-12)  # lag 1 in column 0
    inside = normal[:, shortest - 1 : longest]
    # Noise lifts the dips of a period and of its multiples alike: take the first that is about as
    # deep as the deepest, not a multiple that chance made deeper.
    deep = inside < np.maximum(_DIP, inside.min(1, keepdims=True) + _DIP_MARGIN)
    first = np.where(deep.any(1), deep.argmax(1), inside.argmin(1))
    # From where it falls below the threshold, walk down into the dip.
    rows = np.arange(len(inside))
    for _ in range(longest):
        further = np.minimum(first + 1, inside.shape[1] - 1)
        better = inside[rows, further] < inside[rows, first]
        if not better.any():
            break
        first = np.where(better, further, first)
    lag = first + shortest - 1
    left, here, right = (normal[rows, np.clip(lag + d, 0, longest)] for d in (-1, 0, 1))
    bend = left - 2 * here + right
    shift = np.where(bend > 1e-9, 0.5 * (left - right) / np.maximum(bend, 1e-9), 0.0)
    pitch = _PITCH_RATE / (lag + 1 + np.clip(shift, -0.5, 0.5))
    power = lagged[:, 0]
    loud = power > np.percentile(power, 95) * 10**-2.5
    return pitch[(here < _VOICED) & loud]


def power_frames(wave: np.ndarray) -> np.ndarray:
    """Power spectra (F, 257) of Hann windows of 32 ms every 16 ms, scaled to mean square."""
    if len(wave) < _WINDOW:
        wave = np.pad(wave, (0, _WINDOW - len(wave)))
    window = np.hanning(_WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), _WINDOW)[::_HOP]
    spectrum = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    spectrum[:, 1:-1] *= 2
    return spectrum / (_WINDOW * (window**2).sum())


def noise_spectrum(power: np.ndarray) -> np.ndarray:
    """Noise power of each frequency: what a noise of that power stays below in a quiet share of it.

    Parameters
    ----------
    power : numpy.ndarray (F, K)
        Power spectra of frames.

    Returns
    -------
    numpy.ndarray (K,)

    Example
    -------
    >>> power = np.random.default_rng(0).exponential(2.0, (40000, 3))
    >>> bool(abs(noise_spectrum(power) - 2.0).max() < 0.1)
    True
    """
    # A periodogram of noise is exponentially distributed about its mean.
    return np.quantile(power, _NOISE_QUANTILE, axis=0) / -np.log(1 - _NOISE_QUANTILE)


def decay_features(power: np.ndarray, noise: np.ndarray) -> np.ndarray | None:
    """How fast the bands of a clip fall and rise: reverberation slows the falls only.

    Parameters
    ----------
    power : numpy.ndarray (F, 257)
    noise : numpy.ndarray (257,)

    Returns
    -------
    numpy.ndarray (D,) or None
        1, quantiles of the slopes of band levels above the noise (dB per 16 ms), their spread, and
        the squares of the falls among them; None for fewer than 60 slopes.
    """
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)
    slopes = []
    place = np.arange(_SLOPE_FRAMES) - (_SLOPE_FRAMES - 1) / 2
    for low, high in zip(_BANDS_HZ, _BANDS_HZ[1:], strict=False):
        inside = (frequencies >= low) & (frequencies < high)
        level = power[:, inside].sum(1)
        floor = noise[inside].sum()
        if len(level) < _SLOPE_FRAMES:
            return None
        decibel = 10 * np.log10(np.maximum(level, 1e-14))
        runs = np.lib.stride_tricks.sliding_window_view(decibel, _SLOPE_FRAMES)
        heard = runs.min(1) > 10 * np.log10(max(floor, 1e-14)) + 6
        slopes.append(runs[heard] @ place / (place**2).sum())
    found = np.concatenate(slopes)
    if len(found) < 60:
        return None
    quantiles = np.quantile(found, _SLOPE_QUANTILES)
    return np.r_[1.0, quantiles, found.std(), quantiles[:5] ** 2]


def measure(wave: np.ndarray, text: str | None = None) -> Measures:
    """Measure one clip of speech.

    Parameters
    ----------
    wave : numpy.ndarray (N,), float32
        16 kHz, of one speaker.
    text : str, optional
        What is said, for the speaking rate.

    Returns
    -------
    Measures

    Example
    -------
    >>> time = np.arange(16000) / 16000
    >>> voice = sum(np.sin(2 * np.pi * 200 * k * time) / k for k in range(1, 9)) * np.hanning(16000)
    >>> found = measure(np.pad(0.1 * voice, 4000).astype(np.float32), "Thank you very much.")
    >>> round(found.pitch_hz), found.snr_db > 30, 4 < found.syllables_per_second < 8
    (200, True, True)
    """
    power = power_frames(wave)
    noise = noise_spectrum(power)
    floor = max(noise.sum(), 1e-12)
    total = power.sum(1)
    speech = np.maximum(total - floor, 0.0)
    loud = max(np.percentile(speech, 95), 1e-12)
    active = speech >= max(loud * 10**-2.5, floor)
    active |= speech == speech.max()
    level = max(float(speech[active].mean()), 1e-12)
    places = np.flatnonzero(active)
    seconds = float(places[-1] - places[0] + 1) * _HOP / SAMPLE_RATE
    track = pitch_track(wave)
    snr = float(np.interp(10 * np.log10(level / floor), *zip(*SNR_KNOTS, strict=True)))
    features = decay_features(power, noise) if snr >= _C50_FROM_SNR_DB else None
    c50 = None
    if features is not None:
        c50 = float(np.clip(features @ np.array(C50_WEIGHTS), *C50_RANGE_DB))
    return Measures(
        pitch_hz=float(np.median(track)) if len(track) >= 10 else None,
        level_db=10 * float(np.log10(level)),
        snr_db=snr,
        c50_db=c50,
        speech_seconds=seconds,
        syllables_per_second=syllables(text) / seconds if text and syllables(text) else None,
    )


def known_value(value: Any) -> str | float | None:
    """What an attribute's value says.

    Parameters
    ----------
    value
        Of ``Row.attributes``.

    Returns
    -------
    str, float or None
        A word, a number, or None for what says nothing.

    Example
    -------
    >>> known_value("low "), known_value(3), known_value("unknown")
    ('low', 3.0, None)
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) else None
    text = " ".join(str(value).split()) if value is not None else ""
    return None if text.lower() in _UNKNOWN else text


def word_of(row: Row, attribute: str) -> str | None:
    """A row's value of an attribute, if it is a word that a description could give.

    Parameters
    ----------
    row : Row
    attribute : str

    Returns
    -------
    str or None
        None for numbers, and for what says nothing.
    """
    value = known_value(row.attributes.get(attribute))
    return value if isinstance(value, str) else None


def merged_attributes(computed: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A row's own attributes, and computed ones where it has none.

    An attribute's word and numbers go together: where the corpus has one of them, none of the
    computed ones is taken, for the two may be of different opinions. Values of the corpus that say
    nothing (`known_value`) give way.

    Parameters
    ----------
    computed, own : mapping of str to Any

    Returns
    -------
    dict

    Example
    -------
    >>> computed = {"pitch": "high", "pitch_hz": 205.0, "volume": "loud"}
    >>> merged_attributes(computed, {"pitch": "low", "volume": "unknown"})
    {'volume': 'loud', 'pitch': 'low'}
    >>> merged_attributes(computed, {"pitch_hz": 120.0})
    {'volume': 'loud', 'pitch_hz': 120.0}
    """
    settled = {key for key, value in own.items() if known_value(value) is not None}
    for word, numbers in NUMBERS.items():
        if not settled.isdisjoint((word, *numbers)):
            settled |= {word, *numbers}
    taken = {key: value for key, value in computed.items() if key not in settled}
    return {**taken, **{key: value for key, value in own.items() if key not in taken}}
