"""What `toolkit.pipeline.costs` expects of a phase, beside what was measured, and at other sizes.

A formula that gives the ratio of two phases where both can be measured is worth something where
neither can: that of a recipe for machines one does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from toolkit.pipeline.costs import (
    Corpus,
    PhaseCost,
    answer_tokens,
    corpora,
    on_meta,
    recipe_cost,
)

if TYPE_CHECKING:
    from toolkit.data.example import Example
    from toolkit.models import SpeechLLM
    from toolkit.pipeline.context import RunContext
    from toolkit.training import Phase


def of_examples(
    context: RunContext, model: SpeechLLM, phase: Phase, examples: Sequence[Example]
) -> dict[str, float]:
    """What the formulas say of a phase on these examples.

    Parameters
    ----------
    context : RunContext
    model : SpeechLLM
        As the phase loads it.
    phase : Phase
    examples : sequence of Example

    Returns
    -------
    dict
        ``operations`` of an utterance, ``mib`` on one device.
    """
    corpus = Corpus(len(examples), sum(e.row.duration for e in examples), "examples")
    render, tokenizer = model.prompt.render, model.llm.tokenizer
    prompt = fmean(len(render(tokenizer, e.fields, "").ids) for e in examples)
    response = fmean(len(e.response or ()) for e in examples)
    return _summary(
        phase, recipe_cost(context, model, phase, corpus, round(response), round(prompt))
    )


def of_recipe(context: RunContext, batch_size: int) -> dict[str, Any]:
    """What the formulas say of each phase of a recipe that need not be run here.

    Parameters
    ----------
    context : RunContext
    batch_size : int
        Of every phase, whatever the recipe has.

    Returns
    -------
    dict
        ``recipe``, ``batch_size``, and ``phases`` as of `of_examples`.

    Raises
    ------
    ValueError
        When the size of a phase's corpus is not known.
    """
    model = on_meta(context)
    response = answer_tokens(context)
    found = {}
    for name, phase in context.config.build("phases")["phases"].items():
        corpus = corpora(context, phase.data)
        if corpus is None:
            raise ValueError(
                f"{context.recipe}: phase {name}: its corpus is not prepared, and the recipe has "
                "no `expected: {utterances: N, hours: H}`"
            )
        phase = replace(
            phase, batch_items=batch_size, batch_tokens=None, batch_seconds=None, accumulation=1
        )
        found[name] = _summary(phase, recipe_cost(context, model, phase, corpus, response))
    return {"recipe": context.title, "batch_size": batch_size, "phases": found}


def _summary(phase: Phase, cost: PhaseCost) -> dict[str, float]:
    utterances = cost.items * phase.accumulation * phase.optimizer_steps
    return {
        "operations": cost.operations / utterances,
        "mib": sum(cost.memory.values()) / 2**20,
    }


def table(projection: dict[str, Any]) -> str:
    """Phases as rows, ratios to the first.

    Parameters
    ----------
    projection : dict
        From `of_recipe`.

    Returns
    -------
    str
        Markdown.

    Example
    -------
    >>> phases = {"pretrain": {"operations": 3.2e11, "mib": 6656.0}}
    >>> print(table({"phases": phases}))
    | phase | operations an utterance | ratio | memory, GiB | ratio |
    |---|---|---|---|---|
    | pretrain | 3.2e+11 | 1.0x | 6.5 | 1.0x |
    """
    rows = projection["phases"]
    first = next(iter(rows.values()))
    lines = [
        "| phase | operations an utterance | ratio | memory, GiB | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['operations']:.1e} | {row['operations'] / first['operations']:.1f}x "
            f"| {row['mib'] / 1024:.1f} | {row['mib'] / first['mib']:.1f}x |"
        )
    return "\n".join(lines)
