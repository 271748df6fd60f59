"""SpeechMapper's shape, lengths and times, and the frame means in front of it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from toolkit.component import count_parameters
from toolkit.encoders import Encoder, EncoderOutput, FrameMean
from toolkit.projectors import CTCEmbedding, ProjectorOutput, SpeechMapper
from toolkit.projectors.ctc_network import Block
from toolkit.projectors.strided import StridedConv, zero_beyond

SMALL = {"widths": [8, 10], "num_layers": 1, "num_heads": 2, "ffn_dim": 12}


def test_the_papers_sizes_have_277_million_parameters():
    projector = SpeechMapper(1024, 4096).materialise("meta")
    assert count_parameters(projector) == 277_031_936
    # Six layers a block; with three the paper saw worse results.
    assert [len(block.layers) for block in projector.blocks] == [6, 6]
    assert [block.widen.out_features for block in projector.blocks] == [2048, 4096]


def test_without_final_hidden_layers_the_size_is_another():
    sizes = [
        count_parameters(SpeechMapper(1024, 4096, output_layers=n).materialise("meta"))
        for n in (1, 2)
    ]
    assert sizes[1] - sizes[0] == 4096 * 4096 + 4096


def test_blocks_are_those_of_torch_with_the_same_parameters():
    torch.manual_seed(0)
    ours = Block(8, 2, 12, dropout=0.0, norm_first=False)
    theirs = nn.TransformerEncoderLayer(8, 2, 12, 0.0, nn.functional.gelu, batch_first=True)
    assert count_parameters(ours) == count_parameters(theirs)
    pairs = {
        "self_attn.in_proj_weight": ours.attention.qkv.weight,
        "self_attn.in_proj_bias": ours.attention.qkv.bias,
        "self_attn.out_proj.weight": ours.attention.out.weight,
        "self_attn.out_proj.bias": ours.attention.out.bias,
        "norm1.weight": ours.attention_norm.weight,
        "norm1.bias": ours.attention_norm.bias,
        "norm2.weight": ours.feed_forward[0].weight,
        "norm2.bias": ours.feed_forward[0].bias,
        "linear1.weight": ours.feed_forward[1].weight,
        "linear1.bias": ours.feed_forward[1].bias,
        "linear2.weight": ours.feed_forward[4].weight,
        "linear2.bias": ours.feed_forward[4].bias,
    }
    theirs.load_state_dict({name: value.detach().clone() for name, value in pairs.items()})
    values, lengths = torch.randn(2, 5, 8), torch.tensor([5, 3])
    valid = torch.arange(5) < lengths[:, None]
    for norm_first in (False, True):
        ours.norm_first = theirs.norm_first = norm_first
        expected = theirs(values, src_key_padding_mask=~valid)
        assert torch.allclose(ours(values, lengths, valid)[valid], expected[valid], atol=1e-5)


def test_kernel_six_is_padded_by_two_and_three_and_halves_every_length_exactly():
    conv = StridedConv(3, 3, kernel_size=6, stride=2)
    assert conv.padding == (2, 3)
    for length in range(1, 40):
        out, lengths = conv(torch.randn(1, length, 3), torch.tensor([length]))
        assert out.shape[1] == int(lengths) == -(-length // 2)


def test_every_length_from_one_frame_up_gives_a_quarter_rounded_up():
    projector = SpeechMapper(6, 4, **SMALL).materialise().eval()
    lengths = torch.arange(1, 34)
    out = projector(torch.randn(33, 1, 33, 6), lengths)
    assert out.lengths.tolist() == [-(-n // 4) for n in range(1, 34)]
    assert torch.equal(projector.output_lengths(lengths), out.lengths)


def test_times_tile_the_clip_at_a_quarter_of_the_frame_rate():
    projector = SpeechMapper(6, 4, frame_rate=25.0, **SMALL).materialise().eval()
    times = projector(torch.randn(1, 1, 10, 6), torch.tensor([10])).times[0]
    expected = torch.tensor([[0.0, 0.16], [0.16, 0.32], [0.32, 0.4]])
    assert torch.allclose(times, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": [8], "strides": [2, 2]}, "one width and one stride"),
        ({"widths": [9, 10]}, "width 9"),
        ({"output_layers": 0}, "output_layers"),
        ({"pads": "cut"}, "pads"),
        ({"pads": "trim"}, "pad_token"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpeechMapper(6, 4, **{**SMALL, **arguments})


class Words:
    """A tokenizer as far as a pad token is concerned."""

    chat_template, eos_token_id = None, 1

    def __len__(self):
        return 5

    def get_vocab(self):
        return {"<pad>": 2, "</s>": 1}


def fixed_vectors(tokens: list[list[int]], table: torch.Tensor) -> ProjectorOutput:
    lengths = torch.tensor([len(row) for row in tokens])
    rows = [table[row] + 0.1 for row in tokens]
    times = torch.arange(1.0, 9.0).view(1, -1, 1).expand(len(tokens), -1, 2)
    return ProjectorOutput(
        nn.utils.rnn.pad_sequence(rows, batch_first=True),
        lengths,
        zero_beyond(times[:, : int(lengths.max())], lengths),
    )


def test_pads_are_kept_or_trimmed_at_the_first_that_is_nearest():
    table = torch.eye(5)
    out = fixed_vectors([[3, 4, 2, 0, 2], [0, 0, 3], [2, 2, 2, 2]], table)
    kept = SpeechMapper(6, 5, pad_token="<pad>", **SMALL).materialise()
    assert kept.finish(out, table) is out
    trimming = SpeechMapper(6, 5, pad_token="<pad>", pads="trim", **SMALL).materialise()
    with pytest.raises(RuntimeError, match="pad"):
        trimming.finish(out, table)
    trimming.fit([], Words())
    cut = trimming.finish(out, table)
    # Cut at the first pad; no pad, nothing cut; all pads, one vector stays.
    assert cut.lengths.tolist() == [2, 3, 1]
    assert torch.equal(cut.vectors[0, :2], out.vectors[0, :2])
    assert (cut.vectors[0, 2:] == 0).all() and (cut.vectors[2, 1:] == 0).all()
    assert torch.equal(cut.times[1], out.times[1, :3])


def test_heard_are_the_nearest_tokens_in_front_of_the_first_pad():
    table = torch.eye(5)
    out = fixed_vectors([[3, 4, 2, 0, 2], [0, 0, 3], [2, 2, 2, 2]], table)
    projector = SpeechMapper(6, 5, pad_token="<pad>", **SMALL).materialise()
    assert projector.heard(out, table) is None  # knows no pad yet
    projector.fit([], Words())
    assert projector.heard(out, table) == [[3, 4], [0, 0, 3], []]
    assert SpeechMapper(6, 5, **SMALL).materialise().heard(out, table) is None


def test_a_trained_pad_travels_with_the_weights():
    arguments = {"pad_token": "<pad>", "pads": "trim", **SMALL}
    fitted = SpeechMapper(6, 5, **arguments).materialise()
    fitted.fit([], Words())
    loaded = SpeechMapper(6, 5, **arguments).materialise()
    loaded.load_state_dict(fitted.state_dict())
    assert int(loaded.pad) == 2


def test_transcripts_are_normalised_before_they_are_tokenised():
    assert SpeechMapper(6, 5, normalise="lower", **SMALL).transcript_units().text("Hi, You!") == (
        "hi you"
    )
    assert SpeechMapper(6, 5, **SMALL).transcript_units().text("Hi, You!") == "Hi, You!"


@pytest.fixture
def llm_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    rows = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    save_file({"model.embed_tokens.weight": rows}, tmp_path / "model.safetensors")
    return str(tmp_path)


def with_ctc(folder, **settings) -> SpeechMapper:
    head = CTCEmbedding(
        8, 5, embeddings=folder, hidden_dim=8, num_layers=0, strides=[1], dropout=0.0,
        vocabulary=[3, 7, 9], **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    return SpeechMapper(6, 5, ctc=head, **{"dropout": 0.0, **SMALL})


def test_a_ctc_head_scores_the_frames_behind_the_first_block(llm_folder):
    projector = with_ctc(llm_folder).materialise()
    frames, lengths = torch.randn(2, 1, 11, 6), torch.tensor([11, 5])
    out = projector(frames, lengths)
    assert out.aux["ctc_lengths"].tolist() == [6, 3] and out.lengths.tolist() == [3, 2]
    assert out.aux["ctc_log_probs"].shape == (2, 6, 4)
    assert out.aux["ctc_vocabulary"].tolist() == [3, 7, 9]
    alone = projector.aux(frames, lengths)
    assert torch.equal(alone["ctc_log_probs"], out.aux["ctc_log_probs"])
    assert projector.vectors(frames, lengths).aux == {}
    # A warm start reaches the head and the first block, and nothing behind.
    alone["ctc_log_probs"][..., 1].sum().backward()
    reached = {name.split(".")[0] + "." + name.split(".")[1]
               for name, p in projector.named_parameters() if p.grad is not None}  # fmt: skip
    assert {"blocks.0", "ctc.network", "ctc.query", "ctc.blank", "ctc.log_scale"} <= reached
    assert "blocks.1" not in reached and "out.0" not in reached


def test_a_ctc_heads_vocabulary_travels_with_the_weights(llm_folder):
    trained = with_ctc(llm_folder).materialise().eval()
    fresh = SpeechMapper(
        6, 5,
        ctc=CTCEmbedding(8, 5, embeddings=llm_folder, hidden_dim=8, num_layers=0, strides=[1]),
        **SMALL,
    ).materialise().eval()  # fmt: skip
    fresh.load_state_dict(trained.state_dict())
    frames, lengths = torch.randn(1, 1, 9, 6), torch.tensor([9])
    ours, theirs = trained(frames, lengths), fresh(frames, lengths)
    assert torch.equal(ours.vectors, theirs.vectors)
    assert torch.equal(ours.aux["ctc_log_probs"], theirs.aux["ctc_log_probs"])


def test_ctc_heads_that_do_not_fit_are_refused(llm_folder):
    with pytest.raises(ValueError, match="first block's width"):
        SpeechMapper(6, 5, ctc=CTCEmbedding(9, 5, embeddings=llm_folder), **SMALL)
    with pytest.raises(ValueError, match="min_count"):
        with_ctc(llm_folder, min_count=2)


class Ramp(Encoder):
    """Frame t of layer l is t + 10 l; one frame per 100 samples."""

    dim, frame_rate, num_layers, max_seconds = 2, 160.0, 2, 1.0

    def output_lengths(self, samples):
        return samples // 100

    def forward(self, waveforms, lengths):
        counts = self.output_lengths(lengths)
        steps = torch.arange(int(counts.max())).float()
        frames = torch.stack([steps, steps + 10])[None, :, :, None].expand(len(counts), -1, -1, 2)
        inside = steps[None, None, :, None] < counts[:, None, None, None]
        return EncoderOutput(frames * inside, counts)

    def fingerprint(self):
        return "ramp"

    def _build(self, device, dtype):
        pass


def test_frame_means_are_over_the_frames_there_are():
    encoder = FrameMean(Ramp(), frames=2).materialise()
    out = encoder(torch.zeros(2, 500), torch.tensor([500, 300]))
    assert out.lengths.tolist() == [3, 2]
    assert torch.equal(encoder.output_lengths(torch.tensor([500, 300])), out.lengths)
    assert out.frames[0, 0, :, 0].tolist() == [0.5, 2.5, 4.0]
    assert out.frames[1, 1, :, 1].tolist() == [10.5, 12.0, 0.0]
    assert (encoder.frame_rate, encoder.dim, encoder.num_layers) == (80.0, 2, 2)


def test_frame_means_have_a_cache_of_their_own():
    prints = {FrameMean(Ramp(), frames=n).fingerprint() for n in (1, 2, 3)}
    assert len(prints) == 3 and "ramp" not in prints


def test_frame_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        FrameMean(Ramp(), frames=0)
