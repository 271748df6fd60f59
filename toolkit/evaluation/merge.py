"""Any finished runs as one table: seeds joined, one column per setting in which they differ."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from toolkit.evaluation.decoding import read_decoded
from toolkit.evaluation.runs import MergeError, Run, find_runs
from toolkit.evaluation.scoring import item_pairs, recordings, repetition_errors, utterance_of
from toolkit.evaluation.statistics import bootstrap, by_unit, paired_bootstrap

#: Metric of `item_pairs` to its name in tables and whether less is better.
METRICS = {
    "wer": ("WER", True),
    "heard_wer": ("WER heard", True),
    "rouge_l": ("ROUGE-L", False),
    "nll": ("nats per token", True),
}
#: Settings of a block that are told with its name.
SMALL = 2
#: Those of an utterance, whatever the wording it was asked for in.
_OF_UTTERANCES = ("wer", "heard_wer")

#: Utterance, and what was asked about it.
ItemKey = tuple[str, str]


@dataclass
class Group:
    """The seeds of one setting.

    Attributes
    ----------
    name : str
    status : str
        ``trained``, ``config-checked`` or ``SMOKE``.
    runs : list of Run
    """

    name: str
    status: str
    runs: list[Run]

    @property
    def seeds(self) -> list[int]:
        """In increasing order."""
        return sorted(run.scores["seed"] for run in self.runs)


@dataclass
class Cell:
    """A number of a table.

    Attributes
    ----------
    values : list of float
        One per seed.
    low, high : float
        Bootstrap interval over recordings, seeds averaged.
    difference, p : float, optional
        Paired comparison with the first group, on the items both have.
    """

    values: list[float]
    low: float
    high: float
    difference: float | None = None
    p: float | None = None

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.mean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass
class Merged:
    """What `merge` found.

    Attributes
    ----------
    groups : list of Group
    changed : list of str
        Keys in which the groups differ.
    sets : dict of str to dict
        Test set to input to group name to metric to `Cell`.
    items : dict of str to dict
        Test set to group name to number of items.
    notes : list of str
        What a reader has to know.
    """

    groups: list[Group]
    changed: list[str]
    sets: dict[str, dict[str, dict[str, dict[str, Cell]]]] = field(default_factory=dict)
    items: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def metrics(self) -> list[str]:
        """Those of `METRICS` that any cell has: few projectors recognise tokens of their own."""
        cells = [
            cells
            for kinds in self.sets.values()
            for own in kinds.values()
            for cells in own.values()
        ]
        return [metric for metric in METRICS if any(metric in found for found in cells)]

    def setting(self, group: Group, key: str) -> str:
        """Value of a changed key in a group; of a small block, with its own settings."""
        own = group.runs[0].settings
        inside = [other for other in own if other.startswith(f"{key}.")]
        value = own.get(key, "-")
        if key in own and 0 < len(inside) <= SMALL and not set(inside) & set(self.changed):
            value += f"({', '.join(f'{i[len(key) + 1 :]}={own[i]}' for i in inside)})"
        return value


def merge(folders: Sequence[Path], resamples: int = 1000) -> Merged:
    """Join runs: seeds of equal settings become one row, the others are compared with the first.

    Parameters
    ----------
    folders : sequence of path
        As for `find_runs`; the first run's setting is what the others are compared with.
    resamples : int
        Of intervals and paired tests.

    Returns
    -------
    Merged

    Raises
    ------
    MergeError
        Where there is nothing to compare, or seeds of one setting occur twice.
    """
    runs = find_runs(folders)
    joined: dict[tuple, list[Run]] = {}
    for run in runs:
        # Runs of before there were settings on disk are told apart by their folders.
        known = (run.folder / "provenance" / "settings.json").exists()
        name = run.name.split("/")[0] if known else run.name
        same = sorted((k, v) for k, v in run.settings.items() if k != "status")
        key = (name, tuple(same), run.scores["smoke"])
        joined.setdefault(key, []).append(run)
    groups = []
    for members in joined.values():
        seeds = [run.scores["seed"] for run in members]
        if len(set(seeds)) < len(seeds):
            places = ", ".join(str(run.folder) for run in members)
            raise MergeError(f"the same setting and seed twice: {places}; name one of them")
        names = list(dict.fromkeys(run.name for run in members))
        declared = [run.settings.get("status", "status not declared") for run in members]
        status = "SMOKE" if members[0].scores["smoke"] else ", ".join(dict.fromkeys(declared))
        groups.append(Group(" = ".join(names), status, members))
    for i, group in enumerate(groups):
        if any(other.name == group.name for other in groups[:i]):
            group.name = f"{group.name} ({i + 1})"
    keys = dict.fromkeys(key for group in groups for key in group.runs[0].settings)
    changed = [
        key
        for key in keys
        if key != "status" and len({group.runs[0].settings.get(key) for group in groups}) > 1
    ]
    merged = Merged(groups, [key for key in changed if _tells_more(key, changed, groups)])
    _notes(merged)
    names = dict.fromkeys(name for run in runs for name in run.scores["sets"])
    for name in names:
        _compare(merged, name, resamples)
    return merged


def _tells_more(key: str, changed: Sequence[str], groups: Sequence[Group]) -> bool:
    """Whether a changed setting is worth a column beside that of the block it is in.

    It is where groups with the same block differ in it; not where one lacks it for want of the
    block, or has it for having another. A copy of a named block (``teacher.pool`` of ``pool``)
    tells nothing that the block itself does not.
    """
    settings = [group.runs[0].settings for group in groups]
    originals = (name for name in changed if key.endswith(f".{name}"))
    if any(all(own.get(key) == own.get(name) for own in settings) for name in originals):
        return False
    blocks = [other for other in changed if key.startswith(f"{other}.")]
    values: dict[tuple, set] = {}
    for own in settings:
        values.setdefault(tuple(map(own.get, blocks)), set()).add(own.get(key))
    return any(len(different) > 1 for different in values.values())


def _notes(merged: Merged) -> None:
    groups = merged.groups
    if any(group.status == "SMOKE" for group in groups):
        merged.notes.append("SMOKE runs are on a handful of items: their numbers mean nothing.")
    normalisers = {run.scores["normaliser"] for group in groups for run in group.runs}
    if len(normalisers) > 1:
        merged.notes.append(
            f"The runs count word errors with different normalisers "
            f"({', '.join(sorted(normalisers))}); here all are counted with the first run's."
        )
    single = [group.name for group in groups if len(group.runs) == 1]
    if single:
        merged.notes.append(
            f"One seed only, so nothing is known about the spread over seeds: {', '.join(single)}."
        )
    if len({tuple(group.seeds) for group in groups}) > 1:
        merged.notes.append("The groups do not have the same seeds.")


def _compare(merged: Merged, name: str, resamples: int) -> None:
    normaliser = merged.groups[0].runs[0].scores["normaliser"]
    table: dict[str, dict[str, dict[str, Cell]]] = {}
    # Input -> the first group that has it, and its items by metric.
    reference: dict[str, tuple[str, dict[str, dict[ItemKey, tuple[float, float]]]]] = {}
    units: dict[str, str] = {}
    for group in merged.groups:
        have = [run for run in group.runs if name in run.scores["sets"]]
        if not have:
            continue
        kinds = list(have[0].scores["sets"][name])
        for kind in kinds:
            pairs = []
            for run in have:
                items, own_units = _items(run, name, kind, normaliser)
                pairs.append(items)
                # Where runs name a recording differently, the first of them holds.
                units = {**own_units, **units}
            first, theirs = reference.setdefault(kind, (group.name, {}))
            cells = {}
            for metric, (label, _) in METRICS.items():
                seeds = [own[metric] for own in pairs]
                ids = set.intersection(*(set(own) for own in seeds))
                every = max(map(len, seeds))
                if len(ids) < every:
                    _note(
                        merged,
                        f"{name}, {label}: the seeds of {group.name} share {len(ids)} of {every} "
                        "items; only these count.",
                    )
                if not ids:
                    continue
                order = sorted(ids)
                # An item counts once, however many seeds: its errors are averaged over them.
                mean = {
                    i: (
                        statistics.mean(own[i][0] for own in seeds),
                        statistics.mean(own[i][1] for own in seeds),
                    )
                    for i in order
                }
                values = [_rate([own[i] for i in order]) for own in seeds]
                _, low, high = bootstrap(_by_recording(mean, order, units), resamples)
                cell = Cell(values, low, high)
                if group.name == first:
                    theirs[metric] = mean
                # A metric that the first row does not have is compared with nothing.
                elif metric in theirs:
                    both = sorted(theirs[metric].keys() & ids)
                    if not both:
                        _note(
                            merged,
                            f"{name}, {label}: {group.name} has no item in common with {first}, "
                            "not compared: other questions, or other answers of the text branch.",
                        )
                    else:
                        left, right = (
                            _by_recording(own, both, units) for own in (mean, theirs[metric])
                        )
                        cell.difference, cell.p = paired_bootstrap(left, right, resamples)
                    if 0 < len(both) < max(len(theirs[metric]), len(ids)):
                        _note(
                            merged,
                            f"{name}: groups share {len(both)} items; the paired test is on them.",
                        )
                cells[metric] = cell
            table.setdefault(kind, {})[group.name] = cells
            if kind == "speech":
                merged.items.setdefault(name, {})[group.name] = len(pairs[0]["rouge_l"])
    merged.sets[name] = table


def _note(merged: Merged, text: str) -> None:
    if text not in merged.notes:
        merged.notes.append(text)


def _by_recording(
    values: Mapping[ItemKey, tuple[float, float]],
    keys: Sequence[ItemKey],
    units: Mapping[str, str],
) -> list[np.ndarray]:
    return by_unit([units[utterance] for utterance, _ in keys], [values[key] for key in keys])


def _rate(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(a for a, _ in pairs) / max(sum(b for _, b in pairs), 1e-12)


def _items(
    run: Run, name: str, kind: str, normaliser: str
) -> tuple[dict[str, dict[ItemKey, tuple[float, float]]], dict[str, str]]:
    """Metric to item to numerator and denominator; and the recordings of the utterances.

    Items of two runs are the same where the same was measured: the instruction has the same words,
    and agreement is with the same answer of the text branch. Repetitions are asked for in the
    wording that each LLM obeys best, so that they are the same where the utterance is.
    """
    folder = run.folder / "decode"
    rows = read_decoded(folder / f"{name}.{kind}.jsonl")
    text = {row["id"]: row for row in read_decoded(folder / f"{name}.text.jsonl")}
    if not rows or not text:
        raise MergeError(f"{folder}: {name}.{kind}.jsonl or {name}.text.jsonl is gone")
    of = {row["id"]: row for row in rows}

    def key(metric: str, i: str) -> ItemKey:
        asked = f"{i}|{of[i].get('instruction', '')}|{text[i]['answer']}"
        return utterance_of(of[i]), "" if metric in _OF_UTTERANCES else asked

    found = item_pairs(rows, text, repetition_errors(rows, normaliser))
    items = {
        metric: {key(metric, i): pair for i, pair in own.items()} for metric, own in found.items()
    }
    return items, recordings(rows)
