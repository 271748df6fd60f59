"""What a speech encoder promises."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.component import Component


@dataclass
class EncoderOutput:
    """Frames of a batch of utterances, all tapped layers.

    Attributes
    ----------
    frames : Tensor (B, L, T, D), float
        Hidden states of the ``L`` tapped layers; zero beyond an utterance's length.
    lengths : Tensor (B,), int64
        Valid frames of each utterance, the same for all layers.
    """

    frames: Tensor
    lengths: Tensor


class Encoder(Component):
    """Waveforms to frames, at the utterance's true length.

    A 3 s clip costs 3 s: no padding to a fixed window reaches the layers. A row never depends on
    its batch mates. Encoders are frozen unless a phase lists them as trainable.

    Attributes
    ----------
    dim : int
        Width D of a frame.
    frame_rate : float
        Frames per second.
    num_layers : int
        Number L of tapped layers.
    max_seconds : float
        Longest clip the encoder accepts; longer audio is an error, never a silent cut.
    sample_rate : int
        Always 16000 Hz.
    """

    dim: int
    frame_rate: float
    num_layers: int
    max_seconds: float
    sample_rate: int = 16_000

    @abstractmethod
    def output_lengths(self, samples: Tensor) -> Tensor:
        """Frames for a number of samples, exact; at least one.

        Parameters
        ----------
        samples : Tensor (B,), int64
            Lengths in samples at 16 kHz.

        Returns
        -------
        Tensor (B,), int64
        """

    @abstractmethod
    def forward(self, waveforms: Tensor, lengths: Tensor) -> EncoderOutput:
        """Encode a right-padded batch.

        Parameters
        ----------
        waveforms : Tensor (B, N), float32
            16 kHz audio in [-1, 1]; what lies beyond ``lengths`` is ignored.
        lengths : Tensor (B,), int64
            Valid samples of each row.

        Returns
        -------
        EncoderOutput
            In the encoder's dtype.

        Raises
        ------
        ValueError
            For a clip longer than ``max_seconds``.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Short hash of everything that decides the frames: weights, layers, preprocessing.

        The feature cache is keyed by it.

        Raises
        ------
        toolkit.weights.WeightsNotFound
            If the weights are not on disk.
        """

    def check_seconds(self, lengths: Tensor) -> None:
        """Refuse clips longer than the encoder can read.

        Raises
        ------
        ValueError
            Naming the longest clip's seconds and the declared policies.
        """
        longest = int(lengths.max()) / self.sample_rate
        if longest > self.max_seconds:
            raise ValueError(
                f"audio of {longest:.1f} s is longer than the {self.max_seconds:g} s that "
                f"{type(self).__name__} reads; set `long_audio: chunk` or `long_audio: refuse` "
                "for the corpus"
            )


def length_mask(lengths: Tensor, size: int | None = None) -> Tensor:
    """Boolean mask of valid positions.

    Parameters
    ----------
    lengths : Tensor (B,), int64
    size : int, optional
        Number of columns; the longest length if not given.

    Returns
    -------
    Tensor (B, size), bool
        True where the position is valid.

    Example
    -------
    >>> length_mask(torch.tensor([1, 3]))
    tensor([[ True, False, False],
            [ True,  True,  True]])
    """
    if size is None:
        size = int(lengths.max())
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]
