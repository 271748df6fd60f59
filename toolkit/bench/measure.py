"""Interleaved timing of all variants in one process."""

from __future__ import annotations

import logging
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from toolkit.bench.memory import PeakMemory
from toolkit.bench.rules import RULES, Rules, variants
from toolkit.bench.step import PARTS, StepResult, TrainingStep
from toolkit.data.cache import FeatureCache
from toolkit.data.collate import Collator
from toolkit.data.example import Example
from toolkit.data.sets import TranscriptionSet
from toolkit.encoders.whisper import WhisperEncoder
from toolkit.models import SpeechLLM
from toolkit.pipeline.context import RunContext
from toolkit.pipeline.fitting import fit_projector
from toolkit.pipeline.marks import write_json
from toolkit.pipeline.probe import faster_precision, matmul_gflops
from toolkit.pipeline.provenance import git, package_versions, processor
from toolkit.projectors import CTCEmbedding

log = logging.getLogger("toolkit")

#: Three wordings, so that batches share the chat template and not the whole prompt.
INSTRUCTIONS = ("Repeat the sentence.", "Write down what you hear.", "What does the speaker say?")


def measure(
    context: RunContext, utterances: int = 16, repeats: int = 3, batch_size: int = 8
) -> dict[str, Any]:
    """Time a training step with each rule on and off; writes ``<work>/bench.json``.

    All variants run on the same utterances with the same weights. Repetitions are interleaved
    (all variants once, then again), so that a machine that slows down slows all of them.

    Parameters
    ----------
    context : RunContext
    utterances : int
        The first ones of the recipe's first manifest that lie on disk.
    repeats : int
        Timed passes over the utterances; medians are reported. One untimed step comes first.
    batch_size : int
        Utterances in a step.

    Returns
    -------
    dict
        As written to ``bench.json``; `toolkit.bench.markdown` makes tables of it.

    Raises
    ------
    FileNotFoundError
        When the recipe's data are not prepared.
    """
    if utterances < 1 or repeats < 1 or batch_size < 1:
        raise ValueError("bench: utterances, repeats and batch size are at least 1")
    model, phase = _model(context)
    examples, manifest = _examples(context, model, utterances)
    fit_projector(context, model, examples, frames=phase == "untrained")
    model.projector.requires_grad_(True)
    rules = applicable(model, context.device)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        step = _step(context, model, rules, examples, Path(folder))
        chosen = variants(rules)
        batches = {buckets: _batches(examples, batch_size, buckets) for buckets in (False, True)}
        flops, memory = {}, {}
        for name, variant in chosen.items():
            log.info("bench: warming up %r", name)
            flops[name], memory[name] = _warm_up(step, batches[variant.length_buckets], variant)
        passes: dict[str, list[list[StepResult]]] = {name: [] for name in chosen}
        for number in range(repeats):
            log.info("bench: pass %d of %d", number + 1, repeats)
            for name, variant in chosen.items():
                passes[name].append([step(b, variant) for b in batches[variant.length_buckets]])
    seconds = sum(example.row.duration for example in examples)
    result = {
        "recipe": context.title,
        "manifest": str(manifest),
        "utterances": len(examples),
        "audio_seconds": round(seconds, 2),
        "batch_size": batch_size,
        "repeats": repeats,
        "projector_weights": phase,
        "not_applicable": [name for name in RULES if name not in rules],
        "machine": _machine(context.device),
        "gflops": {d: matmul_gflops(context.device, d) for d in ("float32", "bfloat16")},
        "variants": {
            name: _summary(passes[name], seconds, flops[name], memory[name], chosen[name], context)
            for name in chosen
        },
    }
    baseline = result["variants"]["baseline"]["audio_per_second"]
    for row in result["variants"].values():
        row["ratio"] = row["audio_per_second"] / baseline
    write_json(context.work / "bench.json", result)
    return result


def applicable(model: SpeechLLM, device: str) -> list[str]:
    """Rules that mean something for this model on this machine.

    Parameters
    ----------
    model : SpeechLLM
    device : str

    Returns
    -------
    list of str
        Without ``true_length`` for encoders that have no fixed window, ``text_rate`` for projectors
        without CTC, ``cached_features`` where waveforms are cut, and ``bf16`` where it is not
        measurably faster.
    """
    out = set(RULES)
    if not isinstance(model.encoder, WhisperEncoder) or model.encoder.taps != [-1]:
        out.discard("true_length")
    if not isinstance(model.projector, CTCEmbedding) or model.interleaver.cut == "after_encode":
        out.discard("text_rate")
    if model.interleaver.cut == "before_encode":
        out.discard("cached_features")
    if faster_precision(device) != "bf16":
        out.discard("bf16")
    return [name for name in RULES if name in out]


def _model(context: RunContext) -> tuple[SpeechLLM, str]:
    """The model in float32, with trained weights where the run has them, and which these are."""
    context.precision = "fp32"  # bfloat16 is one of the rules here
    model = context.build_model()
    try:
        return model, context.load_trained(model)
    except FileNotFoundError:
        return model, "untrained"


def _examples(context: RunContext, model: SpeechLLM, count: int) -> tuple[list[Example], Path]:
    manifest = next((path for path in context.manifests() if path.exists()), None)
    if manifest is None:
        wanted = ", ".join(map(str, context.manifests())) or "none"
        raise FileNotFoundError(
            f"no manifest of the recipe's sets is on disk ({wanted}): run stage 2"
        )
    transcription = TranscriptionSet([manifest], INSTRUCTIONS)
    examples = transcription.examples(model.llm.tokenizer, model.prompt, rows=context.rows)
    fits = [e for e in examples if e.row.duration <= model.encoder.max_seconds]
    return fits[:count], manifest


def _batches(examples: Sequence[Example], size: int, buckets: bool) -> list[list[Example]]:
    order = sorted(examples, key=lambda e: (e.row.duration, e.id)) if buckets else examples
    return [list(order[i : i + size]) for i in range(0, len(order), size)]


def _step(
    context: RunContext,
    model: SpeechLLM,
    rules: Sequence[str],
    examples: Sequence[Example],
    folder: Path,
) -> TrainingStep:
    tokenizer = model.llm.tokenizer
    plain = Collator(model.prompt, model.interleaver, tokenizer, None, seed=context.seed)
    half = cached = None
    if "bf16" in rules:
        objects = {
            name: type(block)(**_arguments(context, name))
            for name, block in (("encoder", model.encoder), ("llm", model.llm))
        }
        for block in objects.values():
            block.materialise(context.device, torch.bfloat16).requires_grad_(False).eval()
        half = SpeechLLM(
            projector=model.projector, interleaver=model.interleaver, prompt=model.prompt, **objects
        )
        half.eval()
    if "cached_features" in rules:
        cache = FeatureCache(folder, model.encoder.fingerprint(), "bfloat16")
        _fill(cache, half or model, plain, examples)
        cached = Collator(model.prompt, model.interleaver, tokenizer, cache, seed=context.seed)
    return TrainingStep(model, plain, cached, half)


def _arguments(context: RunContext, block: str) -> dict[str, Any]:
    return context.config.class_spec(block)["arguments"]


@torch.no_grad()
def _fill(
    cache: FeatureCache, model: SpeechLLM, plain: Collator, examples: Sequence[Example]
) -> None:
    with cache.writer() as writer:
        for example in examples:
            encoded = model.encode(plain([example])[0].to(model.llm.device))
            writer.add(example.row.audio_key(), encoded.frames[0, :, : int(encoded.lengths[0])])


def _warm_up(
    step: TrainingStep, batches: Sequence[Sequence[Example]], rules: Rules
) -> tuple[float, float]:
    """First-use costs out of the way: operations of one step, and its peak memory in MiB."""
    from torch.utils.flop_counter import FlopCounterMode

    device = step.model.llm.device
    with PeakMemory(device) as peak, FlopCounterMode(display=False) as counter:
        step(batches[0], rules)
    return counter.get_total_flops(), peak.mib


def _summary(
    passes: list[list[StepResult]],
    audio_seconds: float,
    flops: float,
    peak_mib: float,
    rules: Rules,
    context: RunContext,
) -> dict[str, Any]:
    """Medians over the passes, step by step."""
    steps = list(zip(*passes, strict=True))
    medians = [statistics.median(r.total for r in repeated) for repeated in steps]
    parts = {
        part: sum(statistics.median(r.seconds[part] for r in repeated) for repeated in steps)
        for part in PARTS
    }
    first = passes[0]
    ceiling = matmul_gflops(context.device, "bfloat16" if rules.bf16 else "float32") * 1e9
    real = sum(r.real_positions for r in first)
    return {
        "rules": [name for name in RULES if getattr(rules, name)],
        "audio_per_second": audio_seconds / sum(medians),
        "seconds": sum(medians),
        "seconds_of_passes": [round(sum(r.total for r in p), 3) for p in passes],
        "share": {part: value / sum(parts.values()) for part, value in parts.items()},
        "padding": 1.0 - real / sum(r.positions for r in first),
        "peak_mib": peak_mib,
        "ceiling_share": flops / medians[0] / ceiling,
        "frames_per_second": sum(r.frames for r in first) / audio_seconds,
        "vectors_per_second": sum(r.vectors for r in first) / audio_seconds,
        "loss": sum(r.loss for r in first),
    }


def _machine(device: str) -> dict[str, Any]:
    on_gpu = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "threads": torch.get_num_threads(),
        "packages": package_versions(),
        "commit": git("rev-parse", "HEAD"),
    }
