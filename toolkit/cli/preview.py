"""``toolkit preview``: real samples as the LLM will read them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from toolkit.cli.terminal import paint
from toolkit.segments import Response, Segment, Side, Span, Speech, Text

if TYPE_CHECKING:
    from toolkit.data.example import Example
    from toolkit.pipeline.context import RunContext

LEGEND = {
    "template": "grey",
    "instruction": "cyan",
    "speech": "magenta",
    "transcript as text": "yellow",
    "response (supervised)": "green",
}
_SPANS = {
    Span.TEMPLATE: "template",
    Span.INSTRUCTION: "instruction",
    Span.SIDE_TEXT: "transcript as text",
}


def render(plan: list[Segment], tokenizer, duration: float, colours: bool) -> str:
    """One planned input as text.

    Parameters
    ----------
    plan : list of Segment
    tokenizer : transformers.PreTrainedTokenizerBase
    duration : float
        Seconds of the clip, the end of a speech segment that reaches to it.
    colours : bool

    Returns
    -------
    str
        Token text as it is, speech as ``<speech 0.00-1.20 s>``, supervised tokens between
        ``[`` and ``]`` so that they also show without colours.
    """
    out = []
    for segment in plan:
        if isinstance(segment, Speech):
            end = duration if segment.end is None else segment.end
            text, kind = f"<speech {segment.start:.2f}-{end:.2f} s>", "speech"
        elif isinstance(segment, Response):
            text, kind = f"[{tokenizer.decode(list(segment.ids))}]", "response (supervised)"
        elif isinstance(segment, Side):
            text, kind = tokenizer.decode(list(segment.ids)), "transcript as text"
        elif isinstance(segment, Text):
            text, kind = tokenizer.decode(list(segment.ids)), _SPANS[segment.span]
        else:
            raise TypeError(f"{segment!r} is not a segment")
        out.append(paint(text, LEGEND[kind], colours))
    return "".join(out)


def main_set(context: RunContext) -> str:
    """The first training set of the recipe's last phase.

    Raises
    ------
    ValueError
        When the recipe declares no phase.
    """
    phases = context.config.tree.get("phases") or {}
    for name in reversed(list(phases)):
        if phases[name] is not None:
            return next(iter(context.config.build(f"phases.{name}")[f"phases.{name}"].data))
    raise ValueError(f"{context.recipe}: no phases are declared; name a set with --set")


def preview(context: RunContext, set_name: str | None, count: int, colours: bool) -> str:
    """Samples of a set: what the LLM reads and what it is trained to say.

    Parameters
    ----------
    context : RunContext
    set_name : str, optional
        Name under ``sets``; the main phase's first set by default.
    count : int
    colours : bool

    Returns
    -------
    str

    Raises
    ------
    KeyError
        For an unknown set.
    """
    from toolkit.data.collate import Collator

    name = set_name or main_set(context)
    sets = context.config.build("sets")["sets"]
    if name not in sets:
        raise KeyError(f"sets has no {name!r}; it has {', '.join(sets)}")
    # Planning needs no weights and no audio, so neither is loaded.
    objects = context.config.build("llm", "prompt", "interleaver")
    tokenizer = objects["llm"].tokenizer
    collator = Collator(objects["prompt"], objects["interleaver"], tokenizer, seed=context.seed)
    examples = sets[name].examples(tokenizer, objects["prompt"], rows=context.rows)
    dropped = dict(sets[name].dropped)
    shown = random.Random(context.seed).sample(examples, min(count, len(examples)))
    legend = " ".join(paint(kind, colour, colours) for kind, colour in LEGEND.items())
    head = f"{context.title}, set {name}: {len(examples)} examples"
    parts = [head + (f", dropped {dropped}" if dropped else ""), legend]
    for example in shown:
        plan, _ = collator.plan(example)
        parts.append(
            _sample(example, render(plan, tokenizer, example.row.duration, colours), tokenizer)
        )
    return "\n\n".join(parts)


def _sample(example: Example, rendered: str, tokenizer) -> str:
    lines = [
        f"== {example.id} ({example.row.duration:.2f} s, {example.row.audio})",
        f"transcript: {example.row.text}",
    ]
    if example.aims is not None:
        lines.append(f"aims: {example.aims}")
    if example.response is not None:
        lines.append(
            f"target: {tokenizer.decode(list(example.response), skip_special_tokens=True)}"
        )
    return "\n".join([*lines, rendered])
