"""The generalisation benchmark: how an answer's quality depends on the wording and on the task.

Every utterance of a task is asked in all wordings: a grid of tasks, wordings and utterances. On
seen and held-out tasks (those that training had or not, as the decoded rows say) and wordings,

- following rate: share of outputs that pass their task's check;
- quality Q: the task's metric over all outputs, where one that fails its check counts as 0;
- prompt generalisation PG: mean Q of seen tasks in held-out wordings over that in seen wordings,
  with the worst wording and the spread over wordings;
- task generalisation TG: mean Q of held-out tasks, over that of the same text LLM on the gold
  transcripts.

Source: MTBI (Xie et al., 2025) reports such a benchmark but not its formulas; these are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from toolkit.evaluation.score_plans import ScorePlan
from toolkit.evaluation.scoring import recordings
from toolkit.teachers.pool import TRANSCRIPT_TASKS, InstructionPool, Task
from toolkit.text import rouge_l, word_error_rate
from toolkit.training.curves import new_figure, save_figure

#: Seen and held-out, of tasks and of wordings.
QUADRANTS = (
    ("seen task, seen wording", True, True),
    ("seen task, held-out wording", True, False),
    ("held-out task, first half of wordings", False, True),
    ("held-out task, second half of wordings", False, False),
)


def quality(row: Mapping, task: Task, text_answer: str, normaliser: str = "english") -> float:
    """How good one answer is; 0 if it does not attempt its task.

    Parameters
    ----------
    row : dict
        Decoded row.
    task : Task
    text_answer : str
        Of the text LLM, given the transcript and the same instruction.
    normaliser : str
        Of the word error rate.

    Returns
    -------
    float
        In [0, 1]. Tasks with references: `Task.score` of the best one. Tasks whose right answer is
        the transcript: one minus the word error rate. All others: ROUGE-L to the text LLM's answer,
        so that for the text LLM itself quality is the following rate.

    Example
    -------
    >>> from toolkit.teachers import InstructionPool
    >>> row = {"answer": "press one", "transcript": "press one now please"}
    >>> quality(row, InstructionPool()["repetition"], "press one now please")
    0.5
    """
    answer, transcript = row["answer"], row["transcript"]
    if not task.check(answer, transcript):
        return 0.0
    right = row.get("references") or [row["reference"]] if row.get("reference") else []
    if right and task.score is not None:
        return max(task.score(reference, answer) for reference in right)
    if task.name in TRANSCRIPT_TASKS:
        return max(0.0, 1.0 - word_error_rate(transcript, answer, normaliser))
    return rouge_l(text_answer, answer)


class Grid:
    """Following and quality of one system on a grid.

    Parameters
    ----------
    rows : sequence of dict
        Decoded rows.
    text : mapping of str to dict
        Item id -> decoded row of the text LLM.
    pool : InstructionPool
    normaliser : str

    Attributes
    ----------
    following, quality : dict of str to ndarray (wordings, utterances)
        Per task.
    utterances : dict of str to tuple of str
        Per task, in the order of the columns.

    Raises
    ------
    ValueError
        When a task's rows are no full grid, naming the first hole.
    """

    def __init__(
        self,
        rows: Sequence[Mapping],
        text: Mapping[str, Mapping],
        pool: InstructionPool,
        normaliser: str = "english",
    ) -> None:
        self.pool = pool
        self.following: dict[str, np.ndarray] = {}
        self.quality: dict[str, np.ndarray] = {}
        self.utterances: dict[str, tuple[str, ...]] = {}
        by_cell = {(row["task"], row["wording"], row["utterance"]): row for row in rows}
        for name in dict.fromkeys(row["task"] for row in rows):
            task = pool[name]
            utterances = list(dict.fromkeys(r["utterance"] for r in rows if r["task"] == name))
            self.utterances[name] = tuple(utterances)
            shape = (len(task.wordings), len(utterances))
            self.following[name], self.quality[name] = np.zeros(shape), np.zeros(shape)
            for w in range(shape[0]):
                for u, utterance in enumerate(utterances):
                    row = by_cell.get((name, f"{name}/{w}", utterance))
                    if row is None:
                        raise ValueError(
                            f"no answer to {name}/{w} for {utterance}: the benchmark needs every "
                            "utterance in every wording (DecodePlan.grid); decode the set again"
                        )
                    told = text[row["id"]]["answer"]
                    self.following[name][w, u] = task.check(row["answer"], row["transcript"])
                    self.quality[name][w, u] = quality(row, task, told, normaliser)

    def resampled(self, what: str, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Mean over drawn recordings of each cell.

        Parameters
        ----------
        what : str
            ``following`` or ``quality``.
        draws : mapping of str to ndarray (R, N)
            Per task and resample, how often each utterance was drawn.

        Returns
        -------
        dict of str to ndarray (R, wordings)
        """
        values = getattr(self, what)
        return {
            name: times @ values[name].T / times.sum(-1, keepdims=True)
            for name, times in draws.items()
        }


def _mean(
    cells: Mapping[str, np.ndarray],
    pool: InstructionPool,
    seen: Collection[str],
    task_seen: bool,
    wording_seen: bool,
) -> np.ndarray:
    """Mean of a quadrant per resample: over the wordings of a task, then over tasks.

    A task with a single wording has none in the second half, and is no part of its mean.
    """
    chosen = [
        cells[task.name][:, wordings].mean(-1)
        for task in pool
        if task.name in cells
        and (task.name in seen) == task_seen
        and (wordings := task.wording_ids(held_out=not wording_seen))
    ]
    return _over_tasks(chosen, cells)


def _over_tasks(means: Sequence[np.ndarray], cells: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean of tasks per resample; not a number where there is none."""
    if means:
        return np.mean(means, axis=0)
    return np.full(max(map(len, cells.values()), default=1), math.nan)


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full_like(over, math.nan), where=under > 0)


def _interval(values: np.ndarray, confidence: float) -> dict[str, float | None]:
    """The first value is that of all recordings, the others of the resamples.

    A value that does not exist (no held-out task, a ratio to nothing) is None, so that the scores
    stay valid JSON.
    """
    if not math.isfinite(values[0]):
        return {"value": None, "low": None, "high": None}
    drawn = values[1:][np.isfinite(values[1:])]
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(drawn if len(drawn) else values[:1], [tail, 100 - tail])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def generalisation(
    decoded: Mapping[str, Sequence[Mapping]], plan: ScorePlan, pool: InstructionPool
) -> dict[str, dict]:
    """Score a grid for every input or system.

    Parameters
    ----------
    decoded : mapping of str to sequence of dict
        Name -> decoded rows on the same items; ``text``, the LLM on gold transcripts, is among
        them.
    plan : ScorePlan
        Normaliser and number of resamples; recordings are resampled, with all that is asked about
        one, and the same draws for all tasks that are on the same recordings.
    pool : InstructionPool

    Returns
    -------
    dict of str to dict
        Name -> ``following`` and ``quality`` per quadrant, ``pg``, ``tg`` (value, interval),
        ``spread`` (standard deviation over wordings, mean over tasks), ``worst`` (task, wording,
        instruction, quality) of seen tasks, and the heat map's ``cells``.
    """
    text = {row["id"]: row for row in decoded["text"]}
    seen = {row["task"] for row in decoded["text"] if row["seen_task"]}
    grids = {name: Grid(rows, text, pool, plan.normaliser) for name, rows in decoded.items()}
    draws = _draws(grids["text"].utterances, recordings(decoded["text"]), plan.bootstrap)
    reached = _both_halves(grids["text"].resampled("quality", draws), pool, seen)
    scores = {}
    for name, grid in grids.items():
        cells = {w: grid.resampled(w, draws) for w in ("following", "quality")}
        entry: dict = {
            what: {
                label: _interval(_mean(cells[what], pool, seen, task, wording), plan.confidence)
                for label, task, wording in QUADRANTS
            }
            for what in ("following", "quality")
        }
        known, new = (_mean(cells["quality"], pool, seen, True, half) for half in (True, False))
        entry["pg"] = _interval(_ratio(new, known), plan.confidence)
        own = _both_halves(cells["quality"], pool, seen)
        entry["tg"] = _interval(_ratio(own, reached), plan.confidence)
        means = {task: values.mean(1) for task, values in grid.quality.items()}
        entry["spread"] = float(np.mean([values.std() for values in means.values()]))
        entry["worst"] = _worst(means, pool, seen)
        entry["cells"] = {
            task: {
                "seen": task in seen,
                "utterances": values.shape[1],
                "quality": [round(float(v), 4) for v in values.mean(1)],
                "following": [round(float(v), 4) for v in grid.following[task].mean(1)],
            }
            for task, values in grid.quality.items()
        }
        scores[name] = entry
    return scores


def _draws(
    utterances: Mapping[str, Sequence[str]], recording: Mapping[str, str], resamples: int
) -> dict[str, np.ndarray]:
    """Per task, how often each utterance is drawn: first each once, then by resample (R, N)."""
    rng = np.random.default_rng(0)
    shared: dict[frozenset[str], dict[str, np.ndarray]] = {}
    draws = {}
    for name, own in utterances.items():
        units = [recording[utterance] for utterance in own]
        same = frozenset(units)
        if same not in shared:
            size = len(same)
            drawn = rng.integers(0, size, (resamples, size))
            times = [np.ones(size), *(np.bincount(row, minlength=size) for row in drawn)]
            shared[same] = dict(zip(dict.fromkeys(units), np.transpose(times), strict=True))
        draws[name] = np.stack([shared[same][unit] for unit in units], axis=-1)
    return draws


def _both_halves(
    cells: Mapping[str, np.ndarray], pool: InstructionPool, seen: Collection[str]
) -> np.ndarray:
    """Mean quality of the held-out tasks, over the halves of wordings that each of them has."""
    chosen = []
    for task in pool:
        if task.name in cells and task.name not in seen:
            halves = [
                cells[task.name][:, wordings].mean(-1)
                for held_out in (False, True)
                if (wordings := task.wording_ids(held_out=held_out))
            ]
            chosen.append(np.mean(halves, axis=0))
    return _over_tasks(chosen, cells)


def _worst(
    means: Mapping[str, np.ndarray], pool: InstructionPool, seen: Collection[str]
) -> dict | None:
    own = {task: values for task, values in means.items() if task in seen}
    if not own:
        return None
    task = min(own, key=lambda name: own[name].min())
    index = int(own[task].argmin())
    return {
        "task": task,
        "wording": f"{task}/{index}",
        "instruction": pool[task].wordings[index],
        "seen": index in pool[task].wording_ids(held_out=False),
        "quality": float(own[task][index]),
    }


def heat_map(
    scores: Mapping[str, Mapping], path: Path, label: Callable[[str], str] = str, what="quality"
) -> Path:
    """Draw tasks x wordings, one panel per input or system, as a PNG.

    Parameters
    ----------
    scores : mapping of str to dict
        Of `generalisation`.
    path : Path
    label : callable str -> str
        Title of a panel.
    what : str
        ``quality`` or ``following``.

    Returns
    -------
    Path

    Raises
    ------
    ImportError
        Naming the extra that brings matplotlib.
    """
    first = next(iter(scores.values()))["cells"]
    tasks = sorted(first, key=lambda name: not first[name]["seen"])
    width = max(len(cell[what]) for cell in first.values())
    figure = new_figure(1.6 + len(scores) * (0.42 * width + 0.5), 1.3 + 0.34 * len(tasks))
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (name, entry) in zip(panels, scores.items(), strict=True):
        values = np.full((len(tasks), width), math.nan)
        for i, task in enumerate(tasks):
            row = entry["cells"][task][what]
            values[i, : len(row)] = row
        image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for i, j in np.argwhere(np.isfinite(values)):
            colour = "white" if values[i, j] < 0.6 else "black"
            axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", size=6, color=colour)
        # Held-out wordings right of the line, held-out tasks below it.
        axes.axvline(width // 2 - 0.5, color="white", linewidth=2)
        axes.axhline(sum(first[t]["seen"] for t in tasks) - 0.5, color="white", linewidth=2)
        axes.set_title(label(name), size=9)
        axes.set_xticks(range(width), range(width), size=7)
        axes.set_xlabel("wording (right: held out)", size=7)
        shown = [t if first[t]["seen"] else f"{t} (held out)" for t in tasks]
        axes.set_yticks(range(len(tasks)), shown if axes is panels[0] else [], size=7)
    figure.colorbar(image, ax=panels.tolist(), label=what)
    return save_figure(figure, path)
