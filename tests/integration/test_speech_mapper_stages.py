"""SpeechMapper's recipe on the tiny corpus: both phases, its operating points, its own blocks."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch

from toolkit.bench.phases import common_examples, measure_phases
from toolkit.inference import SpeechLLM
from toolkit.llms import CausalLM
from toolkit.training.record import read_lines

PAD = "<s>"
TERM = f"{{pad_token: {PAD}, positions: %s, weight: %s}}"
OVERRIDES = [
    "encoder=!new:toolkit.encoders.FrameMean {frames: 2, encoder: !new:toolkit.encoders."
    "WhisperEncoder {source: !ref <whisper>, layers: [-1], max_seconds: 2.0}}",
    "projector=!new:toolkit.projectors.SpeechMapper {input_dim: !ref <encoder.dim>, "
    "output_dim: !ref <llm.dim>, frame_rate: !ref <encoder.frame_rate>, widths: [32, 32], "
    "num_layers: 1, num_heads: 2, ffn_dim: 32, strides: [2, 1], normalise: lower, "
    f"pad_token: {PAD}, pads: trim}}",
    "interleaver=!new:toolkit.interleavers.SpeechOnly {}",
    "phases.pretrain.losses={words: !new:toolkit.losses.EmbeddingMSE "
    + TERM % ("content", 5.0)
    + ", pads: !new:toolkit.losses.EmbeddingMSE "
    + TERM % ("pads", 5.0)
    + ", cosine: !new:toolkit.losses.EmbeddingCosine "
    + TERM % ("all", 100.0)
    + "}",
    "+phases.pretrain.measures={tokens: !new:toolkit.losses.EmbeddingMeasures "
    f"{{pad_token: {PAD}}}}}",
    "+phases.pretrain.select=paired_dev/tokens/wer",
    "+phases.pretrain.gradient_norms=true",
    "phases.train.losses={response: !new:toolkit.losses.ResponseCrossEntropy {weight: 0.5}, "
    "words: !new:toolkit.losses.EmbeddingMSE " + TERM % ("content", 2.5) + "}",
    "phases.pretrain.losses.ctc=null",
    "phases.train.losses.ctc=null",
    "phases.train.losses.behaviour=null",
    "decode.inputs=[speech, text, pretrained, pads_kept]",
]


def test_both_phases_and_the_pretrained_operating_point(stages, monkeypatch):
    built = []
    build = CausalLM._build
    monkeypatch.setattr(CausalLM, "_build", lambda *a: (built.append(a[0]), build(*a))[1])
    stages(0, "prepare", OVERRIDES)
    stages("cache", "cache", OVERRIDES)
    stages("pretrain", "pretrain", OVERRIDES)
    # Without the LLM's body, from the first to the last step.
    assert not built
    context = stages("annotate", 11, OVERRIDES)
    assert built
    logs = {p: read_lines(context.exp / p / "train_log.jsonl") for p in ("pretrain", "train")}
    assert set(logs["pretrain"][0]["losses"]) == {"words", "pads", "cosine"}
    assert set(logs["pretrain"][0]["term_grad_norms"]) == {"words", "pads", "cosine"}
    assert set(logs["train"][0]["losses"]) == {"response", "words"}
    valid = read_lines(context.exp / "pretrain" / "valid_log.jsonl")[-1]["metrics"]
    assert {"paired_dev/tokens/accuracy", "paired_dev/tokens/boundary"} <= set(valid)
    assert (context.exp / "pretrain" / "curves" / "tokens_wer.png").is_file()
    scores = json.loads((context.exp / "scores.json").read_text())["sets"]["tones"]
    assert set(scores) == {"speech", "text", "pretrained", "pads_kept"}
    report = (context.exp / "RESULTS.md").read_text()
    assert "first phase's projector" in report and "speech, pads kept" in report
    # Both read the same weights; the vectors behind the words are likelihoods' only difference.
    nll = {
        kind: [r["nll"] for r in read_lines(context.exp / "decode" / f"tones.{kind}.jsonl")]
        for kind in ("speech", "pads_kept")
    }
    assert nll["speech"] != nll["pads_kept"]
    loaded = SpeechLLM.from_pretrained(context.exp / "export")
    assert loaded.model.projector.pads == "trim" and int(loaded.model.projector.pad) == 0
    assert torch.isfinite(next(loaded.model.projector.parameters())).all()
    # What the two phases cost, side by side: only the second holds the LLM's weights.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    given = [str(context.recipe), *context.overrides, "--work", str(context.work)]
    cost = measure_phases(context, given, utterances=4, batch_size=2, passes=2)["phases"]
    assert list(cost) == ["pretrain", "train"]
    assert cost["pretrain"]["llm_mib"] == 0 < cost["train"]["llm_mib"]
    assert all(len(c["seconds_of_passes"]) == 2 and c["peak_mib"] > 50 for c in cost.values())
    # The formulas stand beside: they know what the second phase runs more, and holds more.
    assert 0 < cost["pretrain"]["operations"] < cost["train"]["operations"]
    assert 0 < cost["pretrain"]["formula_mib"] < cost["train"]["formula_mib"]
    with pytest.raises(FileNotFoundError, match="every phase can train on"):
        common_examples(context, context.build_model(llm=False), utterances=1000)


def test_pretrained_needs_a_first_phase(stages, finished, tmp_path):
    from conftest import copy_until

    copy_until(finished, tmp_path, "*")
    for path in (tmp_path / "work").glob("exp/tiny/mtbi/seed1/pretrain"):
        path.rename(path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match="pretrained"):
        stages("decode", "decode", ["decode.inputs=[speech, text, pretrained]"], force=True)
    # Nor are there pads to keep where none are trimmed.
    with pytest.raises(ValueError, match="trims no pads"):
        stages("decode", "decode", ["decode.inputs=[speech, text, pads_kept]"], force=True)
    # Both are known before anything is trained.
    with pytest.raises(ValueError, match="trims no pads"):
        stages("check", "check", ["decode.inputs=[speech, text, pads_kept]"])
    with pytest.raises(ValueError, match="no first phase"):
        stages("check", "check", ["decode.inputs=[speech, pretrained]", "phases.pretrain=null"])
