"""Transcripts as LLM tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.text import normaliser


def transcript_tokens(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Tokenise a transcript as it stands inside a prompt: after a newline, no special tokens.

    Losses on the transcript (CTC, embedding matching) use these ids. Tokenising the text alone may
    give others: SentencePiece puts a space in front of the first word of a text, and byte-level
    tokenizers have one id for a word after a space and another for it after a newline.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    text : str
        Leading and trailing white space is ignored.

    Returns
    -------
    tuple of int
        Empty for an empty text.

    Raises
    ------
    ValueError
        When a tokenizer without offsets merges the newline with the first word.

    Example
    -------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    >>> transcript_tokens(tokenizer, "hello world")
    (1, 2)
    """
    text = text.strip()
    if not text:
        return ()
    if tokenizer.is_fast:
        encoded = tokenizer("\n" + text, add_special_tokens=False, return_offsets_mapping=True)
        return tuple(
            token
            for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            if end > 1
        )
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    ids = tokenizer("\n" + text, add_special_tokens=False)["input_ids"]
    if ids[: len(newline)] != newline:
        raise ValueError(
            f"{type(tokenizer).__name__} gives no offsets and merges a newline with the text "
            f"{text[:40]!r}: use the fast tokenizer of this model"
        )
    return tuple(ids[len(newline) :])


#: Texts that a fast tokenizer is given at a time.
_TOGETHER = 4096


def transcript_lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Numbers of tokens of `transcript_tokens`, of many texts at a fraction of the time.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    texts : sequence of str

    Returns
    -------
    list of int

    Example
    -------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> transcript_lengths(PreTrainedTokenizerFast(tokenizer_object=words), ["hello you", " "])
    [2, 0]
    """
    if not tokenizer.is_fast:
        return [len(transcript_tokens(tokenizer, text)) for text in texts]
    lengths: list[int] = []
    for first in range(0, len(texts), _TOGETHER):
        stripped = [text.strip() for text in texts[first : first + _TOGETHER]]
        encoded = tokenizer(
            ["\n" + text for text in stripped], add_special_tokens=False,
            return_attention_mask=False, return_token_type_ids=False,
        )  # fmt: skip
        for text, encoding in zip(stripped, encoded.encodings, strict=True):
            count = len(encoding)
            newline = 0
            # Tokens that end within the newline; offsets are asked for one by one, as they cost.
            while newline < count and encoding.token_to_chars(newline)[1] <= 1:
                newline += 1
            lengths.append(count - newline if text else 0)
    return lengths


def bpe_pieces(tokenizer: Any) -> dict[int, tuple[int, int]]:
    """The two tokens each BPE token was merged from.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        Fast, with a BPE model.

    Returns
    -------
    dict of int to (int, int)
        Tokens that no merge builds (bytes, special tokens) are not in it.

    Raises
    ------
    ValueError
        For a tokenizer without BPE merges.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = json.loads(backend.to_str())["model"] if backend is not None else {}
    if model.get("type") != "BPE":
        raise ValueError(
            f"{type(tokenizer).__name__} has no BPE merges, so rare tokens cannot be taken apart: "
            "set min_count: 1"
        )
    ids = model["vocab"]
    pieces: dict[int, tuple[int, int]] = {}
    for merge in model["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        whole = ids.get(left + right)
        if whole is not None and left in ids and right in ids:
            # The first merge that builds a token is the one that BPE applies.
            pieces.setdefault(whole, (ids[left], ids[right]))
    return pieces


@dataclass(frozen=True)
class TranscriptUnits:
    """Transcript to the token ids a projector recognises.

    Parameters
    ----------
    pieces : mapping of int to (int, int)
        Tokens to take apart, recursively, into the two tokens they were merged from.
    normalise : str, optional
        Name of a normaliser (`toolkit.text.normaliser`) the text goes through first.

    Example
    -------
    >>> TranscriptUnits({9: (7, 8), 8: (1, 2)}).split((9, 5))
    (7, 1, 2, 5)
    """

    pieces: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    normalise: str | None = None

    def split(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Take rare tokens apart."""
        out: list[int] = []
        stack = list(reversed(ids))
        while stack:
            token = stack.pop()
            parts = self.pieces.get(token)
            if parts is None:
                out.append(token)
            else:
                stack += reversed(parts)
        return tuple(out)

    def __call__(self, tokenizer: Any, text: str) -> tuple[int, ...]:
        """Tokenise a transcript (`transcript_tokens`) and take rare tokens apart."""
        return self.split(transcript_tokens(tokenizer, self.text(text)))

    def text(self, text: str) -> str:
        """The transcript as it is tokenised."""
        return text if self.normalise is None else normaliser(self.normalise)(text)
