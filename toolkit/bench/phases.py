"""What a training step of each phase costs, on the same utterances: ``python -m
toolkit.bench.phases RECIPE``.

For methods whose first phase needs no LLM the ratio between phases is the point: SpeechMapper
(arXiv:2601.20417) pretrains its projector with no more of the LLM in memory than tokenizer and
embedding table, and only then trains through it. Every phase runs in a process of its own, so that
peak memory is its own, with the trainer that the recipe uses; the processes take turns, so that a
machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from toolkit.bench import formulas
from toolkit.bench.memory import PeakMemory
from toolkit.pipeline.context import RunContext
from toolkit.pipeline.fitting import fit_projector
from toolkit.pipeline.marks import write_json

if TYPE_CHECKING:
    from toolkit.data.example import Example
    from toolkit.models import SpeechLLM

#: Answered by all phases; those that run no LLM read the transcript alone.
INSTRUCTION = "Repeat the following sentence word for word:"
_DATA = "bench"


class _Finished(Exception):
    """All passes are timed; nothing is to be saved."""


class _Turnstile:
    """Times passes over the utterances, and waits for its turn in front of each.

    Parameters
    ----------
    steps : int
        Of a pass; the first pass is the warm-up.
    passes : int
        Timed passes.
    device : str
    """

    def __init__(self, steps: int, passes: int, device: str) -> None:
        self.steps = steps
        self.left = passes + 1
        self.on_gpu = device.startswith("cuda")
        self.started = time.perf_counter()

    def on_step(self, step: int) -> None:
        """After every optimiser step: at the end of a pass, report it and wait."""
        if step % self.steps:
            return
        if self.on_gpu:
            torch.cuda.synchronize()
        self.left -= 1
        _say({"seconds": time.perf_counter() - self.started})
        if not self.left:
            raise _Finished
        sys.stdin.readline()
        self.started = time.perf_counter()


def _say(message: dict[str, Any]) -> None:
    # Other parts of the program may print as well.
    print(f"bench:{json.dumps(message)}", flush=True)


def common_examples(
    context: RunContext, model: SpeechLLM, utterances: int, seed: int = 1
) -> list[Example]:
    """Utterances of the recipe's first manifest that every phase can train on.

    Parameters
    ----------
    context : RunContext
    model : SpeechLLM
    utterances : int
        Drawn at random.
    seed : int
        Of the draw.

    Returns
    -------
    list of Example

    Raises
    ------
    FileNotFoundError
        When there are too few of them: data not prepared, or features not cached.
    """
    from toolkit.data.sets import TranscriptionSet
    from toolkit.pipeline.training import leave_out_refused

    manifest = context.manifests()[0]
    examples = []
    if manifest.exists():
        longest = model.encoder.max_seconds
        everything = TranscriptionSet([manifest], [INSTRUCTION], max_seconds=longest)
        examples = everything.examples(model.llm.tokenizer, model.prompt, rows=context.rows)
        cache = context.cache()
        if cache is not None:
            examples = [e for e in examples if e.row.audio_key() in cache]
    if examples:
        for phase in context.config.build("phases")["phases"].values():
            leave_out_refused(str(manifest), examples, phase.losses, model)
    if len(examples) < utterances:
        raise FileNotFoundError(
            f"{manifest}: {len(examples)} utterances that every phase can train on, {utterances} "
            "asked for: run the recipe's stages up to 5, or ask for fewer with -n"
        )
    return random.Random(seed).sample(examples, utterances)


def run_one(
    context: RunContext, name: str, utterances: int, batch_size: int, passes: int
) -> dict[str, float]:
    """Train a phase on the common utterances, in this process, one turn after the other.

    Parameters
    ----------
    context : RunContext
    name : str
        Of the phase.
    utterances, batch_size, passes : int

    Returns
    -------
    dict
        ``peak_mib`` with everything the phase loads, ``llm_mib`` of the LLM's weights in memory,
        and what the formulas say: ``operations`` of an utterance, ``formula_mib``.
    """
    from toolkit.training import SpeechLLMBrain

    phase = context.config.build(f"phases.{name}")[f"phases.{name}"]
    steps = -(-utterances // batch_size)
    phase = replace(
        phase, data={_DATA: 1.0}, validation=(), measures={}, select="loss", gradient_norms=False,
        optimizer_steps=steps * (passes + 1), max_seconds=None, accumulation=1, ema=None,
        batch_items=batch_size, batch_tokens=None, batch_seconds=None,
    )  # fmt: skip
    with PeakMemory(torch.device(context.device)) as peak:
        model = context.build_for(phase)
        for loss in phase.losses.values():
            loss.fit(model.llm)
        examples = common_examples(context, model, utterances)
        fit_projector(context, model, examples)
        expected = formulas.of_examples(context, model, phase, examples)
        collator = context.collator(model, run_llm=phase.runs_llm())
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            brain = SpeechLLMBrain(
                model, phase, {_DATA: examples}, {}, collator, folder, context.seed,
                precision=context.precision, log_every=10**9, progress_bar=False,
                hooks=_Turnstile(steps, passes, context.device),
            )  # fmt: skip
            try:
                brain.fit()
            except _Finished:
                pass
    weights = sum(p.numel() * p.element_size() for p in model.llm.parameters())
    return {
        "peak_mib": peak.mib,
        "llm_mib": weights / 2**20,
        "operations": expected["operations"],
        "formula_mib": expected["mib"],
    }


def measure_phases(
    context: RunContext,
    arguments: Sequence[str],
    utterances: int = 96,
    batch_size: int = 8,
    passes: int = 3,
) -> dict[str, Any]:
    """Time every phase of a recipe; writes ``<work>/bench_phases.json``.

    Parameters
    ----------
    context : RunContext
    arguments : sequence of str
        That make the same context in another process.
    utterances : int
    batch_size : int
        Of every phase, whatever the recipe has.
    passes : int
        Timed passes over the utterances; medians are reported. One untimed pass comes first.

    Returns
    -------
    dict
        `phases_table` makes a table of it.

    Raises
    ------
    RuntimeError
        When a phase fails, with its last words.
    """
    names = list(context.config.build("phases")["phases"])
    counts = ["-n", str(utterances), "--batch-size", str(batch_size), "--repeats", str(passes)]
    command = [sys.executable, "-m", "toolkit.bench.phases", *arguments, *counts, "--one"]
    processes = {
        name: subprocess.Popen(
            [*command, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in names
    }
    try:
        # All warm up before the first timed pass, so that none loads while another is timed.
        for name in names:
            _hear(processes[name], name)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(passes):
            for name, process in processes.items():
                process.stdin.write("\n")
                process.stdin.flush()
                seconds[name].append(_hear(process, name)["seconds"])
        last = {name: _hear(process, name) for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    result = {
        "recipe": context.title,
        "utterances": utterances,
        "batch_size": batch_size,
        "passes": passes,
        "phases": {
            name: {
                "seconds_per_1000": statistics.median(seconds[name]) / utterances * 1000,
                "seconds_of_passes": [round(s, 3) for s in seconds[name]],
                **last[name],
            }
            for name in names
        },
    }
    write_json(context.work / "bench_phases.json", result)
    return result


def _hear(process: subprocess.Popen, name: str) -> dict[str, float]:
    """The next message of a phase's process."""
    words = []
    for line in process.stdout:
        if line.startswith("bench:"):
            return json.loads(line.removeprefix("bench:"))
        words.append(line)
    raise RuntimeError(f"phase {name} failed:\n{''.join(words[-30:])}")


def phases_table(result: dict[str, Any]) -> str:
    """Phases as rows, ratios to the first, with those that the formulas expect.

    Parameters
    ----------
    result : dict
        From `measure_phases`.

    Returns
    -------
    str
        Markdown. Peak memory is the whole process's, interpreter and libraries included, which no
        formula counts.

    Example
    -------
    >>> phase = {"seconds_per_1000": 20.0, "operations": 1e9, "peak_mib": 900.0,
    ...          "formula_mib": 410.0, "llm_mib": 0.0}
    >>> later = {"seconds_per_1000": 300.0, "operations": 12e9, "peak_mib": 1800.0,
    ...          "formula_mib": 1380.0, "llm_mib": 513.0}
    >>> print(phases_table({"phases": {"pretrain": phase, "train": later}}))
    | phase | seconds per 1,000 utterances | ratio | by operations | peak memory, MiB | ratio | \
by formula, MiB | LLM weights, MiB |
    |---|---|---|---|---|---|---|---|
    | pretrain | 20.0 | 1.0x | 1.0x | 900 | 1.0x | 410 | 0 |
    | train | 300.0 | 15.0x | 12.0x | 1800 | 2.0x | 1380 | 513 |
    """
    rows = result["phases"]
    first = next(iter(rows.values()))
    lines = [
        "| phase | seconds per 1,000 utterances | ratio | by operations | peak memory, MiB | ratio "
        "| by formula, MiB | LLM weights, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        times = row["seconds_per_1000"] / first["seconds_per_1000"]
        expected = row["operations"] / first["operations"]
        memory = row["peak_mib"] / first["peak_mib"]
        lines.append(
            f"| {name} | {row['seconds_per_1000']:.1f} | {times:.1f}x | {expected:.1f}x "
            f"| {row['peak_mib']:.0f} | {memory:.1f}x | {row['formula_mib']:.0f} "
            f"| {row['llm_mib']:.0f} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m toolkit.bench.phases", description=__doc__.partition("\n\n")[0]
    )
    out.add_argument("recipe", type=Path)
    out.add_argument("overrides", nargs="*")
    out.add_argument("--work", type=Path, default=Path("work"))
    out.add_argument("--quick", action="store_true", help="on the data of a --quick run")
    out.add_argument("--user-dir", type=Path)
    out.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    out.add_argument("-n", type=int, default=96, help="utterances (default: 96)")
    out.add_argument("--batch-size", type=int, default=8, help="a step (default: 8)")
    out.add_argument("--repeats", type=int, default=3, help="timed passes (default: 3)")
    out.add_argument(
        "--project", type=Path, metavar="RECIPE",
        help="what the formulas say of another recipe, which need not be run here",
    )  # fmt: skip
    out.add_argument("--one", help=argparse.SUPPRESS)
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    from toolkit.pipeline.runner import RunOptions, open_run

    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(given)
    if min(arguments.n, arguments.batch_size, arguments.repeats) < 1:
        parser().error("utterances, batch size and repeats are at least 1")
    context = open_run(
        RunOptions(
            recipe=arguments.recipe, overrides=arguments.overrides, work=arguments.work,
            quick=arguments.quick, device=arguments.device, user_dir=arguments.user_dir,
        )
    )  # fmt: skip
    counts = (arguments.n, arguments.batch_size, arguments.repeats)
    if arguments.one:
        _say(run_one(context, arguments.one, *counts))
        return
    # Known before anything is measured.
    scaled = None
    if arguments.project:
        scaled = formulas.of_recipe(
            open_run(RunOptions(recipe=arguments.project, work=arguments.work, device="cpu")),
            arguments.batch_size,
        )
    result = measure_phases(context, given, *counts)
    print(
        f"{result['recipe']}: {arguments.n} utterances, batches of {arguments.batch_size}, median "
        f"of {arguments.repeats} passes in turns.\n\n{phases_table(result)}"
    )
    if scaled:
        print(
            f"\n{scaled['recipe']}, by the same formulas, {scaled['batch_size']} utterances a "
            f"step:\n\n{formulas.table(scaled)}"
        )


if __name__ == "__main__":
    main()
