"""Stage 4: the text LLM writes the targets; the text topline decides which tasks it can carry."""

from __future__ import annotations

import json
import logging

from toolkit.pipeline.context import RunContext
from toolkit.pipeline.marks import write_json
from toolkit.teachers.answers import AnswerStore
from toolkit.teachers.behaviour import describe, for_backbone

log = logging.getLogger("toolkit")


def run(context: RunContext) -> dict:
    """Write ``<exp>/targets.jsonl`` and ``<exp>/topline.json``.

    Parameters
    ----------
    context : RunContext

    Returns
    -------
    dict
        Counts, topline, and the tasks left out.

    Raises
    ------
    RuntimeError
        When every task was left out or every answer dropped, with the counts by reason.
    """
    objects = context.fresh("teacher", "llm", "prompt")
    teacher, llm, prompt = objects["teacher"], objects["llm"], objects["prompt"]
    writer = llm if teacher.llm is None else teacher.llm
    if writer is not llm:
        log.info("targets are written by %s, not by the backbone %s", writer.source, llm.source)
    if teacher.endpoint is None:
        writer.materialise(context.device, context.frozen_dtype).eval()
    store = AnswerStore(context.work / "targets" / "answers.jsonl")
    # With annotations: a description may tell what an annotator computed.
    rows = [row for path in teacher.manifests for row in context.rows(path)]

    def answers_to(items):
        return teacher.answers(items, writer, prompt, store)

    # The topline must not be tuned on training rows alone.
    held_out = [row for path in teacher.topline_manifests for row in context.rows(path)]
    tried = teacher.topline_plan(held_out)
    topline = teacher.topline(tried, answers_to(tried))
    _, below = teacher.carried(topline)
    for line in describe(topline, below):
        log.info("text topline %s", line)
    tried = teacher.wording_plan(held_out)
    wordings = teacher.wording_errors(tried, answers_to(tried))
    for wording, rate in wordings.items():
        log.info(
            "text topline %s: WER %.3f of %r", wording, rate, teacher.pool.instruction(wording)
        )
    items = teacher.plan(rows, exclude=below)
    targets, counts = teacher.select(items, teacher.write(items, writer, prompt, store))
    for reason, count in counts.most_common():
        log.info("targets %s: %d", reason, count)
    if writer is not llm:
        targets = for_backbone(targets, llm, prompt)
    if not targets:
        left = f"; tasks below their floor on text: {', '.join(below)}" if below else ""
        raise RuntimeError(
            f"the teacher wrote no usable target; counts by reason: {dict(counts)}{left}"
        )
    path = context.exp / "targets.jsonl"
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in targets))
    partial.replace(path)
    facts = {"counts": dict(counts), "topline": topline, "left_out": below, "wordings": wordings}
    write_json(context.exp / "topline.json", facts)
    return facts
