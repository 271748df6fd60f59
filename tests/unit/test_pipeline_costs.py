"""Estimates against what really happens: kept activations, operations, batches, cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from toolkit.component import count_parameters
from toolkit.config import load
from toolkit.losses import ResponseCrossEntropy
from toolkit.models import SpeechLLM
from toolkit.pipeline.costs import (
    Corpus,
    activation_bytes,
    batch_items,
    block_parameters,
    phase_cost,
)
from toolkit.training import Phase

ROOT = Path(__file__).resolve().parents[2]


def llama(layers: int, hidden: int = 128, inner: int = 352):
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaModel._from_config(config, attn_implementation="sdpa")
    return model.requires_grad_(False)


def kept_bytes(model, tokens: int) -> int:
    """Bytes that autograd keeps, parameters not counted, shared storage counted once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}
    alive = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return tensor

    inputs = torch.randn(1, tokens, model.config.hidden_size, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(inputs_embeds=inputs, use_cache=False).last_hidden_state.sum()
    return sum(seen.values())


def test_activations_of_a_frozen_decoder_are_what_autograd_keeps():
    tokens = 64
    # A layer's share: what two more layers add.
    kept = (kept_bytes(llama(4), tokens) - kept_bytes(llama(2), tokens)) / 2 / tokens
    estimate = activation_bytes(128, 1, 352, bytes_each=4, key_value=64)
    assert estimate == pytest.approx(kept, rel=0.25)


def test_operations_of_forward_and_backward_are_what_is_counted():
    model, tokens = llama(3), 32
    inputs = torch.randn(1, tokens, 128, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=inputs, use_cache=False).last_hidden_state.sum().backward()
    body, tables = block_parameters(model)
    assert tables == 64 * 128
    # Forward and the gradient of the inputs; no weight trains.
    linear = 2.0 * body * tokens * 2.0
    attention = 4.0 * 3 * 128 * tokens * tokens * 2.0
    assert linear + attention == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_a_micro_batch_holds_what_its_tightest_limit_allows():
    def phase(**budget):
        losses = {"ce": ResponseCrossEntropy()}
        return Phase(["projector"], {"a": 1.0}, losses, optimizer_steps=1, **budget)

    assert batch_items(phase(batch_seconds=100, batch_tokens=500), 10.0, 25.0) == 10
    assert batch_items(phase(batch_seconds=100, batch_tokens=500), 2.0, 100.0) == 5
    assert batch_items(phase(batch_items=3), 10.0, 25.0) == 3
    assert batch_items(phase(batch_seconds=5), 10.0, 25.0) == 1


def test_weights_that_a_phase_does_not_load_are_not_counted():
    """SpeechMapper pretrains without the LLM's body, on cached features: its very point."""
    config = load(ROOT / "recipes/librispeech/speechmapper/train.yaml", ["work=work"])
    blocks = (config.encoder, config.projector, config.llm)
    encoder, projector, llm = (block.materialise("meta") for block in blocks)
    model = SpeechLLM(encoder, projector, config.interleaver, llm, config.prompt)
    corpus = Corpus(100, 1000.0, "expected")

    def frozen(name: str, cached: bool) -> float:
        trained = list(projector.parameters())
        cost = phase_cost(model, config.phases[name], trained, corpus, 2, cached)
        return cost.memory["frozen weights"] / 2

    table = llm.config.vocab_size * llm.config.hidden_size
    assert frozen("pretrain", cached=True) == table
    assert frozen("pretrain", cached=False) == table + count_parameters(encoder)
    assert frozen("train", cached=True) == count_parameters(llm)
    assert table < 0.1 * count_parameters(llm)
    # The table alone is read in the LLM's own dtype, whatever runs the phase.
    llm.dtype = "float32"
    assert frozen("pretrain", cached=True) == 2 * table
    assert frozen("train", cached=True) == count_parameters(llm)
