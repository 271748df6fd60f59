"""Training curves as PNG files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.training.record import read_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = dict[str, list[tuple[int, float]]]


def collect(folder: str | os.PathLike[str]) -> dict[str, Points]:
    """Read the logs of a phase into figures of named curves.

    Parameters
    ----------
    folder : path
        With ``train_log.jsonl`` and ``valid_log.jsonl``.

    Returns
    -------
    dict of str to dict of str to list of (int, float)
        Figure name to curve name to points (step, value).
    """
    figures: dict[str, Points] = defaultdict(lambda: defaultdict(list))
    for line in read_lines(Path(folder) / "train_log.jsonl"):
        step = line["step"]
        for name, value in line["losses"].items():
            figures[f"loss_{name}"]["train"].append((step, value))
        for name, tasks in line["tasks"].items():
            for task, value in tasks.items():
                figures[f"tasks_{name}"][task or "-"].append((step, value))
        for module, value in line["lr"].items():
            figures["learning_rate"][module].append((step, value))
        figures["gradient_norm"]["before clipping"].append((step, line["grad_norm"]))
        for term, value in line.get("term_grad_norms", {}).items():
            figures["gradient_norm"][term].append((step, value))
    for line in read_lines(Path(folder) / "valid_log.jsonl"):
        for name, value in line["metrics"].items():
            parts = name.split("/")
            if len(parts) == 2 and f"loss_{parts[1]}" in figures:
                figures[f"loss_{parts[1]}"][parts[0]].append((line["step"], value))
            elif len(parts) == 3 and f"tasks_{parts[1]}" in figures:
                figures[f"tasks_{parts[1]}"][f"{parts[2]} ({parts[0]})"].append(
                    (line["step"], value)
                )
            elif len(parts) == 3:
                quantity, _, band = parts[2].partition(".")
                label = f"{band} ({parts[0]})" if band else parts[0]
                figures[f"{parts[1]}_{quantity}"][label].append((line["step"], value))
            elif name != "loss" and not name.endswith("/loss"):
                figures["metrics"][name].append((line["step"], value))
    return {name: dict(curves) for name, curves in figures.items()}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that needs no screen.

    Parameters
    ----------
    width, height : float
        Inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        Naming the extra that brings matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib: pip install 'speechllm-toolkit[plots]'"
        ) from error

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path
        Its folder is made.

    Returns
    -------
    Path
        ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def draw_curves(folder: str | os.PathLike[str]) -> list[Path]:
    """Draw every figure of a phase: one per loss, one per loss by task, learning rate, gradients.

    Parameters
    ----------
    folder : path
        The phase's folder; figures go to ``curves/`` below it.

    Returns
    -------
    list of Path

    Raises
    ------
    ImportError
        Naming the extra that brings matplotlib.
    """
    out = Path(folder) / "curves"
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, curves in collect(folder).items():
        figure = new_figure(7, 4)
        axes = figure.add_subplot()
        for label, points in sorted(curves.items()):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, label=label, marker="o" if len(points) < 25 else None, ms=3)
        axes.set(xlabel="optimiser step", ylabel=name.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, ncols=2 if len(curves) > 8 else 1)
        written.append(save_figure(figure, out / f"{name.replace('/', '_')}.png"))
    return written


def draw_layer_weights(
    weights: Sequence[Sequence[float]], layers: Sequence[str], path: str | os.PathLike[str]
) -> Path:
    """Draw how much each encoder layer counts: one bar a layer, or a map of queries by layers.

    Parameters
    ----------
    weights : N sequences of L floats
        ``Projector.layer_weights``; rows sum to 1.
    layers : L str
        Names of the layers.
    path : path
        PNG to write; its folder is made.

    Returns
    -------
    Path

    Raises
    ------
    ImportError
        Naming the extra that brings matplotlib.
    """
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    means = [sum(column) / len(weights) for column in zip(*weights, strict=True)]
    names = [f"{name}\n{mean:.3f}" for name, mean in zip(layers, means, strict=True)]
    if len(weights) == 1:
        axes.bar(range(len(names)), weights[0])
        axes.set(ylabel="weight")
        axes.axhline(1 / len(names), color="grey", lw=1, ls="--")
    else:
        # Around the uniform weights of the start: red has gained, blue has lost. Differences of
        # less than a tenth stay pale, or weights that have hardly moved would look learnt.
        uniform = 1 / len(names)
        farthest = max(max(abs(w - uniform) for w in row) for row in weights)
        reach = max(farthest, 0.1 * uniform)
        image = axes.imshow(
            weights, aspect="auto", cmap="coolwarm", vmin=uniform - reach, vmax=uniform + reach
        )
        figure.colorbar(image, label=f"weight (uniform: {uniform:.3f})")
        axes.set(ylabel="query")
        axes.set_title(f"farthest from uniform: {farthest:.2g}", fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="encoder layer, mean weight below")
    return save_figure(figure, path)
