"""``--reuse DIR``: what other runs finished with the same settings is taken over, not made again.

Data, annotations, answers and features are shared by all runs anyway; here a stage is not even
started, and a phase that another run has trained from the same settings and seed is copied: a
finished model is decoded otherwise under another tag, and what was decoded of it first stays.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.config import ConfigError, Tagged, decode_tree, hash_tree, map_tree
from toolkit.pipeline.context import RunContext
from toolkit.pipeline.marks import Marks, read_json, settings
from toolkit.pipeline.table import BY_NAME, Stage, named_sets

log = logging.getLogger("toolkit")

#: How deep runs lie below a folder: corpus, method, seed.
_DEPTH = 3


def runs_below(folder: Path, seed: int) -> Iterator[Path]:
    """Runs in a folder, those of a seed first.

    Parameters
    ----------
    folder : Path
        A run, an experiment (the folder of its seeds), or what holds experiments.
    seed : int

    Yields
    ------
    Path
    """
    found = [
        path.parent
        for depth in range(_DEPTH + 1)
        for path in sorted(folder.glob("*/" * depth + "marks"))
        if path.is_dir()
    ]
    yield from sorted(found, key=lambda run: run.name != f"seed{seed}")


def wanted(context: RunContext, stage: Stage) -> str:
    """Hash of all that a stage of this run would be made from, its earlier stages included.

    Parameters
    ----------
    context : RunContext
    stage : Stage

    Returns
    -------
    str
    """
    config = context.config
    own = {key: settings(config.select(key)) for key in stage.hashed_keys}
    inputs = {
        name: wanted(context, BY_NAME[name])
        for name in stage.inputs(config)
        if not BY_NAME[name].is_off(config)
    }
    key = f"phases.{stage.name}"
    bodiless = config.select(key) is not None and not config.build(key)[key].loads_llm()
    steps = config.select(f"{key}.optimizer_steps")
    return _hash(stage, own, inputs, steps, bodiless, str(context.exp))


def made(run: Path, stage: Stage) -> str | None:
    """The same hash of what a finished run's stage was made from.

    Parameters
    ----------
    run : Path
    stage : Stage

    Returns
    -------
    str or None
        None where the stage is not finished, or a stage it builds on was run again since.
    """
    marks = Marks(run)
    mark = marks.read(stage.name)
    place = run / "provenance" / "settings.json"
    if mark is None or not place.exists():
        return None
    inputs: dict[str, str] = {}
    for name, digest in mark["inputs"].items():
        if digest != marks.digest(name):
            return None
        if marks.read(name) is not None:
            before = made(run, BY_NAME[name])
            if before is None:
                return None
            inputs[name] = before
    exp = str(decode_tree(read_json(place)).get("exp", run))
    steps = mark["facts"].get("optimizer_steps")
    # Marks of before this was noted are of a phase that may have loaded everything.
    bodiless = not mark["facts"].get("loads_llm_body", True)
    return _hash(stage, decode_tree(mark["settings"]), inputs, steps, bodiless, exp)


def _hash(
    stage: Stage, own: dict[str, Any], inputs: dict[str, str], steps: Any, bodiless: bool, exp: str
) -> str:
    phase = own.get(f"phases.{stage.name}")
    if phase is not None:
        # A phase reads the sets that it names; others may be there for another phase.
        sets = own.get("sets") or {}
        own = {**own, "sets": {name: sets[name] for name in named_sets(phase) if name in sets}}
    if bodiless and isinstance(own.get("llm"), Tagged):
        own = _without_body(own, own["llm"].tag)
    count = None if steps is None else int(steps)
    return hash_tree([_without(own, exp), inputs, count])


def _without_body(tree: Any, tag: str) -> Any:
    """A tree whose LLMs (the projector's width is asked of one) name no settings of their body."""
    from toolkit.llms import CausalLM

    def change(part: Any) -> Any:
        if not isinstance(part, Tagged) or part.tag != tag or not isinstance(part.value, dict):
            return part
        return Tagged(tag, {k: v for k, v in part.value.items() if k not in CausalLM.body_settings})

    return map_tree(tree, change)


def _without(tree: Any, exp: str) -> Any:
    """A tree in which the run's own folder has no name."""
    return map_tree(tree, lambda p: p.replace(exp, "<exp>") if isinstance(p, str) else p)


def find_donor(context: RunContext, stage: Stage, folder: Path) -> Path | None:
    """The run below a folder whose stage this run can take over.

    Parameters
    ----------
    context : RunContext
    stage : Stage
    folder : Path
        As for `runs_below`.

    Returns
    -------
    Path or None
        None where there is none, and for stages that are each run's own, switched off, finished or
        begun.

    Raises
    ------
    ConfigError
        When there is no such folder.
    """
    own = context.exp.resolve()
    if not folder.is_dir() and not own.is_relative_to(folder.resolve()):
        raise ConfigError(f"--reuse {folder}: no such folder; name one that runs lie in")
    if stage.makes is None or stage.is_off(context.config):
        return None
    if Marks(context.exp).read(stage.name) is not None:
        return None
    # A phase that was begun here goes on here.
    if any((context.exp / name).is_dir() for name in stage.makes):
        return None
    want = wanted(context, stage)
    for run in runs_below(folder, context.seed):
        whole = all((run / name).exists() for name in stage.makes)
        if run.resolve() != own and whole and made(run, stage) == want:
            return run
    return None


def take_over(context: RunContext, stage: Stage, folder: Path) -> Path | None:
    """Copy what another run's stage made, and mark the stage as finished here.

    Parameters
    ----------
    context : RunContext
    stage : Stage
    folder : Path
        As for `runs_below`.

    Returns
    -------
    Path or None
        The run it was taken from.
    """
    run = find_donor(context, stage, folder)
    if run is None:
        return None
    context.exp.mkdir(parents=True, exist_ok=True)
    for name in stage.makes or ():
        partial = context.exp / f".{name}.{os.getpid()}"
        if (run / name).is_dir():
            # Copied, not linked: logs of a phase that is continued are appended to.
            shutil.copytree(run / name, partial, symlinks=True)
        else:
            shutil.copy2(run / name, partial)
        os.replace(partial, context.exp / name)
    marks = Marks(context.exp)
    facts = Marks(run).read(stage.name)["facts"] | {"taken_from": str(run)}
    own = {key: settings(context.config.select(key)) for key in stage.hashed_keys}
    inputs = {name: marks.digest(name) for name in stage.inputs(context.config)}
    marks.finish(stage.name, own, inputs, facts, seconds=0.0)
    log.info("stage %d %s: taken over from %s", stage.number, stage.name, run)
    return run
