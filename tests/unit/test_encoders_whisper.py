"""Whisper's encoder at true length: exact on the full window, invariant to batch mates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolkit.component import count_parameters
from toolkit.encoders import WhisperEncoder
from toolkit.encoders.layers import short_hash, tapped_layers
from toolkit.encoders.logmel import LogMel
from toolkit.weights import fingerprint

SECONDS = 2
WINDOW = SECONDS * 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import transformers

    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=16,
        d_model=32,
        encoder_layers=4,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=80,
        max_source_positions=SECONDS * 50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    path = tmp_path_factory.mktemp("whisper")
    transformers.WhisperForConditionalGeneration(config).save_pretrained(path)
    return str(path)


def encoder_of(folder, layers=(-1,)):
    return WhisperEncoder(folder, layers=layers, max_seconds=SECONDS).materialise().eval()


def speechlike(samples, seed=0):
    rng = np.random.default_rng(seed)
    envelope = np.sin(np.arange(samples) / 900.0) ** 2
    return torch.from_numpy((rng.normal(size=samples) * envelope * 0.2).astype(np.float32))


@torch.no_grad()
def test_full_window_equals_transformers(folder):
    import transformers

    reference = transformers.WhisperModel.from_pretrained(folder).encoder.eval()
    extractor = transformers.WhisperFeatureExtractor(chunk_length=SECONDS)
    wave = speechlike(WINDOW)
    features = extractor(wave.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    expected = reference(features, output_hidden_states=True)
    output = encoder_of(folder, [0, 2, -1])(wave[None], torch.tensor([WINDOW]))
    assert output.frames.shape == (1, 3, SECONDS * 50, 32)
    torch.testing.assert_close(output.frames[:, 2], expected.last_hidden_state, atol=1e-4, rtol=0)
    for tap, block in enumerate([0, 2]):
        # hidden_states[0] is the input of block 0.
        torch.testing.assert_close(
            output.frames[:, tap], expected.hidden_states[block + 1], atol=1e-4, rtol=0
        )


@torch.no_grad()
@pytest.mark.parametrize("samples", [80, 161, 399, 1_600, 7_777, 31_999])
def test_alone_equals_batched(folder, samples):
    encoder = encoder_of(folder, [1, -1])
    clip, mate = speechlike(samples, 1), speechlike(WINDOW, 2)
    alone = encoder(clip[None], torch.tensor([samples]))
    batch = torch.full((2, WINDOW), 0.9)  # what lies beyond a clip's end must not matter
    batch[0, :samples] = clip
    batch[1] = mate
    both = encoder(batch, torch.tensor([samples, WINDOW]))
    n = int(both.lengths[0])
    assert alone.lengths.tolist() == [n] == encoder.output_lengths(torch.tensor([samples])).tolist()
    torch.testing.assert_close(both.frames[0, :, :n], alone.frames[0], atol=1e-5, rtol=0)
    assert both.frames[0, :, n:].abs().sum().item() == 0.0
    assert both.frames[1].abs().sum(-1).min() > 0


def test_log_mel_equals_the_padded_path():
    import transformers

    extractor = transformers.WhisperFeatureExtractor()
    samples = [50, 1_000, 16_123, 48_000]
    clips = [speechlike(n, n) for n in samples]
    clips[2][-300:] *= 40  # the loudest window straddles the clip's end
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    frames, lengths = LogMel(80)(batch, torch.tensor(samples))
    for i, clip in enumerate(clips):
        expected = extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
        n = int(lengths[i])
        torch.testing.assert_close(frames[i, :, :n], expected[0, :, :n], atol=1e-4, rtol=0)
        assert frames[i, :, n:].abs().sum() == 0


def test_properties_need_no_weights():
    encoder = WhisperEncoder("hub:openai/whisper-small", layers="evenly:4")
    assert (encoder.dim, encoder.frame_rate, encoder.num_layers) == (768, 50.0, 4)
    assert encoder.taps == [2, 5, 8, 11]
    assert not encoder.materialised
    encoder.materialise("meta")
    assert encoder.device.type == "meta"
    # 12 blocks of 7,087,104 and the stem; the final norm is not tapped.
    assert count_parameters(encoder) == 88_154_112 - 2 * 768


def test_untapped_blocks_are_dropped(folder):
    whole, part = encoder_of(folder), encoder_of(folder, [1])
    assert len(whole.encoder.layers) == 4 and len(part.encoder.layers) == 2


def test_too_long_audio_is_an_error(folder):
    with pytest.raises(ValueError, match="longer than the 2 s"):
        encoder_of(folder)(torch.zeros(1, WINDOW + 160), torch.tensor([WINDOW + 160]))
    with pytest.raises(ValueError, match="max_seconds: 30"):
        _ = WhisperEncoder(folder).dim


def test_fingerprint_follows_layers_and_weights(folder):
    one = WhisperEncoder(folder, max_seconds=SECONDS)
    assert one.fingerprint() == WhisperEncoder(folder, max_seconds=SECONDS).fingerprint()
    assert one.fingerprint() != WhisperEncoder(folder, [0], SECONDS).fingerprint()


def test_fingerprint_is_that_of_caches_on_disk(folder):
    weights = fingerprint(folder)
    settings = {"class": "WhisperEncoder", "version": 1, "weights": weights, "layers": [1, 3]}
    assert WhisperEncoder(folder, "evenly:2", SECONDS).fingerprint() == short_hash(settings)


def test_gradients_reach_the_layers(folder):
    encoder = encoder_of(folder)
    encoder(speechlike(3200)[None], torch.tensor([3200])).frames.square().sum().backward()
    assert encoder.encoder.layers[0].fc1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([4], "outside"),
        ([], "empty"),
        ([0, -4], "twice"),
        ("evenly:9", "evenly:n"),
        ("top", "evenly:n"),
    ],
)
def test_bad_layers_are_named(layers, message):
    with pytest.raises(ValueError, match=message):
        tapped_layers(layers, 4)


def test_layer_words():
    assert tapped_layers("all", 3) == [0, 1, 2]
    assert tapped_layers(-1, 3) == [-1]
    assert tapped_layers("evenly:4", 24) == [5, 11, 17, 23]
    assert tapped_layers("evenly:4", 6) == [0, 2, 3, 5]
