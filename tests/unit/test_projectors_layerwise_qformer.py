"""LayerwiseQFormer against the published size, a computation by hand, and what its queries see."""

from __future__ import annotations

import pytest
import torch

from toolkit.component import count_parameters
from toolkit.encoders import WhisperEncoder
from toolkit.encoders.layers import tapped_layers
from toolkit.projectors import ConvAdapter, LayerwiseQFormer
from toolkit.training.checkpoint import trained_tensors

SMALL = {"num_queries": 4, "num_heads": 2, "ffn_dim": 12, "dropout": 0.0}


def build(attention: str = "sdpa", layers: int = 3, **settings) -> LayerwiseQFormer:
    torch.manual_seed(0)
    arguments = SMALL | {"input_layers": layers, "attn_implementation": attention} | settings
    return LayerwiseQFormer(8, 6, **arguments).materialise().eval()


def test_parameters_for_whisper_small_and_a_4096_wide_llm() -> None:
    # DeSTA2 with openai/whisper-small (768 wide, 12 blocks) and Llama-3-8B-Instruct.
    encoder = WhisperEncoder("hub:openai/whisper-small", layers="evenly:4")
    assert encoder.taps == [2, 5, 8, 11]
    projector = LayerwiseQFormer(encoder.dim, 4096, input_layers=encoder.num_layers)
    assert projector.num_heads == encoder.config.encoder_attention_heads
    assert count_parameters(projector.materialise("meta")) == 22_251_776


@pytest.mark.parametrize(
    ("depth", "spec", "taps"),
    [
        # The blocks that the authors' code lists by name for each Whisper.
        (4, "evenly:4", [0, 1, 2, 3]),
        (12, "evenly:4", [2, 5, 8, 11]),
        (24, "evenly:4", [5, 11, 17, 23]),
        (32, "evenly:8", [3, 7, 11, 15, 19, 23, 27, 31]),
        (32, "evenly:4", [7, 15, 23, 31]),
    ],
)
def test_taps_follow_from_the_depth(depth: int, spec: str, taps: list[int]) -> None:
    assert tapped_layers(spec, depth) == taps


def test_forward_by_hand() -> None:
    """Each layer alone through the Q-Former with its own bank, mixed by hand."""
    projector = build()
    with torch.no_grad():
        projector.layer_scores.copy_(torch.randn(4, 3))
    frames = torch.randn(2, 3, 11, 8)
    out = projector(frames, torch.tensor([11, 11])).vectors
    weights = projector.layer_scores.exp() / projector.layer_scores.exp().sum(1, keepdim=True)
    for row in range(2):
        mixed = torch.zeros(4, 8)
        for layer in range(3):
            read = projector.qformer(
                projector.queries[layer][None], encoder_hidden_states=frames[row, layer][None]
            ).last_hidden_state[0]
            mixed += weights[:, layer, None] * read
        expected = projector.project(projector.norm(mixed))
        torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=0)


def test_layer_weights_start_uniform_and_sum_to_one() -> None:
    projector = build()
    assert torch.equal(projector.layer_weights(), torch.full((4, 3), 1 / 3))
    with torch.no_grad():
        projector.layer_scores[2, 1] = 3.0
    weights = projector.layer_weights()
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    assert weights[2].argmax() == 1 and torch.equal(weights[0], torch.full((3,), 1 / 3))
    assert torch.equal(build(layers=1).layer_weights(), torch.ones(4, 1))


def test_projectors_that_mix_frames_tell_their_weights_too() -> None:
    mixing = ConvAdapter(8, 6, bottleneck_dim=3, input_layers=2).materialise()
    assert mixing.layer_weights().tolist() == [[0.5, 0.5]]
    assert ConvAdapter(8, 6, bottleneck_dim=3).materialise().layer_weights() is None


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_query_sees_every_query(attention: str) -> None:
    """Also those behind it: a causal mask would leave the derivatives above the diagonal zero."""
    projector = build(attention, layers=1, num_layers=1)
    frames, lengths = torch.randn(1, 1, 9, 8), torch.tensor([9])

    def vectors(queries: torch.Tensor) -> torch.Tensor:
        own = {"queries": queries}
        out = torch.func.functional_call(projector, own, (frames, lengths))
        return out.vectors[0].square().sum(-1)

    jacobian = torch.autograd.functional.jacobian(vectors, projector.queries.detach())
    reached = jacobian[:, 0].abs().sum(-1)  # (vector, query)
    assert (reached > 1e-6).all(), reached


def test_attention_implementations_agree() -> None:
    frames, lengths = torch.randn(2, 3, 9, 8), torch.tensor([9, 4])
    eager, sdpa = build("eager"), build("sdpa")
    eager.load_state_dict(sdpa.state_dict())
    torch.testing.assert_close(
        eager(frames, lengths).vectors, sdpa(frames, lengths).vectors, atol=1e-5, rtol=0
    )


def test_standardised_frames_have_mean_nought_and_variance_one() -> None:
    """Of each dimension of each layer; what all frames share, and its size, change nothing."""
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(3, n, 8, generator=generator) for n in (40, 7, 90)]
    shift, scale = torch.randn(3, 1, 8) * 9, torch.rand(3, 1, 8) + 0.1
    shift[0, 0, 2], scale[1, 0, 5] = 1e3, 1e-9  # far off, and all but constant
    moved = [clip * scale + shift for clip in clips]
    plain, other = build(standardise=True), build(standardise=True)
    plain.fit_frames(clips)
    other.fit_frames(iter(moved))
    whole = torch.cat(moved, 1)
    seen = (whole - other.frame_mean) * other.frame_scale
    assert torch.allclose(seen.mean(1), torch.zeros(3, 8), atol=1e-2)
    variances = seen.var(1, correction=0)
    assert variances[1, 5] < 0.01
    variances[1, 5] = 1.0
    assert torch.allclose(variances, torch.ones(3, 8), atol=2e-2)
    # A checkpoint holds what was learnt; parameters are as many as without.
    loaded = build(standardise=True)
    loaded.load_state_dict(other.state_dict())
    lengths = torch.tensor([40])
    vectors = other(moved[0][None], lengths).vectors
    assert torch.equal(loaded(moved[0][None], lengths).vectors, vectors)
    assert count_parameters(loaded) == count_parameters(build())
    # All but that one dimension say the same; another clip, or none, is farther off than that.
    same = plain(clips[0][None], lengths).vectors
    torch.testing.assert_close(same, vectors, atol=0.1, rtol=0)
    for frames in (clips[2][None, :, :40], torch.zeros(1, 3, 40, 8)):
        assert (plain(frames, lengths).vectors - vectors).abs().max() > 0.1
    assert not build().fits_frames and "frame_mean" not in build().state_dict()
    with pytest.raises(ValueError, match="no frames"):
        build(standardise=True).fit_frames([])


def test_a_checkpoint_holds_the_frames_statistics_whatever_trains() -> None:
    """Else decoding would read other frames than training did."""
    for standardise in (True, False):
        projector = build(standardise=standardise)
        groups = {"projector.project": [("weight", projector.project.weight)]}
        groups = {p: [(f"{p}.{n}", t) for n, t in own] for p, own in groups.items()}
        saved = trained_tensors({"projector": projector}, groups)
        buffers = {"projector.frame_mean", "projector.frame_scale"} if standardise else set()
        assert saved.keys() == {"projector.project.weight"} | buffers
        # Nor has a phase that trains the LLM alone anywhere else to take them from.
        assert trained_tensors({"projector": projector}, {"llm": []}).keys() == buffers


def test_any_length_gives_the_same_number_of_vectors() -> None:
    projector = build()
    assert projector.output_lengths(torch.tensor([1, 50, 1500])).tolist() == [4, 4, 4]
    out = projector(torch.randn(1, 3, 1, 8), torch.tensor([1]))
    assert out.vectors.shape == (1, 4, 6) and out.times is None


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="input_dim 9 .* num_heads 2"):
        LayerwiseQFormer(9, 4, num_heads=2)
    with pytest.raises(ValueError, match="num_queries"):
        LayerwiseQFormer(8, 4, num_queries=0)


def test_layer_weights_are_drawn_on_a_scale_that_does_not_exaggerate(tmp_path) -> None:
    import matplotlib.image

    from toolkit.training import draw_layer_weights

    def colours(spread: float) -> float:
        """How far from grey the map is drawn, for weights so far from uniform."""
        row = [0.5 - spread, 0.5 + spread]
        path = draw_layer_weights([row, row[::-1]], ["0", "1"], tmp_path / "drawn" / "w.png")
        pixels = matplotlib.image.imread(path)[..., :3]
        # The map itself, without the colour bar beside it.
        height, width = pixels.shape[:2]
        drawn = pixels[height // 4 : height // 2, width // 4 : width // 2]
        return float((drawn.max(-1) - drawn.min(-1)).max())

    assert colours(0.001) < 0.1 < 0.5 < colours(0.05) == pytest.approx(colours(0.4), abs=0.02)
