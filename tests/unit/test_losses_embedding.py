"""Regression onto embeddings: the hand example, pads, whitening, what never counts."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from toolkit.data.example import Batch, Example
from toolkit.data.manifest import Row
from toolkit.llms.embedding_space import EmbeddingSpace, nearest_tokens, pad_token_id
from toolkit.losses import EmbeddingContrast, EmbeddingCosine, EmbeddingMSE, LossInput
from toolkit.projectors import ProjectorOutput

PAD = 0


def language_model(table: torch.Tensor) -> SimpleNamespace:
    """Tokenizer and table, which is all a term may ask of the LLM."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = {"<pad>": 0, "</s>": 1, "<turn>": 2} | {f"t{i}": i for i in range(3, len(table))}
    core = Tokenizer(models.WordLevel(names, unk_token="</s>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", extra_special_tokens=["<turn>"]
    )
    tokenizer.chat_template = "{% for m in messages %}<turn>{{ m['content'] }}{% endfor %}<turn>"
    return SimpleNamespace(tokenizer=tokenizer, eos_ids=(1,), embedding_table=lambda: table)


def inputs_of(vectors: list[torch.Tensor], transcripts, table, padding: int = 0) -> LossInput:
    """A batch of clips of given vectors, with garbage in the batch padding."""
    lengths = [len(v) for v in vectors]
    size = max(lengths) + padding
    padded = torch.full((len(vectors), size, vectors[0].shape[1]), 1e3)
    for i, own in enumerate(vectors):
        padded[i, : len(own)] = own
    examples = [Example(Row(str(i), "/a.wav", 1.0, "t", "en", "s")) for i in range(len(vectors))]
    batch = Batch(
        examples,
        plans=[[] for _ in vectors],
        text_plans=[[] for _ in vectors],
        clip_of=[[i] for i in range(len(vectors))],
        transcript_ids=list(transcripts),
        vector_lengths=lengths,
    )
    projected = ProjectorOutput(padded.requires_grad_(), torch.tensor(lengths))
    return LossInput(batch, projected=projected, embedding_table=table)


@pytest.fixture
def table():
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


def mean_of(term, inputs):
    return float(term(inputs).detach().sum() / term.count(inputs.batch))


def test_the_papers_objective_on_a_hand_example(table):
    """Six vectors, three words: 0-2 words, 3 the first pad, which counts as content, 4-5 pads."""
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    words = (5, 3, 6)
    inputs = inputs_of([vectors], [words], table)
    alpha, gamma = 5.0, 100.0
    terms = {
        "words": EmbeddingMSE("<pad>", alpha, "content"),
        "pads": EmbeddingMSE("<pad>", 10 - alpha, "pads"),
        "cosine": EmbeddingCosine("<pad>", gamma),
    }
    for term in terms.values():
        term.fit(language_model(table))
    counts = {name: term.count(inputs.batch) for name, term in terms.items()}
    assert counts == {"words": 4, "pads": 2, "cosine": 6}
    target = table[[5, 3, 6, PAD, PAD, PAD]]
    expected = (
        alpha * F.mse_loss(vectors[:4], target[:4])
        + (10 - alpha) * F.mse_loss(vectors[4:], target[4:])
        - gamma * F.cosine_similarity(vectors, target, dim=-1).mean()
    )
    total = sum(term.weight_at(0.0) * mean_of(term, inputs) for term in terms.values())
    assert total == pytest.approx(float(expected) + gamma, rel=1e-5)


def test_sum_dim_is_the_mean_times_the_width(table):
    inputs = inputs_of([torch.randn(3, 4)], [(5,)], table)
    means = [EmbeddingMSE("<pad>", reduction=r) for r in ("mean", "sum_dim")]
    for term in means:
        term.fit(language_model(table))
    assert mean_of(means[1], inputs) == pytest.approx(4 * mean_of(means[0], inputs))


TERMS = [
    lambda p: EmbeddingMSE("<pad>", positions=p),
    lambda p: EmbeddingCosine("<pad>", positions=p),
    lambda p: EmbeddingContrast("<pad>", positions=p, negatives=4),
    lambda p: EmbeddingMSE("<pad>", positions=p, space="whitened"),
]


@pytest.mark.parametrize("make", TERMS)
@pytest.mark.parametrize("positions", ["content", "pads", "all"])
def test_batch_padding_never_counts(make, positions, table):
    clips = [torch.randn(6, 4), torch.randn(3, 4)]
    words = [(5, 3), (7,)]
    term = make(positions)
    term.fit(language_model(table))
    tight, loose = (inputs_of(clips, words, table, padding) for padding in (0, 5))
    assert torch.equal(term(tight), term(loose))
    assert term.count(tight.batch) == term.count(loose.batch)
    term(loose).sum().backward()
    assert (loose.projected.vectors.grad[0, 6:] == 0).all()
    assert (loose.projected.vectors.grad[1, 3:] == 0).all()


@pytest.mark.parametrize("make", TERMS)
def test_the_perfect_vectors_are_the_best(make, table):
    term = make("all")
    term.fit(language_model(table))
    target = table[[5, 3, PAD, PAD]]
    best = term(inputs_of([target], [(5, 3)], table))
    noise = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    assert best < term(inputs_of([target + noise], [(5, 3)], table))
    if not isinstance(term, EmbeddingContrast):
        assert float(best.detach()) == pytest.approx(0.0, abs=1e-5)


def test_tokens_that_fill_all_vectors_have_no_pad_and_more_are_refused(table):
    term = EmbeddingMSE("<pad>", positions="all")
    term.fit(language_model(table))
    full = inputs_of([table[[5, 3]]], [(5, 3)], table)
    assert term.count(full.batch) == 2 and float(term(full).detach()) == 0.0
    assert term.refuses(2, 2) is None
    assert term.refuses(3, 2) == "more_tokens_than_vectors"
    # Where a clip is shorter than its manifest says, the utterance takes no part: nothing is cut.
    over = inputs_of([torch.randn(2, 4)], [(5, 3, 6)], table)
    assert term.count(over.batch) == 0 and float(term(over).detach()) == 0.0


def test_an_example_without_speech_takes_no_part(table):
    term = EmbeddingCosine("<pad>")
    term.fit(language_model(table))
    inputs = inputs_of([torch.randn(3, 4), torch.randn(3, 4)], [(5,), (5,)], table)
    inputs.batch.clip_of = [[], [1]]
    assert term(inputs)[0] == 0.0 < term(inputs)[1]
    assert term.count(inputs.batch) == 3


def test_lengths_that_depend_on_content_are_refused(table):
    term = EmbeddingCosine("<pad>")
    term.fit(language_model(table))
    inputs = inputs_of([torch.randn(3, 4)], [(5,)], table)
    inputs.batch.vector_lengths = None
    with pytest.raises(ValueError, match="exact_lengths"):
        term.count(inputs.batch)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("</s>", "ends a sequence"),
        ("<turn>", "chat template"),
        ("<nothing>", "is no token"),
        (99, "is no token"),
    ],
)
def test_pad_tokens_with_a_meaning_are_refused(token, message, table):
    with pytest.raises(ValueError, match=message):
        EmbeddingMSE(token).fit(language_model(table))


def test_a_pad_token_is_required_and_may_be_an_id(table):
    with pytest.raises(ValueError, match="pad_token"):
        EmbeddingMSE("")
    assert pad_token_id(language_model(table).tokenizer, 4) == 4
    with pytest.raises(ValueError, match="ends a sequence"):
        pad_token_id(language_model(table).tokenizer, 5, eos_ids=(5,))


def test_contrast_over_the_whole_table_is_a_softmax(table):
    term = EmbeddingContrast("<pad>", negatives=None, temperature=0.5, space="raw")
    term.fit(language_model(table))
    vectors = torch.randn(2, 4)
    scores = F.normalize(vectors, dim=-1) @ F.normalize(table, dim=-1).T / 0.5
    expected = F.cross_entropy(scores, torch.tensor([5, PAD]), reduction="sum")
    found = term(inputs_of([vectors], [(5,)], table)).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_a_twin_of_the_target_is_no_other_token(table):
    """Untrained rows are often one: what cannot be told apart must not be a floor of the loss."""
    twins = torch.cat([table, table[PAD : PAD + 1]])
    term = EmbeddingContrast("<pad>", negatives=None, temperature=0.5, space="raw")
    term.fit(language_model(table))
    vectors = torch.randn(2, 4)
    alone, beside = (term(inputs_of([vectors], [(5,)], t)).sum() for t in (table, twins))
    # The first position has one more token to be told from, the pad at the second has not.
    scores = F.normalize(vectors, dim=-1) @ F.normalize(twins, dim=-1).T / 0.5
    first = F.cross_entropy(scores[:1], torch.tensor([5]))
    second = F.cross_entropy(scores[1:, :-1], torch.tensor([PAD]))
    assert float(beside.detach()) == pytest.approx(float(first + second), rel=1e-5)
    assert float(beside.detach()) > float(alone.detach())


def test_the_nearest_token_is_found_across_chunks(monkeypatch):
    table = torch.randn(23, 6)
    vectors = table[[0, 4, 5, 22, 9]] + 0.01 * torch.randn(5, 6)
    whole = nearest_tokens(vectors, table)
    monkeypatch.setattr("toolkit.llms.embedding_space.CHUNK", 5)
    assert nearest_tokens(vectors, table).tolist() == whole.tolist() == [0, 4, 5, 22, 9]
    assert nearest_tokens(vectors[:0], table).tolist() == []


def test_negatives_change_with_the_step_alone(table):
    term = EmbeddingContrast("<pad>", negatives=3, space="raw")
    draws = [term._sample(8, progress).tolist() for progress in (0.1, 0.1, 0.2, 0.3, 0.4)]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) > 1
    assert all(len(set(draw)) == 3 for draw in draws)


def test_words_are_told_apart_at_every_step(table):
    """A value's rivals are among its negatives, which a sample of a large table would miss."""
    term = EmbeddingContrast("<pad>", negatives=0, words=["t4", "t5"], temperature=0.5, space="raw")
    term.fit(language_model(table))
    assert term._sample(8, 0.3).tolist() == [4, 5]
    vectors = torch.randn(1, 4)
    scores = F.normalize(vectors, dim=-1) @ F.normalize(table[[4, 5]], dim=-1).T / 0.5
    expected = F.cross_entropy(scores, torch.tensor([1]))
    found = term(inputs_of([vectors], [(5,)], table)).sum()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)
    more = EmbeddingContrast("<pad>", negatives=3, words=["t4"], space="raw")
    more.fit(language_model(table))
    drawn = [more._sample(8, progress / 10).tolist() for progress in range(10)]
    assert all(4 in rows and 3 <= len(rows) <= 4 for rows in drawn)
    with pytest.raises(ValueError, match="a list of words, not 'male'"):
        EmbeddingContrast("<pad>", words="male")
    with pytest.raises(ValueError, match="at least 1"):
        EmbeddingContrast("<pad>", negatives=0)


def test_whitened_coordinates_have_unit_covariance():
    generator = torch.Generator().manual_seed(4)
    spread = torch.randn(4000, 3, generator=generator) * torch.tensor([5.0, 1.0, 2.0]) + 7
    spread = spread @ torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    white = EmbeddingSpace("whitened").fit(spread)(spread)
    assert torch.allclose(white.mean(0), torch.zeros(3), atol=1e-3)
    assert torch.allclose(white.T @ white / 4000, torch.eye(3), atol=0.15)


def test_nearest_token_sees_past_the_common_direction():
    common = torch.tensor([10.0, 0.0, 0.0])
    table = common + torch.tensor([[0, 1.0, 0], [0, -1.0, 0], [0, 0, 1.0], [0, 0, -1.0]])
    vectors = common + torch.tensor([[0.3, 0.1, 0.3], [-0.3, -0.5, 0.1]])
    assert nearest_tokens(vectors, table).tolist() == [2, 1]


def test_untrained_rows_equal_to_the_pad_are_the_pad():
    table = torch.eye(4)
    table[1] = table[3]
    assert nearest_tokens(table[3:], table).tolist() == [1]
    assert nearest_tokens(table[3:], table, pad=3).tolist() == [3]


def test_mixed_precision_around_a_term_changes_nothing(table):
    term = EmbeddingContrast("<pad>", negatives=None, space="whitened")
    term.fit(language_model(table))
    inputs = inputs_of([torch.randn(4, 4)], [(5, 3)], table)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = term(inputs)
        nearest = nearest_tokens(inputs.projected.vectors[0], table)
    assert torch.equal(mixed, term(inputs)) and mixed.dtype == torch.float32
    assert torch.equal(nearest, nearest_tokens(inputs.projected.vectors[0], table))


def test_spaces_and_settings_are_checked():
    with pytest.raises(ValueError, match="space"):
        EmbeddingMSE("<pad>", space="polar")
    with pytest.raises(ValueError, match="positions"):
        EmbeddingMSE("<pad>", positions="words")
    with pytest.raises(ValueError, match="reduction"):
        EmbeddingMSE("<pad>", reduction="sum")
    with pytest.raises(ValueError, match="temperature"):
        EmbeddingContrast("<pad>", temperature=0)
    with pytest.raises(RuntimeError, match="fit"):
        EmbeddingSpace("centred")(torch.zeros(1, 2))
    assert math.isfinite(float(EmbeddingSpace("raw")(torch.ones(2)).sum()))
