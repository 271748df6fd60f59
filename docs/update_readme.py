"""Put the results of finished runs into the pages; nobody types a published number.

    python docs/update_readme.py work/exp/asterisk_sounds/mtbi

reads every seed's ``scores.json``, fills the block ``results:asterisk_sounds/mtbi`` of README.md
and of the recipe's own page, where they have it, and copies the report with its curves beside the
recipe.

    python docs/update_readme.py work/exp/asterisk_sounds/mtbi_grid --generalisation-of mtbi

fills the block ``generalisation:asterisk_sounds/mtbi`` of that recipe's page from a run with
``decode.grid``, and copies its heat maps; nothing else is taken from it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "docs"))

from blocks import fill  # noqa: E402

from toolkit.evaluation.tables import (  # noqa: E402
    LABELS,
    generalisation_table,
    interval_name,
    over_seeds,
    with_interval,
)

#: Metrics of the block and their digits. ``heard_wer`` is the projector's own, where it has one.
COLUMNS = {"wer": 3, "heard_wer": 3, "rouge_l": 3, "perplexity": 2}
_IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<path>[^)]+)\)")


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Scores of all seeds of an experiment.

    Parameters
    ----------
    folder : Path
        ``<work>/exp/<corpus>/<method>``.

    Returns
    -------
    list of dict
        Contents of ``scores.json`` with the run's folder under ``folder``.

    Raises
    ------
    ValueError
        When there are none, or they come from a smoke run, or of different test sets.
    """
    files = sorted(folder.glob("seed*/scores.json"))
    if not files:
        raise ValueError(f"{folder}: no seed*/scores.json here; run stages 8 and 9 first")
    runs = [{**json.loads(f.read_text(encoding="utf-8")), "folder": f.parent} for f in files]
    if any(run["smoke"] for run in runs):
        raise ValueError(f"{folder}: a smoke run; its numbers mean nothing and are not published")
    shapes = {json.dumps({k: sorted(v) for k, v in run["sets"].items()}) for run in runs}
    if len(shapes) > 1:
        raise ValueError(f"{folder}: the seeds were scored on different sets or inputs")
    return runs


def results_block(runs: Sequence[dict[str, Any]]) -> str:
    """The README's block: one table over all test sets, and what the run took.

    Parameters
    ----------
    runs : sequence of dict
        From `read_runs`.

    Returns
    -------
    str
        Markdown.
    """
    normaliser = runs[0]["normaliser"]
    lines = [
        f"| test set | in the audio slot | WER of repetition ({normaliser}) | WER heard "
        "| ROUGE-L to the text branch | perplexity of its answer |",
        "|---|---|---|---|---|---|",
    ]
    for name, inputs in runs[0]["sets"].items():
        for kind in inputs:
            entries = [run["sets"][name][kind] for run in runs]
            cells = [name, LABELS.get(kind, kind)]
            for metric, digits in COLUMNS.items():
                if metric not in entries[0]:
                    cells.append("-")
                    continue
                many = over_seeds([entry[metric]["value"] for entry in entries], digits)
                cells.append(many if len(runs) > 1 else with_interval(entries[0][metric], digits))
            lines.append("| " + " | ".join(cells) + " |")
    seeds = ", ".join(str(run["seed"]) for run in runs)
    spread = (
        f"Seeds {seeds}: mean ± standard deviation."
        if len(runs) > 1
        else f"Seed {seeds}; in brackets intervals: {interval_name(runs[0])}."
    )
    return "\n".join([*lines, "", " ".join([spread, *_cost(runs)])])


def _cost(runs: Sequence[dict[str, Any]]) -> list[str]:
    facts = []
    times = [run["folder"] / "times.json" for run in runs]
    if all(path.exists() for path in times):
        totals = [sum(json.loads(path.read_text()).values()) / 60 for path in times]
        facts.append(f"{statistics.mean(totals):.0f} minutes a run over all stages.")
    environment = runs[0]["folder"] / "provenance" / "environment.json"
    if environment.exists():
        known = json.loads(environment.read_text())
        machine = known["machine"]
        accelerators = ", ".join(machine["accelerators"]) or "no accelerator"
        facts.append(f"Machine: {machine['processor']}, {machine['cores']} cores, {accelerators}.")
        facts.append(f"Commit {known['git'][:12] or 'unknown'}.")
    return facts


def generalisation_block(runs: Sequence[dict[str, Any]], recipe: Path) -> str:
    """The generalisation benchmark of the first seed that has it; its heat maps are copied.

    Parameters
    ----------
    runs : sequence of dict
        From `read_runs`.
    recipe : Path
        ``recipes/<corpus>/<method>``: ``generalisation_<set>.png`` goes there.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    ValueError
        Where no run has the benchmark.
    """
    for run in runs:
        if not run.get("generalisation"):
            continue
        lines: list[str] = []
        for name, entry in run["generalisation"].items():
            tasks = next(iter(entry.values()))["cells"].values()
            asked = sum(task["utterances"] * len(task["quality"]) for task in tasks)
            lines += [f"{name}, seed {run['seed']}, {asked} questions:", ""]
            lines += generalisation_table(entry)
            picture = f"generalisation_{name}.png"
            shutil.copyfile(run["folder"] / f"{name}.png", recipe / picture)
            lines += [f"![{name}: quality by task and wording]({picture})", ""]
        return "\n".join([*lines, f"{interval_name(run).capitalize()}."])
    raise ValueError("no run has the generalisation benchmark: decode with decode.grid=[SET]")


def copy_report(folder: Path, recipe: Path) -> Path:
    """Copy ``RESULTS.md`` and its curves beside the recipe.

    Parameters
    ----------
    folder : Path
        Experiment with the ``RESULTS.md`` of the report stage.
    recipe : Path
        ``recipes/<corpus>/<method>``.

    Returns
    -------
    Path
        The copy.

    Raises
    ------
    FileNotFoundError
        Without a report.
    """
    source = folder / "RESULTS.md"
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist: run the report stage first")
    pictures = recipe / "results"
    shutil.rmtree(pictures, ignore_errors=True)

    def keep(match: re.Match[str]) -> str:
        picture = folder / match["path"]
        name = match["path"].replace("/", "_")
        pictures.mkdir(exist_ok=True)
        shutil.copyfile(picture, pictures / name)
        return f"![{match['alt']}](results/{name})"

    target = recipe / "RESULTS.md"
    target.write_text(_IMAGE.sub(keep, source.read_text(encoding="utf-8")), encoding="utf-8")
    return target


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description="Fill README.md from a finished experiment.")
    options.add_argument("experiment", type=Path, help="<work>/exp/<corpus>/<method>")
    options.add_argument(
        "--generalisation-of",
        metavar="METHOD",
        help="fill this recipe's block of the generalisation benchmark alone",
    )
    options.add_argument("--root", type=Path, default=ROOT, help="repository to write to")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the pages and copy the report."""
    arguments = parser().parse_args(argv)
    folder = arguments.experiment.resolve()
    name = f"{folder.parent.name}/{arguments.generalisation_of or folder.name}"
    recipe = arguments.root / "recipes" / name
    try:
        runs = read_runs(folder)
        if arguments.generalisation_of:
            body = generalisation_block(runs, recipe)
            fill(recipe / "README.md", f"generalisation:{name}", body, end="/generalisation")
            print(recipe / "README.md")
            return 0
        body = results_block(runs)
        for page in (arguments.root / "README.md", recipe / "README.md"):
            if page.exists() and f"<!-- results:{name} -->" in page.read_text(encoding="utf-8"):
                fill(page, f"results:{name}", body, end="/results")
        print(copy_report(folder, recipe))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
