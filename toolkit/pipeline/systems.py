"""``toolkit score --system / --decoded``: foreign systems beside a run, on its own items."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from toolkit.evaluation.decoding import read_decoded, usable
from toolkit.evaluation.exchange import read_answers, write_items
from toolkit.evaluation.plans import DecodePlan, DecodeRun
from toolkit.evaluation.systems import (
    READS,
    EndpointSystem,
    ForeignSystemError,
    HubSystem,
    System,
    TextSystem,
    decode_system,
)
from toolkit.evaluation.tables import (
    generalisation_table,
    interval_name,
    metric_tables,
    paired_lines,
    results_table,
)
from toolkit.llms import CausalLM
from toolkit.pipeline.context import RunContext
from toolkit.pipeline.marks import write_json
from toolkit.pipeline.scores import score_runs
from toolkit.pipeline.topline import repeat_wording
from toolkit.pipeline.training import trained_tasks
from toolkit.teachers import Endpoint
from toolkit.teachers.answers import AnswerStore

log = logging.getLogger("toolkit")


@dataclass
class SystemOptions:
    """What ``toolkit score`` is asked for beyond the run's own stage.

    Attributes
    ----------
    systems : list of str
        ``text``, ``cascade``, either with ``:SOURCE`` of another LLM; ``endpoint:URL``;
        ``hub:NAME`` or the folder of a speech LLM as ``folder:PATH``.
    decoded : list of Path
        Files of answers.
    items : Path, optional
        Where to write the questions.
    model : str, optional
        Name an endpoint knows its model by.
    reads : str
        What an endpoint is given: ``speech``, ``text`` or ``asr``.
    """

    systems: list[str] = field(default_factory=list)
    decoded: list[Path] = field(default_factory=list)
    items: Path | None = None
    model: str | None = None
    reads: str = "speech"


def make_system(context: RunContext, spec: str, options: SystemOptions) -> System:
    """Build a system from its name on the command line.

    Parameters
    ----------
    context : RunContext
    spec : str
        As `SystemOptions.systems`.
    options : SystemOptions

    Returns
    -------
    System

    Raises
    ------
    ValueError
        For an unknown kind, with those there are.
    """
    kind, _, rest = spec.partition(":")
    if options.reads not in READS:
        raise ValueError(f"--reads {options.reads!r}: choose from {', '.join(READS)}")
    objects = context.fresh("llm", "prompt", "decode")
    prompt = objects["prompt"]
    store = context.work / "targets"
    # As the run's own topline: a cascade has a transcript alone.
    describe = objects["decode"].describe
    if kind in ("text", "cascade"):
        llm = CausalLM(rest) if rest else objects["llm"]
        llm.materialise(context.device, context.frozen_dtype).eval()
        reads = "text" if kind == "text" else "asr"
        answers = AnswerStore(store / "answers.jsonl")
        batch = objects["decode"].batch_size
        described = describe if reads == "text" else None
        return TextSystem(spec, llm, prompt, answers, reads, batch, described)
    if kind == "endpoint" and rest:
        endpoint = Endpoint(rest, options.model)
        name = f"{endpoint.model} ({options.reads})"
        answers = AnswerStore(store / "endpoint.jsonl")
        described = describe if options.reads == "text" else None
        return EndpointSystem(name, endpoint, prompt, answers, options.reads, described)
    if kind in ("hub", "folder") and rest:
        from toolkit.weights import fetch

        folder = fetch(spec) if kind == "hub" else Path(rest)
        answers = AnswerStore(store / "hub.jsonl")
        return HubSystem(spec, folder, prompt, answers, context.device)
    raise ValueError(
        f"--system {spec!r}: give text, cascade, text:SOURCE, cascade:SOURCE, endpoint:URL, "
        "hub:ORG/NAME or folder:PATH"
    )


def file_name(name: str) -> str:
    """A system's name as part of a file name.

    Example
    -------
    >>> file_name("hub:Qwen/Qwen2-Audio-7B"), file_name("big (speech)")
    ('hub-Qwen-Qwen2-Audio-7B', 'big-speech')
    """
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def score_systems(context: RunContext, options: SystemOptions) -> str:
    """Answer, score and compare; writes ``<exp>/systems/scores.json`` and ``RESULTS.md``.

    A run that was decoded before stands in the same tables, with paired tests against its speech.

    Parameters
    ----------
    context : RunContext
    options : SystemOptions

    Returns
    -------
    str
        The tables, as Markdown; where only items were asked for, a line that names their file.

    Raises
    ------
    ForeignSystemError, ValueError
    """
    objects = context.fresh("decode", "score", "encoder")
    plan, score = objects["decode"], objects["score"]
    folder = context.exp / "systems"
    parts = _parts(context, plan, objects["encoder"].max_seconds)
    if options.items is not None:
        write_items(options.items, [item for _, items in parts for item in items])
        if not (options.systems or options.decoded):
            return f"{sum(len(items) for _, items in parts)} questions in {options.items}"
    answered: dict[str, dict[str, list[dict]]] = {}
    own = {part.name: _own(context, part, [i.id for i in items]) for part, items in parts}
    specs = list(options.systems)
    if any("text" not in decoded for decoded in own.values()) and "text" not in specs:
        # Agreement and task generalisation are measured against the text LLM.
        specs.insert(0, "text")
    for spec in specs:
        system = make_system(context, spec, options)
        for part, items in parts:
            path = folder / f"{part.name}.{file_name(system.name)}.jsonl"
            bar = tqdm(total=len(items), desc=f"{part.name} {system.name}", unit="item")
            rows = decode_system(system, items, path, plan.max_new_tokens, progress=bar.update)
            bar.close()
            answered.setdefault(part.name, {})[system.name] = rows
    for path in options.decoded:
        for part, items in parts:
            answered.setdefault(part.name, {})[path.stem] = read_answers(path, items, path.stem)
    # A run's own decoding of the text branch wins: it has likelihoods too.
    decoded = [(part, {**answered[part.name], **own[part.name]}) for part, _ in parts]
    scores = score_runs(context, decoded, plan, score)
    lines = [f"# Systems beside {context.title}, seed {context.seed}", ""]
    lines += [f"Intervals: {interval_name(scores)}.", ""]
    for part, _ in parts:
        lines += [f"## {part.name}", ""]
        if part.name in plan.sets:
            lines += [results_table([scores], part.name), "", *paired_lines(scores, part.name)]
            lines += ["", *metric_tables([scores], part.name)]
        else:
            lines += generalisation_table(scores["generalisation"][part.name])
    write_json(folder / "scores.json", scores)
    text = "\n".join(lines) + "\n"
    (folder / "RESULTS.md").write_text(text)
    return text


def _parts(context: RunContext, plan: DecodePlan, max_seconds: float) -> list[tuple]:
    """Each part of the plan with its items, the very ones stage 8 decodes."""
    found = []
    for part in plan.runs(repeat_wording(context), trained_tasks(context)):
        rows, dropped = usable(context.rows(part.manifest), max_seconds)
        if not rows:
            raise ForeignSystemError(f"{part.manifest}: no usable utterance, {dict(dropped)}")
        found.append((part, part.items(rows)))
    return found


def _own(context: RunContext, part: DecodeRun, ids: Sequence[str]) -> dict[str, list[dict]]:
    """What the run itself decoded of these items, input by input, where it is complete."""
    found = {}
    for kind in part.inputs:
        path = context.exp / "decode" / f"{part.name}.{kind}.jsonl"
        rows = {row["id"]: row for row in read_decoded(path)}
        if ids and all(i in rows for i in ids):
            found[kind] = [rows[i] for i in ids]
    return found
