"""Whisper's encoder at the clip's true length."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.encoders.base import EncoderOutput, length_mask
from toolkit.encoders.checkpoint import CheckpointEncoder
from toolkit.encoders.layers import LayerSpec, transformers_config
from toolkit.encoders.logmel import HOP, LogMel, mel_frames
from toolkit.weights import resolve


class WhisperEncoder(CheckpointEncoder):
    """The encoder of Whisper (arXiv:2212.04356) without its fixed 30 s window.

    The checkpoint's own layers run over the clip's frames alone: the spectrogram stops at the
    clip's end, what lies beyond is zeroed in front of each convolution, position embeddings are cut
    and keys masked. A 3 s clip costs a tenth of a 30 s one, and a full 30 s clip gives the
    checkpoint's own states.

    These states are for projectors. Whisper's *decoder* has only ever read padded windows:
    transcripts and cross-attention alignments use the 30 s path of `toolkit.data.annotation`.

    Parameters
    ----------
    source : str
        What `toolkit.weights.resolve` understands: a model id, a folder, a catalogue name.
    layers : int, str or list of int
        Tapped layers: ``-1`` is the output after the final layer norm, ``k`` the output of block
        ``k``, ``"evenly:4"`` four blocks over the depth; see
        `toolkit.encoders.layers.tapped_layers`.
    max_seconds : float
        Longest clip accepted, at most what the checkpoint has positions for (30 s).

    Example
    -------
    >>> import tempfile, transformers
    >>> folder = tempfile.mkdtemp()
    >>> config = transformers.WhisperConfig(vocab_size=8, d_model=16, encoder_layers=2,
    ...     decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    ...     encoder_ffn_dim=32, decoder_ffn_dim=32,
    ...     pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    >>> transformers.WhisperModel(config).save_pretrained(folder)
    >>> encoder = WhisperEncoder(folder, layers=[0, -1]).materialise().eval()
    >>> output = encoder(torch.randn(2, 16000) / 10, torch.tensor([16000, 4000]))
    >>> tuple(output.frames.shape), output.lengths.tolist()
    ((2, 2, 50, 16), [50, 13])
    """

    def __init__(self, source: str, layers: LayerSpec = (-1,), max_seconds: float = 30.0) -> None:
        super().__init__(source, layers, max_seconds)

    @cached_property
    def config(self) -> Any:
        """The checkpoint's ``WhisperConfig``; reads the config file only."""
        config = transformers_config(self.source)
        if config.model_type != "whisper":
            raise ValueError(
                f"{self.source} is a {config.model_type!r} model, not Whisper: use "
                "toolkit.encoders.SSLEncoder for wav2vec 2.0, HuBERT and WavLM"
            )
        window = config.max_source_positions * 2 * HOP / self.sample_rate
        if self.max_seconds > window:
            raise ValueError(
                f"max_seconds: {self.max_seconds:g} is more than the {window:g} s that "
                f"{self.source} has positions for"
            )
        return config

    @property
    def dim(self) -> int:
        return self.config.d_model

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / (2 * HOP)

    @property
    def depth(self) -> int:
        return self.config.encoder_layers

    def output_lengths(self, samples: Tensor) -> Tensor:
        """Half the log-mel frames, rounded up; see `Encoder.output_lengths`.

        Example
        -------
        >>> WhisperEncoder("any").output_lengths(torch.tensor([480000, 16000, 480, 80])).tolist()
        [1500, 50, 2, 1]
        """
        return (mel_frames(samples) + 1) // 2

    def _build(self, device: torch.device, dtype: torch.dtype) -> None:
        from transformers.models.whisper import modeling_whisper

        config = self.config
        if device.type == "meta":
            with torch.device("meta"):
                encoder = modeling_whisper.WhisperEncoder(config)
        else:
            whisper = modeling_whisper.WhisperModel.from_pretrained(
                str(resolve(self.source)), dtype=dtype, attn_implementation="sdpa"
            )
            encoder = whisper.encoder.to(device)
        if self.drop_untapped(encoder.layers):
            encoder.layer_norm = nn.Identity()
        self.encoder = encoder.to(dtype=dtype)
        self.logmel = LogMel(config.num_mel_bins, config.max_source_positions * 2 * HOP)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> EncoderOutput:
        self.check_seconds(lengths)
        encoder = self.encoder
        features, frames = self.logmel(waveforms, lengths)
        hidden = nn.functional.gelu(encoder.conv1(features.to(encoder.conv1.weight.dtype)))
        hidden = hidden * length_mask(frames, hidden.shape[-1])[:, None]
        hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
        counts = (frames + 1) // 2
        valid = length_mask(counts, hidden.shape[1])
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        # A key mask over the true length; a batch of one length needs none.
        mask = None if int(counts.min()) == hidden.shape[1] else valid[:, None, None, :]
        if mask is not None:
            mask = mask.expand(-1, 1, hidden.shape[1], -1)
        tapped: dict[int, Tensor] = {}
        for index, layer in enumerate(encoder.layers):
            hidden = layer(hidden, mask)
            tapped[index] = hidden
        if -1 in self.taps:
            tapped[-1] = encoder.layer_norm(hidden)
        return self.output_of(tapped, counts)
