"""``toolkit show``: a recipe's blocks, shapes, rates and parameters, without any weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from toolkit.cli.terminal import table
from toolkit.component import count_parameters
from toolkit.losses.base import LLM_NEEDS
from toolkit.pipeline.costs import (
    PROMPT_TOKENS,
    answer_tokens,
    cache_bytes,
    corpora,
    encode_operations,
    on_meta,
    recipe_cost,
)
from toolkit.training.optimisation import model_modules, select_trainable

if TYPE_CHECKING:
    from toolkit.models import SpeechLLM
    from toolkit.pipeline.context import RunContext

SECONDS = 10


def block_table(model: SpeechLLM) -> str:
    """Class, shapes and rates of each block for one clip of ten seconds.

    Parameters
    ----------
    model : SpeechLLM

    Returns
    -------
    str
        A Markdown table. Vectors of a projector whose output depends on the content are an upper
        bound, marked ``<=``.
    """
    encoder, projector, llm = model.encoder, model.projector, model.llm
    samples = torch.tensor([SECONDS * encoder.sample_rate])
    frames = encoder.output_lengths(samples)
    vectors = int(projector.max_output_length(frames))
    bound = "" if projector.exact_lengths else "<= "
    encoded = f"(1, {encoder.num_layers}, {int(frames)}, {encoder.dim})"
    rows = [
        [
            "encoder",
            type(encoder).__name__,
            f"(1, {int(samples)})",
            encoded,
            f"{encoder.frame_rate:g} frames/s",
            f"{count_parameters(encoder):,}",
        ],
        [
            "projector",
            type(projector).__name__,
            encoded,
            f"(1, {bound}{vectors}, {projector.output_dim})",
            f"{bound}{vectors / SECONDS:g} vectors/s",
            f"{count_parameters(projector):,}",
        ],
        [
            "interleaver",
            type(model.interleaver).__name__,
            "",
            "",
            f"cut {model.interleaver.cut}",
            "0",
        ],
        [
            "llm",
            type(llm).__name__,
            f"(1, T, {llm.dim})",
            f"(N, {llm.vocab_size})",
            "one state per label",
            f"{count_parameters(llm):,}",
        ],
    ]
    return table(["block", "class", "in", "out", "rate", "parameters"], rows, right=[5])


def phase_table(model: SpeechLLM, phases: dict) -> str:
    """What each phase trains, needs and runs.

    Parameters
    ----------
    model : SpeechLLM
        Materialised, at least on ``meta``; which parameters train is changed.
    phases : dict of str to Phase

    Returns
    -------
    str
        A Markdown table.
    """
    modules = model_modules(model)
    rows = []
    for name, phase in phases.items():
        groups = select_trainable(modules, phase)
        trained = sum(p.numel() for named in groups.values() for _, p in named)
        # The beginning and the end of the phase: a scheduled weight may be zero at either.
        needs = phase.needs(0.0) | phase.needs(1.0)
        losses = [f"{key} x {_weight(loss.weight)}" for key, loss in phase.losses.items()]
        rows.append(
            [
                name,
                ", ".join(groups),
                f"{trained:,}",
                ", ".join(losses),
                ", ".join(sorted(needs)),
                "yes" if needs & LLM_NEEDS else "no",
                f"{phase.optimizer_steps:,}",
            ]
        )
    header = ["phase", "trains", "parameters", "losses", "needs", "runs the LLM", "steps"]
    return table(header, rows, right=[2, 6])


def cost_table(
    context: RunContext, model: SpeechLLM, phases: dict, tflops: float | None, gpus: int
) -> str:
    """What each phase needs of a machine, and for how long.

    Parameters
    ----------
    context : RunContext
    model : SpeechLLM
        Materialised, at least on ``meta``.
    phases : dict of str to Phase
    tflops : float, optional
        10^12 operations a second that a device sustains; measured here by default.
    gpus : int

    Returns
    -------
    str
        A Markdown table with the assumptions below it.
    """
    from toolkit.pipeline.probe import matmul_gflops

    dtype = "bfloat16" if context.precision == "bf16" else "float32"
    where = f"{gpus} device(s) that sustain {tflops:g} Tflop/s each" if tflops else ""
    if tflops is None:
        tflops = matmul_gflops(context.device, dtype) / 1000
        where = f"this machine's {tflops:.2g} Tflop/s in matrix products ({dtype})"
    cached = isinstance(context.config.tree.get("cache"), dict)
    response = answer_tokens(context)
    rows, notes = [], []
    for name, phase in phases.items():
        corpus = corpora(context, phase.data)
        if corpus is None:
            notes.append(
                f"{name}: its cost is not known: the corpus is not prepared, and the recipe has no "
                "`expected: {utterances: N, hours: H}`."
            )
            continue
        cost = recipe_cost(context, model, phase, corpus, response)
        rows.append(
            [
                name,
                f"{corpus.utterances:,} / {corpus.seconds / 3600:,.1f} h ({corpus.origin})",
                f"{cost.items:.0f} x {phase.accumulation}",
                f"{phase.optimizer_steps:,} ({cost.passes:.1f} passes)",
                f"{cost.tokens:.0f}",
                f"{cost.gib:.1f}",
                _size(cache_bytes(model, corpus, _cache_itemsize(context))) if cached else "off",
                f"{cost.operations:.1e}",
                f"{cost.hours(tflops, gpus):,.1f}",
            ]
        )
        parts = sorted(cost.memory.items(), key=lambda item: -item[1])
        largest = ", ".join(f"{what} {_size(size)}" for what, size in parts)
        notes.append(f"{name}, one device: {largest}.")
        if cached:
            encoding = encode_operations(model, corpus)
            hours = encoding / (tflops * 1e12 * gpus) / 3600
            notes.append(
                f"Encoding its speech once takes {encoding:.1e} operations, {hours:.1f} h."
            )
        if phase.max_seconds:
            notes.append(f"{name} stops after {phase.max_seconds / 3600:.2f} h whatever is done.")
    header = [
        "phase", "speech", "items of a step", "steps", "tokens an item", "GiB per GPU", "cache",
        "operations", "hours",
    ]  # fmt: skip
    if not rows:
        return "\n".join(notes)
    said = (
        f"Hours on {where}, for training alone: teaching, encoding, decoding, data loading and "
        f"communication come on top. Estimates for average utterances, {PROMPT_TOKENS} tokens of "
        f"prompt and {response} of answer (the most the teacher may write)."
    )
    return "\n\n".join([table(header, rows, right=[2, 4, 5, 6, 7, 8]), said, " ".join(notes)])


def _cache_itemsize(context: RunContext) -> int:
    name = context.config.tree["cache"].get("dtype", "bfloat16")
    return torch.empty(0, dtype=getattr(torch, name)).element_size()


def _size(count: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**20:.0f} MiB"


def _weight(weight: object) -> str:
    return "scheduled" if callable(weight) else f"{float(weight):g}"


def describe(context: RunContext, tflops: float | None = None, gpus: int = 1) -> str:
    """Everything ``toolkit show`` prints.

    Parameters
    ----------
    context : RunContext
    tflops : float, optional
        What a device sustains; measured by default.
    gpus : int

    Returns
    -------
    str
    """
    model = on_meta(context)
    parts = [
        f"# {context.title} ({context.status})",
        f"For one clip of {SECONDS} s; no weights were read.",
        block_table(model),
    ]
    declared = context.config.tree.get("phases") or {}
    phases = {
        name: context.config.build(f"phases.{name}")[f"phases.{name}"]
        for name in declared
        if declared[name] is not None
    }
    if phases:
        parts.append(phase_table(model, phases))
        parts.append(cost_table(context, model, phases, tflops, gpus))
    if not model.projector.exact_lengths:
        parts.append(
            f"{type(model.projector).__name__} makes as many vectors as the speech needs; some "
            "of its parameters may depend on data not seen here (its vocabulary)."
        )
    return "\n\n".join(parts)
