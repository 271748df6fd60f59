"""Word times by forced alignment with a character CTC model (wav2vec 2.0 and its kin)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.data.annotation.base import Aligner, AnnotationError, TimedWord
from toolkit.data.annotation.dtw import SAMPLE_RATE
from toolkit.weights import fingerprint, resolve

#: Raised when the values for an unchanged checkpoint change.
VERSION = 1


def ctc_word_spans(
    log_probs: Tensor, words: Sequence[Sequence[int]], blank: int, separator: int | None = None
) -> list[tuple[float, float]]:
    """Frames of each word on the most probable CTC path of a known text (arXiv:2007.09127).

    Parameters
    ----------
    log_probs : Tensor (T, V), float32
    words : sequence of sequence of int
        Symbols of each word; a word without symbols is put between its neighbours.
    blank : int
        Index of the blank.
    separator : int, optional
        Symbol between words.

    Returns
    -------
    list of (float, float)
        First frame and last frame plus one of each word, in frames.

    Raises
    ------
    AnnotationError
        With reason ``unalignable`` if the symbols do not fit into the frames, ``no_text`` if there
        is none.

    Example
    -------
    >>> probs = torch.full((6, 3), 0.01)
    >>> for frame, symbol in enumerate([0, 1, 1, 0, 2, 0]):
    ...     probs[frame, symbol] = 0.98
    >>> ctc_word_spans(probs.log(), [[1], [2]], blank=0)
    [(1.0, 3.0), (4.0, 5.0)]
    """
    from torchaudio.functional import forced_align

    targets: list[int] = []
    owner: list[int] = []
    for i, symbols in enumerate(words):
        if symbols and targets and separator is not None:
            targets.append(separator)
            owner.append(-1)
        targets.extend(symbols)
        owner.extend([i] * len(symbols))
    if not targets:
        raise AnnotationError("no_text", "no word has a symbol of the model's vocabulary")
    repeats = sum(a == b for a, b in zip(targets, targets[1:], strict=False))
    if len(targets) + repeats > len(log_probs):
        raise AnnotationError(
            "unalignable", f"{len(targets)} symbols do not fit into {len(log_probs)} frames"
        )
    path = forced_align(
        log_probs[None].float().cpu(), torch.tensor([targets], dtype=torch.int32), blank=blank
    )[0][0].tolist()
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    position, previous = -1, blank
    for frame, symbol in enumerate(path):
        if symbol != blank:
            if symbol != previous:
                position += 1
            word = owner[position]
            first.setdefault(word, frame)
            last[word] = frame + 1
        previous = symbol
    spans, end = [], 0.0
    for i in range(len(words)):
        if i in first:
            spans.append((float(first[i]), float(last[i])))
            end = float(last[i])
        else:
            following = next((first[j] for j in range(i + 1, len(words)) if j in first), len(path))
            spans.append((end, float(following)))
            end = float(following)
    return spans


class CTCAligner(Aligner):
    """Forced alignment with a CTC model such as wav2vec 2.0 fine-tuned on characters.

    Parameters
    ----------
    source : str
        A checkpoint of ``AutoModelForCTC`` with its tokenizer, see `toolkit.weights.resolve`.
    max_seconds : float
        Longest clip.

    Example
    -------
    >>> CTCAligner("hub:facebook/wav2vec2-base-960h").kind
    'words'
    """

    batch_size = 1  # group-norm models see padding, and forced_align takes one clip

    def __init__(self, source: str, max_seconds: float = 60.0) -> None:
        super().__init__()
        self.source = source
        self.max_seconds = float(max_seconds)

    def fingerprint(self) -> str:
        """Short hash of weights and method."""
        settings = ["CTCAligner", VERSION, fingerprint(self.source)]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    def _build(self, device: torch.device, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCTC

        folder = str(resolve(self.source))
        self.model = AutoModelForCTC.from_pretrained(folder, dtype=dtype).to(device).eval()
        self.model.requires_grad_(False)

    @cached_property
    def _extractor(self) -> Any:
        from transformers import AutoFeatureExtractor

        return AutoFeatureExtractor.from_pretrained(str(resolve(self.source)))

    @cached_property
    def _symbols(self) -> tuple[dict[str, int], int, int | None]:
        """Vocabulary, blank, and the separator of words."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(resolve(self.source)))
        vocabulary = tokenizer.get_vocab()
        separator = vocabulary.get(getattr(tokenizer, "word_delimiter_token", None) or "|")
        return vocabulary, tokenizer.pad_token_id, separator

    def _spell(self, word: str) -> list[int]:
        """Symbols of a word in the vocabulary's case; punctuation it lacks is not spoken."""
        vocabulary = self._symbols[0]
        ids = []
        for letter in word:
            variants = (letter, letter.upper(), letter.lower())
            found = next((vocabulary[v] for v in variants if v in vocabulary), None)
            if found is not None:
                ids.append(found)
        return ids

    @torch.inference_mode()
    def align(
        self, waves: Sequence[np.ndarray], texts: Sequence[str], languages: Sequence[str]
    ) -> list[list[TimedWord] | AnnotationError]:
        """Find the words, clip by clip; see `Aligner.align`. Languages are not used."""
        out: list[list[TimedWord] | AnnotationError] = []
        for wave, text in zip(waves, texts, strict=True):
            try:
                out.append(self._align(wave, text.split()))
            except AnnotationError as error:
                out.append(error)
        return out

    def _align(self, wave: np.ndarray, words: list[str]) -> list[TimedWord]:
        if not words:
            raise AnnotationError("no_text", "the transcript is empty")
        values = self._extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        logits = self.model(values.to(self.model.device, self.model.dtype)).logits[0]
        _, blank, separator = self._symbols
        spans = ctc_word_spans(
            logits.float().log_softmax(-1), [self._spell(word) for word in words], blank, separator
        )
        duration = len(wave) / SAMPLE_RATE
        scale = duration / len(logits)
        return [
            (word, round(a * scale, 3), round(min(b * scale, duration), 3))
            for word, (a, b) in zip(words, spans, strict=True)
        ]
