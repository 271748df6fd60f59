"""CTCEmbedding: vectors of hand-made posteriors, vocabulary, state, augmentation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from toolkit.data.manifest import Row
from toolkit.data.transcript import transcript_lengths, transcript_tokens
from toolkit.projectors import CTCEmbedding
from toolkit.projectors.ctc_network import CTCNetwork
from toolkit.projectors.ctc_runs import find_runs, token_weights

# Embeddings of tokens 10 and 11, chosen so that a vector shows its weights.
TABLE = torch.zeros(14, 2)
TABLE[10] = torch.tensor([1.0, 0.0])
TABLE[11] = torch.tensor([0.0, 1.0])

# fmt: off
POSTERIORS = torch.tensor([
    # blank  10    11
    [[0.10, 0.80, 0.10],    # 10 \ one run
     [0.20, 0.60, 0.20],    # 10 /
     [0.60, 0.20, 0.20],    # blank
     [0.20, 0.60, 0.20],    # 10, after a blank: another run
     [0.00, 0.25, 0.75]],   # 11
    [[0.90, 0.05, 0.05],    # blank
     [0.50, 0.10, 0.40],    # blank, but the least: says 11
     [0.80, 0.10, 0.10],    # blank
     [0.00, 1.00, 0.00],    # beyond the length
     [0.00, 1.00, 0.00]],
])
LENGTHS = torch.tensor([5, 3])
# Mean of the first run: 0.15 0.70 0.15, so 10 weighs 0.70 / 0.85.
A = 0.70 / 0.85
#                utterance 0                                       utterance 1
VECTORS = {
    "posterior": [[[A, 1 - A], [0.75, 0.25], [0.25, 0.75]],        [[0.2, 0.8], [0, 0], [0, 0]]],
    "argmax":    [[[1.0, 0.0], [1.00, 0.00], [0.00, 1.00]],        [[0.0, 1.0], [0, 0], [0, 0]]],
}
# Seconds at 50 Hz, 4 frames a step; utterance 0 has 18 frames: its last step ends at 0.36, not 0.4.
TIMES =          [[[0.0, 0.16], [0.24, 0.32], [0.32, 0.36]],       [[.08, .16], [0, 0], [0, 0]]]
FRAMES = torch.tensor([18, 12])
# fmt: on


@pytest.fixture
def llm(tmp_path: Path) -> str:
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text("{}")
    save_file({"model.embed_tokens.weight": TABLE}, tmp_path / "model.safetensors")
    return str(tmp_path)


def small(llm: str, **arguments) -> CTCEmbedding:
    torch.manual_seed(0)
    sizes = {"hidden_dim": 8, "num_heads": 2, "ffn_dim": 12, "vocabulary": [10, 11]}
    return CTCEmbedding(4, 2, llm, **(sizes | arguments))


def with_posteriors(projector: CTCEmbedding, monkeypatch: pytest.MonkeyPatch) -> CTCEmbedding:
    projector.materialise().eval()
    monkeypatch.setattr(projector, "log_probs", lambda hidden: POSTERIORS.log())
    return projector


@pytest.mark.parametrize("output", ["posterior", "argmax", "straight_through"])
def test_vectors_and_times_of_hand_made_posteriors(llm, monkeypatch, output) -> None:
    projector = with_posteriors(small(llm, output=output), monkeypatch)
    out = projector(torch.randn(2, 1, 18, 4), FRAMES)
    expected = VECTORS["argmax" if output == "straight_through" else output]
    assert out.lengths.tolist() == [3, 1]
    torch.testing.assert_close(out.vectors, torch.tensor(expected).float())
    torch.testing.assert_close(out.times, torch.tensor(TIMES))


@pytest.mark.parametrize("collapse", [True, False])
def test_heard_is_the_best_path_and_silence_is_nothing(llm, monkeypatch, collapse) -> None:
    projector = with_posteriors(small(llm, collapse=collapse), monkeypatch)
    out = projector(torch.randn(2, 1, 18, 4), FRAMES)
    assert projector.heard(out, TABLE) == [[10, 10, 11], []]


def test_without_collapse_each_speaking_frame_is_a_vector(llm, monkeypatch) -> None:
    projector = with_posteriors(small(llm, collapse=False), monkeypatch)
    out = projector(torch.randn(2, 1, 18, 4), FRAMES)
    assert out.lengths.tolist() == [4, 1]
    first = torch.tensor([[8 / 9, 1 / 9], [0.75, 0.25], [0.75, 0.25], [0.25, 0.75]])
    torch.testing.assert_close(out.vectors[0], first)
    starts = out.times[0, :, 0]
    torch.testing.assert_close(starts, torch.tensor([0.0, 0.08, 0.24, 0.32]))


def test_straight_through_has_the_gradient_of_the_posterior(llm) -> None:
    gradients = []
    for output in ("posterior", "straight_through"):
        projector = small(llm, output=output).materialise().eval()
        log_probs = POSTERIORS.clamp_min(1e-6).log().requires_grad_()
        vectors = projector.run_vectors(log_probs, find_runs(log_probs, LENGTHS))
        (vectors * torch.tensor([1.0, -2.0])).sum().backward()
        gradients.append(log_probs.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)


def test_token_weights_temperature_and_top_k() -> None:
    probs = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    torch.testing.assert_close(token_weights(probs), torch.tensor([[3.0, 2.0, 1.0]]) / 6)
    torch.testing.assert_close(token_weights(probs, 0.5), torch.tensor([[9.0, 4.0, 1.0]]) / 14)
    torch.testing.assert_close(token_weights(probs, top_k=2), torch.tensor([[0.6, 0.4, 0.0]]))
    assert token_weights(probs, top_k=3).equal(token_weights(probs))
    underflowed = torch.tensor([[0.0, 1.0, 0.0]]).requires_grad_()
    token_weights(underflowed, 0.5)[0, 1].backward()
    assert torch.isfinite(underflowed.grad).all()


def test_aux_is_the_softmax_of_scaled_cosines_and_a_blank(llm) -> None:
    projector = small(llm, intermediate=True, strides=[2]).materialise().eval()
    frames, lengths = torch.randn(2, 1, 9, 4), torch.tensor([9, 4])
    out = projector(frames, lengths)
    hidden, _, middle = projector.network(projector.mixed(frames, lengths), lengths)
    for name, values in (("ctc_log_probs", hidden), ("ctc_intermediate_log_probs", middle)):
        query = projector.query(values)
        rows = TABLE[[10, 11]]
        cosine = torch.nn.functional.cosine_similarity(
            query[:, :, None], rows - rows.mean(0), dim=-1
        )
        scores = torch.cat([projector.blank(values), 20.0 * cosine], dim=-1)
        torch.testing.assert_close(out.aux[name], scores.log_softmax(-1), atol=1e-5, rtol=0)
    assert out.aux["ctc_lengths"].tolist() == [5, 2]
    assert out.aux["ctc_vocabulary"].tolist() == [10, 11]
    assert not torch.equal(hidden, middle)


def test_residual_starts_at_zero_and_adds_the_mean_hidden_frame(llm) -> None:
    plain = small(llm).materialise().eval()
    projector = small(llm, residual=True).materialise().eval()
    projector.load_state_dict(plain.state_dict(), strict=False)
    frames, lengths = torch.randn(1, 1, 40, 4), torch.tensor([40])
    before, reference = projector(frames, lengths), plain(frames, lengths)
    assert torch.equal(before.vectors, reference.vectors)
    torch.nn.init.normal_(projector.residual_out.weight)
    hidden, n, _ = projector.network(projector.mixed(frames, lengths), lengths)
    runs = find_runs(before.aux["ctc_log_probs"], n)
    means = [
        hidden[0, first : last + 1].mean(0)
        for first, last in zip(runs.first, runs.last, strict=True)
    ]
    expected = reference.vectors[0] + torch.stack(means) @ projector.residual_out.weight.T
    torch.testing.assert_close(projector(frames, lengths).vectors[0], expected)


def test_spec_augment_only_while_training(llm) -> None:
    projector = small(llm, mask_time=[2, 10], mask_feature=[1, 2], dropout=0.0).materialise()
    frames, lengths = torch.randn(1, 1, 60, 4), torch.tensor([60])
    posteriors = [projector(frames, lengths).aux["ctc_log_probs"] for _ in range(4)]
    assert any(not torch.equal(posteriors[0], other) for other in posteriors[1:])
    projector.eval()
    once, again = (projector(frames, lengths).aux["ctc_log_probs"] for _ in range(2))
    assert torch.equal(once, again)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(["yes yes yes no no no", "\nyes\nno"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core)


def row(text: str) -> Row:
    return Row(text or "empty", "/a.wav", 1.0, text, "en", "s")


def test_transcript_tokens_stand_after_a_newline(tokenizer) -> None:
    ids = transcript_tokens(tokenizer, " yes no ")
    assert tokenizer.convert_ids_to_tokens(list(ids)) == ["yes", "Ġno"]
    prompt = tokenizer("Repeat:\nyes no", add_special_tokens=False)["input_ids"]
    assert tuple(prompt[-2:]) == ids
    assert transcript_tokens(tokenizer, " ") == ()


class Slow:
    """The same tokenizer without offsets."""

    is_fast = False

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text, add_special_tokens):
        ids = self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        return {"input_ids": ids}


def test_transcript_tokens_of_a_tokenizer_without_offsets(tokenizer) -> None:
    expected = transcript_tokens(tokenizer, "yes no")
    assert transcript_tokens(Slow(tokenizer), "yes no") == expected


def test_fit_collects_both_variants_and_survives_the_checkpoint(tmp_path, tokenizer) -> None:
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text("{}")
    table = torch.randn(len(tokenizer), 2)
    save_file({"model.embed_tokens.weight": table}, tmp_path / "model.safetensors")
    fitted = small(str(tmp_path), vocabulary=None)
    fitted.fit([row("yes no"), row(""), row("yes no")], tokenizer)
    tokens = sorted(tokenizer.convert_ids_to_tokens(fitted.vocabulary.tolist()))
    assert tokens == ["yes", "Ġno", "Ġyes"]
    assert fitted.vocabulary.dtype == torch.int64
    fitted.materialise().eval()
    assert torch.equal(fitted.embedding_rows, table[fitted.vocabulary])
    state = fitted.state_dict()
    assert "vocabulary" in state
    assert "embedding_rows" not in state

    loaded = small(str(tmp_path), vocabulary=None).materialise().eval()
    loaded.load_state_dict(state)
    assert torch.equal(loaded.embedding_rows, fitted.embedding_rows)
    frames = torch.randn(1, 1, 20, 4)
    outputs = [p(frames, torch.tensor([20])).vectors for p in (fitted, loaded)]
    assert torch.equal(*outputs)

    loaded.fit([row("no")], tokenizer)  # more data later: nothing is forgotten
    tokens = sorted(tokenizer.convert_ids_to_tokens(loaded.vocabulary.tolist()))
    assert tokens == ["no", "yes", "Ġno", "Ġyes"]
    assert torch.equal(loaded.embedding_rows, table[loaded.vocabulary])

    given = small(str(tmp_path), vocabulary=[7])
    given.fit([row("yes")], tokenizer)
    assert given.vocabulary.tolist() == [7]


def test_no_vocabulary_is_an_error_that_names_the_remedy(llm) -> None:
    projector = small(llm, vocabulary=None).materialise()
    with pytest.raises(RuntimeError, match="fit"):
        projector(torch.randn(1, 1, 4, 4), torch.tensor([4]))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"output": "soft"}, "posterior"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"mask_time": [2]}, "SpecAugment"),
    ],
)
def test_bad_arguments_are_refused_at_load(llm, arguments, match) -> None:
    with pytest.raises(ValueError, match=match):
        small(llm, **arguments)


def test_embeddings_of_another_llm_are_refused(llm) -> None:
    with pytest.raises(ValueError, match="output_dim"):
        CTCEmbedding(4, 3, llm, hidden_dim=8, num_heads=2, vocabulary=[1]).materialise()


def test_network_refuses_what_it_cannot_build() -> None:
    with pytest.raises(ValueError, match="num_heads"):
        CTCNetwork(4, hidden_dim=10, num_heads=4)
    with pytest.raises(ValueError, match="num_layers"):
        CTCNetwork(4, num_layers=1, intermediate=True)


@pytest.fixture
def bpe():
    """A BPE tokenizer: "a b" merge to "ab", "ab c" to "abc"; a text's words stand alone."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(["a", "b", "c", "d", "ab", "abc", "cd"])}
    merges = [("a", "b"), ("ab", "c"), ("c", "d")]
    model = Tokenizer(models.BPE(vocab=ids, merges=merges))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model)


def said(*texts: str) -> list[Row]:
    return [Row(f"u{i}", "/a.wav", 1.0, text, "en", "s") for i, text in enumerate(texts)]


def test_rare_tokens_are_recognised_in_the_pieces_of_their_merge(llm, bpe) -> None:
    rows = said("abc cd", "cd ab", "cd ab")
    #                          counts: abc 1, ab 2, cd 3
    whole = small(llm, vocabulary=None).materialise()
    whole.fit(rows, bpe)
    assert whole.vocabulary.tolist() == [4, 5, 6]
    assert whole.transcript_units()(bpe, "abc cd") == (5, 6)
    split = small(llm, vocabulary=None, min_count=2).materialise()
    split.fit(rows, bpe)
    #                                          abc -> ab c
    assert split.vocabulary.tolist() == [2, 4, 6]
    assert split.transcript_units()(bpe, "abc cd") == (4, 2, 6)


def test_the_prior_is_the_log_frequency_of_the_units(llm, bpe) -> None:
    projector = small(llm, vocabulary=None).materialise()
    projector.fit(said("cd cd cd", "ab"), bpe)
    prior = torch.tensor([2.0, 4.0]).log()  # counts ab 1, cd 3, one added to each
    torch.testing.assert_close(projector.log_prior, prior - prior.mean())


def test_learnt_state_travels_with_the_weights(llm, bpe) -> None:
    trained = small(llm, vocabulary=None, min_count=2).materialise().eval()
    trained.fit(said("abc cd", "cd ab", "cd ab"), bpe)
    loaded = small(llm, vocabulary=None, min_count=2).materialise().eval()
    loaded.load_state_dict(trained.state_dict())
    frames, lengths = torch.randn(1, 1, 9, 4), torch.tensor([9])
    assert torch.equal(loaded(frames, lengths).vectors, trained(frames, lengths).vectors)
    assert loaded.transcript_units() == trained.transcript_units()


def test_rare_tokens_need_merges(llm) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    with pytest.raises(ValueError, match="min_count: 1"):
        small(llm, vocabulary=None, min_count=2).materialise().fit(said("a"), tokenizer)


def test_lengths_of_many_texts_are_those_of_each(tokenizer) -> None:
    texts = ["yes no", "", " yes ", "no no\nyes", "\n", "yes, no! é", "  "]
    expected = [len(transcript_tokens(tokenizer, text)) for text in texts]
    assert transcript_lengths(tokenizer, texts * 700) == expected * 700
    assert transcript_lengths(Slow(tokenizer), texts[:1]) == expected[:1]
    assert transcript_lengths(tokenizer, []) == []
