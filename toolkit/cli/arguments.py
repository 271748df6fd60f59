"""What arguments mean: seeds, devices, recipes, exported models. Imports what it needs, late."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.pipeline.context import RunContext
    from toolkit.pipeline.runner import RunOptions


def parse_seeds(text: str) -> list[int]:
    """Read ``--seeds``.

    Parameters
    ----------
    text : str
        Integers between commas; empty for the recipe's own.

    Returns
    -------
    list of int

    Raises
    ------
    ValueError

    Example
    -------
    >>> parse_seeds("1, 2,3")
    [1, 2, 3]
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"--seeds {text!r}: give whole numbers between commas, e.g. --seeds 1,2,3")
    return [int(part) for part in parts]


def pick_device(device: str, ngpu: int | None = None) -> str:
    """Where models run.

    Parameters
    ----------
    device : str
        As asked for; empty takes CUDA where there is one.
    ngpu : int, optional
        0 stays on the CPU.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        When more is asked for than the machine has.
    """
    if ngpu is not None and ngpu < 0:
        raise ValueError(f"--ngpu {ngpu}: the number of GPUs cannot be negative")
    if ngpu == 0:
        if device.startswith("cuda"):
            raise ValueError(f"--device {device} and --ngpu 0 contradict each other")
        return device or "cpu"
    if device and not device.startswith("cuda") and not ngpu:
        return device
    import torch

    available = torch.cuda.device_count()
    if (device.startswith("cuda") or ngpu) and (ngpu or 1) > available:
        raise ValueError(f"{max(ngpu or 1, 1)} GPU(s) asked for, {available} found; use --ngpu 0")
    return device or ("cuda" if available else "cpu")


def options_of(arguments: Namespace) -> RunOptions:
    """The runner's options of any command that takes a recipe.

    Parameters
    ----------
    arguments : argparse.Namespace

    Returns
    -------
    RunOptions
    """
    from toolkit.pipeline.runner import RunOptions

    given = vars(arguments)
    same = ("recipe", "overrides", "work", "tag", "quick", "user_dir")
    own = ("stage", "stop_stage", "dry_run", "force", "reuse")
    options = {name: given[name] for name in (*same, *own) if name in given}
    seeds = parse_seeds(given.get("seeds", ""))
    # A plan is printed without asking the machine what it has, which takes seconds.
    planned = given.get("dry_run") or given.get("launch")
    device = "cpu" if planned else pick_device(arguments.device, given.get("ngpu"))
    processes = given.get("nproc") or max(given.get("ngpu") or 1, 1)
    if processes < 1:
        raise ValueError(f"--nproc {processes}: at least one process trains")
    if "RANK" not in os.environ and device == "cuda" and processes > 1:
        pick_device(device, processes)
    return RunOptions(
        **options,
        seeds=seeds,
        device=device,
        num_processes=given.get("nj", 1),
        training_processes=processes,
    )


def open_recipe(arguments: Namespace) -> RunContext:
    """The recipe that a command names, with its overrides; no stage runs.

    Parameters
    ----------
    arguments : argparse.Namespace

    Returns
    -------
    RunContext
    """
    from toolkit.pipeline.runner import open_run

    return open_run(options_of(arguments))


def name_models(folders: Sequence[Path]) -> dict[str, Path]:
    """Short names for exports: the part of their paths that tells them apart.

    Parameters
    ----------
    folders : sequence of Path

    Returns
    -------
    dict of str to Path

    Raises
    ------
    ValueError
        When a folder is given twice.

    Example
    -------
    >>> paths = [Path("work/exp/c/mtbi/seed1/export"), Path("work/exp/c/own/seed1/export")]
    >>> list(name_models(paths))
    ['mtbi', 'own']
    >>> list(name_models([*paths, Path("on/another/disk/exp/c/mtbi/seed2/export")]))
    ['mtbi/seed1', 'own/seed1', 'mtbi/seed2']
    >>> list(name_models(paths[:1]))
    ['work/exp/c/mtbi/seed1/export']
    """
    if len({path.resolve() for path in folders}) < len(folders):
        raise ValueError("a model is named twice; name every exported folder once")
    parts = [path.parts for path in folders]
    if len({len(p) for p in parts}) > 1:
        # Of other roots: <corpus>/<method>/<seed>/export is compared.
        parts = [p[-4:] for p in parts]
    names = [str(path) for path in folders]
    if len(folders) > 1 and len({len(p) for p in parts}) == 1:
        shared = [len(set(level)) == 1 for level in zip(*parts, strict=True)]
        short = ["/".join(x for x, same in zip(p, shared, strict=True) if not same) for p in parts]
        names = short if len(set(short)) == len(short) else names
    return dict(zip(names, folders, strict=True))


def newest_export(work: Path) -> Path:
    """The exported model written last; smoke runs count only where there is nothing else.

    Parameters
    ----------
    work : Path

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        When there is none, with the ways to one.
    """
    from toolkit.pipeline.runner import SMOKE

    for root in (work, work / SMOKE):
        found = root.glob("exp/*/*/seed*/export/toolkit.json")
        newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None:
            return newest.parent
    raise FileNotFoundError(
        f"no exported model under {work / 'exp'}: run a recipe to its export stage, or name a "
        "folder with --model"
    )
