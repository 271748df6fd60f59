"""Merged runs as tables: the same cells for Markdown and for HTML."""

from __future__ import annotations

from toolkit.evaluation.merge import METRICS, Cell, Merged
from toolkit.evaluation.merged_benchmarks import benchmark_tables
from toolkit.evaluation.tables import LABELS


def cell_text(cell: Cell | None, digits: int = 3) -> str:
    """A cell as text: the value with its interval, or mean ± spread, and the paired test.

    Example
    -------
    >>> cell_text(Cell([0.25], 0.2, 0.3))
    '0.250 [0.200, 0.300]'
    >>> cell_text(Cell([0.2, 0.4], 0.2, 0.4, -0.1, 0.002))
    '0.300 ± 0.141 (-0.100, p = 0.002)'
    >>> cell_text(Cell([0.2, 0.4], 0.2, 0.4, -0.1, 0.0))
    '0.300 ± 0.141 (-0.100, p < 0.001)'
    """
    if cell is None:
        return "-"
    text = f"{cell.mean:.{digits}f}"
    if cell.spread is None:
        text += f" [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    else:
        text += f" ± {cell.spread:.{digits}f}"
    if cell.difference is not None and cell.p is not None:
        # None of the resamples: not impossible, rarer than they can tell.
        p = f"p = {cell.p:.3f}" if cell.p >= 0.0005 else "p < 0.001"
        text += f" ({cell.difference:+.{digits}f}, {p})"
    return text


def header_of(merged: Merged) -> list[str]:
    """Columns of a test set's table."""
    names = [METRICS[metric][0] for metric in merged.metrics()]
    return ["run", *merged.changed, "status", "seeds", "items", *names]


def rows_of(merged: Merged, name: str, kind: str = "speech") -> list[list[str]]:
    """Cells of a test set's table, a row per group.

    Parameters
    ----------
    merged : Merged
    name : str
        Test set.
    kind : str
        What stands in the audio slot.

    Returns
    -------
    list of list of str
    """
    rows = []
    for group in merged.groups:
        cells = merged.sets[name].get(kind, {}).get(group.name)
        if cells is None:
            continue
        rows.append(
            [
                group.name,
                *(merged.setting(group, key) for key in merged.changed),
                group.status,
                ", ".join(map(str, group.seeds)),
                str(merged.items[name].get(group.name, "-")),
                *(cell_text(cells.get(metric)) for metric in merged.metrics()),
            ]
        )
    return rows


EXPLANATION = (
    "One seed: value with the 95 % bootstrap interval over recordings. Several: mean ± standard "
    "deviation over seeds. In brackets: difference from the first row on the same items, seeds "
    "averaged, with the two-sided p of a paired bootstrap. WER is that of answers to repeat "
    "instructions, WER heard that of what the projector itself recognised; ROUGE-L and nats per "
    "token are agreement with the text branch's answer, and compared where that is the same."
)


def markdown(merged: Merged) -> str:
    """The merged report as Markdown.

    Parameters
    ----------
    merged : Merged

    Returns
    -------
    str
    """
    lines = ["# Results", "", EXPLANATION, ""]
    lines += [f"- {note}" for note in merged.notes] + ([""] if merged.notes else [])
    for name, kinds in merged.sets.items():
        lines += [f"## {name}", ""]
        for kind in kinds:
            header = header_of(merged)
            lines += [f"In the audio slot: {LABELS.get(kind, kind)}", ""]
            lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
            lines += [
                "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
                for row in rows_of(merged, name, kind)
            ]
            lines.append("")
    for table in benchmark_tables(merged):
        lines += [f"## {table.title}", "", "| " + " | ".join(table.header) + " |"]
        lines += ["|---" * len(table.header) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        lines.append("")
    return "\n".join(lines)
