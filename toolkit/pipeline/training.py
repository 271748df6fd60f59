"""One training phase: sets to examples, model, brain, samples."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from toolkit.data.audio import AudioError, read_audio
from toolkit.data.example import Example
from toolkit.data.feature_store import FeatureCache
from toolkit.losses.base import Loss
from toolkit.pipeline.context import RunContext
from toolkit.pipeline.fitting import fit_projector
from toolkit.pipeline.marks import Marks, write_json
from toolkit.pipeline.table import BY_NAME

if TYPE_CHECKING:
    from toolkit.models import SpeechLLM

log = logging.getLogger("toolkit")

#: Seconds by which the duration of a manifest may be longer than its audio.
DURATION_ROUNDING = 0.005
#: Dev items written out at each validation.
SAMPLES = 8


def phase_examples(context: RunContext, names, model) -> dict[str, list[Example]]:
    """Examples of the named sets, with the counts of what was dropped in the log.

    Parameters
    ----------
    context : RunContext
    names : iterable of str
        Names under ``sets``.
    model : SpeechLLM

    Returns
    -------
    dict of str to list of Example

    Raises
    ------
    RuntimeError
        When no example of a set has usable audio, with the counts by reason.
    """
    cache = context.cache()
    sets = context.config.build("sets")["sets"]
    examples = {}
    for name in names:
        if name not in sets:
            raise KeyError(f"sets has no {name!r}; it has {', '.join(sets)}")
        examples[name] = sets[name].examples(model.llm.tokenizer, model.prompt, rows=context.rows)
        dropped = Counter(sets[name].dropped)
        examples[name] = _audible(examples[name], model.encoder.max_seconds, cache, dropped)
        if not examples[name]:
            raise RuntimeError(f"set {name}: no usable utterance, by reason: {dict(dropped)}")
        counts = dict(dropped) or "none"
        log.info("set %s: %d examples, dropped %s", name, len(examples[name]), counts)
    return examples


def _audible(
    examples: list[Example], max_seconds: float, cache: FeatureCache | None, dropped: Counter
) -> list[Example]:
    """Leave out what the encoder cannot read, and what the cache stage could not; counts it."""
    kept = []
    for example in examples:
        row = example.row
        try:
            if row.duration > max_seconds:
                raise AudioError(row.audio, "too_long", f"{row.duration:g} s")
            # Only what has no features is opened; if it can be read, the cache stage has to run.
            if cache is not None and row.audio_key() not in cache:
                read_audio(row.audio, row.offset, row.duration, max_seconds=max_seconds)
        except AudioError as error:
            dropped[error.reason] += 1
        else:
            kept.append(example)
    return kept


def leave_out_refused(
    name: str, examples: list[Example], losses: Mapping[str, Loss], model: SpeechLLM
) -> None:
    """Remove, and count in the log, what a loss of the phase cannot learn from.

    Parameters
    ----------
    name : str
        Of the set, for messages.
    examples : list of Example
        Changed in place.
    losses : mapping of str to Loss
        Those of zero weight refuse nothing.
    model : SpeechLLM
        Materialised projector; encoder and LLM may be on disk.

    Raises
    ------
    RuntimeError
        When nothing is left, with the counts by reason.
    """
    asking = [
        loss
        for loss in losses.values()
        if type(loss).refuses is not Loss.refuses and (callable(loss.weight) or loss.weight != 0)
    ]
    if not asking:
        return
    units, tokenizer = model.projector.transcript_units(), model.llm.tokenizer
    durations = torch.tensor([example.row.duration for example in examples])
    # Manifests round: a borderline clip is refused and counted rather than trained on half.
    shortest = (durations.double() - DURATION_ROUNDING) * model.encoder.sample_rate
    samples = shortest.floor().clamp(min=1).long()
    vectors = model.projector.max_output_length(model.encoder.output_lengths(samples)).tolist()
    kept, refused = [], Counter()
    for example, limit in zip(examples, vectors, strict=True):
        tokens = len(units(tokenizer, example.aim))
        reasons = (loss.refuses(tokens, limit) for loss in asking)
        reason = next((reason for reason in reasons if reason), None)
        if reason:
            refused[reason] += 1
        else:
            kept.append(example)
    if not kept:
        raise RuntimeError(f"set {name}: no example its losses take, by reason: {dict(refused)}")
    if refused:
        log.info("set %s: %d examples left, refused by losses %s", name, len(kept), dict(refused))
    examples[:] = kept


def start_folder(context: RunContext) -> Path:
    """Folder of the phase that the main phase starts from; it need not be there.

    Parameters
    ----------
    context : RunContext

    Returns
    -------
    Path
        What ``phases.train.start`` names, else that of the run's own first phase.
    """
    declared = context.config.select("phases.train.start")
    return Path(declared) if declared else context.phase_folder("pretrain")


def check_start(context: RunContext) -> str | None:
    """What is wrong with ``phases.train.start``, or None.

    Parameters
    ----------
    context : RunContext

    Returns
    -------
    str or None
        A sentence with the remedy.
    """
    folder = start_folder(context)
    if not context.config.select("phases.train.start") or (folder / "best").exists():
        return None
    return (
        f"phases.train.start: {folder} holds no finished phase; run the recipe that pretrains, "
        "up to its stage 6, name the folder of a phase that was trained, or set it to null"
    )


def run_phase(context: RunContext, name: str) -> dict:
    """Train one phase; resumes by itself.

    Parameters
    ----------
    context : RunContext
    name : str
        ``pretrain`` or ``train``.

    Returns
    -------
    dict
        The brain's summary.

    Raises
    ------
    FileNotFoundError
        When the phase is to start from one that is not there.
    """
    from toolkit.training import SpeechLLMBrain, load_best
    from toolkit.training.checkpoint import Checkpoints, holds_buffers

    if name == "train" and (problem := check_start(context)):
        raise FileNotFoundError(problem)
    phase = context.config.build(f"phases.{name}")[f"phases.{name}"]
    run_llm = phase.runs_llm()
    model = context.build_for(phase)
    for term in (*phase.losses.values(), *phase.measures.values()):
        term.fit(model.llm)
    train = phase_examples(context, phase.data, model)
    valid = phase_examples(context, phase.validation, model)
    folder = context.phase_folder(name)
    previous = start_folder(context)
    starts = name == "train" and (previous / "best").exists()
    loaded = (previous / "best" if starts else None, Checkpoints(folder / "checkpoints").last())
    known = any(path is not None and holds_buffers(path, model.projector) for path in loaded)
    heard = (example for examples in train.values() for example in examples)
    fit_projector(context, model, heard, frames=not known)
    for name_of_set, examples in (*train.items(), *valid.items()):
        leave_out_refused(name_of_set, examples, phase.losses, model)
    if starts:
        load_best(previous, model)
        log.info("starting from %s", previous / "best")
    collator = context.collator(model, run_llm=run_llm)
    hooks = None
    if run_llm:
        items = [example for examples in valid.values() for example in examples]
        items = items[:: max(1, len(items) // SAMPLES)][:SAMPLES]
        hooks = SampleWriter(folder / "samples.md", items, model, collator)
    brain = SpeechLLMBrain(
        model=model,
        phase=phase,
        train_examples=train,
        valid_examples=valid,
        collator=collator,
        out_dir=folder,
        seed=context.seed,
        precision=context.precision,
        num_workers=int(context.config.tree.get("num_workers", 0)),
        log_every=int(context.config.tree.get("log_every", 10)),
        hooks=hooks,
    )
    summary = brain.fit()
    write_layer_weights(model, folder)
    tasks = sorted({example.task for examples in train.values() for example in examples})
    facts = {
        "optimizer_steps": phase.optimizer_steps,
        "loads_llm_body": phase.loads_llm(),
        "tasks": tasks,
    }
    return {**facts, **summary}


def trained_tasks(context: RunContext) -> list[str] | None:
    """Tasks of the main phase's examples, for reports that tell seen from held-out ones.

    A pool says which tasks training may use; the teacher leaves out those that the text LLM does
    not carry, and a recipe those that its sets exclude.

    Parameters
    ----------
    context : RunContext

    Returns
    -------
    list of str or None
        Empty where the recipe has no main phase, or the first one's weights are decoded. None where
        nothing was trained yet, or a version did it that did not note the tasks: the pool's own
        declaration is all that is known.
    """
    if BY_NAME["train"].is_off(context.config) or context.trained_phase() == "pretrain":
        return []
    mark = Marks(context.exp).read("train")
    return None if mark is None else mark["facts"].get("tasks")


def write_layer_weights(model: SpeechLLM, folder: Path) -> Path | None:
    """Write the projector's layer weights as JSON, and as a picture for the report.

    Parameters
    ----------
    model : SpeechLLM
        Trained; its best weights.
    folder : Path
        Of the phase: ``layer_weights.json`` and ``curves/layer_weights.png`` go there.

    Returns
    -------
    Path or None
        Of the JSON file; None for a model that does not mix layers.
    """
    from toolkit.training import draw_layer_weights

    weights = model.projector.layer_weights()
    if weights is None or weights.shape[1] < 2:
        return None
    # Not every encoder knows its layers by number.
    taps = getattr(model.encoder, "taps", range(weights.shape[1]))
    layers = [str(tap) if tap >= 0 else "output" for tap in taps]
    path = folder / "layer_weights.json"
    write_json(path, {"layers": layers, "weights": weights.tolist()})
    means = ", ".join(f"{n} {w:.3f}" for n, w in zip(layers, weights.mean(0), strict=True))
    log.info("mean weight of each encoder layer: %s", means)
    try:
        draw_layer_weights(weights.tolist(), layers, folder / "curves" / "layer_weights.png")
    except ImportError as error:
        log.warning("no picture of the layer weights: %s", error)
    return path


class SampleWriter:
    """Writes what the model answers to the same dev items at each validation.

    Parameters
    ----------
    path : Path
        Markdown file, appended to.
    examples : list of Example
    model : SpeechLLM
    collator : Collator
    """

    def __init__(self, path: Path, examples: list[Example], model, collator) -> None:
        self.path = path
        self.examples = examples
        self.model = model
        self.collator = collator

    def on_validation(self, step: int) -> dict:
        """Answer the items and append them to the file."""
        batch = self.collator.for_decoding(self.examples, "speech").to(self.model.llm.device)
        answers = self.model.generate(batch, max_new_tokens=40)
        lines = [f"## Step {step}", ""]
        for example, answer in zip(self.examples, answers, strict=True):
            lines += [f"**{example.task}** {example.row.id}: {example.row.text}", ""]
            if example.aims is not None:
                lines.append(f"- aims: {' '.join(example.aims.split())}")
            if example.response is not None:
                target = self.model.llm.tokenizer.decode(example.response, skip_special_tokens=True)
                lines.append(f"- target: {' '.join(target.split())}")
            lines += [f"- answer: {' '.join(answer.split())}", ""]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as handle:
            handle.write("\n".join(lines))
        return {}
