"""The speech encoder of SeamlessM4T v2, layer by layer, at the clip's true length."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from toolkit.encoders.base import EncoderOutput, length_mask
from toolkit.encoders.checkpoint import CheckpointEncoder, run_tapped
from toolkit.encoders.layers import LayerSpec, transformers_config
from toolkit.weights import WeightsError, resolve

WINDOW, HOP, STRIDE = 400, 160, 2
#: Samples under one frame; shorter clips are filled with silence up to it.
MIN_SAMPLES = WINDOW + HOP


class SeamlessEncoder(CheckpointEncoder):
    """Conformer layers of SeamlessM4T v2's w2v-BERT 2.0 speech encoder (arXiv:2312.05187).

    Frames at 50 Hz, in front of the adapter that shortens them eightfold for the translation
    decoder. SpeechMapper (arXiv:2601.20417) reads layer 24 of the large model, counted from one:
    ``layers: [23]``, or ``[-1]`` for the same layer behind the stack's final norm.

    Features are SeamlessM4T's default ones: Kaldi filter banks, each band normalised over the clip,
    two neighbours stacked; an odd last one is left out.

    Parameters
    ----------
    source : str
        What `toolkit.weights.resolve` understands; a full SeamlessM4T v2 checkpoint, of which only
        the speech encoder is read.
    layers : int, str or list of int
        Tapped layers: ``-1`` is the stack's output after its layer norm, ``k`` the output of layer
        ``k``; see `toolkit.encoders.layers.tapped_layers`.
    max_seconds : float
        Longest clip accepted.

    Example
    -------
    >>> import tempfile, transformers
    >>> folder = tempfile.mkdtemp()
    >>> transformers.SeamlessM4Tv2Config(hidden_size=16, speech_encoder_layers=2).save_pretrained(
    ...     folder)
    >>> encoder = SeamlessEncoder(folder, layers=[0, -1])
    >>> encoder.dim, encoder.taps, encoder.output_lengths(torch.tensor([16000, 100])).tolist()
    (16, [0, -1], [49, 1])
    """

    def __init__(self, source: str, layers: LayerSpec = (-1,), max_seconds: float = 60.0) -> None:
        super().__init__(source, layers, max_seconds)

    @cached_property
    def config(self) -> Any:
        """The checkpoint's ``SeamlessM4Tv2Config``; reads the config file only."""
        config = transformers_config(self.source)
        if config.model_type != "seamless_m4t_v2":
            raise ValueError(
                f"{self.source} is a {config.model_type!r} model, not SeamlessM4T v2: use "
                "toolkit.encoders.WhisperEncoder or SSLEncoder for theirs"
            )
        return config

    @property
    def dim(self) -> int:
        return self.config.hidden_size

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / (STRIDE * HOP)

    @property
    def depth(self) -> int:
        return self.config.speech_encoder_layers

    def output_lengths(self, samples: Tensor) -> Tensor:
        return (1 + (samples.clamp(min=MIN_SAMPLES) - WINDOW) // HOP) // STRIDE

    def _build(self, device: torch.device, dtype: torch.dtype) -> None:
        from transformers import SeamlessM4TFeatureExtractor
        from transformers.models.seamless_m4t_v2 import modeling_seamless_m4t_v2 as seamless

        # The adapter comes behind every tap.
        self.config.add_adapter = False
        if device.type == "meta":
            with torch.device("meta"):
                model = seamless.SeamlessM4Tv2SpeechEncoder(self.config)
        else:
            model, found = seamless.SeamlessM4Tv2SpeechEncoder.from_pretrained(
                str(resolve(self.source)),
                config=self.config,
                dtype=dtype,
                key_mapping={r"^speech_encoder\.": ""},
                output_loading_info=True,
            )
            if found["missing_keys"]:
                raise WeightsError(
                    f"{self.source} lacks {len(found['missing_keys'])} tensors of the speech "
                    f"encoder, such as {sorted(found['missing_keys'])[0]}: name a full SeamlessM4T "
                    "v2 checkpoint"
                )
        self.drop_untapped(model.encoder.layers)
        self.projection = model.feature_projection.to(device=device, dtype=dtype)
        self.encoder = model.encoder.to(device=device, dtype=dtype)
        self.extractor = SeamlessM4TFeatureExtractor()

    def _features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Stacked filter banks (B, T, 160), zero beyond each clip."""
        clips = []
        for waveform, length in zip(waveforms.cpu().float(), lengths.tolist(), strict=True):
            clip = waveform[:length]
            clip = torch.nn.functional.pad(clip, (0, max(MIN_SAMPLES - length, 0)))
            # One by one: nothing of a clip's statistics or padding reaches another.
            out = self.extractor(clip.numpy(), sampling_rate=self.sample_rate, return_tensors="pt")
            clips.append(out["input_features"][0, : int(out["attention_mask"][0].sum())])
        return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True).to(waveforms.device)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> EncoderOutput:
        self.check_seconds(lengths)
        features = self._features(waveforms, lengths)
        counts = self.output_lengths(lengths)
        valid = length_mask(counts, features.shape[1])
        dtype = next(self.projection.parameters()).dtype
        hidden = self.projection(features.to(dtype))
        tapped = run_tapped(
            self.encoder.layers, self.taps, lambda: self.encoder(hidden, attention_mask=valid)
        )
        return self.output_of(tapped, counts)
