"""What encoders of published checkpoints have in common: their layers, and how these are tapped."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.encoders.base import Encoder, EncoderOutput, length_mask
from toolkit.encoders.layers import LayerSpec, short_hash, tapped_layers
from toolkit.weights import fingerprint


class CheckpointEncoder(Encoder):
    """An encoder with a checkpoint's own layers, of which some are tapped.

    Parameters
    ----------
    source : str
        What `toolkit.weights.resolve` understands: a model id, a folder, a catalogue name.
    layers : int, str or list of int
        Tapped layers: ``-1`` is the stack's output, ``k`` the output of layer ``k``; see
        `toolkit.encoders.layers.tapped_layers`.
    max_seconds : float
        Longest clip accepted.
    """

    #: Raised when the frames of an unchanged checkpoint change, so that caches are not reused.
    frames_version = 1

    def __init__(self, source: str, layers: LayerSpec, max_seconds: float) -> None:
        super().__init__()
        self.source = source
        self.layers = layers if isinstance(layers, (int, str)) else list(layers)
        self.max_seconds = float(max_seconds)

    @property
    @abstractmethod
    def config(self) -> Any:
        """The checkpoint's transformers config; reads the config file only."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of the checkpoint's layers."""

    @cached_property
    def taps(self) -> list[int]:
        """Tapped layers, ``-1`` for the stack's output."""
        return tapped_layers(self.layers, self.depth)

    @property
    def num_layers(self) -> int:
        return len(self.taps)

    def preprocessing(self) -> dict[str, Any]:
        """Settings beside weights and layers that decide the frames, as JSON values; none."""
        return {}

    def fingerprint(self) -> str:
        """Short hash of weights, tapped layers and preprocessing; see `Encoder.fingerprint`.

        Raises
        ------
        toolkit.weights.WeightsNotFound
            If the weights are not on disk.
        """
        return short_hash(
            {
                "class": type(self).__name__,
                "version": self.frames_version,
                "weights": fingerprint(self.source),
                "layers": self.taps,
                **self.preprocessing(),
            }
        )

    def drop_untapped(self, blocks: nn.ModuleList) -> bool:
        """Remove the layers above the last tapped one: they would only cost time and memory.

        Parameters
        ----------
        blocks : torch.nn.ModuleList
            The checkpoint's layers.

        Returns
        -------
        bool
            Whether the stack's own output is of no use, so that its final norm may go too.
        """
        if -1 in self.taps:
            return False
        del blocks[max(self.taps) + 1 :]
        return True

    def output_of(self, tapped: dict[int, Tensor], counts: Tensor) -> EncoderOutput:
        """The frames of the tapped layers, zero beyond the lengths.

        Parameters
        ----------
        tapped : dict of int to Tensor (B, T, D)
            Hidden states by tap, at least those of `taps`.
        counts : Tensor (B,), int64
            Valid frames.

        Returns
        -------
        EncoderOutput
        """
        stacked = torch.stack([tapped[tap] for tap in self.taps], 1)
        valid = length_mask(counts, stacked.shape[2])
        return EncoderOutput(stacked.masked_fill(~valid[:, None, :, None], 0.0), counts)


def run_tapped(
    blocks: nn.ModuleList, taps: Sequence[int], run: Callable[[], Tensor]
) -> dict[int, Tensor]:
    """Run a stack of layers and keep what some of them give.

    Parameters
    ----------
    blocks : torch.nn.ModuleList
        Layers that return hidden states, or a tuple that begins with them.
    taps : sequence of int
        Layers to keep; ``-1`` is no layer.
    run : callable
        Runs the stack once, gives its output.

    Returns
    -------
    dict of int to Tensor
        By tap, the stack's output as ``-1``.

    Example
    -------
    >>> blocks = nn.ModuleList([nn.Identity(), nn.Flatten(0)])
    >>> tapped = run_tapped(blocks, [0, -1], lambda: blocks[1](blocks[0](torch.zeros(1, 2, 3))))
    >>> {tap: tuple(states.shape) for tap, states in tapped.items()}
    {0: (1, 2, 3), -1: (6,)}
    """
    tapped: dict[int, Tensor] = {}

    def keep(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tapped[index] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [blocks[i].register_forward_hook(keep(i)) for i in taps if i >= 0]
    try:
        tapped[-1] = run()
    finally:
        for handle in handles:
            handle.remove()
    return tapped
