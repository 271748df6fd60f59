"""Annotations on disk: computed once per audio and text, merged into rows on reading."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.annotation.base import AnnotationError, Annotator
from toolkit.data.audio import AudioError, read_audio
from toolkit.data.cache import duration_batches, owns, read_all
from toolkit.data.manifest import Row
from toolkit.data.measures import merged_attributes
from toolkit.files import drop_half_line, json_lines_so_far


class AnnotationStore:
    """Values of one annotator as JSON lines, one file per writing rank.

    Parameters
    ----------
    root : str or Path
        Folder shared by all runs, ``<work>/annotations``.
    annotator : Annotator
        Its kind and fingerprint name the store's folder; it need not be materialised.

    Example
    -------
    >>> import tempfile
    >>> from toolkit.data.annotation.base import Aligner
    >>> class Nothing(Aligner):
    ...     def fingerprint(self):
    ...         return "none"
    >>> store = AnnotationStore(tempfile.mkdtemp(), Nothing())
    >>> store.folder.name, len(store)
    ('words-none', 0)
    """

    def __init__(self, root: str | Path, annotator: Annotator) -> None:
        self.kind = annotator.kind
        self.reads_text = annotator.reads_text
        self.folder = Path(root) / f"{self.kind}-{annotator.fingerprint()}"
        self.reload()

    def reload(self) -> None:
        """Read the files again, to see what other writers have finished."""
        self._values: dict[tuple[str, str], Any] = {}
        for path in sorted(self.folder.glob("rank*.jsonl")):
            for entry in json_lines_so_far(path):
                self._values[entry["audio"], entry["text"]] = entry["value"]

    def __len__(self) -> int:
        return len(self._values)

    def key(self, row: Row) -> tuple[str, str]:
        """Content key of a row: its audio, and its text where the value depends on it.

        Raises
        ------
        toolkit.data.audio.AudioError
            If the audio file is missing.
        """
        text = hashlib.sha256(row.text.encode()).hexdigest()[:16] if self.reads_text else ""
        return row.audio_key(), text

    def get(self, row: Row) -> Any | None:
        """The row's value, None where there is none."""
        return self._values.get(self.key(row))

    @contextmanager
    def writer(self, rank: int = 0) -> Iterator[Callable[[Row, Any], None]]:
        """Open for adding; each value is safe once the call returns.

        Parameters
        ----------
        rank : int
            Of this process; names its file.

        Yields
        ------
        callable
            ``add(row, value)``.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rank{rank}.jsonl"
        drop_half_line(path)
        with open(path, "ab") as file:

            def add(row: Row, value: Any) -> None:
                key = self.key(row)
                entry = {"audio": key[0], "text": key[1], "value": value}
                file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
                file.flush()
                self._values[key] = value

            yield add


def annotate(
    rows: Iterable[Row],
    annotator: Annotator,
    store: AnnotationStore,
    read_audio: Callable[..., np.ndarray] = read_audio,
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
) -> Counter[str]:
    """Compute what is not in the store yet; a killed run goes on where it stopped.

    Parameters
    ----------
    rows : iterable of Row
    annotator : Annotator
        Materialised on the CPU if it is not yet.
    store : AnnotationStore
        Of this annotator.
    read_audio : callable
        With the signature of `toolkit.data.audio.read_audio`.
    progress : bool
        Show clips done, rate and time left.
    rank, world_size : int
        This process takes one ``world_size``-th of the clips.

    Returns
    -------
    Counter
        Rows now ``annotated``, annotated ``already``, with the ``same`` audio and text as another
        row, and what could not be by reason: those of `AnnotationError` and
        `toolkit.data.audio.REASONS`.
    """
    from tqdm import tqdm

    counts: Counter[str] = Counter()
    todo: dict[tuple[str, str], Row] = {}
    for row in rows:
        try:
            key = store.key(row)
        except AudioError as error:
            counts[error.reason] += rank == 0
            continue
        if not owns(key[0], rank, world_size):
            continue
        if key in store._values:
            counts["already"] += 1
        elif key in todo:
            counts["same"] += 1
        else:
            todo[key] = row
    if not todo:
        return +counts
    if not annotator.materialised:
        annotator.materialise()
    # Like durations share a batch only for memory's sake: the number of clips decides the cost.
    batches = [
        batch[i : i + annotator.batch_size]
        for batch in duration_batches(todo.values(), float("inf"))
        for i in range(0, len(batch), annotator.batch_size)
    ]
    with (
        store.writer(rank) as add,
        tqdm(total=len(todo), unit="clip", desc=store.kind, disable=not progress) as bar,
    ):
        for batch in batches:
            loaded = read_all(batch, annotator.max_seconds, read_audio)
            good = [(row, wave) for row, wave in loaded if not isinstance(wave, AudioError)]
            counts.update(wave.reason for _, wave in loaded if isinstance(wave, AudioError))
            if good:
                taken, waves = zip(*good, strict=True)
                for row, value in zip(taken, annotator.annotate_batch(taken, waves), strict=True):
                    if isinstance(value, AnnotationError):
                        counts[value.reason] += 1
                    else:
                        add(row, value)
                        counts["annotated"] += 1
            bar.update(len(batch))
    return +counts


def apply_annotations(rows: Iterable[Row], store: AnnotationStore) -> list[Row]:
    """Put stored values into rows.

    Parameters
    ----------
    rows : iterable of Row
    store : AnnotationStore

    Returns
    -------
    list of Row
        In order; a row without a stored value, or whose audio is gone, is returned as it is.
    """
    out = []
    for row in rows:
        try:
            value = store.get(row)
        except AudioError:
            # Reading the audio will count it by reason; here it only has no value.
            value = None
        if value is not None:
            if store.kind == "words":
                value = tuple((word, start, end) for word, start, end in value)
            elif isinstance(value, dict):
                value = merged_attributes(value, getattr(row, store.kind))
            row = replace(row, **{store.kind: value})
        out.append(row)
    return out
