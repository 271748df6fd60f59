"""Benchmarks of merged runs: the numbers that each benchmark sums itself up by, run by run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.evaluation.merge import Cell, Merged
from toolkit.evaluation.tables import LABELS


@dataclass
class BenchmarkTable:
    """One benchmark, a row per run and input.

    Attributes
    ----------
    title : str
    header : list of str
    rows : list of list of str
    """

    title: str
    header: list[str]
    rows: list[list[str]]


def benchmark_tables(merged: Merged) -> list[BenchmarkTable]:
    """Tables of all benchmarks that any run has.

    A single seed shows the interval of its own report, several their mean and spread. Nothing is
    tested across runs: what each run is compared with, silence and text, stands in its own rows.

    Parameters
    ----------
    merged : Merged

    Returns
    -------
    list of BenchmarkTable
        In the order of the first run that has them.
    """
    found = [_of(run.scores) for group in merged.groups for run in group.runs]
    names = dict.fromkeys(name for benchmarks in found for name in benchmarks)
    return [_table(merged, name) for name in names]


def _of(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    # Runs that were scored before benchmarks summed themselves up have none to show.
    return {n: e for n, e in scores.get("benchmarks", {}).items() if e.get("summary")}


def _table(merged: Merged, name: str) -> BenchmarkTable:
    groups = {}
    for group in merged.groups:
        own = [_of(run.scores)[name] for run in group.runs if name in _of(run.scores)]
        if own:
            groups[group.name] = own
    every = [entry for entries in groups.values() for entry in entries]
    labels = list(dict.fromkeys(label for entry in every for label in entry["summary"]))
    inputs = dict.fromkeys(kind for e in every for own in e["summary"].values() for kind in own)
    rows = []
    # What is compared stands together: all runs with speech, then all runs with silence.
    for kind in sorted(inputs, key=lambda kind: kind != "speech"):
        slot = "description or transcript (text LLM)" if kind == "text" else LABELS.get(kind, kind)
        for group, entries in groups.items():
            cells = [_cell(entries, label, kind) for label in labels]
            if any(cell != "-" for cell in cells):
                rows.append([group, slot.replace("**", ""), str(entries[0]["n"]), *cells])
    title = f"{name}: {every[0]['format']}"
    return BenchmarkTable(title, ["run", "in the audio slot", "items", *labels], rows)


def _cell(entries: list[Mapping[str, Any]], label: str, kind: str) -> str:
    # Imported here: that module lists these tables.
    from toolkit.evaluation.merged_tables import cell_text

    found = [entry["summary"].get(label, {}).get(kind) for entry in entries]
    known = [e for e in found if e and e["value"] is not None and not math.isnan(e["value"])]
    if not known:
        return "-"
    values = [entry["value"] for entry in known]
    return cell_text(Cell(values, known[0]["low"], known[0]["high"]), 2)
