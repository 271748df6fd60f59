"""Runs stages in order, skips finished ones, and refuses to overwrite what changed."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from toolkit.config import ConfigError, load
from toolkit.data.digests import keep_digests
from toolkit.pipeline.context import RunContext
from toolkit.pipeline.marks import Marks, StageChanged, settings, write_json
from toolkit.pipeline.ranks import SHARED_STAGES, local_device, rank, run_ranks, world_size
from toolkit.pipeline.reuse import find_donor, take_over
from toolkit.pipeline.table import STAGES, Stage, find_stage

log = logging.getLogger("toolkit")

#: Folder below the work folder that ``--quick`` writes to.
SMOKE = "smoke"
#: File below the work folder: what the audio of all runs hashes to, so that it is read once.
AUDIO_DIGESTS = "audio_digests.txt"

LOG_FORMAT = "%(asctime)s %(filename)s:%(lineno)d %(message)s"


@dataclass
class RunOptions:
    """Command-line options of ``toolkit run``.

    Attributes
    ----------
    recipe : Path
    overrides : list of str
    stage, stop_stage : str
        Number or name; both ends are run.
    work : Path
    tag : str
        Suffix of the experiment's folder.
    seeds : list of int
        Empty: the recipe's own seed.
    quick : bool
        Apply the recipe's ``quick:`` overrides and mark every output SMOKE.
    dry_run : bool
        Print the plan and stop.
    force : bool
        Run changed stages again instead of stopping.
    device : str
    num_processes : int
    user_dir : Path, optional
    training_processes : int
        Ranks of the training stages, one per GPU where there are GPUs.
    reuse : Path, optional
        Folder of runs whose stages are taken over where they were finished with the same settings.
    """

    recipe: Path
    overrides: list[str] = field(default_factory=list)
    stage: str = "0"
    stop_stage: str = "11"
    work: Path = Path("work")
    tag: str = ""
    seeds: list[int] = field(default_factory=list)
    quick: bool = False
    dry_run: bool = False
    force: bool = False
    device: str = "cpu"
    num_processes: int = 2
    user_dir: Path | None = None
    training_processes: int = 1
    reuse: Path | None = None


def open_run(options: RunOptions, seed: int | None = None) -> RunContext:
    """Load a recipe for one seed.

    Parameters
    ----------
    options : RunOptions
    seed : int, optional
        Replaces the recipe's seed.

    Returns
    -------
    RunContext

    Raises
    ------
    ConfigError
        For anything wrong in the YAML or the overrides.
    """
    recipe = options.recipe.resolve()
    if not recipe.exists():
        raise ConfigError(f"no recipe at {options.recipe}")
    _make_recipes_importable(recipe)
    # A short run has its own data: it must not change the manifests of real ones.
    work = options.work / SMOKE if options.quick else options.work
    given = [f"work={work}", *options.overrides]
    if seed is not None:
        given.append(f"seed={seed}")
    quick = _quick_overrides(recipe) if options.quick else {}
    # The run's folder depends on the seed, and paths in the YAML depend on the run's folder.
    first = load(recipe, [quick, *given], user_dir=options.user_dir, instantiate=False)
    exp = work / "exp" / title_of(options) / f"seed{first.tree.get('seed', 0)}"
    config = load(
        recipe, [quick, *given, f"exp={exp}"], user_dir=options.user_dir, instantiate=False
    )
    keep_digests(work / AUDIO_DIGESTS)
    return RunContext(
        config=config,
        recipe=recipe,
        work=work,
        exp=exp,
        smoke=options.quick,
        device=options.device,
        num_processes=options.num_processes,
        overrides=options.overrides,
    )


def title_of(options: RunOptions) -> str:
    """``corpus/method[_tag]``: the experiment's folder, which its seeds share."""
    recipe = options.recipe.resolve()
    name = recipe.parent.name + (f"_{options.tag}" if options.tag else "")
    return f"{recipe.parent.parent.name}/{name}"


def _quick_overrides(recipe: Path) -> dict:
    quick = load(recipe, ["work=."], instantiate=False).tree.get("quick")
    if not quick:
        raise ConfigError(
            f"{recipe}: --quick needs a `quick:` block with the overrides of a short run"
        )
    return dict(quick)


def _make_recipes_importable(recipe: Path) -> None:
    """Put the folder that holds ``recipes/`` on the path: YAML names prepare functions there."""
    for parent in recipe.parents:
        if parent.name == "recipes":
            root = str(parent.parent)
            if root not in sys.path:
                sys.path.insert(0, root)


def run(options: RunOptions) -> list[RunContext]:
    """Run the asked stages for every seed.

    Parameters
    ----------
    options : RunOptions

    Returns
    -------
    list of RunContext
        One per seed.

    Raises
    ------
    StageChanged
        When a finished stage's settings changed and ``force`` is not set.
    ValueError
        When several processes are to run a stage that is one process's work.
    SystemExit
        With the exit status of training ranks that did not end well.
    """
    first, last = find_stage(options.stage), find_stage(options.stop_stage)
    stages = STAGES[first.number : last.number + 1]
    if world_size() > 1:
        alone = [stage.name for stage in stages if stage.name not in SHARED_STAGES]
        if alone and not options.dry_run:
            raise ValueError(
                f"several processes run {', '.join(SHARED_STAGES)} only, not {', '.join(alone)}: "
                "give --stage and --stop-stage, and run the others in one process"
            )
        if options.reuse:
            raise ValueError("--reuse is one process's work: --nproc starts the others")
        options.device = local_device(options.device)
    contexts = []
    for seed in options.seeds or [None]:
        context = open_run(options, seed)
        contexts.append(context)
        if options.dry_run:
            print_plan(context, first, last, options.reuse)
            continue
        _start_log(context)
        for stage in stages:
            if options.reuse:
                take_over(context, stage, options.reuse)
            if stage.name in SHARED_STAGES and options.training_processes > 1:
                _run_in_ranks(context, stage, options)
            else:
                run_stage(context, stage, force=options.force)
    return contexts


def command_of(options: RunOptions) -> list[str]:
    """The command line that gives these options, without stages, seeds and processes.

    Parameters
    ----------
    options : RunOptions

    Returns
    -------
    list of str
        Arguments of ``python -m toolkit``.

    Example
    -------
    >>> command_of(RunOptions(Path("a.yaml"), ["seed=2"], tag="x", device="cpu"))
    ['run', 'a.yaml', 'seed=2', '--work', 'work', '--device', 'cpu', '--nj', '2', '--tag', 'x']
    """
    words = ["run", str(options.recipe), *options.overrides, "--work", str(options.work)]
    words += ["--device", options.device] if options.device else []
    words += ["--nj", str(options.num_processes)]
    words += ["--tag", options.tag] if options.tag else []
    words += ["--user-dir", str(options.user_dir)] if options.user_dir else []
    words += ["--reuse", str(options.reuse)] if options.reuse else []
    words += [f"--{name}" for name in ("quick", "force") if getattr(options, name)]
    return words


def _run_in_ranks(context: RunContext, stage: Stage, options: RunOptions) -> None:
    """A training stage as several processes; the first of them keeps the marks."""
    state, _, _, _ = stage_state(context, stage)
    if state in ("off", "done") or (state == "changed" and not options.force):
        # Nothing to train, or something to complain about: no launch is needed for either.
        run_stage(context, stage, force=options.force)
        return
    log.info("stage %d %s: %d processes", stage.number, stage.name, options.training_processes)
    words = [*command_of(replace(options, reuse=None)), "--seeds", str(context.seed)]
    words += ["--stage", stage.name, "--stop-stage", stage.name]
    code = run_ranks(words, options.training_processes)
    if code:
        raise SystemExit(code)


def stage_state(context: RunContext, stage: Stage) -> tuple[str, list[str], dict, dict]:
    """What the runner would do with a stage.

    Returns
    -------
    str
        ``off``, ``run``, ``done``, ``continue`` (a longer training) or ``changed``.
    list of str
        What changed.
    dict, dict
        The settings and inputs its mark would hold.
    """
    config, marks = context.config, Marks(context.exp)
    if stage.is_off(config):
        return "off", [], {}, {}
    if stage.always:
        return "run", [], {}, {}
    own = {key: settings(config.select(key)) for key in stage.hashed_keys}
    inputs = {name: marks.digest(name) for name in stage.inputs(config)}
    status = marks.status(stage.name, own, inputs)
    if status == "new":
        return "run", [], own, inputs
    if status == "changed":
        changes = marks.changes(stage.name, own, inputs)
        known = marks.read(stage.name)["inputs"]
        if stage.follows and not marks.changes(stage.name, own, known):
            return "run", changes, own, inputs
        return "changed", changes, own, inputs
    steps = config.select(f"phases.{stage.name}.optimizer_steps")
    done_steps = marks.read(stage.name)["facts"].get("optimizer_steps")
    longer = steps and done_steps and int(steps) > int(done_steps)
    return ("continue" if longer else "done"), [], own, inputs


def run_stage(context: RunContext, stage: Stage, force: bool = False) -> None:
    """Run one stage if it has to.

    Parameters
    ----------
    context : RunContext
    stage : Stage
    force : bool
        Run again although its settings changed.

    Raises
    ------
    StageChanged
    """
    state, changes, own, inputs = stage_state(context, stage)
    label = f"stage {stage.number} {stage.name}"
    if state == "off":
        log.info("%s: not declared by this recipe", label)
        return
    if state == "done":
        log.info("%s: done before, nothing to do", label)
        return
    marks = Marks(context.exp)
    if state == "changed":
        if not force:
            raise StageChanged(
                f"{label} was finished with other settings in {context.exp}:\n  "
                + "\n  ".join(changes)
                + "\nUse --tag NAME to keep both runs, or --force to run this stage again."
            )
        log.info("%s: settings changed, running again (--force)", label)
    if world_size() > 1:
        from toolkit.training.distributed import Ranks

        # All have seen the same state before the first of them changes it.
        Ranks(context.device).barrier()
    if state == "changed" and stage.name in SHARED_STAGES and rank() == 0:
        _set_aside(context.phase_folder(stage.name))
    if world_size() > 1:
        Ranks(context.device).barrier()
    started = time.time()
    log.info("%s: START %s%s", label, stage.summary, " [SMOKE]" if context.smoke else "")
    suffix = f".rank{rank()}" if rank() else ""
    name = f"{stage.number:02d}_{stage.name}{suffix}.log"
    handler = _file_handler(context.exp / "log" / name)
    log.addHandler(handler)
    try:
        facts = stage.function()(context) or {}
    finally:
        log.removeHandler(handler)
        handler.close()
    seconds = time.time() - started
    if rank() == 0:
        if not stage.always:
            marks.finish(stage.name, own, inputs, facts, seconds)
        _record_time(context, stage, seconds)
    if world_size() > 1:
        Ranks(context.device).barrier()
    log.info("%s: DONE in %.1f s", label, seconds)


def _set_aside(folder: Path) -> None:
    """Keep a finished model that is about to be trained again."""
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}"))


def _record_time(context: RunContext, stage: Stage, seconds: float) -> None:
    path = context.exp / "times.json"
    times = json.loads(path.read_text()) if path.exists() else {}
    times[stage.name] = round(seconds, 1)
    write_json(path, times)


def print_plan(context: RunContext, first: Stage, last: Stage, reuse: Path | None = None) -> None:
    """Print what would run and why, with what would be made anew because of that.

    Parameters
    ----------
    context : RunContext
    first, last : Stage
    reuse : Path, optional
        Folder of runs whose stages may be taken over.
    """
    print(f"{context.title}, seed {context.seed} -> {context.exp}")
    anew: set[str] = set()
    for stage in STAGES[first.number : last.number + 1]:
        state, changes, _, _ = stage_state(context, stage)
        donor = find_donor(context, stage, reuse) if reuse and state == "run" else None
        behind = [name for name in stage.inputs(context.config) if name in anew]
        if donor is not None:
            state, changes = "reuse", [f"from {donor}"]
        elif state in ("done", "continue") and behind:
            state = "run" if stage.follows else "changed"
            changes = [f"behind stage {name}" for name in behind]
        if state not in ("off", "done"):
            anew.add(stage.name)
        print(f"  {stage.number:2d} {stage.name:9s} {state:9s} {stage.summary}")
        for line in changes:
            print(f"       {line}")


def _start_log(context: RunContext) -> None:
    from toolkit.pipeline.provenance import write_provenance

    log.setLevel(logging.INFO)
    if not log.handlers:
        console = logging.StreamHandler(sys.stdout)
        console.setFormatter(logging.Formatter(LOG_FORMAT, "%H:%M:%S"))
        log.addHandler(console)
    if rank():
        log.setLevel(logging.WARNING)
        return
    log.info("%s, seed %d -> %s", context.title, context.seed, context.exp)
    write_provenance(context.exp, context.config, context.overrides)


def _file_handler(path: Path) -> logging.Handler:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    return handler
