"""Put a recipe's finished ablations into its page; nobody types a published number.

    python docs/update_ablations.py work/exp/asterisk_sounds mtbi

reads the runs of ``egs/asterisk_sounds/mtbi/ablations.sh`` and fills the block
``ablations:asterisk_sounds/mtbi`` of the recipe's README.md: a row per ablation that was scored,
compared item by item with the first one declared.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "docs"))

from blocks import fill  # noqa: E402

from toolkit.evaluation.merge import METRICS, Cell, Group, Merged, merge  # noqa: E402
from toolkit.evaluation.merged_tables import cell_text  # noqa: E402
from toolkit.evaluation.runs import MergeError  # noqa: E402
from toolkit.evaluation.tables import over_seeds  # noqa: E402

#: Compared with the first row; what the projector hears by itself is told alone.
COMPARED = ("wer", "rouge_l", "nll")
#: Many comparisons ask for small p.
RESAMPLES = 5000
_DECLARED = re.compile(r"^ablation (\w+)", re.M)


def declared(recipe: Path) -> list[str]:
    """Names of a recipe's ablations, in the order of its ``ablations.sh``.

    Parameters
    ----------
    recipe : Path
        ``recipes/<corpus>/<method>``.

    Returns
    -------
    list of str
    """
    return _DECLARED.findall((recipe / "ablations.sh").read_text(encoding="utf-8"))


def scored(experiments: Path, method: str, names: Sequence[str]) -> dict[str, Path]:
    """Experiments of the ablations that have scores, by name.

    Parameters
    ----------
    experiments : Path
        ``<work>/exp/<corpus>``.
    method : str
    names : sequence of str
        From `declared`.

    Returns
    -------
    dict of str to Path

    Raises
    ------
    ValueError
        Without the first one, or without another to compare with it.
    """
    folders = {name: experiments / f"{method}_ablation_{name}" for name in names}
    found = {n: folder for n, folder in folders.items() if any(folder.glob("seed*/scores.json"))}
    if names[0] not in found or len(found) < 2:
        raise ValueError(
            f"{experiments}: {method}_ablation_{names[0]} and another one need scores; there are "
            f"{', '.join(found) or 'none'}"
        )
    return found


def following(group: Group, name: str) -> str:
    """Share of all answers to a test set's tasks that follow the instruction; "-" without tasks."""
    shares = []
    for run in group.runs:
        tasks = run.scores["sets"][name]["speech"].get("tasks", {}).values()
        if not tasks:
            return "-"
        shares.append(sum(t["n"] * t["following"] for t in tasks) / sum(t["n"] for t in tasks))
    return over_seeds(shares) if len(shares) > 1 else f"{shares[0]:.3f}"


def block(merged: Merged, names: Sequence[str]) -> str:
    """One table over all test sets.

    Parameters
    ----------
    merged : Merged
        Groups in the order of the names.
    names : sequence of str
        Of the ablations.

    Returns
    -------
    str
        Markdown.
    """
    metrics = merged.metrics()
    labels = [METRICS[metric][0] for metric in metrics]
    lines = [
        f"| test set | setting | seeds | {' | '.join(labels)} | follows |",
        "|---" * (len(metrics) + 4) + "|",
    ]
    for name, kinds in merged.sets.items():
        for group, setting in zip(merged.groups, names, strict=True):
            cells = kinds.get("speech", {}).get(group.name)
            if cells is None:
                continue
            values = []
            for metric in metrics:
                cell = cells.get(metric)
                if cell is not None and metric not in COMPARED:
                    cell.difference = None
                values.append(cell_text(cell))
            seeds = ", ".join(map(str, group.seeds))
            row = [name, setting, seeds, *values, following(group, name)]
            lines.append(f"| {' | '.join(row)} |")
    items = {n: max(own.values()) for n, own in merged.items.items()}
    asked = ", ".join(f"{count} questions on {name}" for name, count in items.items())
    tests = sum(own.difference is not None for own in _compared(merged))
    lines += [
        "",
        f"{asked}. Several seeds: mean ± standard deviation; one: 95 % bootstrap over recordings. "
        f"In brackets: difference from `{names[0]}` on the same items, and the two-sided p of a "
        f"paired bootstrap over recordings, seeds averaged. There are {tests} such tests, so that "
        f"p below {0.05 / tests:.4f} is more than chance would give (Bonferroni).",
    ]
    return "\n".join(lines)


def _compared(merged: Merged) -> Iterator[Cell]:
    for kinds in merged.sets.values():
        for cells in kinds.get("speech", {}).values():
            yield from (cells[metric] for metric in COMPARED if metric in cells)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description="Fill a recipe's table of ablations.")
    options.add_argument("experiments", type=Path, help="<work>/exp/<corpus>")
    options.add_argument("method")
    options.add_argument("--root", type=Path, default=ROOT, help="repository to write to")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the page."""
    arguments = parser().parse_args(argv)
    corpus = arguments.experiments.resolve().name
    recipe = arguments.root / "recipes" / corpus / arguments.method
    try:
        found = scored(arguments.experiments, arguments.method, declared(recipe))
        merged = merge(list(found.values()), resamples=RESAMPLES)
        if len(merged.groups) != len(found):
            raise ValueError(
                f"{arguments.experiments}: the seeds of an ablation differ in their settings: "
                f"{', '.join(group.name for group in merged.groups)}"
            )
        name = f"ablations:{corpus}/{arguments.method}"
        fill(recipe / "README.md", name, block(merged, list(found)), end="/ablations")
        print(recipe / "README.md")
    except (ValueError, OSError, MergeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
