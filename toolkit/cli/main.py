"""Argument parsing. Heavy modules are imported by the commands, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from toolkit.pipeline.table import STAGES

#: Shortcuts: each runs one stage (with everything it finds done before).
STAGE_COMMANDS = ("prepare", "teach", "pretrain", "train", "decode", "score", "report", "export")

DEFAULT_WORK = Path(os.environ.get("TOOLKIT_WORK", "work"))


class _Parser(argparse.ArgumentParser):
    """A parser that never guesses an option from its first letters; so do its sub-commands."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})


def parser() -> argparse.ArgumentParser:
    """The command line.

    Returns
    -------
    argparse.ArgumentParser

    Example
    -------
    >>> parser().parse_args(["run", "train.yaml", "seed=2", "--stop-stage", "3"]).overrides
    ['seed=2']
    """
    top = _Parser(prog="toolkit", description="Give text LLMs ears: recipes, stages, models.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a recipe's stages", description=_stage_help())
    run.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_run_options(run)
    run.add_argument("--stage", default="0", help="first stage, number or name (default: 0)")
    run.add_argument(
        "--stop_stage",
        "--stop-stage",
        default=STAGES[-1].name,
        help=f"last stage, number or name (default: {STAGES[-1].number})",
    )
    run.set_defaults(action="toolkit.cli.commands:run")
    for name in STAGE_COMMANDS:
        command = commands.add_parser(name, help=f"run the stage {name!r} alone")
        _add_run_options(command)
        command.set_defaults(action="toolkit.cli.commands:run", stage=name, stop_stage=name)
        if name == "report":
            command.description = "The report of a recipe, or of the runs in any folders: DIR..."
            command.add_argument("--html", type=Path, help="with DIR...: also write this page")
            command.set_defaults(action="toolkit.cli.commands:report")
        if name == "score":
            _add_system_options(command)
            command.set_defaults(action="toolkit.cli.commands:score")

    chat = commands.add_parser("chat", help="ask an exported model about a recording")
    chat.add_argument("audio", type=Path, help="any file soundfile reads")
    chat.add_argument("instruction", help='what to do, e.g. "Repeat the sentence."')
    chat.add_argument(
        "--model", type=Path, help="exported folder (default: the newest under work/exp)"
    )
    chat.add_argument("--text", help="the transcript; without it Whisper's is used for comparison")
    chat.add_argument("--language", default="en", help="of the recording (default: en)")
    chat.add_argument("--max-new-tokens", type=int, default=96)
    _add_export_options(chat)
    chat.set_defaults(action="toolkit.cli.commands:chat")

    show = commands.add_parser(
        "show", help="shapes, parameters, memory, steps and hours of a recipe, without weights"
    )
    _add_recipe(show)
    show.add_argument(
        "--tflops", type=float, help="10^12 operations a second a device sustains, for the hours"
    )
    show.add_argument("--gpus", type=int, default=1, help="devices, for the hours (default: 1)")
    show.set_defaults(action="toolkit.cli.commands:show")

    preview = commands.add_parser(
        "preview", help="print real samples: prompt, speech, labels in colour"
    )
    _add_recipe(preview)
    preview.add_argument(
        "--set", dest="set_name", help="name under `sets` (default: of the main phase)"
    )
    preview.add_argument("-n", type=int, default=3, help="number of samples (default: 3)")
    preview.set_defaults(action="toolkit.cli.commands:preview")

    doctor = commands.add_parser(
        "doctor", help="versions, machine, weights: what an issue report needs"
    )
    doctor.add_argument("--work", type=Path, default=DEFAULT_WORK)
    doctor.set_defaults(action="toolkit.cli.commands:doctor")

    anchor = commands.add_parser(
        "anchor-bias", help="do exported models look at the speech more than the instruction?"
    )
    anchor.add_argument("manifest", type=Path, help="test utterances with transcripts")
    anchor.add_argument("models", type=Path, nargs="+", help="exported folders, side by side")
    anchor.add_argument("--out", type=Path, help="for numbers and pictures")
    anchor.add_argument("--clips", type=int, default=8, help="utterances (default: 8)")
    anchor.add_argument("--bands", type=int, default=4, help="parts of the layers (default: 4)")
    anchor.add_argument("--max-new-tokens", type=int, default=40)
    anchor.add_argument("--batch-size", type=int, default=16)
    _add_export_options(anchor)
    anchor.set_defaults(action="toolkit.cli.commands:anchor_bias")
    _add_import(commands)
    new = commands.add_parser("new", help="a recipe and its script as a copy of one that runs")
    new.add_argument("name", help="of the corpus: recipes/NAME and egs/NAME are made")
    new.add_argument(
        "--from", dest="template", default="mtbi", help="corpus/method, or method (default: mtbi)"
    )
    new.add_argument(
        "--data",
        nargs=2,
        metavar=("KIND", "SRC"),
        help="train on this corpus, as `toolkit import` reads it (default: the template's)",
    )
    new.set_defaults(action="toolkit.cli.commands:new")

    bench = commands.add_parser("bench", help="measure each speed rule on and off on the same data")
    _add_recipe(bench)
    bench.add_argument("-n", type=int, default=16, help="utterances (default: 16)")
    bench.add_argument("--repeats", type=int, default=3, help="timed passes (default: 3)")
    bench.add_argument("--batch-size", type=int, default=8, help="utterances a step (default: 8)")
    bench.set_defaults(action="toolkit.cli.commands:bench")
    return top


def _stage_help() -> str:
    lines = [f"  {s.number:2d} {s.name:9s} {s.summary}" for s in STAGES]
    return "Stages, the same for all recipes:\n" + "\n".join(lines)


def _add_import(commands: Any) -> None:
    command = commands.add_parser(
        "import",
        help="a corpus of yours to manifests: TSV or CSV, Kaldi, Hugging Face datasets, lhotse",
    )
    command.add_argument("kind", choices=("tsv", "kaldi", "hf", "lhotse"))
    command.add_argument("source", type=Path, metavar="SRC", help="file or folder")
    command.add_argument("out", type=Path, metavar="OUT", help="folder of the manifests")
    command.add_argument("--language", default="en", help="where the corpus names none (en)")
    command.add_argument(
        "--split",
        default="auto",
        choices=("auto", "given", "speaker", "text", "none"),
        help="what no two parts may share (auto: as given, else speakers, else texts)",
    )
    command.add_argument("--seed", type=int, default=0, help="of the split")
    command.add_argument(
        "--max-seconds", type=float, default=30.0, help="what the encoder reads (30)"
    )
    command.add_argument(
        "--too-long",
        default="refuse",
        choices=("refuse", "drop", "cut"),
        help="longer audio: an error, left out and counted, or cut at pauses (refuse)",
    )
    command.add_argument(
        "--text-case",
        default="raw",
        choices=("raw", "lower", "sentence"),
        help="sentence: capitals to lower case with a capital at the beginning (raw)",
    )
    command.add_argument(
        "--skip-bad", action="store_true", help="leave out and count what cannot be used"
    )
    command.set_defaults(action="toolkit.cli.commands:import_corpus")


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", default="", help="cpu or cuda (default: cuda where there is one)"
    )


def _add_export_options(command: argparse.ArgumentParser) -> None:
    """Of commands that load exported models."""
    _add_device(command)
    command.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="your own package of components",
    )
    command.add_argument("--work", type=Path, default=DEFAULT_WORK)


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=Path, help="recipes/<corpus>/<method>/train.yaml")
    command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="YAML overrides, dotted")
    command.add_argument("--work", type=Path, default=DEFAULT_WORK)
    command.add_argument("--user-dir", type=Path, help="folder with your own modules")
    command.add_argument("--tag", default="", help="suffix of the experiment's folder")
    command.add_argument("--quick", action="store_true", help="a few utterances, marked SMOKE")
    _add_device(command)


def _add_run_options(command: argparse.ArgumentParser) -> None:
    _add_recipe(command)
    command.add_argument("--seeds", default="", help="several seeds, e.g. 1,2,3")
    command.add_argument("--nj", type=int, default=2, help="processes of data preparation")
    command.add_argument(
        "--ngpu", type=int, default=None, help="GPUs that train together; 0: stay on the CPU"
    )
    command.add_argument("--nproc", type=int, default=None, help="training processes (--ngpu)")
    command.add_argument(
        "--launch", type=Path, help="conf/slurm.yaml: stages that need no network as Slurm jobs"
    )
    command.add_argument("--dry-run", action="store_true", help="print what would run and why")
    command.add_argument(
        "--reuse",
        type=Path,
        metavar="DIR",
        help="take over stages 2 to 7 where runs in DIR finished them with the same settings",
    )
    command.add_argument("--force", action="store_true", help="run changed stages again")


def _add_system_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("other systems on the same items, beside the run")
    group.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="SYSTEM",
        help="text, cascade, text:SOURCE, cascade:SOURCE, endpoint:URL, hub:ORG/NAME, folder:PATH",
    )
    group.add_argument(
        "--decoded",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="JSON lines with id and answer, of a system that ran elsewhere",
    )
    group.add_argument("--items", type=Path, metavar="FILE", help="write the questions there")
    group.add_argument("--model", help="name an endpoint knows its model by")
    group.add_argument(
        "--reads",
        choices=("speech", "text", "asr"),
        default="speech",
        help="what an endpoint is given (default: speech)",
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; overrides may stand anywhere behind the recipe.

    argparse takes all positional arguments at the first of them, so overrides behind an option are
    left over and collected here; SpeechBrain's form ``--key=value`` is one too.

    Parameters
    ----------
    argv : sequence of str, optional
        Without the program's name.

    Returns
    -------
    argparse.Namespace

    Example
    -------
    >>> parse(["run", "train.yaml", "--stage", "3", "seed=2", "--projector.dim=8"]).overrides
    ['seed=2', '--projector.dim=8']
    """
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    wrong = [text for text in rest if "=" not in text]
    if wrong or (rest and not hasattr(arguments, "overrides")):
        top.error(f"unrecognised arguments: {' '.join(wrong or rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Without the program's name.

    Returns
    -------
    int
        Exit status: 0, or 1 after an error that the user can mend, printed as one message.
    """
    arguments = parse(argv)
    # Read when transformers is imported: otherwise every model of every stage draws a bar.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Loader workers are forked; without a word here the tokenizers warn of it every time.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    module, function = arguments.action.split(":")
    try:
        return getattr(import_module(module), function)(arguments) or 0
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        from toolkit.cli.errors import describe, is_expected

        if os.environ.get("TOOLKIT_DEBUG") == "1" or not is_expected(error):
            raise
        print(f"error: {describe(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
