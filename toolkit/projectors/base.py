"""What a projector promises."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from toolkit.component import Component
from toolkit.data.transcript import TranscriptUnits
from toolkit.encoders.base import length_mask


@dataclass
class ProjectorOutput:
    """Vectors in the LLM's embedding space.

    Attributes
    ----------
    vectors : Tensor (B, S, D_llm), float
        Zero beyond an utterance's length.
    lengths : Tensor (B,), int64
        Valid vectors of each utterance.
    times : Tensor (B, S, 2), float32, or None
        Start and end in seconds of the audio each vector stands for, non-decreasing; None when
        vectors have no place in time (a fixed bank of queries). Interleaving by time needs it.
    aux : dict of str to Tensor
        Named extras a loss may ask for, e.g. ``ctc_log_probs``.
    """

    vectors: Tensor
    lengths: Tensor
    times: Tensor | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)


class LayerMix(nn.Module):
    """Weighted sum of encoder layers with softmax weights that start uniform.

    Parameters
    ----------
    num_layers : int
        Number L of tapped layers; one layer has no parameters.

    Example
    -------
    >>> mix = LayerMix(2)
    >>> mix(torch.tensor([[[[1.0]], [[3.0]]]]))
    tensor([[[2.]]], grad_fn=<SumBackward1>)
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_layers)) if num_layers > 1 else None

    def forward(self, frames: Tensor) -> Tensor:
        """Mix.

        Parameters
        ----------
        frames : Tensor (B, L, T, D)

        Returns
        -------
        Tensor (B, T, D)
        """
        if self.weights is None:
            return frames[:, 0]
        return (self.weights.softmax(0)[None, :, None, None].to(frames.dtype) * frames).sum(1)


class Projector(Component):
    """Encoder frames to vectors in the LLM's embedding space.

    A row never depends on its batch mates. Parameters are created by ``materialise``.

    Parameters
    ----------
    input_dim : int
        Width of a frame, ``!ref <encoder.dim>``.
    output_dim : int
        Width of an LLM embedding, ``!ref <llm.dim>``.
    input_layers : int
        Number of tapped encoder layers; more than one is mixed by `LayerMix`.
    frame_rate : float
        Frames per second of the encoder, for ``times``.
    """

    #: Whether ``output_lengths`` is a formula; False when lengths depend on the content (CTC).
    exact_lengths: bool = True
    #: Whether ``times`` is given; interleavers that cut by time refuse a projector without.
    has_times: bool = True
    #: Whether `fit_frames` is to be called before training.
    fits_frames: bool = False
    #: Whether `finish` looks at all vectors of a clip and drops those behind the words.
    trims_pads: bool = False

    def __init__(
        self, input_dim: int, output_dim: int, input_layers: int = 1, frame_rate: float = 50.0
    ) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.input_layers = input_layers
        self.frame_rate = frame_rate

    def checked(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Check the frames, and zero what lies beyond the lengths.

        Parameters
        ----------
        frames : Tensor (B, L, T, D), float
        lengths : Tensor (B,), int64

        Returns
        -------
        Tensor (B, L, T, D)
            In the dtype of the parameters.

        Raises
        ------
        ValueError
            When the frames have another number of layers or another width than declared.
        """
        if frames.shape[1] != self.input_layers or frames.shape[3] != self.input_dim:
            raise ValueError(
                f"{type(self).__name__} expects {self.input_layers} layer(s) of width "
                f"{self.input_dim}, the encoder gives {frames.shape[1]} of {frames.shape[3]}: set "
                "input_layers and input_dim to those of the encoder"
            )
        valid = length_mask(lengths, frames.shape[2])[:, None, :, None]
        return frames.to(next(self.parameters()).dtype).masked_fill(~valid, 0.0)

    def mixed(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frames as `checked` gives them, their layers mixed by ``self.mix``.

        Parameters
        ----------
        frames : Tensor (B, L, T, D), float
        lengths : Tensor (B,), int64

        Returns
        -------
        Tensor (B, T, D)
            In the dtype of the parameters.
        """
        return self.mix(self.checked(frames, lengths))

    def layer_weights(self) -> Tensor | None:
        """How much each tapped encoder layer counts, learnt; for tables and pictures.

        Returns
        -------
        Tensor (N, L), float32, or None
            On the CPU. Rows sum to 1: one for the whole clip (`LayerMix`), or one per query
            position where each has weights of its own. None for a projector that mixes no layers.
        """
        mix = getattr(self, "mix", None)
        if not isinstance(mix, LayerMix) or mix.weights is None:
            return None
        return mix.weights.detach().float().softmax(0)[None].cpu()

    @abstractmethod
    def forward(self, frames: Tensor, lengths: Tensor) -> ProjectorOutput:
        """Project.

        Parameters
        ----------
        frames : Tensor (B, L, T, D), float
            Encoder frames, what lies beyond ``lengths`` is ignored.
        lengths : Tensor (B,), int64
            Valid frames.

        Returns
        -------
        ProjectorOutput
        """

    def aux(self, frames: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """The named extras alone, for phases that need no vectors.

        Parameters
        ----------
        frames : Tensor (B, L, T, D), float
        lengths : Tensor (B,), int64

        Returns
        -------
        dict of str to Tensor
            ``ProjectorOutput.aux``; cheaper than `forward` where a projector overrides it.
        """
        return self(frames, lengths).aux

    def vectors(self, frames: Tensor, lengths: Tensor) -> ProjectorOutput:
        """The vectors alone, where nothing asks for the named extras.

        Parameters
        ----------
        frames : Tensor (B, L, T, D), float
        lengths : Tensor (B,), int64

        Returns
        -------
        ProjectorOutput
            As of `forward`; cheaper, and with an empty ``aux``, where a projector overrides it.
        """
        return self(frames, lengths)

    def heard(self, output: ProjectorOutput, table: Tensor) -> list[list[int]] | None:
        """The LLM's tokens that a projector recognised, where it recognises any.

        Parameters
        ----------
        output : ProjectorOutput
            Of `forward`.
        table : Tensor (V, D_llm)
            The LLM's input embeddings.

        Returns
        -------
        list of list of int or None
            Token ids per row; None where vectors are no tokens.
        """
        return None

    def fit_frames(self, frames: Iterable[Tensor]) -> None:
        """Learn from encoder frames of the training data before the first phase.

        Called where ``fits_frames`` says so, with the same frames on every rank, unless weights are
        loaded. What is learnt belongs into buffers, so that checkpoints hold it.

        Parameters
        ----------
        frames : iterable of Tensor (L, T, D), float
            Of one clip each.
        """
        return

    def transcript_units(self) -> TranscriptUnits:
        """How transcripts become the tokens this projector recognises; the LLM's own by default."""
        return TranscriptUnits()

    def finish(self, output: ProjectorOutput, table: Tensor) -> ProjectorOutput:
        """The last word on the vectors before the LLM answers to them; not called in training.

        The default changes nothing.

        Parameters
        ----------
        output : ProjectorOutput
        table : Tensor (V, D_llm)
            The LLM's input embeddings.

        Returns
        -------
        ProjectorOutput
        """
        return output

    def keeping_pads(self) -> Projector:
        """A copy whose `finish` drops nothing.

        Returns
        -------
        Projector
            With the same weights.

        Raises
        ------
        ValueError
            For a projector that drops nothing anyway.
        """
        if not self.trims_pads:
            raise ValueError(
                f"decode.inputs names `pads_kept`, but {type(self).__name__} trims no pads: set "
                "`projector.pads: trim`, or take it out of decode.inputs"
            )
        raise NotImplementedError(f"{type(self).__name__} trims pads and has no `keeping_pads`")

    @abstractmethod
    def max_output_length(self, lengths: Tensor) -> Tensor:
        """Upper bound of the vectors for a number of frames, for batching and memory.

        Parameters
        ----------
        lengths : Tensor (B,), int64

        Returns
        -------
        Tensor (B,), int64
        """

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Exact number of vectors for a number of frames, where a formula exists.

        Raises
        ------
        TypeError
            When lengths depend on the content (``exact_lengths`` is False).
        """
        if not self.exact_lengths:
            raise TypeError(
                f"{type(self).__name__} makes as many vectors as the speech needs; "
                "only max_output_length is known from the number of frames"
            )
        return self.max_output_length(lengths)
