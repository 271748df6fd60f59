"""Prompts read once, then continued token by token or followed by given responses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Cache, PretrainedConfig

    from toolkit.interleavers.assemble import Assembled
    from toolkit.llms.causal_lm import CausalLM


def plain_attention(config: PretrainedConfig) -> bool:
    """Whether all a model remembers are keys and values, one per position, of every layer.

    Positions can then be skipped by the attention mask wherever they stand. A sliding window counts
    pads between real positions, and a recurrent state swallows them.

    Parameters
    ----------
    config : transformers.PretrainedConfig
        Of the text model.

    Returns
    -------
    bool

    Example
    -------
    >>> from transformers import LlamaConfig, MistralConfig
    >>> plain_attention(LlamaConfig()), plain_attention(MistralConfig(sliding_window=16))
    (True, False)
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


@torch.no_grad()
def prefix_cache(body: nn.Module, assembled: Assembled) -> Cache | None:
    """Keys and values of the ids that all rows start with, a copy per row.

    Parameters
    ----------
    body : nn.Module
        The LLM without its head.
    assembled : Assembled
        Padded on the right.

    Returns
    -------
    transformers.Cache or None
        None where the model remembers in other ways.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    size = len(assembled.prefix_ids)
    cache = DynamicCache(config=body.config)
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    body(
        inputs_embeds=assembled.inputs_embeds[:1, :size].detach(),
        attention_mask=assembled.attention_mask[:1, :size],
        position_ids=assembled.position_ids[:1, :size],
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_repeat_interleave(len(assembled.inputs_embeds))
    return cache


@dataclass(frozen=True)
class Reading:
    """Prompts that were read once, to be continued or followed by responses many times.

    Attributes
    ----------
    cache : transformers.Cache
        Keys and values of the prompts; never written to.
    mask : Tensor (B, T), int64
        1 on real positions.
    states : Tensor (B, D)
        Of each row's last position, which predicts what follows.
    position : Tensor (B,), int64
        Position id of what follows.
    """

    cache: Cache
    mask: Tensor
    states: Tensor
    position: Tensor

    def copy_of_cache(self) -> Cache:
        """A cache that can grow; the tensors are shared, since growing makes new ones."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        return cache


@torch.no_grad()
def read(llm: CausalLM, assembled: Assembled) -> Reading:
    """Run the prompts of a model with plain attention, padded on either side.

    Parameters
    ----------
    llm : CausalLM
        In evaluation mode.
    assembled : Assembled
        Without responses.

    Returns
    -------
    Reading
    """
    from transformers.cache_utils import DynamicCache

    mask = assembled.attention_mask
    rows, width = mask.shape
    skip = len(assembled.prefix_ids) if rows > 1 else 0
    cache = prefix_cache(llm.body, assembled) if skip else DynamicCache(config=llm.body.config)
    hidden = llm.body(
        inputs_embeds=assembled.inputs_embeds[:, skip:],
        attention_mask=mask,
        position_ids=assembled.position_ids[:, skip:],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    last = width - 1 - mask.flip(1).argmax(1)
    states = hidden[torch.arange(rows, device=mask.device), last - skip]
    return Reading(cache, mask, states, mask.sum(1))


@torch.no_grad()
def continue_rows(
    llm: CausalLM,
    reading: Reading,
    max_new_tokens: int,
    sampling: Mapping[str, float] | None = None,
    stop_strings: Sequence[str] = (),
) -> list[list[int]]:
    """Continue prompts token by token.

    Parameters
    ----------
    llm : CausalLM
        In evaluation mode.
    reading : Reading
    max_new_tokens : int
    sampling : mapping, optional
        ``temperature`` and ``top_p``; None takes the likeliest token.
    stop_strings : sequence of str
        A row ends behind the first of these as well.

    Returns
    -------
    list of list of int
        Without the stop token; with the tokens of a stop string.
    """
    cache, mask = reading.copy_of_cache(), reading.mask
    states, position = reading.states, reading.position
    going = torch.arange(len(mask), device=mask.device)
    stops = torch.tensor(llm.eos_ids, device=mask.device)
    choose = _chooser(sampling)
    ended = None
    if stop_strings:
        from transformers import StopStringCriteria

        ended = StopStringCriteria(tokenizer=llm.tokenizer, stop_strings=list(stop_strings))
    answers: list[list[int]] = [[] for _ in range(len(mask))]
    for step in range(max_new_tokens):
        tokens = choose(llm.logits(states))
        over = torch.isin(tokens, stops)
        for row, token, stopped in zip(going.tolist(), tokens.tolist(), over.tolist(), strict=True):
            if not stopped:
                answers[row].append(token)
        if ended is not None and len(unstopped := (~over).nonzero()[:, 0]):
            # Rows that go on have said a token each step.
            said = [answers[row] for row in going[unstopped].tolist()]
            over[unstopped] = ended(tokens.new_tensor(said), None)
        if over.any():
            kept = (~over).nonzero()[:, 0]
            if not len(kept):
                break
            cache.batch_select_indices(kept)
            going, tokens, mask, position = going[kept], tokens[kept], mask[kept], position[kept]
        if step == max_new_tokens - 1:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        states = llm.body(
            inputs_embeds=llm.embed(tokens)[:, None],
            attention_mask=mask,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        position = position + 1
    return answers


@torch.no_grad()
def response_nll(llm: CausalLM, reading: Reading, responses: Sequence[Sequence[int]]) -> Tensor:
    """Negative log-likelihood of given responses, without reading the prompts again.

    Parameters
    ----------
    llm : CausalLM
        In evaluation mode.
    reading : Reading
    responses : sequence of sequence of int
        At least one token each.

    Returns
    -------
    Tensor (B,), float32
        Nats, summed over the tokens of a response.
    """
    device = reading.mask.device
    lengths = torch.tensor([len(ids) for ids in responses], device=device)
    width = int(lengths.max())
    ids = torch.zeros(len(responses), width, dtype=torch.int64)
    for row, response in enumerate(responses):
        ids[row, : len(response)] = torch.tensor(response)
    ids = ids.to(device)
    steps = torch.arange(width, device=device)
    real = steps < lengths[:, None]
    states = reading.states[:, None]
    if width > 1:
        # The last token of a response predicts nothing that is asked for.
        hidden = llm.body(
            inputs_embeds=llm.embed(ids[:, :-1]),
            attention_mask=torch.cat([reading.mask, real[:, :-1].long()], dim=1),
            position_ids=reading.position[:, None] + steps[:-1],
            past_key_values=reading.copy_of_cache(),
            use_cache=True,
        ).last_hidden_state
        states = torch.cat([states, hidden], dim=1)
    nll = nn.functional.cross_entropy(llm.logits(states[real]), ids[real], reduction="none")
    row = torch.arange(len(responses), device=device)[:, None].expand_as(real)[real]
    return nll.new_zeros(len(responses)).index_add(0, row, nll)


def continue_by_transformers(
    llm: CausalLM,
    assembled: Assembled,
    max_new_tokens: int,
    sampling: Mapping[str, float] | None = None,
    stop_strings: Sequence[str] = (),
) -> list[list[int]]:
    """Continue rows by transformers' own loop, which knows every kind of memory.

    Parameters
    ----------
    llm, max_new_tokens, sampling, stop_strings
        As in `continue_rows`.
    assembled : Assembled
        Padded on the left.

    Returns
    -------
    list of list of int

    Raises
    ------
    ValueError
        If the rows are padded on the right.
    """
    from transformers import GenerationConfig

    if not bool((assembled.attention_mask[:, -1] == 1).all()):
        raise ValueError(
            f"{type(llm.causal).__name__} does not attend plainly: generate needs "
            "assemble(..., padding_side='left')"
        )
    pad = llm.tokenizer.pad_token_id
    drawn: dict[str, Any] = {**sampling, "top_k": 0} if sampling else {}
    out = llm.causal.generate(
        inputs_embeds=assembled.inputs_embeds,
        attention_mask=assembled.attention_mask,
        position_ids=assembled.position_ids,
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=sampling is not None,
            num_beams=1,
            eos_token_id=list(llm.eos_ids),
            # A row that ended with a stop string is filled up: what fills it has to be cut off.
            pad_token_id=llm.eos_ids[0] if pad is None or stop_strings else pad,
            stop_strings=list(stop_strings) or None,
            **drawn,
        ),
        tokenizer=llm.tokenizer if stop_strings else None,
    )
    return [_until(row, llm.eos_ids) for row in out.tolist()]


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from a seed inside, and leave the global random state as it was; None does nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _chooser(sampling: Mapping[str, float] | None) -> Callable[[Tensor], Tensor]:
    if sampling is None:
        return lambda scores: scores.argmax(-1)
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    temperature = TemperatureLogitsWarper(float(sampling["temperature"]))
    nucleus = TopPLogitsWarper(float(sampling["top_p"]))

    def draw(scores: Tensor) -> Tensor:
        scores = nucleus(None, temperature(None, scores))
        return torch.multinomial(scores.softmax(-1), 1)[:, 0]

    return draw


def _until(ids: list[int], stops: tuple[int, ...]) -> list[int]:
    for i, token in enumerate(ids):
        if token in stops:
            return ids[:i]
    return ids
