"""Averages of neighbouring frames, at the tap: caches and projectors see the shorter sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.encoders.base import Encoder, EncoderOutput
from toolkit.encoders.layers import short_hash


class FrameMean(Encoder):
    """Means of neighbouring frames of another encoder.

    SpeechMapper (arXiv:2601.20417) reads the mean of every two frames of its encoder. The last
    mean of a clip is over the frames it has.

    Parameters
    ----------
    encoder : Encoder
    frames : int
        Frames of a mean.

    Example
    -------
    >>> from toolkit.encoders import WhisperEncoder
    >>> encoder = FrameMean(WhisperEncoder("hub:openai/whisper-small"), frames=2)
    >>> encoder.dim, encoder.frame_rate, encoder.output_lengths(torch.tensor([16000, 960])).tolist()
    (768, 25.0, [25, 2])
    """

    def __init__(self, encoder: Encoder, frames: int = 2) -> None:
        super().__init__()
        if frames < 1:
            raise ValueError(f"FrameMean frames must be at least 1, got {frames}")
        self.encoder = encoder
        self.frames = frames

    @property
    def source(self) -> str:
        """Where the encoder's weights come from."""
        return self.encoder.source

    @property
    def dim(self) -> int:
        return self.encoder.dim

    @property
    def frame_rate(self) -> float:
        return self.encoder.frame_rate / self.frames

    @property
    def num_layers(self) -> int:
        return self.encoder.num_layers

    @property
    def taps(self) -> list[int]:
        """Tapped layers of the encoder."""
        return self.encoder.taps

    @property
    def max_seconds(self) -> float:
        return self.encoder.max_seconds

    def output_lengths(self, samples: Tensor) -> Tensor:
        return -(-self.encoder.output_lengths(samples) // self.frames)

    def fingerprint(self) -> str:
        return short_hash(
            {"class": "FrameMean", "encoder": self.encoder.fingerprint(), "frames": self.frames}
        )

    def _build(self, device: torch.device, dtype: torch.dtype) -> None:
        self.encoder.materialise(device, dtype)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> EncoderOutput:
        encoded = self.encoder(waveforms, lengths)
        frames, lengths = encoded.frames, encoded.lengths
        size = self.frames
        padded = torch.nn.functional.pad(frames, (0, 0, 0, -frames.shape[2] % size))
        # Frames beyond a length are zero: sums are of valid frames alone.
        sums = padded.unflatten(2, (-1, size)).float().sum(3)
        starts = torch.arange(sums.shape[2], device=lengths.device) * size
        counts = (lengths[:, None] - starts).clamp(1, size)
        means = sums / counts[:, None, :, None]
        return EncoderOutput(means.to(frames.dtype), -(-lengths // size))
