"""Stage 0: is everything here, and what will the run cost?"""

from __future__ import annotations

import logging
import os
import shutil

from toolkit.pipeline.context import RunContext
from toolkit.pipeline.extras import missing_extras, pip_line
from toolkit.pipeline.probe import matmul_gflops, memory_gib
from toolkit.pipeline.provenance import package_versions, processor
from toolkit.pipeline.training import check_start
from toolkit.weights import WeightsNotFound, resolve, weights_home

log = logging.getLogger("toolkit")


def run(context: RunContext) -> dict:
    """Print versions, disk, memory, devices, precision, missing weights; fail early if hopeless.

    Parameters
    ----------
    context : RunContext

    Returns
    -------
    dict
        The facts that were printed.

    Raises
    ------
    RuntimeError
        When the disk cannot hold what the recipe declares.
    """
    versions = package_versions()
    log.info("packages: %s", ", ".join(f"{k} {v}" for k, v in versions.items()))
    missing = [name for name, version in versions.items() if version == "missing"]
    if missing:
        raise RuntimeError(
            f"not installed: {', '.join(missing)}; run `pip install -e . -c constraints.txt`"
        )
    # What only tests and developers use is the doctor's to report.
    extras = {m: e for m, e in missing_extras().items() if e not in ("all", "dev")}
    if extras:
        log.info(
            "optional packages missing: %s; pip install %s",
            ", ".join(extras),
            pip_line(*sorted(set(extras.values()))),
        )
    total, available = memory_gib()
    context.work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(context.work).free / 2**30
    log.info(
        "machine: %s, %s cores, memory %.1f GiB (%.1f available), disk %.1f GiB free",
        processor(),
        os.cpu_count(),
        total,
        available,
        free,
    )
    ceilings = {d: round(matmul_gflops(context.device, d)) for d in ("float32", "bfloat16")}
    log.info(
        "matrix products on %s: float32 %d, bfloat16 %d Gflop/s -> precision %s",
        context.device,
        ceilings["float32"],
        ceilings["bfloat16"],
        context.precision,
    )
    absent = []
    for source in context.sources():
        try:
            resolve(source)
        except WeightsNotFound:
            absent.append(source)
    log.info("weights in %s; to download: %s", weights_home(), ", ".join(absent) or "none")
    settings = context.config.tree.get("cache")
    wanted = float(settings.get("max_gib", 0)) if isinstance(settings, dict) else 0.0
    if free < 2.0:
        raise RuntimeError(
            f"{context.work} has {free:.1f} GiB free, a run needs at least 2 GiB: free some or use "
            "--work"
        )
    if wanted > free:
        log.info("cache.max_gib is %.1f GiB but only %.1f GiB are free", wanted, free)
    for name in ("pretrain", "train"):
        phase = context.config.select(f"phases.{name}")
        if phase is not None:
            steps = context.config.select(f"phases.{name}.optimizer_steps")
            limit = context.config.select(f"phases.{name}.max_seconds")
            bound = f", at most {limit} s" if limit else ""
            log.info("phase %s: %s optimiser steps%s", name, steps, bound)
    if problem := check_start(context):
        log.warning("%s (before stage 7)", problem)
    _check_inputs(context)
    return {"packages": versions, "gflops": ceilings, "precision": context.precision}


def _check_inputs(context: RunContext) -> None:
    """Refuse inputs of decoding that there will be no projector for, before anything is trained."""
    config = context.config
    inputs = config.select("decode.inputs") or ()
    if "pads_kept" in inputs:
        config.build("projector")["projector"].keeping_pads()
    first = config.select("phases.pretrain") or config.select("phases.train.start")
    if "pretrained" in inputs and first is None:
        raise ValueError(
            "decode.inputs names `pretrained`, but there is no first phase: declare "
            "phases.pretrain or phases.train.start, or take it out of decode.inputs"
        )
