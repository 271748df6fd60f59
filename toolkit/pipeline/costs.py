"""What a recipe will cost, from shapes alone: memory, cache, steps, operations.

Estimates, to plan with; what they leave out is said where they are printed. Operations follow the
usual count (Kaplan et al., 2020, section 2.1): two per weight and token forward, two more for the
gradient of the inputs, two more for the gradient of weights that train. Activations follow
Korthikanti et al., 2022, section 4, without what memory-efficient attention does not keep.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from toolkit.component import count_parameters, parse_dtype
from toolkit.pipeline.context import strings
from toolkit.training.optimisation import model_modules, select_trainable

if TYPE_CHECKING:
    from torch import nn

    from toolkit.models import SpeechLLM
    from toolkit.pipeline.context import RunContext
    from toolkit.training import Phase

GIB = 2**30
#: Text around the speech where nothing better is known: instruction and chat template, in tokens.
PROMPT_TOKENS = 48
#: An answer's tokens where the recipe has no teacher.
RESPONSE_TOKENS = 40


@dataclass(frozen=True)
class Corpus:
    """How much a phase trains on.

    Attributes
    ----------
    utterances : int
    seconds : float
        In all.
    origin : str
        ``manifests`` or ``expected``.
    """

    utterances: int
    seconds: float
    origin: str

    @property
    def mean_seconds(self) -> float:
        """Of an utterance."""
        return self.seconds / max(self.utterances, 1)


@dataclass(frozen=True)
class PhaseCost:
    """Cost of a phase.

    Attributes
    ----------
    items : float
        Of a micro-batch.
    tokens : float
        LLM positions of an item.
    memory : dict of str to float
        Bytes on one device, by what they are for.
    operations : float
        Of the whole phase, on all devices together.
    passes : float
        Times the phase goes through its utterances.
    """

    items: float
    tokens: float
    memory: dict[str, float]
    operations: float
    passes: float

    @property
    def gib(self) -> float:
        """Memory of one device."""
        return sum(self.memory.values()) / GIB

    def hours(self, tflops: float, gpus: int = 1) -> float:
        """On devices that sustain so many 10^12 operations a second each."""
        return self.operations / (tflops * 1e12 * gpus) / 3600


def on_meta(context: RunContext) -> SpeechLLM:
    """The recipe's model with shapes alone: no weights on disk, no memory.

    Parameters
    ----------
    context : RunContext

    Returns
    -------
    SpeechLLM
        All blocks on ``torch.device("meta")``.
    """
    model = context.build_model(materialise=False)
    for block in (model.encoder, model.projector, model.llm):
        block.materialise("meta")
    return model


def corpora(context: RunContext, names: Iterable[str]) -> Corpus | None:
    """How much speech some sets name: from manifests, or as the recipe expects it.

    Parameters
    ----------
    context : RunContext
    names : iterable of str
        Sets.

    Returns
    -------
    Corpus or None
        None where the corpus is not prepared and the recipe has no ``expected``.
    """
    from toolkit.data.manifest import read_manifest

    paths = []
    for name in names:
        block = context.config.select(f"sets.{name}")
        paths += [Path(s) for s in strings(block) if s.endswith(".jsonl") and "/data/" in s]
    paths = list(dict.fromkeys(paths))
    if paths and all(path.exists() for path in paths):
        rows = [row for path in paths for row in read_manifest(path)]
        return Corpus(len(rows), sum(row.duration for row in rows), "manifests")
    expected = context.config.tree.get("expected")
    if not expected:
        return None
    return Corpus(int(expected["utterances"]), float(expected["hours"]) * 3600, "expected")


def block_parameters(model: nn.Module | None) -> tuple[int, int]:
    """Weights that every position passes, and those of lookup tables.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    int, int
    """
    if model is None:
        return 0, 0
    tables = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    return count_parameters(model) - tables, tables


def activation_bytes(
    hidden: int,
    layers: int,
    inner: int,
    bytes_each: int = 2,
    checkpointing: bool = False,
    key_value: int | None = None,
) -> float:
    """Kept for the backward pass by a frozen decoder, for one position.

    A frozen linear map keeps nothing. What is kept: the float32 inputs of two norms; queries, keys,
    values and the output of attention; and in the feed-forward part the gate, its activation and
    the other branch.

    Parameters
    ----------
    hidden, layers, inner : int
        Width, depth and inner width of the feed-forward part.
    bytes_each : int
        Of a number.
    checkpointing : bool
        Only each layer's input is kept; one layer at a time is computed again.
    key_value : int, optional
        Width of all keys together, where fewer heads share them.

    Returns
    -------
    float
        Bytes.

    Example
    -------
    >>> activation_bytes(4096, 32, 14336, key_value=1024) / 2**20
    4.25
    """
    key_value = hidden if key_value is None else key_value
    layer = 2 * hidden * 4 + 2 * (hidden + key_value) * bytes_each + 3 * inner * bytes_each
    return layers * hidden * bytes_each + layer if checkpointing else layers * layer


def batch_items(phase: Phase, seconds: float, tokens: float) -> float:
    """Items of a micro-batch of average utterances.

    Parameters
    ----------
    phase : Phase
    seconds, tokens : float
        Of an item.

    Returns
    -------
    float
        At least 1.
    """
    budget = phase.budget()
    limits = [float(budget.items)] if budget.items else []
    if budget.seconds:
        limits.append(budget.seconds / max(seconds, 1e-6))
    if budget.tokens:
        limits.append(budget.tokens / max(tokens, 1.0))
    return max(1.0, min(limits))


def item_tokens(model: SpeechLLM, seconds: float, response: int, prompt: int) -> float:
    """LLM positions of an utterance of this length, all of it speech."""
    samples = torch.tensor([round(seconds * model.encoder.sample_rate)])
    vectors = int(model.projector.max_output_length(model.encoder.output_lengths(samples)))
    return vectors + prompt + response


def phase_cost(
    model: SpeechLLM,
    phase: Phase,
    trained: Iterable[nn.Parameter],
    corpus: Corpus,
    frozen_bytes: int,
    cached: bool,
    response: int = RESPONSE_TOKENS,
    prompt: int = PROMPT_TOKENS,
) -> PhaseCost:
    """Memory and operations of a phase.

    Parameters
    ----------
    model : SpeechLLM
        Materialised, at least on ``meta``.
    phase : Phase
    trained : iterable of Parameter
        What the phase trains.
    corpus : Corpus
    frozen_bytes : int
        Of a frozen weight: 2 in bf16, 4 in float32.
    cached : bool
        Whether frames come from the feature cache.
    response, prompt : int
        Tokens of an answer and of the text around the speech.

    Returns
    -------
    PhaseCost
    """
    trained = list(trained)
    ids = {id(p) for p in trained}
    train_size = sum(p.numel() for p in trained)
    runs_llm = phase.runs_llm()
    needs = phase.needs(0.0) | phase.needs(1.0)
    seconds = corpus.mean_seconds
    vectors = item_tokens(model, seconds, 0, 0)
    tokens = vectors + (prompt + response if runs_llm else 0)
    items = batch_items(phase, seconds, tokens)
    config = model.llm.config
    llm_trains = any(id(p) in ids for p in model.llm.parameters())
    body, _ = block_parameters(model.llm)
    tied = bool(getattr(config, "tie_word_embeddings", False))
    # The output matrix works at label positions alone; a tied one is counted among the tables.
    head = config.hidden_size * config.vocab_size
    body -= 0 if tied else head
    projector_body = block_parameters(model.projector)[0]
    encoder_body = block_parameters(model.encoder)[0]
    samples = torch.tensor([round(seconds * model.encoder.sample_rate)])
    frames = int(model.encoder.output_lengths(samples))

    forward = 0.0
    if not cached:
        forward += 2.0 * encoder_body * frames
    projector = 6.0 * projector_body * (frames + vectors) / 2
    llm = 0.0
    if runs_llm:
        attention = 4.0 * config.num_hidden_layers * config.hidden_size * tokens
        passes = 2.0 + (1.0 if llm_trains else 0.0)
        if getattr(model.llm, "gradient_checkpointing", False):
            passes += 1.0
        llm = tokens * (2.0 * body + attention) * passes + response * 2.0 * head * 2
        if "teacher_logits" in needs:
            text = prompt + response + vectors / 2
            llm += text * (2.0 * body + attention) + response * 2.0 * head
    per_step = items * phase.accumulation * (forward + projector + llm)

    copies = 4 + 4 + 8 + (4 if phase.ema else 0)
    memory = {
        "trained weights, gradients, optimiser": float(train_size * copies),
        "frozen weights": _frozen(model, phase, ids, cached, frozen_bytes),
    }
    if runs_llm:
        inner = getattr(config, "intermediate_size", 4 * config.hidden_size)
        kept = activation_bytes(
            config.hidden_size, config.num_hidden_layers, inner, frozen_bytes,
            bool(getattr(model.llm, "gradient_checkpointing", False)),
            _key_value_width(config),
        )  # fmt: skip
        memory["activations of the LLM"] = items * tokens * kept
        # Logits, their log-softmax and the gradient, in float32; the text branch has its own.
        sets = 3 + (2 if "teacher_logits" in needs else 0)
        memory["logits at labels"] = items * response * config.vocab_size * 4.0 * sets
    width = max(model.projector.input_dim, model.projector.output_dim)
    depth = max(1, projector_body // max(12 * width * width, 1))
    memory["activations of the projector"] = items * frames * width * 4.0 * 8 * depth
    return PhaseCost(
        items=items,
        tokens=tokens,
        memory=memory,
        operations=per_step * phase.optimizer_steps,
        passes=items * phase.accumulation * phase.optimizer_steps / max(corpus.utterances, 1),
    )


def answer_tokens(context: RunContext) -> int:
    """The most tokens that a recipe's teacher may write."""
    return int(context.config.select("teacher.max_new_tokens") or RESPONSE_TOKENS)


def recipe_cost(
    context: RunContext,
    model: SpeechLLM,
    phase: Phase,
    corpus: Corpus,
    response: int,
    prompt: int = PROMPT_TOKENS,
) -> PhaseCost:
    """`phase_cost` under a recipe's precision and cache.

    Parameters
    ----------
    context : RunContext
    model : SpeechLLM
        Materialised, at least on ``meta``; which parameters train is changed.
    phase, corpus, response, prompt
        As of `phase_cost`.

    Returns
    -------
    PhaseCost
    """
    groups = select_trainable(model_modules(model), phase)
    trained = [p for named in groups.values() for _, p in named]
    cached = isinstance(context.config.tree.get("cache"), dict)
    size = context.frozen_dtype.itemsize
    return phase_cost(model, phase, trained, corpus, size, cached, response, prompt)


def _key_value_width(config: Any) -> int:
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return shared * (getattr(config, "head_dim", None) or config.hidden_size // heads)


def _frozen(
    model: SpeechLLM, phase: Phase, trained: set[int], cached: bool, frozen_bytes: int
) -> float:
    """Bytes of the frozen weights that a phase loads: what it does not run stays on disk."""
    blocks: list[nn.Module] = [model.projector]
    if phase.loads_llm():
        blocks.append(model.llm)
    if not cached or phase.trains("encoder"):
        blocks.append(model.encoder)
    count = sum(p.numel() for block in blocks for p in block.parameters() if id(p) not in trained)
    size = float(count * frozen_bytes)
    if not phase.loads_llm():
        # The embedding table, read from disk in the LLM's own dtype whatever the precision.
        config = model.llm.config
        size += config.vocab_size * config.hidden_size * parse_dtype(model.llm.dtype).itemsize
    return size


def cache_bytes(model: SpeechLLM, corpus: Corpus, itemsize: int) -> float:
    """Bytes of cached frames of a corpus.

    Parameters
    ----------
    model : SpeechLLM
    corpus : Corpus
    itemsize : int
        Bytes of a number.

    Returns
    -------
    float
    """
    encoder = model.encoder
    return corpus.seconds * encoder.frame_rate * encoder.num_layers * encoder.dim * itemsize


def encode_operations(model: SpeechLLM, corpus: Corpus) -> float:
    """Operations of encoding a corpus once."""
    return 2.0 * block_parameters(model.encoder)[0] * corpus.seconds * model.encoder.frame_rate
