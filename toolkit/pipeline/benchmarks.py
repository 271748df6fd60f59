"""Answering the items of benchmarks in the decode stage."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence

from toolkit.data.audio import audio_info
from toolkit.data.collate import Collator
from toolkit.data.manifest import Row
from toolkit.evaluation.benchmarks.base import Benchmark
from toolkit.evaluation.benchmarks.items import BenchmarkItem, rows_of
from toolkit.evaluation.decoding import Inputs, usable
from toolkit.evaluation.plans import TEXT_INPUTS
from toolkit.models import SpeechLLM
from toolkit.pipeline.context import RunContext
from toolkit.pipeline.decoding import decode_inputs

log = logging.getLogger("toolkit")

#: Manifests round durations, and compressed formats end a few samples off.
_WHOLE_FILE_S = 0.02


def decode_benchmark(
    context: RunContext, model: SpeechLLM, reader: SpeechLLM, name: str, benchmark: Benchmark
) -> dict:
    """Write ``<exp>/decode/benchmark-<name>.<input>.jsonl``.

    Parameters
    ----------
    context : RunContext
    model : SpeechLLM
        Trained, in eval mode.
    reader : SpeechLLM
        The same with the LLM as published, for the inputs of text.
    name : str
    benchmark : Benchmark

    Returns
    -------
    dict
        Items, seconds per input, clips dropped by reason.

    Raises
    ------
    RuntimeError
        Without any usable clip.
    """
    items = benchmark.items()
    known = whole_files(items, (r for path in benchmark.manifests for r in context.rows(path)))
    rows = rows_of(items, known)
    kept, dropped = usable(rows.values(), model.encoder.max_seconds)
    clips = {row.audio for row in kept}
    items = [item for item in items if rows[item.audio].audio in clips]
    if not items:
        raise RuntimeError(f"benchmark {name}: no usable clip, by reason: {dict(dropped)}")

    def ask(kind):
        # Only a cached clip has frames; one that no manifest names is encoded here.
        inputs = Inputs(_collator(context, model, kept), kind, kept)
        questions = benchmark.decode_items(items, rows, name, kind)
        return (reader if kind in TEXT_INPUTS else model), inputs, questions

    seconds = decode_inputs(
        context.exp / "decode",
        f"benchmark-{name}",
        benchmark.inputs,
        ask,
        benchmark.max_new_tokens,
        benchmark.batch_size,
        context.text_branch,
    )
    log.info("benchmark %s: %d items, seconds per input %s", name, len(items), seconds)
    return {"items": len(items), "dropped": dict(dropped), "seconds": seconds}


def whole_files(items: Sequence[BenchmarkItem], rows: Iterable[Row]) -> dict[str, Row]:
    """Rows that may stand for the clips of a benchmark.

    A benchmark asks about a file; a row that is a part of it has another sound and transcript.

    Parameters
    ----------
    items : sequence of BenchmarkItem
    rows : iterable of Row

    Returns
    -------
    dict of str to Row
        By absolute audio path.
    """
    files = {os.path.abspath(item.audio) for item in items}
    return {
        row.audio: row
        for row in rows
        if row.audio in files
        and row.offset == 0
        and abs(audio_info(row.audio).duration - row.duration) < _WHOLE_FILE_S
    }


def _collator(context: RunContext, model: SpeechLLM, rows: list[Row]) -> Collator:
    collator = context.collator(model)
    if collator.cache is not None and collator.cache.missing([row.audio_key() for row in rows]):
        collator.cache = None
    return collator
