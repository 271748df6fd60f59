"""SpeechMapper's two phases on tiny random models: what runs, what does not, what it learns."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_models import MAX_SECONDS, save_llama, save_whisper, spoken_rows  # noqa: E402

from toolkit.data.collate import Collator  # noqa: E402
from toolkit.data.example import Example  # noqa: E402
from toolkit.encoders import FrameMean, WhisperEncoder  # noqa: E402
from toolkit.interleavers import SpeechOnly  # noqa: E402
from toolkit.llms import CausalLM, Prompt  # noqa: E402
from toolkit.losses import (  # noqa: E402
    EmbeddingCosine,
    EmbeddingMeasures,
    EmbeddingMSE,
    ResponseCrossEntropy,
)
from toolkit.models import SpeechLLM  # noqa: E402
from toolkit.pipeline.training import leave_out_refused  # noqa: E402
from toolkit.projectors import CTCEmbedding, SpeechMapper  # noqa: E402
from toolkit.segments import Span  # noqa: E402
from toolkit.training import Phase, SpeechLLMBrain  # noqa: E402
from toolkit.training.record import read_lines  # noqa: E402

PAD = "<s>"  # in neither the template nor any text


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield str(save_whisper(root / "whisper")), str(save_llama(root / "llm"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return spoken_rows(tmp_path_factory.mktemp("tones"), 6, "u", seed=3)


def build(sources, llm=True, **settings) -> SpeechLLM:
    encoder = FrameMean(WhisperEncoder(sources[0], max_seconds=MAX_SECONDS), 2)
    causal = CausalLM(sources[1])
    projector = SpeechMapper(
        encoder.dim, causal.dim, widths=[32, 32], strides=[2, 1], num_layers=1, num_heads=2,
        ffn_dim=32, dropout=0.0, norm_first=True, frame_rate=encoder.frame_rate, pad_token=PAD,
        **settings,
    )  # fmt: skip
    model = SpeechLLM(encoder, projector, SpeechOnly(), causal, Prompt("{instruction}\n{audio}"))
    torch.manual_seed(0)
    projector.materialise()
    projector.fit([], causal.tokenizer)
    encoder.materialise().requires_grad_(False)
    if llm:
        causal.materialise()
    return model.eval()


def examples(model, rows) -> list[Example]:
    tokenizer = model.llm.tokenizer
    end = model.prompt.end_ids(tokenizer)
    ids = [tokenizer(row.text, add_special_tokens=False)["input_ids"] for row in rows]
    fields = {"instruction": "Write down what you hear:"}
    return [Example(row, "say", fields, (*own, *end)) for row, own in zip(rows, ids, strict=True)]


def train(model, rows, folder, losses, steps=3, **settings) -> tuple[list[dict], SpeechLLMBrain]:
    phase = Phase(
        ["projector"], {"a": 1.0}, losses, steps, batch_items=3, accumulation=2,
        validation=["dev"], **{"lr": 1e-3, "validate_every": steps, **settings},
    )  # fmt: skip
    for term in (*losses.values(), *phase.measures.values()):
        term.fit(model.llm)
    items = examples(model, rows)
    collator = Collator(
        model.prompt, model.interleaver, model.llm.tokenizer, run_llm=phase.runs_llm(),
        units=model.projector.transcript_units(),
    )  # fmt: skip
    brain = SpeechLLMBrain(
        model, phase, {"a": items}, {"dev": items}, collator, folder, seed=5, log_every=1,
        progress_bar=False,
    )  # fmt: skip
    brain.fit()
    return read_lines(folder / "train_log.jsonl"), brain


@pytest.mark.parametrize(
    ("needs", "runs"),
    [
        ({"vectors", "embedding_table"}, 0),
        ({"logits"}, 0),
        ({"aux"}, 1),
        ({"vectors", "aux"}, 1),
        ({"logits", "aux"}, 1),
    ],
)
@torch.no_grad()
def test_a_ctc_head_runs_only_where_its_scores_are_asked_for(sources, rows, needs, runs):
    dim = CausalLM(sources[1]).dim
    head = CTCEmbedding(
        32, dim, embeddings=sources[1], hidden_dim=16, num_layers=0, strides=[1],
        vocabulary=[3, 7, 9],
    )  # fmt: skip
    model = build(sources, ctc=head)
    ran = []
    head.network.register_forward_hook(lambda *_: ran.append(True))
    collator = Collator(model.prompt, model.interleaver, model.llm.tokenizer)
    batch, _ = collator(examples(model, rows))
    out = model(batch, frozenset(needs))
    assert len(ran) == runs
    assert ("ctc_log_probs" in out.projected.aux) == bool(runs)
    model.llm_input(batch)
    model.generate(collator.for_decoding(examples(model, rows)[:1]), max_new_tokens=2)
    assert len(ran) == runs  # what the LLM answers to has no scores


def paper_loss(alpha=5.0, gamma=100.0, scale=1.0):
    return {
        "words": EmbeddingMSE(PAD, scale * alpha, "content"),
        "pads": EmbeddingMSE(PAD, scale * (10 - alpha), "pads"),
        "cosine": EmbeddingCosine(PAD, scale * gamma),
    }


@pytest.fixture
def no_body(monkeypatch):
    """Whoever builds, loads or runs the LLM's body fails."""

    def refuse(*arguments, **settings):
        raise AssertionError("the LLM's body was asked for")

    monkeypatch.setattr("toolkit.llms.files.load", refuse)
    monkeypatch.setattr(CausalLM, "states", refuse)
    monkeypatch.setattr(CausalLM, "_build", refuse)


def test_pretraining_never_touches_the_llms_body(sources, rows, tmp_path, no_body):
    model = build(sources, llm=False)
    lines, brain = train(model, rows, tmp_path, paper_loss())
    assert len(lines) == 3 and set(lines[0]["losses"]) == {"words", "pads", "cosine"}
    assert model.llm.model is None and not list(model.llm.parameters())
    assert brain.model.llm.embedding_table().shape == (model.llm.vocab_size, model.llm.dim)


def test_utterances_whose_tokens_do_not_fit_are_left_out_and_counted(sources, rows, caplog):
    model = build(sources, llm=False)
    long = replace(rows[0], id="long", text=" ".join(["please hold the line"] * 20))
    items = examples(model, [*rows, long])
    losses = {"words": EmbeddingMSE(PAD, 1.0, "content")}
    with caplog.at_level("INFO", "toolkit"):
        leave_out_refused("paired", items, losses, model)
    assert [item.row.id for item in items] == [row.id for row in rows]
    assert "{'more_tokens_than_vectors': 1}" in caplog.text
    # A term that takes no part refuses nothing.
    items = examples(model, [long])
    leave_out_refused("paired", items, {"words": EmbeddingMSE(PAD, 0.0)}, model)
    assert len(items) == 1
    with pytest.raises(RuntimeError, match="more_tokens_than_vectors"):
        leave_out_refused("paired", items, losses, model)


def test_sigma_one_runs_no_llm(sources, rows, tmp_path, no_body):
    sigma = 1.0
    losses = {"response": ResponseCrossEntropy(1 - sigma), **paper_loss(gamma=0.0, scale=sigma)}
    lines, brain = train(build(sources, llm=False), rows, tmp_path, losses)
    assert not brain.phase.runs_llm()
    # A term of weight zero is not computed, so it has no curve.
    assert set(lines[0]["losses"]) == {"words", "pads"}


def test_sigma_zero_is_pure_cross_entropy_bit_for_bit(sources, rows, tmp_path):
    sigma = 0.0
    results = []
    for name, extra in (("pure", {}), ("mixed", paper_loss(gamma=0.0, scale=sigma))):
        model = build(sources)
        losses = {"response": ResponseCrossEntropy(1 - sigma), **extra}
        lines, _ = train(model, rows, tmp_path / name, losses)
        results.append((lines, model.projector.state_dict()))
    (pure, weights), (mixed, others) = results
    assert [line["losses"] for line in pure] == [line["losses"] for line in mixed]
    assert [line["grad_norm"] for line in pure] == [line["grad_norm"] for line in mixed]
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_sigma_between_is_the_weighted_sum_of_both_gradients(sources, rows):
    def gradient(losses):
        model = build(sources)
        model.projector.requires_grad_(True)
        for loss in losses.values():
            loss.fit(model.llm)
        collator = Collator(model.prompt, model.interleaver, model.llm.tokenizer)
        batch, _ = collator(examples(model, rows))
        from toolkit.training.loader import note_vectors

        note_vectors(model, batch)
        needs = frozenset().union(*(loss.needs for loss in losses.values()))
        out = model(batch, needs)
        total = sum(
            loss.weight_at(0.0) / loss.count(batch) * loss(out).sum() for loss in losses.values()
        )
        total.backward()
        return torch.cat([p.grad.flatten() for p in model.projector.parameters()])

    sigma = 0.9
    response, regression = {"response": ResponseCrossEntropy(1.0)}, paper_loss(gamma=0.0)
    both = {"response": ResponseCrossEntropy(1 - sigma), **paper_loss(gamma=0.0, scale=sigma)}
    expected = (1 - sigma) * gradient(response) + sigma * gradient(regression)
    assert torch.allclose(gradient(both), expected, atol=1e-5)


def test_pretraining_learns_to_spell_the_transcripts_it_saw(sources, rows, tmp_path):
    losses = {"content": EmbeddingCosine(PAD, 1.0, "content"), "pads": EmbeddingCosine(PAD, 1.0)}
    lines, brain = train(
        build(sources, llm=False), rows, tmp_path, losses, steps=150, lr=3e-3, warmup_steps=10,
        measures={"tokens": EmbeddingMeasures(PAD)},
    )  # fmt: skip
    metrics = brain.state.metrics
    assert lines[0]["losses"]["content"] > 0.8
    assert metrics["dev/content"] < 0.1
    assert metrics["dev/tokens/accuracy"] > 0.95
    assert metrics["dev/tokens/wer"] < 0.1
    assert metrics["dev/tokens/boundary"] < 0.5


@torch.no_grad()
def test_answers_are_scored_on_the_vectors_that_give_them(sources, rows):
    keep, trim = (build(sources, pads=pads) for pads in ("keep", "trim"))
    batch, _ = Collator(keep.prompt, keep.interleaver, keep.llm.tokenizer)(examples(keep, rows))
    # Every vector is a pad: trimming leaves one of each clip.
    pad = keep.llm.embed(trim.projector.pad)
    for model in (keep, trim):
        model.projector.out[-1].weight.zero_()
        model.projector.out[-1].bias.copy_(pad)
    kept, cut = (model.llm_input(batch) for model in (keep, trim))
    heard = [(read.spans == Span.SPEECH).sum(1) for read in (kept, cut)]
    assert heard[1].tolist() == [1] * len(rows) and bool((heard[0] > 1).all())
    # Training sees every vector, whatever inference does.
    learnt = [model(batch, frozenset({"logits"})).logits for model in (keep, trim)]
    assert torch.equal(*learnt)
    scored = [model.response_nll(batch) for model in (keep, trim)]
    assert all(abs(a - b) > 1e-4 for a, b in zip(*scored, strict=True))


@torch.no_grad()
def test_vectors_do_not_depend_on_batch_mates_and_trimming_does_neither(sources, rows):
    model = build(sources, pads="trim")
    items = examples(model, rows)
    collator = Collator(model.prompt, model.interleaver, model.llm.tokenizer)
    together = model.generate(collator.for_decoding(items), max_new_tokens=6)
    alone = [model.generate(collator.for_decoding([one]), max_new_tokens=6)[0] for one in items]
    assert together == alone
