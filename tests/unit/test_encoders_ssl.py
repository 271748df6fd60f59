"""wav2vec 2.0, HuBERT and WavLM: equal to transformers on a lone clip, invariant to batch mates."""

from __future__ import annotations

import json

import pytest
import torch

from toolkit.encoders import SSLEncoder
from toolkit.encoders.layers import short_hash
from toolkit.encoders.ssl import preprocessor_normalizes
from toolkit.weights import fingerprint

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 4, 2),
    "conv_stride": (5, 4, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
VARIANTS = {
    "wav2vec2-base": ("Wav2Vec2", {"feat_extract_norm": "group"}),
    "wav2vec2-large": ("Wav2Vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "hubert-base": ("Hubert", {"feat_extract_norm": "group"}),
    "hubert-batch-norm": ("Hubert", {"feat_extract_norm": "group", "conv_pos_batch_norm": True}),
    "hubert-large": ("Hubert", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "wavlm-base": ("WavLM", {"feat_extract_norm": "group"}),
    "wavlm-large": ("WavLM", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def folder(request, tmp_path_factory):
    import transformers

    family, extra = VARIANTS[request.param]
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **extra})
    model = getattr(transformers, f"{family}Model")(config)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()  # silence must not come out of the batch norm as zero
    path = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    return str(path)


@torch.no_grad()
def test_lone_clip_equals_transformers(folder):
    import transformers

    wave = torch.randn(1, 4_000) * 0.1 + 0.05
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    values = extractor(wave[0].numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    expected = transformers.AutoModel.from_pretrained(folder).eval()(
        values, output_hidden_states=True
    )
    output = SSLEncoder(folder, [0, 1, -1]).materialise().eval()(wave, torch.tensor([4_000]))
    torch.testing.assert_close(
        output.frames[:, 2], expected.last_hidden_state, atol=1e-4, rtol=1e-4
    )
    for block in (0, 1):
        torch.testing.assert_close(
            output.frames[:, block], expected.hidden_states[block + 1], atol=1e-4, rtol=1e-4
        )


@torch.no_grad()
@pytest.mark.parametrize("samples", [30, 1_000, 3_333])
def test_alone_equals_batched(folder, samples):
    encoder = SSLEncoder(folder, [0, -1]).materialise().eval()
    clip, mate = torch.randn(samples) * 0.1, torch.randn(6_000) * 0.3
    alone = encoder(clip[None], torch.tensor([samples]))
    batch = torch.full((2, 6_000), 0.7)
    batch[0, :samples] = clip
    batch[1] = mate
    both = encoder(batch, torch.tensor([samples, 6_000]))
    n = int(both.lengths[0])
    assert alone.lengths.tolist() == [n] == encoder.output_lengths(torch.tensor([samples])).tolist()
    torch.testing.assert_close(both.frames[0, :, :n], alone.frames[0], atol=1e-5, rtol=1e-5)
    assert both.frames[0, :, n:].abs().sum() == 0


def test_shapes_without_weights(folder):
    encoder = SSLEncoder(folder, "evenly:3").materialise("meta")
    assert (encoder.dim, encoder.num_layers, encoder.frame_rate) == (32, 3, 400.0)
    assert encoder.device.type == "meta"


def test_normalisation_is_part_of_the_fingerprint(folder):
    as_file_says = SSLEncoder(folder).fingerprint()
    assert as_file_says == SSLEncoder(folder, normalize=True).fingerprint()
    assert as_file_says != SSLEncoder(folder, normalize=False).fingerprint()
    settings = {"class": "SSLEncoder", "version": 1, "weights": fingerprint(folder)}
    assert as_file_says == short_hash(settings | {"layers": [-1], "normalize": True})


def test_missing_preprocessor_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="normalize: true or false"):
        preprocessor_normalizes(tmp_path)
    nested = {"feature_extractor": {"do_normalize": False}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert preprocessor_normalizes(tmp_path) is False
