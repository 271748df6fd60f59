"""What training did to the LLM's ability on text alone: instruction following and perplexity.

Methods that update the LLM (Self-Powered LSM, arXiv:2410.03798, checklist point 7) must show what
that costs. The LLM as published and the LLM as trained read the same prompts and the same texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike

from toolkit.data.manifest import Row
from toolkit.evaluation.plans import DecodeItem
from toolkit.evaluation.score_plans import TextRegressionPlan
from toolkit.evaluation.statistics import bootstrap, by_unit, paired_bootstrap
from toolkit.interleavers.assemble import assemble
from toolkit.llms import CausalLM, Prompt
from toolkit.segments import Response, Text

Pairs = list[tuple[float, float]]


def text_regression(
    published: CausalLM,
    trained: CausalLM,
    prompt: Prompt,
    rows: Sequence[Row],
    plan: TextRegressionPlan,
) -> dict[str, Any]:
    """Compare two states of an LLM on text.

    Parameters
    ----------
    published, trained : CausalLM
        Materialised. The same object where training went into LoRA adapters: they are off for
        the first and on for the second.
    prompt : Prompt
    rows : sequence of Row
        Their transcripts are read.
    plan : TextRegressionPlan

    Returns
    -------
    dict
        ``following`` (share of answers that attempt their task) and ``perplexity`` (of the
        transcripts as plain text), each with ``published``, ``trained`` (value and 95 % bootstrap
        interval), and ``difference`` and ``p`` of the paired bootstrap (of perplexity, in nats per
        token); ``tasks``: task -> both shares; ``items``, ``texts``.
    """
    items = plan.items(list(rows))
    # What is asked about one transcript is resampled together.
    read = [item.row.text for item in items]
    texts = list(dict.fromkeys(row.text for row in rows if row.text.strip()))[: plan.texts]
    followed: dict[str, Pairs] = {}
    losses: dict[str, Pairs] = {}
    for name, llm in (("published", published), ("trained", trained)):
        if name == "published":
            with llm.text_mode():
                answers, losses[name] = _answers(llm, prompt, items, plan), _nll(llm, texts, plan)
        else:
            answers, losses[name] = _answers(llm, prompt, items, plan), _nll(llm, texts, plan)
        followed[name] = [
            (float(plan.pool[item.task].check(answer, item.row.text)), 1.0)
            for item, answer in zip(items, answers, strict=True)
        ]
    return {
        "items": len(items),
        "texts": len(texts),
        "following": _compare({name: by_unit(read, own) for name, own in followed.items()}),
        "perplexity": {
            key: {k: math.exp(v) for k, v in value.items()} if isinstance(value, dict) else value
            for key, value in _compare(losses).items()
        },
        "tasks": {
            task.name: {
                name: sum(v for v, _ in own) / len(own)
                for name, values in followed.items()
                if (own := [v for v, i in zip(values, items, strict=True) if i.task == task.name])
            }
            for task in plan.pool
        },
    }


def regression_table(found: dict[str, Any]) -> str:
    """Published against trained, overall and by task.

    Parameters
    ----------
    found : dict
        From `text_regression`.

    Returns
    -------
    str
        Markdown.
    """
    lines = [
        "| text alone | n | LLM as published | LLM of this model | p |",
        "|---|---|---|---|---|",
    ]
    for name, count, digits in (
        ("following", found["items"], 3),
        ("perplexity", found["texts"], 2),
    ):
        entry = found[name]
        cells = [
            f"{e['value']:.{digits}f} [{e['low']:.{digits}f}, {e['high']:.{digits}f}]"
            for e in (entry["published"], entry["trained"])
        ]
        lines.append(f"| {name} | {count} | {cells[0]} | {cells[1]} | {entry['p']:.3f} |")
    for task, shares in found["tasks"].items():
        if shares:
            lines.append(
                f"| follows: {task} | | {shares['published']:.2f} | {shares['trained']:.2f} | |"
            )
    return "\n".join(lines)


def _compare(values: Mapping[str, Sequence[ArrayLike]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, pairs in values.items():
        value, low, high = bootstrap(pairs)
        out[name] = {"value": value, "low": low, "high": high}
    out["difference"], out["p"] = paired_bootstrap(values["trained"], values["published"])
    return out


@torch.inference_mode()
def _answers(
    llm: CausalLM, prompt: Prompt, items: Sequence[DecodeItem], plan: TextRegressionPlan
) -> list[str]:
    out = []
    for start in range(0, len(items), plan.batch_size):
        chunk = items[start : start + plan.batch_size]
        plans = [
            prompt.render(llm.tokenizer, item.example().fields, item.row.text).as_text()
            for item in chunk
        ]
        inputs = assemble(plans, [[] for _ in plans], llm.embed, padding_side="left")
        ids = llm.generate(inputs, max_new_tokens=plan.max_new_tokens)
        out += [llm.tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]
    return out


@torch.inference_mode()
def _nll(llm: CausalLM, texts: Sequence[str], plan: TextRegressionPlan) -> Pairs:
    """Loss and number of tokens of each text, read as plain text after a first token."""
    tokenizer = llm.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else llm.eos_ids[0]
    out: Pairs = []
    for start in range(0, len(texts), plan.batch_size):
        ids = [
            tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
            for text in texts[start : start + plan.batch_size]
        ]
        plans = [[Text((first,)), Response(own)] for own in ids]
        inputs = assemble(plans, [[] for _ in plans], llm.embed)
        logits = llm.logits(llm.states(inputs))
        nll = F.cross_entropy(logits, inputs.label_ids(), reduction="none").cpu()
        out += [(float(v.sum()), float(len(v))) for v in nll.split([len(own) for own in ids])]
    return out
