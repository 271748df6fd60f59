"""The commands. Each imports what it needs, so that none pays for another's libraries."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.cli.arguments import name_models, newest_export, open_recipe, options_of, pick_device

if TYPE_CHECKING:
    from toolkit.inference import PretrainedSpeechLLM


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
    print(describe(open_recipe(arguments), arguments.tflops, arguments.gpus))
    return 0


def preview(arguments: Namespace) -> int:
    """Print samples of a set as the LLM will read them."""
    from toolkit.cli.preview import preview as preview_set
    from toolkit.cli.terminal import colours_wanted

    arguments.device = arguments.device or "cpu"
    context = open_recipe(arguments)
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

    context = open_recipe(arguments)
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
