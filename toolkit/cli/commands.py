"""The commands. Each imports what it needs, so that none pays for another's libraries."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.inference import PretrainedSpeechLLM
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


def run(arguments: Namespace) -> int:
    """Run a recipe's stages, here or as jobs."""
    from toolkit.pipeline.runner import run as run_stages

    if getattr(arguments, "launch", None):
        return launch(arguments)
    run_stages(options_of(arguments))
    return 0


def launch(arguments: Namespace) -> int:
    """The stages of the login node here, the others as jobs."""
    from toolkit.pipeline.launch import launch_jobs, read_launch
    from toolkit.pipeline.runner import command_of, open_run, title_of
    from toolkit.pipeline.runner import run as run_stages
    from toolkit.pipeline.table import STAGES, find_stage

    settings = read_launch(arguments.launch)
    if settings.launcher == "local":
        arguments.launch = None
        arguments.nproc = arguments.nproc or settings.processes
        return run(arguments)
    options = options_of(arguments)
    first, last = find_stage(options.stage).number, find_stage(options.stop_stage).number
    until = find_stage(str(settings.login_until)).number
    seeds = options.seeds or [open_run(options).seed]
    if first <= until and not options.dry_run:
        here = options_of(arguments)
        here.device, here.stop_stage = "cpu", STAGES[min(last, until)].name
        # What seeds share is made once; marks are each seed's own.
        run_stages(here)
    # In the job the machine decides, not the login node.
    options.device = arguments.device
    name = title_of(options)
    jobs = launch_jobs(
        settings,
        [sys.executable, "-m", "toolkit", *command_of(options)],
        seeds,
        first,
        last,
        name,
        options.work / "exp" / name / "slurm",
        dry_run=options.dry_run,
    )
    for job in jobs:
        state = f"job {job.number}" if job.number else "not submitted (--dry-run)"
        print(f"{state}: stages {job.stages[0]} to {job.stages[1]}, {job.script}")
    return 0


def report(arguments: Namespace) -> int:
    """The report stage of a recipe; of folders, their runs in one table."""
    if not arguments.recipe.is_dir():
        return run(arguments)
    from toolkit.evaluation.merge import merge
    from toolkit.evaluation.merged_tables import markdown
    from toolkit.evaluation.page import page

    merged = merge([arguments.recipe, *map(Path, arguments.overrides)])
    print(markdown(merged))
    if arguments.html:
        arguments.html.parent.mkdir(parents=True, exist_ok=True)
        arguments.html.write_text(page(merged), encoding="utf-8")
        print(f"written: {arguments.html}", file=sys.stderr)
    return 0


def score(arguments: Namespace) -> int:
    """Run the score stage or, where other systems are named, compare them on the run's items."""
    if not (arguments.system or arguments.decoded or arguments.items):
        return run(arguments)
    from toolkit.pipeline.runner import open_run
    from toolkit.pipeline.systems import SystemOptions, score_systems

    options = SystemOptions(
        systems=arguments.system,
        decoded=arguments.decoded,
        items=arguments.items,
        model=arguments.model,
        reads=arguments.reads,
    )
    run_options = options_of(arguments)
    for seed in run_options.seeds or [None]:
        print(score_systems(open_run(run_options, seed), options))
    return 0


def show(arguments: Namespace) -> int:
    """Print shapes, rates, parameters and costs; reads no weights."""
    from toolkit.cli.show import describe

    if arguments.gpus < 1 or (arguments.tflops is not None and arguments.tflops <= 0):
        raise ValueError("--gpus and --tflops are positive numbers")
    arguments.device = arguments.device or "cpu"
    print(describe(_context(arguments), arguments.tflops, arguments.gpus))
    return 0


def preview(arguments: Namespace) -> int:
    """Print samples of a set as the LLM will read them."""
    from toolkit.cli.preview import preview as preview_set
    from toolkit.cli.terminal import colours_wanted

    arguments.device = arguments.device or "cpu"
    context = _context(arguments)
    print(preview_set(context, arguments.set_name, arguments.n, colours_wanted(sys.stdout)))
    return 0


def doctor(arguments: Namespace) -> int:
    """Print what an issue report needs."""
    from toolkit.cli.doctor import report

    print(report(arguments.work))
    return 0


def import_corpus(arguments: Namespace) -> int:
    """Write manifests and a data report of a corpus in somebody else's format."""
    from toolkit.data.importers import import_corpus as import_any

    options = ("language", "split", "seed", "max_seconds", "too_long", "text_case", "skip_bad")
    given = {name: getattr(arguments, name) for name in options}
    report = import_any(arguments.kind, arguments.source, arguments.out, **given)
    print(report)
    for about, warning in report.facts["warnings"].items():
        print(f"warning: {about}: {warning}", file=sys.stderr)
    return 0


def new(arguments: Namespace) -> int:
    """Make a recipe out of another and say what to do with it."""
    from toolkit.pipeline.new import new_recipe

    data = arguments.data
    if data is not None:
        # The recipe may be started from anywhere.
        data = (data[0], str(Path(data[1]).resolve()))
    made = new_recipe(arguments.name, arguments.template, data)
    for path in made.files:
        print(path)
    print(f"a copy of {made.template}; next: {made.script} --dry-run")
    return 0


def bench(arguments: Namespace) -> int:
    """Measure the speed rules and write ``<work>/bench.json``."""
    from toolkit.bench import markdown, measure

    context = _context(arguments)
    result = measure(context, arguments.n, arguments.repeats, arguments.batch_size)
    print(markdown(result))
    return 0


def chat(arguments: Namespace) -> int:
    """Ask a model about a recording, and the same LLM about its transcript."""
    from toolkit.data.audio import audio_info

    folder = arguments.model or newest_export(arguments.work)
    # A bad file should not wait for the model.
    audio_info(arguments.audio)
    from toolkit.inference import SpeechLLM

    device = pick_device(arguments.device)
    print(f"model: {folder}", file=sys.stderr)
    model = SpeechLLM.from_pretrained(folder, device=device, allow=arguments.allow)
    reply = model.chat(
        arguments.audio,
        arguments.instruction,
        transcript=arguments.text,
        max_new_tokens=arguments.max_new_tokens,
        language=arguments.language,
    )
    print(reply)
    transcript, origin, answer = arguments.text, "as given", reply.text_branch
    if answer is None:
        transcript, origin = heard(model, arguments.audio), f"by {model.model.encoder.source}"
        answer = model.answer_text(transcript, arguments.instruction, arguments.max_new_tokens)
    print(f"\nthe same LLM, reading the transcript ({origin}: {transcript!r}):")
    print(answer)
    return 0


def anchor_bias(arguments: Namespace) -> int:
    """Measure speech anchor bias of exported models on the same clips, side by side."""
    from toolkit.evaluation import AnchorBiasPlan
    from toolkit.evaluation.anchor_report import anchor_table, blocking_table, save
    from toolkit.inference import SpeechLLM

    plan = AnchorBiasPlan(
        clips=arguments.clips,
        bands=arguments.bands,
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
    )
    device = pick_device(arguments.device)
    results = {}
    for name, folder in name_models(arguments.models).items():
        print(f"model: {folder}", file=sys.stderr)
        model = SpeechLLM.from_pretrained(folder, device=device, allow=arguments.allow)
        results[name] = model.anchor_bias(arguments.manifest, plan)
    out = arguments.out or arguments.work / "anchor_bias"
    save(results, out)
    print(anchor_table(results), blocking_table(results), f"written to {out}", sep="\n\n")
    return 0


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
    >>> list(name_models(paths[:1]))
    ['work/exp/c/mtbi/seed1/export']
    """
    if len({path.resolve() for path in folders}) < len(folders):
        raise ValueError("a model is named twice; name every exported folder once")
    parts = [path.parts for path in folders]
    shared = [len(set(level)) == 1 for level in zip(*parts, strict=False)]
    if len(folders) == 1 or len({len(p) for p in parts}) > 1:
        return {str(path): path for path in folders}
    names = ["/".join(x for x, same in zip(p, shared, strict=True) if not same) for p in parts]
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


def heard(model: PretrainedSpeechLLM, audio: Path) -> str:
    """What the recogniser that the model's encoder is half of makes of a recording.

    Parameters
    ----------
    model : PretrainedSpeechLLM
    audio : Path

    Returns
    -------
    str

    Raises
    ------
    ValueError
        When the encoder is no Whisper, or the clip is too long for it.
    """
    from toolkit.data.annotation import transcribe
    from toolkit.data.audio import audio_info
    from toolkit.data.manifest import Row
    from toolkit.encoders import WhisperEncoder

    encoder = model.model.encoder
    if not isinstance(encoder, WhisperEncoder):
        raise ValueError(
            f"{type(encoder).__name__} has no recogniser to compare with: give the transcript "
            "with --text"
        )
    row = Row(audio.stem, str(audio), audio_info(audio).duration, "", "en", "")
    text = transcribe([row], encoder.source)[0]
    if text is None:
        raise ValueError(f"{audio}: could not be recognised; give the transcript with --text")
    return text


def _context(arguments: Namespace) -> RunContext:
    from toolkit.pipeline.runner import open_run

    return open_run(options_of(arguments))
