"""A Q-Former that reads several encoder layers and always gives the same number of vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.encoders.base import length_mask
from toolkit.projectors.base import Projector, ProjectorOutput

#: Width of an attention head of every Whisper, and of BERT.
HEAD_DIM = 64
#: Variance below which a dimension counts as constant.
STEADY = 1e-6


class LayerwiseQFormer(Projector):
    """Learned queries read each tapped layer; what they find is mixed, query by query.

    The modality adapter of DeSTA2 (Lu et al., 2024, arXiv:2409.20007), whose code gives the
    defaults. Each tapped layer ``l`` has its own bank of queries ``Q_l`` (N(0, 1) at first); one
    Q-Former (BERT layers with cross-attention, post-norm) reads all of them with shared weights;
    each query position ``n`` has its own softmax weights over the layers, uniform at first::

        o_n = sum_l softmax_l(W)_{n, l} * QFormer(Q_l, H_l)_n
        vectors = Linear(LayerNorm(o))

    Every query sees every query. transformers' BERT layers have cross-attention only as a decoder,
    whose self-attention is causal under ``sdpa`` and not under ``eager`` when no mask is given;
    here it is causal under neither.

    A query reads the whole clip, so its vector has no place in time: ``times`` is None, and
    interleavers that cut by time refuse this projector unless they cut before encoding. One second
    and thirty seconds both give ``num_queries`` vectors. The authors' Whisper pads every clip to 30
    s and the queries read the padding too; the frames here end with the clip.

    Parameters
    ----------
    input_dim, output_dim, input_layers, frame_rate
        See `Projector`. One layer (the ablation "last layer only") has nothing to mix.
    num_queries : int
        Vectors of a clip, N.
    num_layers : int
        Of the Q-Former.
    num_heads : int, optional
        ``input_dim / 64`` by default, which is the encoder's own number for every Whisper.
    ffn_dim : int
    dropout : float
        Of attention and hidden states, BERT's default.
    attn_implementation : str
        As transformers names them: ``"sdpa"``, ``"eager"``.
    standardise : bool
        Give each dimension of each tapped layer mean 0 and variance 1 over training frames. Ours:
        most of a Whisper frame is the same in all frames, several times what tells two clips apart,
        and queries that start at random take long to see past it.

    Raises
    ------
    ValueError
        For no queries or layers, or heads that do not divide the width.

    Example
    -------
    >>> projector = LayerwiseQFormer(8, 6, num_queries=3, num_heads=2, ffn_dim=8, input_layers=2)
    >>> out = projector.materialise()(torch.randn(2, 2, 40, 8), torch.tensor([40, 5]))
    >>> tuple(out.vectors.shape), out.lengths.tolist(), out.times
    ((2, 3, 6), [3, 3], None)
    >>> projector.layer_weights()
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000],
            [0.5000, 0.5000]])
    """

    has_times = False

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        num_queries: int = 64,
        num_layers: int = 2,
        num_heads: int | None = None,
        ffn_dim: int = 3072,
        dropout: float = 0.1,
        attn_implementation: str = "sdpa",
        standardise: bool = False,
        input_layers: int = 1,
        frame_rate: float = 50.0,
    ) -> None:
        super().__init__(input_dim, output_dim, input_layers, frame_rate)
        self.standardise = self.fits_frames = standardise
        if num_queries < 1 or num_layers < 1:
            raise ValueError("LayerwiseQFormer: num_queries and num_layers are at least 1")
        self.num_queries = num_queries
        self.num_layers = num_layers
        self.num_heads = max(1, input_dim // HEAD_DIM) if num_heads is None else num_heads
        if input_dim % self.num_heads:
            raise ValueError(
                f"LayerwiseQFormer: input_dim {input_dim} is not a multiple of num_heads "
                f"{self.num_heads}; give num_heads"
            )
        self.ffn_dim = ffn_dim
        self.dropout = dropout
        self.attn_implementation = attn_implementation

    def _build(self, device: torch.device, dtype: torch.dtype) -> None:
        size = (self.input_layers, self.num_queries, self.input_dim)
        with device:
            self.queries = nn.Parameter(torch.randn(size))
            self.qformer = _bidirectional_bert(self)
            # A softmax over one layer is 1 whatever it is given.
            self.layer_scores = (
                nn.Parameter(torch.zeros(self.num_queries, self.input_layers))
                if self.input_layers > 1
                else None
            )
            if self.standardise:
                shape = (self.input_layers, 1, self.input_dim)
                self.register_buffer("frame_mean", torch.zeros(shape))
                self.register_buffer("frame_scale", torch.ones(shape))
            self.norm = nn.LayerNorm(self.input_dim)
            self.project = nn.Linear(self.input_dim, self.output_dim)
        self.to(dtype)

    @torch.no_grad()
    def fit_frames(self, frames: Iterable[Tensor]) -> None:
        count, total, squares = 0, 0.0, 0.0
        for clip in frames:
            values = clip.double().cpu()
            count += values.shape[1]
            total = total + values.sum(1, keepdim=True)
            squares = squares + values.square().sum(1, keepdim=True)
        if not count:
            raise ValueError("LayerwiseQFormer standardise: there are no frames to learn from")
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        self.frame_mean.copy_(mean)
        # A dimension that never changes stays at nought.
        self.frame_scale.copy_((variance + STEADY).rsqrt())

    def forward(self, frames: Tensor, lengths: Tensor) -> ProjectorOutput:
        frames = self.checked(frames, lengths)
        if self.standardise:
            # Beyond the lengths too, where the mask hides it.
            frames = (frames - self.frame_mean) * self.frame_scale
        batch, layers, size, _ = frames.shape
        # Layers are rows of one batch: the Q-Former's weights are shared among them.
        mask = torch.zeros(batch, size, dtype=frames.dtype, device=frames.device)
        mask = mask.masked_fill(~length_mask(lengths, size), torch.finfo(frames.dtype).min)
        read = self.qformer(
            self.queries.repeat(batch, 1, 1),
            encoder_hidden_states=frames.flatten(0, 1),
            encoder_attention_mask=mask.repeat_interleave(layers, 0)[:, None, None],
        ).last_hidden_state
        mixed = (self._weights().T[None, :, :, None] * read.unflatten(0, (batch, layers))).sum(1)
        return ProjectorOutput(self.project(self.norm(mixed)), self.output_lengths(lengths))

    def layer_weights(self) -> Tensor:
        return self._weights().detach().float().cpu()

    def _weights(self) -> Tensor:
        if self.layer_scores is None:
            return self.queries.new_ones(self.num_queries, 1)
        return self.layer_scores.softmax(-1)

    def max_output_length(self, lengths: Tensor) -> Tensor:
        return torch.full_like(lengths, self.num_queries)


def _bidirectional_bert(settings: LayerwiseQFormer) -> Any:
    """BERT layers with cross-attention in each, no mask among the queries."""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertEncoder

    config = BertConfig(
        hidden_size=settings.input_dim,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=settings.ffn_dim,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        is_decoder=True,  # BERT has cross-attention in no other way
        add_cross_attention=True,
        attn_implementation=settings.attn_implementation,
    )
    bert = BertEncoder(config)
    for layer in bert.layer:
        # Without a mask, sdpa would otherwise hide later queries from earlier ones.
        layer.attention.self.is_causal = False
    return bert
