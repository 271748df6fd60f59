"""Decoding one test set under all its inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from toolkit.evaluation.decoding import Inputs, decode
from toolkit.evaluation.plans import DecodeItem
from toolkit.evaluation.text_branch import TextBranch
from toolkit.models import SpeechLLM


def decode_inputs(
    folder: Path,
    name: str,
    kinds: Sequence[str],
    ask: Callable[[str], tuple[SpeechLLM, Inputs, Sequence[DecodeItem]]],
    max_new_tokens: int,
    batch_size: int,
    branch: TextBranch | None = None,
) -> dict[str, float]:
    """Write ``<folder>/<name>.<input>.jsonl`` for every input.

    Inputs behind ``text`` also get the likelihoods of its answers.

    Parameters
    ----------
    folder : Path
    name : str
        Of the test set.
    kinds : sequence of str
        Inputs, in order.
    ask : callable
        Who answers to an input, what it is given, and the questions; called before each input.
    max_new_tokens, batch_size : int
    branch : TextBranch, optional
        As of `toolkit.evaluation.decoding.decode`.

    Returns
    -------
    dict of str to float
        Seconds by input.
    """
    references, seconds = None, {}
    for kind in kinds:
        model, inputs, items = ask(kind)
        started = time.time()
        with tqdm(total=len(items), desc=f"{name} {kind}", unit="item") as bar:
            decoded = decode(
                model,
                inputs,
                items,
                folder / f"{name}.{kind}.jsonl",
                references,
                max_new_tokens,
                batch_size,
                bar.update,
                branch,
            )
        if kind == "text":
            references = {row["id"]: row for row in decoded}
        seconds[kind] = round(time.time() - started, 1)
    return seconds
