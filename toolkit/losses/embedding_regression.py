"""Regression of projected vectors onto the LLM's embeddings of the transcript; no LLM body."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.data.example import Batch
from toolkit.llms.embedding_space import EmbeddingSpace, pad_token_id
from toolkit.losses.base import Loss, LossInput

if TYPE_CHECKING:
    from toolkit.llms.causal_lm import CausalLM

POSITIONS = ("content", "pads", "all")
REDUCTIONS = ("mean", "sum_dim")

#: Cosine from which two embeddings are those of one token.
TWIN = 0.9999


def position_range(positions: str, tokens: int, vectors: int) -> range:
    """Positions of an utterance's target that a term looks at.

    Parameters
    ----------
    positions : str
        ``content``: the tokens and the first pad, which marks their end; ``pads``: the other pads;
        ``all``: both.
    tokens, vectors : int
        Tokens of the transcript; vectors of the clip.

    Returns
    -------
    range
        Empty when the tokens do not fit.

    Example
    -------
    >>> [list(position_range(name, 2, 5)) for name in POSITIONS]
    [[0, 1, 2], [3, 4], [0, 1, 2, 3, 4]]
    """
    if tokens > vectors:
        return range(0)
    content = min(tokens + 1, vectors)
    return range(
        content if positions == "pads" else 0, content if positions == "content" else vectors
    )


@dataclass(frozen=True)
class TargetPositions:
    """Where in a batch vectors have targets, flat over the batch.

    Attributes
    ----------
    item, clip, place : Tensor (N,), int64
        Example, clip and position of each.
    token : Tensor (N,), int64
        Whose embedding the vector should be.
    """

    item: Tensor
    clip: Tensor
    place: Tensor
    token: Tensor


def target_positions(batch: Batch, positions: str, pad: int) -> TargetPositions:
    """List the targets of a batch: the transcript's tokens, then pads to the end of the vectors.

    Positions beyond an utterance's own vectors (batch padding) are never listed, nor is an
    utterance without speech, or one whose tokens do not fit.

    Parameters
    ----------
    batch : Batch
        With ``transcript_ids`` and ``vector_lengths``.
    positions : str
        See `position_range`.
    pad : int
        The pad token.

    Returns
    -------
    TargetPositions
        On the host.

    Raises
    ------
    ValueError
        When the lengths of the vectors are not known before the forward.
    """
    if batch.vector_lengths is None:
        raise ValueError(
            "regression onto embeddings needs to know the number of vectors before the forward: "
            "use a projector with exact_lengths, such as toolkit.projectors.SpeechMapper"
        )
    lines: list[tuple[int, int, int, int]] = []
    for item, (ids, clips) in enumerate(zip(batch.transcript_ids, batch.clip_of, strict=True)):
        if not clips:
            continue
        if len(clips) > 1:
            raise ValueError(
                "regression onto embeddings compares a whole transcript with the vectors of one "
                "clip, but an example was cut into several: use `cut: after_project`"
            )
        vectors = batch.vector_lengths[clips[0]]
        for place in position_range(positions, len(ids), vectors):
            lines.append((item, clips[0], place, ids[place] if place < len(ids) else pad))
    table = torch.tensor(lines, dtype=torch.int64).reshape(-1, 4)
    return TargetPositions(*table.T)


class EmbeddingLoss(Loss):
    """Base of terms that compare vectors with the embeddings of a padded transcript.

    The target of an utterance is the embeddings of its tokens, then of a pad up to the number of
    its vectors. Utterances with more tokens than vectors are refused, so that the phase's sets
    leave them out and count them; nothing is ever cut.

    Parameters
    ----------
    pad_token : str or int
        A token that neither ends a sequence nor belongs to the chat template.
    weight : float or callable
    positions : str
        ``content``, ``pads`` or ``all``, see `position_range`; the term's mean is over these.
    space : str
        Coordinates of the comparison, see `toolkit.llms.embedding_space.EmbeddingSpace`.
    """

    needs = frozenset({"vectors", "embedding_table"})

    def __init__(
        self,
        pad_token: str | int,
        weight: float | Callable[[float], float] = 1.0,
        positions: str = "all",
        space: str = "raw",
    ) -> None:
        super().__init__(weight)
        if positions not in POSITIONS:
            raise ValueError(f"positions: {positions!r} is not one of {', '.join(POSITIONS)}")
        if pad_token is None or pad_token == "":
            raise ValueError(
                f"{type(self).__name__} needs `pad_token`: a token the LLM gives no meaning, such "
                "as a reserved one; its embedding fills the target behind the words"
            )
        self.pad_token = pad_token
        self.positions = positions
        self.space = EmbeddingSpace(space)
        self.pad: int | None = None

    def fit(self, llm: CausalLM) -> None:
        self.pad = pad_token_id(llm.tokenizer, self.pad_token, llm.eos_ids)
        self.space.fit(llm.embedding_table())

    def refuses(self, tokens: int, vectors: int) -> str | None:
        return "more_tokens_than_vectors" if tokens > vectors else None

    def count(self, batch: Batch) -> int:
        """Target positions of the term."""
        return len(self._targets(batch).item)

    def _targets(self, batch: Batch) -> TargetPositions:
        if self.pad is None:
            raise RuntimeError(f"{type(self).__name__} has no pad token yet: call fit(llm) first")
        return target_positions(batch, self.positions, self.pad)

    def forward(self, inputs: LossInput) -> Tensor:
        targets = self._targets(inputs.batch)
        table = inputs.embedding_table.detach()
        device = table.device
        sums = torch.zeros(len(inputs.batch), device=device)
        if inputs.projected is None or not len(targets.item):
            return sums
        vectors = inputs.projected.vectors.float()
        vectors = vectors[targets.clip.to(device), targets.place.to(device)]
        token = targets.token.to(device)
        # Half precision cannot tell neighbours in the table apart.
        with torch.autocast(device.type, enabled=False):
            values = self.per_position(vectors, token, table, inputs.progress)
        return sums.index_add(0, targets.item.to(device), values)

    @abstractmethod
    def per_position(
        self, vectors: Tensor, tokens: Tensor, table: Tensor, progress: float
    ) -> Tensor:
        """Value at each position.

        Parameters
        ----------
        vectors : Tensor (N, D), float32
        tokens : Tensor (N,), int64
        table : Tensor (V, D)
        progress : float

        Returns
        -------
        Tensor (N,), float32
        """


class EmbeddingMSE(EmbeddingLoss):
    """Squared distance to the target embeddings.

    SpeechMapper (arXiv:2601.20417) pretrains with ``alpha MSE(words and first pad) + (10 - alpha)
    MSE(other pads) - gamma cosine``, alpha 5 and gamma 100: here two of these terms, on ``content``
    and on ``pads``, and an `EmbeddingCosine`. How the paper reduces over dimensions is not known,
    and it decides what alpha and gamma mean: entries of embeddings are small, so that with
    ``mean`` the cosine outweighs the distances by far.

    Parameters
    ----------
    pad_token, weight, positions, space
        See `EmbeddingLoss`.
    reduction : str
        ``mean`` over the dimensions, or ``sum_dim``, their sum.

    Example
    -------
    >>> term = EmbeddingMSE("<pad>", positions="content", reduction="sum_dim")
    >>> table = torch.eye(3)
    >>> term.per_position(table[:1] * 2, torch.tensor([0]), table, 0.0)
    tensor([1.])
    """

    def __init__(
        self,
        pad_token: str | int,
        weight: float | Callable[[float], float] = 1.0,
        positions: str = "all",
        space: str = "raw",
        reduction: str = "mean",
    ) -> None:
        super().__init__(pad_token, weight, positions, space)
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: {reduction!r} is not one of {', '.join(REDUCTIONS)}")
        self.reduction = reduction

    def per_position(
        self, vectors: Tensor, tokens: Tensor, table: Tensor, progress: float
    ) -> Tensor:
        squares = (self.space(vectors) - self.space(table[tokens])).square()
        return squares.mean(-1) if self.reduction == "mean" else squares.sum(-1)


class EmbeddingCosine(EmbeddingLoss):
    """One minus the cosine to the target embeddings.

    Its gradient is that of the paper's ``- gamma cosine`` with weight gamma; see `EmbeddingMSE`.

    Parameters
    ----------
    pad_token, weight, positions, space
        See `EmbeddingLoss`.

    Example
    -------
    >>> table = torch.eye(2)
    >>> vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    >>> EmbeddingCosine("<pad>").per_position(vectors, torch.tensor([0, 0]), table, 0.0)
    tensor([0., 1.])
    """

    def per_position(
        self, vectors: Tensor, tokens: Tensor, table: Tensor, progress: float
    ) -> Tensor:
        return 1.0 - F.cosine_similarity(self.space(vectors), self.space(table[tokens]), dim=-1)


class EmbeddingContrast(EmbeddingLoss):
    """Cross-entropy of the target embedding among sampled rows of the table, by scaled cosine.

    No part of SpeechMapper; its authors' successor adds such a term (arXiv:2607.01960). Every
    step draws its negatives anew; they are the same for all utterances of a step and for all
    validations, so that a value does not depend on how utterances fall into batches.

    Parameters
    ----------
    pad_token, weight, positions, space
        See `EmbeddingLoss`.
    negatives : int or None
        Rows to sample; None compares with the whole table.
    words : sequence of str
        Words whose tokens are among the negatives at every step, whether or not they begin a text:
        where a target is one of a few values, a sample of a large table seldom holds the others.
    temperature : float
        Cosines are divided by it.
    seed : int

    Example
    -------
    >>> term = EmbeddingContrast("<pad>", space="raw", negatives=None, temperature=1.0)
    >>> loss = term.per_position(torch.eye(2)[:1], torch.tensor([0]), torch.eye(2), 0.0)
    >>> round(float(loss.exp()), 4)  # 1 + e^-1
    1.3679
    """

    def __init__(
        self,
        pad_token: str | int,
        weight: float | Callable[[float], float] = 1.0,
        positions: str = "all",
        space: str = "centred",
        negatives: int | None = 1024,
        temperature: float = 0.1,
        seed: int = 0,
        words: Sequence[str] = (),
    ) -> None:
        super().__init__(pad_token, weight, positions, space)
        if isinstance(words, str):
            raise ValueError(f"EmbeddingContrast words: a list of words, not {words!r}")
        if temperature <= 0:
            raise ValueError(f"EmbeddingContrast temperature must be positive, got {temperature}")
        if negatives is not None and negatives < 1 - bool(words):
            raise ValueError(f"EmbeddingContrast negatives must be at least 1, got {negatives}")
        self.negatives = negatives
        self.temperature = temperature
        self.seed = seed
        self.words = list(words)
        self._always = torch.zeros(0, dtype=torch.int64)

    def fit(self, llm: CausalLM) -> None:
        super().fit(llm)
        texts = [text for word in self.words for text in (word, f" {word}")]
        found = (llm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        self._always = torch.tensor(sorted({i for ids in found for i in ids}), dtype=torch.int64)

    def _sample(self, size: int, progress: float) -> Tensor:
        """Rows of the table to tell the target from: this step's."""
        if self.negatives is None or self.negatives >= size:
            return torch.arange(size)
        generator = torch.Generator().manual_seed(hash((self.seed, progress)) % 2**63)
        drawn = torch.randperm(size, generator=generator)[: self.negatives]
        return torch.cat([drawn, self._always]).unique() if len(self._always) else drawn

    def per_position(
        self, vectors: Tensor, tokens: Tensor, table: Tensor, progress: float
    ) -> Tensor:
        rows = self._sample(len(table), progress).to(table.device)
        query = F.normalize(self.space(vectors), dim=-1)
        keys = F.normalize(self.space(table[tokens]), dim=-1)
        others = F.normalize(self.space(table[rows]), dim=-1)
        right = (query * keys).sum(-1)
        # Untrained rows of a table are often the same: a twin of the target is no other token.
        same = (rows == tokens[:, None]) | (keys @ others.T > TWIN)
        wrong = (query @ others.T).masked_fill(same, float("-inf"))
        scores = torch.cat([right[:, None], wrong], dim=1) / self.temperature
        return scores.logsumexp(1) - scores[:, 0]
