"""SpeechMapper: convolution and Transformer blocks that widen towards the LLM's embeddings."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.data.transcript import TranscriptUnits
from toolkit.encoders.base import length_mask
from toolkit.llms.embedding_space import nearest_tokens, pad_token_id
from toolkit.projectors.base import LayerMix, Projector, ProjectorOutput
from toolkit.projectors.ctc_embedding import CTCEmbedding
from toolkit.projectors.ctc_network import Block, sinusoids
from toolkit.projectors.strided import StridedConv, strided_lengths, strided_times, zero_beyond

if TYPE_CHECKING:
    from toolkit.data.manifest import Row

PADS = ("keep", "trim")


class MapperBlock(nn.Module):
    """Strided convolution, Transformer layers at the input's width, a wider linear layer.

    Parameters
    ----------
    dim, width : int
        Width of the input and of the output.
    kernel_size, stride : int
        Of the convolution.
    num_layers, num_heads, ffn_dim : int
        Of the Transformer layers.
    dropout : float
    norm_first : bool
    positions : bool
        Add sinusoidal positions behind the convolution.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        kernel_size: int,
        stride: int,
        num_layers: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        norm_first: bool,
        positions: bool,
    ) -> None:
        super().__init__()
        self.positions = positions
        self.conv = StridedConv(dim, dim, kernel_size, stride)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Block(dim, num_heads, ffn_dim, dropout, norm_first=norm_first)
            for _ in range(num_layers)
        )
        # A residual stream that was never normalised grows with depth.
        self.norm = nn.LayerNorm(dim) if norm_first else nn.Identity()
        self.widen = nn.Linear(dim, width)

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Transform: values (B, T, dim), lengths (B,) -> (B, ceil(T / stride), width), lengths."""
        values, lengths = self.conv(values, lengths)
        values = F.gelu(values)
        if self.positions:
            places = sinusoids(values.shape[1], values.shape[2], values.device)
            values = values + places.to(values.dtype)
        values = self.dropout(values)
        valid = length_mask(lengths, values.shape[1])
        for layer in self.layers:
            values = layer(values, lengths, valid)
        return F.gelu(self.widen(self.norm(values))), lengths


class SpeechMapper(Projector):
    """Blocks of convolution, Transformer and widening linear layer, then the LLM's width.

    The projector of SpeechMapper (arXiv:2601.20417): frames at 25 Hz (an encoder's, averaged by
    twos: `toolkit.encoders.FrameMean`), two blocks of a convolution of kernel 6 and stride 2, six
    Transformer layers and a linear layer that widens (1024 to 2048, 2048 to 4096), 6.25 Hz out,
    277 million parameters. The defaults are these sizes; with input and output of 1024 and 4096
    they give 277,031,936 parameters.

    The paper does not tell heads, inner width, place of normalisation, positions or the number of
    final linear layers: these are options here. LayerNorm and GELU are our choice. Convolutions are
    padded by two frames in front and three behind, so that a block gives ``ceil(T / 2)`` frames
    for any T from one up.

    Parameters
    ----------
    input_dim, output_dim, input_layers, frame_rate
        See `Projector`.
    widths : sequence of int
        Width behind each block; a block works at the width of its input.
    strides : sequence of int
        Of the blocks' convolutions; ``ceil(T / product)`` vectors come out.
    kernel_size : int
    num_layers : int
        Transformer layers of each block.
    num_heads, ffn_dim : int
        Of the Transformer layers.
    output_layers : int
        Linear layers behind the blocks, the last one to ``output_dim``, with GELU between them.
    dropout : float
    norm_first : bool
        Normalise in front of each part of a layer, and the layers' output; False normalises behind
        each sum, as ``torch.nn.TransformerEncoderLayer`` does by default.
    positions : bool
        Add sinusoidal positions behind each convolution.
    normalise : str, optional
        Normaliser of the transcripts that losses compare vectors with, see
        `toolkit.text.normaliser`; the paper's is that of MMS, ``lower`` is ours of its kind.
    pad_token : str or int, optional
        What the vectors behind the words are trained towards; needed to trim them.
    pads : str
        What the LLM is given when it answers: ``keep`` gives all vectors, ``trim`` those in front
        of the first one whose nearest embedding is the pad's, at least one. Unknown in the paper.
    ctc : CTCEmbedding, optional
        Scores tokens on the frames behind the first block, so that `toolkit.losses.EmbeddingCTC`
        can teach it; makes no vectors. No part of the paper; its authors' successor has a CTC head
        there (arXiv:2607.01960). Its ``input_dim`` is the first of ``widths``. It runs only where
        a loss asks for its scores.

    Example
    -------
    >>> projector = SpeechMapper(
    ...     4, 6, widths=[8, 10], num_layers=1, num_heads=2, ffn_dim=12
    ... ).materialise()
    >>> out = projector(torch.randn(2, 1, 9, 4), torch.tensor([9, 1]))
    >>> tuple(out.vectors.shape), out.lengths.tolist()
    ((2, 3, 6), [3, 1])
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        widths: Sequence[int] = (2048, 4096),
        strides: Sequence[int] = (2, 2),
        kernel_size: int = 6,
        num_layers: int = 6,
        num_heads: int = 16,
        ffn_dim: int = 2048,
        output_layers: int = 2,
        dropout: float = 0.1,
        norm_first: bool = False,
        positions: bool = True,
        normalise: str | None = None,
        pad_token: str | int | None = None,
        pads: str = "keep",
        ctc: CTCEmbedding | None = None,
        input_layers: int = 1,
        frame_rate: float = 25.0,
    ) -> None:
        super().__init__(input_dim, output_dim, input_layers, frame_rate)
        if not widths or len(widths) != len(strides):
            raise ValueError(
                f"SpeechMapper needs one width and one stride for each block, got widths "
                f"{list(widths)} and strides {list(strides)}"
            )
        if output_layers < 1:
            raise ValueError(f"SpeechMapper output_layers must be at least 1, got {output_layers}")
        if pads not in PADS:
            raise ValueError(f"SpeechMapper pads {pads!r}: use one of {', '.join(PADS)}")
        if pads == "trim" and pad_token is None:
            raise ValueError("SpeechMapper pads: trim needs `pad_token`, that of the losses")
        if ctc is not None and (ctc.input_dim, ctc.output_dim) != (widths[0], output_dim):
            raise ValueError(
                f"SpeechMapper: ctc has input_dim {ctc.input_dim} and output_dim {ctc.output_dim}, "
                f"but reads the first block's width {widths[0]} and the LLM's {output_dim}"
            )
        if ctc is not None and ctc.min_count > 1:
            raise ValueError(
                "SpeechMapper: ctc takes rare tokens apart, and with them the embeddings that "
                "vectors are trained towards: set its min_count to 1"
            )
        self.ctc = ctc
        self.normalise = normalise
        self.pad_token = pad_token
        self.pads = pads
        self.register_buffer("pad", torch.tensor(-1))
        self.dims = (input_dim, *widths)
        for dim in self.dims[:-1]:
            if dim % num_heads or dim % 2:
                raise ValueError(
                    f"SpeechMapper: a block works at width {dim}, which must be even and a "
                    f"multiple of num_heads {num_heads}"
                )
        self.strides = tuple(strides)
        self.output_layers = output_layers
        self.block_arguments = {
            "num_layers": num_layers,
            "num_heads": num_heads,
            "ffn_dim": ffn_dim,
            "dropout": dropout,
            "norm_first": norm_first,
            "positions": positions,
        }
        self.kernel_size = kernel_size

    def _build(self, device: torch.device, dtype: torch.dtype) -> None:
        width = self.dims[-1]
        with device:
            self.mix = LayerMix(self.input_layers)
            self.blocks = nn.ModuleList(
                MapperBlock(
                    self.dims[i], self.dims[i + 1], self.kernel_size, stride, **self.block_arguments
                )
                for i, stride in enumerate(self.strides)
            )
            inner = [nn.Linear(width, width) for _ in range(self.output_layers - 1)]
            self.out = nn.Sequential(
                *(part for linear in inner for part in (linear, nn.GELU())),
                nn.Linear(width, self.output_dim),
            )
        self.to(dtype)
        self.pad = self.pad.to(device)
        if self.ctc is not None:
            self.ctc.materialise(device, dtype)

    def fit(self, rows: Iterable[Row], tokenizer: Any) -> None:
        """Look the pad token up, and collect the tokens that ``ctc`` scores.

        Parameters
        ----------
        rows : iterable of Row
        tokenizer : transformers.PreTrainedTokenizerBase

        Raises
        ------
        ValueError
            When the pad token is none of the LLM's, or has a meaning in it.
        """
        if self.pad_token is not None:
            self.pad.fill_(pad_token_id(tokenizer, self.pad_token))
        if self.ctc is not None:
            text = self.transcript_units().text
            self.ctc.fit([replace(row, text=text(row.text)) for row in rows], tokenizer)

    def transcript_units(self) -> TranscriptUnits:
        return TranscriptUnits(normalise=self.normalise)

    def aux(self, frames: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        return self._scores(*self._first(frames, lengths))

    def vectors(self, frames: Tensor, lengths: Tensor) -> ProjectorOutput:
        return self._output(*self._first(frames, lengths), lengths, {})

    def forward(self, frames: Tensor, lengths: Tensor) -> ProjectorOutput:
        values, behind = self._first(frames, lengths)
        return self._output(values, behind, lengths, self._scores(values, behind))

    def _first(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T', widths[0]) and their lengths behind the first block."""
        return self.blocks[0](self.mixed(frames, lengths), lengths)

    def _scores(self, values: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """What ``ctc`` makes of the frames behind the first block."""
        return {} if self.ctc is None else self.ctc.aux(values[:, None], lengths)

    def _output(
        self, values: Tensor, behind: Tensor, lengths: Tensor, aux: dict[str, Tensor]
    ) -> ProjectorOutput:
        """What the other blocks make of ``behind`` valid frames behind the first one.

        The clips' own ``lengths`` give the times.
        """
        for block in self.blocks[1:]:
            values, behind = block(values, behind)
        vectors = zero_beyond(self.out(values), behind)
        times = strided_times(lengths, vectors.shape[1], math.prod(self.strides), self.frame_rate)
        return ProjectorOutput(vectors, behind, times, aux)

    def finish(self, output: ProjectorOutput, table: Tensor) -> ProjectorOutput:
        """Drop the pads, with ``pads: trim``; see `Projector.finish`.

        Raises
        ------
        RuntimeError
            When the pad token was never looked up: neither fitted nor loaded.
        """
        if not self.trims_pads:
            return output
        if int(self.pad) < 0:
            raise RuntimeError("pads: trim knows no pad token; call fit(rows, tokenizer) or load")
        words = self._read(output, table)[1]
        kept = words.clamp(min=1).minimum(output.lengths)
        size = int(kept.max())
        vectors, times = (zero_beyond(v[:, :size], kept) for v in (output.vectors, output.times))
        return ProjectorOutput(vectors, kept, times, output.aux)

    @property
    def trims_pads(self) -> bool:
        """As ``pads`` says."""
        return self.pads == "trim"

    def keeping_pads(self) -> SpeechMapper:
        """A copy with ``pads: keep``; see `Projector.keeping_pads`."""
        if not self.trims_pads:
            return super().keeping_pads()
        kept = copy.deepcopy(self)
        kept.pads = "keep"
        return kept

    def heard(self, output: ProjectorOutput, table: Tensor) -> list[list[int]] | None:
        """The nearest tokens in front of the first pad; None without `pad_token`."""
        if int(self.pad) < 0:
            return None
        nearest, words = self._read(output, table)
        return [ids[:end] for ids, end in zip(nearest.tolist(), words.tolist(), strict=True)]

    def _read(self, output: ProjectorOutput, table: Tensor) -> tuple[Tensor, Tensor]:
        """Token nearest to each vector (B, N), and their number in front of the first pad (B,)."""
        vectors, pad = output.vectors, int(self.pad)
        nearest = nearest_tokens(vectors.flatten(0, 1), table, pad).view(vectors.shape[:2])
        ends = (nearest == pad) | ~length_mask(output.lengths, vectors.shape[1])
        return nearest, F.pad(ends, (0, 1), value=True).int().argmax(1)

    def max_output_length(self, lengths: Tensor) -> Tensor:
        return strided_lengths(lengths, self.strides)
