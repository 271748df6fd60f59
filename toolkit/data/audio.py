"""Audio files in, 16 kHz mono waveforms out, with every way a file can be bad named."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SAMPLE_RATE = 16_000
REASONS = ("missing", "empty", "corrupt", "nonfinite", "too_short", "too_long")


class AudioError(ValueError):
    """A file cannot be used; ``reason`` is what counters group by.

    Attributes
    ----------
    path : str
    reason : str
        ``missing``, ``empty`` (no samples), ``corrupt`` (unreadable or truncated), ``nonfinite``
        (NaN or infinite samples), ``too_short`` (less audio than asked for) or ``too_long``.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise ValueError(f"reason {reason!r} is not one of {', '.join(REASONS)}")
        self.path, self.reason, self.detail = str(path), reason, detail
        super().__init__(f"{path}: {reason}: {detail}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Errors cross process borders in loader workers; the default pickles the message alone.
        return type(self), (self.path, self.reason, self.detail)


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Attributes
    ----------
    sample_rate : int
        Samples per second.
    channels : int
    frames : int
        Samples per channel.
    """

    sample_rate: int
    channels: int
    frames: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.sample_rate


def audio_info(path: str | os.PathLike[str]) -> AudioInfo:
    """Read a file's header.

    Parameters
    ----------
    path : str or path
        Any format libsndfile reads: WAV, FLAC, Ogg, MP3, ...

    Returns
    -------
    AudioInfo

    Raises
    ------
    AudioError
        ``missing``, ``empty`` or ``corrupt``.

    Example
    -------
    >>> import tempfile, soundfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(folder + "/a.wav", [[0.0, 0.1]] * 800, 8000)
    ...     info = audio_info(folder + "/a.wav")
    >>> info.sample_rate, info.channels, info.duration
    (8000, 2, 0.1)
    """
    import soundfile

    _check_file(path)
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise AudioError(path, "corrupt", f"not a readable audio file ({error})") from error
    if info.frames <= 0:
        raise AudioError(path, "empty", "the file holds no samples")
    return AudioInfo(info.samplerate, info.channels, info.frames)


def read_audio(
    path: str | os.PathLike[str],
    offset: float = 0.0,
    duration: float | None = None,
    sample_rate: int = SAMPLE_RATE,
    min_seconds: float = 0.0,
    max_seconds: float | None = None,
) -> np.ndarray:
    """Read a stretch of any audio file as one mono waveform.

    Channels are averaged; other sampling rates are converted by band-limited sinc interpolation
    (``torchaudio.functional.resample``). Samples are clipped to [-1, 1], which touches only float
    files above full scale and the resampler's overshoot.

    Parameters
    ----------
    path : str or path
    offset : float
        Start, in seconds.
    duration : float, optional
        Seconds to read; to the end by default.
    sample_rate : int
        Of the result, in hertz.
    min_seconds, max_seconds : float, optional
        Refuse audio outside these bounds; nothing is ever cut silently.

    Returns
    -------
    numpy.ndarray (N,), float32
        In [-1, 1]; ``N = ceil(seconds * sample_rate)``.

    Raises
    ------
    AudioError
        With one of `REASONS`.

    Example
    -------
    >>> import tempfile, soundfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(folder + "/a.wav", [0.25] * 8000, 8000)
    ...     wave = read_audio(folder + "/a.wav", offset=0.5)
    >>> wave.shape, wave.dtype, bool(abs(wave[4000] - 0.25) < 1e-3)
    ((8000,), dtype('float32'), True)
    """
    import numpy as np
    import soundfile

    info = audio_info(path)
    start = round(offset * info.sample_rate)
    wanted = info.frames - start if duration is None else round(duration * info.sample_rate)
    # A manifest's rounding to milliseconds may reach past the last sample.
    slack = int(2e-3 * info.sample_rate) + 1
    if offset < 0 or wanted <= 0 or start + wanted > info.frames + slack:
        raise AudioError(
            path, "too_short",
            f"{'the rest' if duration is None else f'{duration:g} s'} from {offset:g} s was asked "
            f"for, the file holds {info.duration:.3f} s",
        )  # fmt: skip
    wanted = min(wanted, info.frames - start)
    seconds = wanted / info.sample_rate
    if seconds < min_seconds:
        raise AudioError(path, "too_short", f"{seconds:.3f} s is less than {min_seconds:g} s")
    if max_seconds is not None and seconds > max_seconds:
        raise AudioError(
            path, "too_long", f"{seconds:.3f} s is more than {max_seconds:g} s; chunk it"
        )
    try:
        data, _ = soundfile.read(str(path), wanted, start, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(path, "corrupt", f"decoding failed ({error})") from error
    if len(data) < wanted:
        raise AudioError(
            path, "corrupt", f"truncated: {len(data)} of {wanted} promised samples are there"
        )
    if not np.isfinite(data).all():
        raise AudioError(path, "nonfinite", "NaN or infinite samples; re-encode the file")
    return np.clip(resample(data.mean(axis=1), info.sample_rate, sample_rate), -1.0, 1.0)


def resample(wave: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Change the sampling rate of a waveform.

    Parameters
    ----------
    wave : numpy.ndarray (N,), float32
    source_rate, target_rate : int
        Hertz.

    Returns
    -------
    numpy.ndarray (ceil(N * target_rate / source_rate),), float32

    Example
    -------
    >>> import numpy as np
    >>> resample(np.ones(240, np.float32), 24000, 16000).shape
    (160,)
    """
    import numpy as np

    wave = np.ascontiguousarray(wave, dtype=np.float32)
    if source_rate == target_rate:
        return wave
    import torch
    from torchaudio.functional import resample as band_limited

    return band_limited(torch.from_numpy(wave), source_rate, target_rate).numpy()


def write_audio(
    path: str | os.PathLike[str], wave: np.ndarray, sample_rate: int = SAMPLE_RATE
) -> None:
    """Write a mono 16-bit file atomically, in the format its suffix names.

    Parameters
    ----------
    path : str or path
        ``.flac`` or ``.wav``; its folder is created.
    wave : numpy.ndarray (N,), float32
        In [-1, 1].
    sample_rate : int
        Hertz.

    Example
    -------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_audio(folder + "/a.flac", np.full(1600, 0.5, np.float32))
    ...     read_audio(folder + "/a.flac")[:2].tolist()
    [0.5, 0.5]
    """
    import io

    import soundfile

    from toolkit.files import atomic_write

    buffer = io.BytesIO()
    suffix = os.path.splitext(str(path))[1].lstrip(".").upper()
    soundfile.write(buffer, wave, sample_rate, format=suffix, subtype="PCM_16")
    atomic_write(path, buffer.getvalue())


def _check_file(path: str | os.PathLike[str]) -> None:
    """Find what libsndfile would forgive: empty files and RIFF files cut short."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as stream:
            head = stream.read(12)
    except OSError as error:
        raise AudioError(path, "missing", f"{error.strerror}; re-run prepare") from error
    if size == 0:
        raise AudioError(path, "empty", "the file has zero bytes")
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        promised = int.from_bytes(head[4:8], "little")
        # Streamed files carry 0 or all ones here because their writer could not seek back.
        if promised not in (0, 0xFFFFFFFF) and promised + 8 > size + 1:
            raise AudioError(
                path, "corrupt", f"truncated: {size} of {promised + 8} promised bytes are there"
            )
