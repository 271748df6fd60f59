"""Self-supervised encoders: wav2vec 2.0, HuBERT and WavLM, batch-invariant."""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.encoders.base import EncoderOutput, length_mask
from toolkit.encoders.checkpoint import CheckpointEncoder, run_tapped
from toolkit.encoders.layers import LayerSpec, transformers_config
from toolkit.weights import resolve

MODEL_TYPES = ("wav2vec2", "hubert", "wavlm")


def preprocessor_normalizes(folder: Path | str) -> bool:
    """Whether a checkpoint was trained on waveforms of zero mean and unit variance.

    Parameters
    ----------
    folder : Path or str
        A folder in the layout of ``save_pretrained``.

    Returns
    -------
    bool
        ``do_normalize`` of its preprocessor file.

    Raises
    ------
    FileNotFoundError
        If no preprocessor file says so; a guess would change the frames silently.

    Example
    -------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "preprocessor_config.json").write_text('{"do_normalize": true}')
    >>> preprocessor_normalizes(folder)
    True
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = Path(folder) / name
        if path.is_file():
            settings = json.loads(path.read_text(encoding="utf-8"))
            settings = settings.get("feature_extractor", settings)
            if "do_normalize" in settings:
                return bool(settings["do_normalize"])
    raise FileNotFoundError(
        f"{folder} has no preprocessor_config.json with 'do_normalize': set normalize: true or "
        "false in the encoder's YAML block (true for most large models, see the model card)"
    )


class SSLEncoder(CheckpointEncoder):
    """wav2vec 2.0 (arXiv:2006.11477), HuBERT (arXiv:2106.07447) or WavLM (arXiv:2110.13900).

    Group norm in the feature extractor of the base models averages over time, so padding would
    change every frame of a clip: here its statistics are taken over each clip's own frames.
    Attention and position convolution see the clip alone too.

    Parameters
    ----------
    source : str
        What `toolkit.weights.resolve` understands: a model id, a folder, a catalogue name.
    layers : int, str or list of int
        Tapped layers: ``-1`` is the model's output, ``k`` the output of block ``k``; see
        `toolkit.encoders.layers.tapped_layers`.
    normalize : bool, optional
        Zero mean and unit variance per clip; by default as the checkpoint's preprocessor says.
    max_seconds : float
        Longest clip accepted; attention costs the square of it.

    Example
    -------
    >>> import tempfile, transformers
    >>> folder = tempfile.mkdtemp()
    >>> config = transformers.Wav2Vec2Config(hidden_size=16, num_hidden_layers=2,
    ...     num_attention_heads=2, intermediate_size=32,
    ...     conv_dim=(8, 8), conv_kernel=(10, 4), conv_stride=(5, 4),
    ...     num_feat_extract_layers=2, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)
    >>> transformers.Wav2Vec2Model(config).save_pretrained(folder)
    >>> encoder = SSLEncoder(folder, layers=[0, -1], normalize=True).materialise().eval()
    >>> output = encoder(torch.randn(2, 1600), torch.tensor([1600, 400]))
    >>> tuple(output.frames.shape), output.lengths.tolist()
    ((2, 2, 79, 16), [79, 19])
    """

    def __init__(
        self,
        source: str,
        layers: LayerSpec = (-1,),
        normalize: bool | None = None,
        max_seconds: float = 60.0,
    ) -> None:
        super().__init__(source, layers, max_seconds)
        self.normalize = normalize
        self._valid: Tensor | None = None

    @cached_property
    def config(self) -> Any:
        """The checkpoint's transformers config; reads the config file only."""
        config = transformers_config(self.source)
        if config.model_type not in MODEL_TYPES:
            raise ValueError(
                f"{self.source} is a {config.model_type!r} model: SSLEncoder reads "
                f"{', '.join(MODEL_TYPES)}"
            )
        return config

    @property
    def dim(self) -> int:
        return self.config.hidden_size

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / math.prod(self.config.conv_stride)

    @property
    def depth(self) -> int:
        return self.config.num_hidden_layers

    @cached_property
    def min_samples(self) -> int:
        """Samples under one frame; shorter clips are filled with silence up to it."""
        field = 1
        for kernel, stride in zip(
            reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True
        ):
            field = (field - 1) * stride + kernel
        return field

    def output_lengths(self, samples: Tensor) -> Tensor:
        lengths = samples.clamp(min=self.min_samples)
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            lengths = (lengths - kernel) // stride + 1
        return lengths

    @cached_property
    def _normalizes(self) -> bool:
        if self.normalize is not None:
            return self.normalize
        return preprocessor_normalizes(resolve(self.source))

    def preprocessing(self) -> dict[str, Any]:
        return {"normalize": self._normalizes}

    def _build(self, device: torch.device, dtype: torch.dtype) -> None:
        import transformers

        if device.type == "meta":
            with torch.device("meta"):
                model = transformers.AutoModel.from_config(self.config)
        else:
            if not isinstance(self._normalizes, bool):
                raise TypeError(
                    f"normalize: expected true, false or null, got {self._normalizes!r}"
                )
            model = transformers.AutoModel.from_pretrained(str(resolve(self.source)), dtype=dtype)
        # A dropped layer has no output to tap.
        model.config.layerdrop = 0.0
        model.adapter = None
        self.drop_untapped(model.encoder.layers)
        # Nothing may leak in over a clip's end: some checkpoints shift silence (batch norm) in
        # front of it.
        model.encoder.pos_conv_embed.conv.register_forward_pre_hook(self._zero_padding)
        self.model = model.to(device=device, dtype=dtype)

    def _zero_padding(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0] * self._valid[:, None].to(inputs[0].dtype),)

    def _conv_features(self, waveforms: Tensor, samples: Tensor) -> Tensor:
        """Run the feature extractor, with group norm over each clip's own frames."""
        hidden = waveforms[:, None]
        lengths = samples
        for kernel, stride, layer in zip(
            self.config.conv_kernel,
            self.config.conv_stride,
            self.model.feature_extractor.conv_layers,
            strict=True,
        ):
            lengths = (lengths - kernel) // stride + 1
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                hidden = layer.activation(masked_channel_norm(layer.conv(hidden), lengths, norm))
            else:
                hidden = layer(hidden)
        return hidden.transpose(1, 2)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> EncoderOutput:
        self.check_seconds(lengths)
        waveforms = waveforms[:, : int(lengths.max())].float()
        inside = length_mask(lengths, waveforms.shape[1])
        waveforms = waveforms * inside
        if self._normalizes:
            count = lengths[:, None].clamp(min=1)
            centred = (waveforms - waveforms.sum(1, keepdim=True) / count) * inside
            variance = centred.square().sum(1, keepdim=True) / count
            waveforms = centred / (variance + 1e-7).sqrt()
        samples = lengths.clamp(min=self.min_samples)
        short = int(samples.max()) - waveforms.shape[1]
        waveforms = nn.functional.pad(waveforms, (0, max(short, 0)))
        dtype = next(self.model.parameters()).dtype
        features = self._conv_features(waveforms.to(dtype), samples)
        counts = self.output_lengths(lengths)
        self._valid = valid = length_mask(counts, features.shape[1])
        projected = self.model.feature_projection(features)
        # wav2vec 2.0 and WavLM return the normalised features too.
        hidden = projected[0] if isinstance(projected, tuple) else projected
        hidden = hidden.masked_fill(~valid[..., None], 0.0)
        encoder = self.model.encoder
        tapped = run_tapped(
            encoder.layers,
            self.taps,
            lambda: encoder(hidden, attention_mask=valid).last_hidden_state,
        )
        return self.output_of(tapped, counts)


def masked_channel_norm(hidden: Tensor, lengths: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group norm with one channel a group, over the valid frames of each row alone.

    Parameters
    ----------
    hidden : Tensor (B, C, T), float
    lengths : Tensor (B,), int64
        Valid frames of each row.
    norm : torch.nn.GroupNorm
        With ``num_groups == num_channels``; gives weight, bias and epsilon.

    Returns
    -------
    Tensor (B, C, T), float

    Example
    -------
    >>> norm = nn.GroupNorm(2, 2)
    >>> row = torch.randn(1, 2, 5)
    >>> padded = nn.functional.pad(row, (0, 3), value=9.0)
    >>> normed = masked_channel_norm(padded, torch.tensor([5]), norm)[..., :5]
    >>> torch.allclose(normed, norm(row), atol=1e-5)
    True
    """
    valid = length_mask(lengths, hidden.shape[-1])[:, None]
    count = lengths[:, None, None]
    # Half precision cannot hold sums over thousands of frames.
    values = hidden.float()
    mean = (values * valid).sum(-1, keepdim=True) / count
    centred = values - mean
    variance = (centred.square() * valid).sum(-1, keepdim=True) / count
    scaled = centred * (variance + norm.eps).rsqrt()
    return (scaled * norm.weight[:, None].float() + norm.bias[:, None].float()).to(hidden.dtype)
