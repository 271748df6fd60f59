"""The batched window Q-Former and the loop over windows are the same function."""

from __future__ import annotations

import pytest
import torch

from toolkit.bench.window_qformer import KINDS, batch_of, compare, looped, main, measure
from toolkit.projectors import WindowQFormer

SECONDS = [0.1, 0.34, 0.7, 1.02]


def made(**settings) -> WindowQFormer:
    torch.manual_seed(0)
    shape = {"hidden_dim": 16, "num_heads": 2, "ffn_dim": 24, **settings}
    projector = WindowQFormer(6, 10, **shape).materialise().eval()
    # Far from the small values of the start, so that a wrong window shows.
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return projector


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_queries": 3}, {"tail": "drop"}, {"input_layers": 2}, {"window_seconds": 0.1}],
    ids=lambda s: next(iter(s), "default"),
)
def test_both_ways_give_the_same_vectors(settings):
    projector = made(**settings)
    frames, lengths = batch_of(SECONDS, projector)
    assert lengths.tolist() == [5, 17, 35, 51]
    clips = looped(projector, frames, lengths)
    assert [len(v) for v in clips] == projector.output_lengths(lengths).tolist()
    assert compare(projector, frames, lengths) < 1e-4
    # The vectors depend on what is heard: equality is no accident of constants.
    assert max(float(v.std(0).max()) for v in clips if len(v) > 1) > 1e-2


def test_a_difference_is_found():
    projector = made()
    frames, lengths = batch_of(SECONDS, projector)
    whole = projector.forward

    def wrong(*inputs):
        out = whole(*inputs)
        out.vectors[2, 1] += 0.01
        return out

    projector.forward = wrong
    with pytest.raises(AssertionError):
        compare(projector, frames, lengths)


def test_passes_are_interleaved_and_counted():
    projector = made()
    frames, lengths = batch_of(SECONDS, projector)
    order = []
    projector.register_forward_hook(lambda *_: order.append("batch"))
    projector.project.register_forward_hook(lambda *_: order.append("window"))
    timings = measure(projector, frames, lengths, repeats=2)
    assert [t.kind for t in timings] == list(KINDS)
    assert all(len(t.batched) == len(t.looped) == len(t.ratios) == 2 for t in timings)
    assert all(r > 0 for t in timings for r in t.ratios)
    windows = int(projector.output_lengths(lengths).sum())
    once = ["window", "batch", *["window"] * windows]
    assert order == once * 3 * len(KINDS)  # one untimed pass, two timed ones
    assert all(p.grad is None for p in projector.parameters())
    with pytest.raises(ValueError, match="below 1"):
        measure(projector, frames, lengths, repeats=0)


def test_the_command_prints_one_table(capsys):
    main(
        ["0.5", "1", "--input-dim", "6", "--output-dim", "8", "--hidden-dim", "16", "--heads", "2",
         "--ffn-dim", "16", "--repeats", "1"]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "2 clips of 0.5 to 1 s, 5 windows" in out and "| forward and backward |" in out
