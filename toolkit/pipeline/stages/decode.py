"""Stage 8: batched generation for every test set, task and control input."""

from __future__ import annotations

import copy
import json
import logging
from hashlib import sha256
from typing import TYPE_CHECKING

from toolkit.config import encode_tree
from toolkit.evaluation.decoding import Inputs, usable
from toolkit.evaluation.plans import OTHER_PROJECTORS, TEXT_INPUTS
from toolkit.models import SpeechLLM
from toolkit.pipeline.benchmarks import decode_benchmark
from toolkit.pipeline.context import RunContext
from toolkit.pipeline.decoding import decode_inputs
from toolkit.pipeline.marks import settings, write_json
from toolkit.pipeline.topline import repeat_wording
from toolkit.pipeline.training import start_folder, trained_tasks
from toolkit.training.checkpoint import WEIGHTS, CheckpointError, load_tensors, read_tensors

if TYPE_CHECKING:
    from toolkit.projectors import Projector

log = logging.getLogger("toolkit")

#: Parts of the recipe that answers depend on, beside the weights.
SETTINGS = ("decode", "prompt", "interleaver", "annotate")


def run(context: RunContext) -> dict:
    """Write ``<exp>/decode/<set>.<input>.jsonl``, and ``<set>_grid.<input>.jsonl`` where asked for.

    Parameters
    ----------
    context : RunContext

    Returns
    -------
    dict
        Items and seconds per set and input; utterances dropped by reason.
    """
    plan = context.config.build("decode")["decode"]
    model = context.build_model()
    untrained = copy.deepcopy(model.projector)
    phase = context.load_trained(model)
    log.info("decoding with the weights of phase %s", phase)
    # What fit() learnt from the data (a vocabulary) is no training: the control has it too.
    untrained.load_state_dict(
        {**untrained.state_dict(), **dict(model.projector.named_buffers())}, strict=False
    )
    projectors = {"trained": model.projector, "untrained": untrained}
    if "pretrained" in plan.inputs:
        projectors["pretrained"] = _pretrained(context, model, untrained)
    if "pads_kept" in plan.inputs:
        projectors["pads_kept"] = model.projector.keeping_pads()
    model.eval()
    # Topline and cascade are of the LLM as published, also where all of it was trained.
    published = context.published_llm(model)
    reader = model
    if published is not None:
        reader = SpeechLLM(
            model.encoder, model.projector, model.interleaver, published, model.prompt
        ).eval()
    wording = repeat_wording(context)
    _drop_other_weights(context, phase, wording)
    facts = {"phase": phase, "repeat_wording": wording, "sets": {}}
    for name, benchmark in plan.benchmarks.items():
        found = decode_benchmark(context, model, reader, name, benchmark)
        facts.setdefault("benchmarks", {})[name] = found
    for part in plan.runs(wording, trained_tasks(context)):
        name = part.name
        rows, dropped = usable(context.rows(part.manifest), model.encoder.max_seconds)
        if not rows:
            raise RuntimeError(f"{part.manifest}: no usable utterance, by reason: {dict(dropped)}")
        items = part.items(rows)

        def ask(kind, rows=rows, items=items):
            model.projector = projectors[kind if kind in OTHER_PROJECTORS else "trained"]
            inputs = Inputs(context.collator(model), kind, rows, plan.describe)
            return (reader if kind in TEXT_INPUTS else model), inputs, items

        seconds = decode_inputs(
            context.exp / "decode",
            name,
            part.inputs,
            ask,
            plan.max_new_tokens,
            plan.batch_size,
            context.text_branch,
        )
        facts["sets"][name] = {"items": len(items), "dropped": dict(dropped), "seconds": seconds}
        log.info("%s: %d items, seconds per input %s", name, len(items), seconds)
    return facts


def _pretrained(context: RunContext, model: SpeechLLM, untrained: Projector) -> Projector:
    """The projector as the first phase left it; the model itself stays as it is."""
    path = start_folder(context) / "best" / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"decode.inputs names `pretrained`, but {path.parents[1]} holds no finished phase: run "
            "stage 6, or take it out of decode.inputs"
        )
    # The phase may have trained the LLM too: what is decoded here is its projector, in front of
    # the LLM of the last phase.
    own = {n: t for n, t in read_tensors(path).items() if n.startswith("projector.")}
    # Buffers are there whatever trained.
    if not own.keys() & {f"projector.{n}" for n, _ in untrained.named_parameters()}:
        raise CheckpointError(
            f"{path}: the first phase trained no projector: take `pretrained` out of decode.inputs"
        )
    last = model.projector
    # What the first phase left frozen was as the control has it.
    model.projector = copy.deepcopy(untrained)
    try:
        load_tensors(model, own, str(path))
        return model.projector
    finally:
        model.projector = last


def _drop_other_weights(context: RunContext, phase: str, wording: int) -> None:
    """Remove answers of other weights or settings: only a killed run of the same ones goes on."""
    folder = context.exp / "decode"
    read = {key: settings(context.config.select(key)) for key in SETTINGS}
    declared = {key: value for key, value in read.items() if value is not None}
    digest = sha256(json.dumps(encode_tree(declared)).encode())
    for folder_of_phase in dict.fromkeys((context.phase_folder(phase), start_folder(context))):
        weights = folder_of_phase / "best" / WEIGHTS
        if weights.is_file():
            digest.update(folder_of_phase.name.encode() + weights.read_bytes())
    made_from = {"phase": phase, "repeat_wording": wording, "sha256": digest.hexdigest()}
    stamp = folder / "made_from.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != made_from:
        for path in folder.glob("*.jsonl"):
            path.unlink()
        write_json(stamp, made_from)
