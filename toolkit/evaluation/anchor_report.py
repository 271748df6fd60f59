"""Speech anchor bias as tables and pictures, one model or several side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.evaluation.tables import with_interval
from toolkit.training.curves import new_figure, save_figure

#: What a branch is, in the words of the tables.
LABELS = {
    "speech": "**speech** (this model)",
    "text": "transcript, the LLM as published",
    "own text": "transcript, the LLM of this model",
}
_STYLES = {"speech": "-", "text": "--", "own text": ":"}


def anchor_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Every branch of every model as a row, and speech against text of each model.

    Parameters
    ----------
    results : mapping of str to dict
        Model name to what `toolkit.evaluation.anchor_bias.measure` found.

    Returns
    -------
    str
        Markdown.
    """
    lines = [
        "| model | in the audio slot | anchor ratio, first token | anchor ratio, all tokens "
        "| by density, all tokens | uniform | answers that are the transcript "
        "| instruction sensitivity | instruction-swap KL, first / all |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model, result in results.items():
        for branch, looks in result["attention"].items():
            acts = result["behaviour"][branch]
            swap = acts["swap_kl"]
            cells = [
                model,
                LABELS.get(branch, branch),
                with_interval(looks["first"]["overall"]["ratio"]),
                with_interval(looks["all"]["overall"]["ratio"]),
                with_interval(looks["all"]["overall"]["density_ratio"]),
                f"{looks['all']['uniform_ratio']:.3f}",
                with_interval(acts["anchor_rate"]),
                with_interval(acts["sensitivity"]),
                f"{swap['first']['value']:.2f} / {swap['all']['value']:.2f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Anchor ratio of speech minus that of the transcript in the same slot, first token / all "
        "tokens / all tokens by density (p: paired bootstrap over clips):",
        "",
        *(f"- {model}: {_against(result['against_text'])}" for model, result in results.items()),
    ]
    return "\n".join(lines)


def _against(found: Mapping[str, Any]) -> str:
    looks = (found["first"]["ratio"], found["all"]["ratio"], found["all"]["density_ratio"])
    return " / ".join(f"{look['difference']:+.3f} (p {look['p']:.3f})" for look in looks)


def blocking_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Rise of the loss when the response may not see a class in a band of layers.

    Parameters
    ----------
    results : mapping of str to dict

    Returns
    -------
    str
        Markdown.
    """
    bands = max((result["bands"] for result in results.values()), key=len)
    numbers = " | ".join(f"band {i + 1}" for i in range(len(bands)))
    lines = [
        f"| model | in the audio slot | hidden | loss, all visible | {numbers} |",
        "|---|---|---|---|" + "---|" * len(bands),
    ]
    for model, result in results.items():
        for branch, costs in result["blocking"].items():
            for hidden in ("instruction", "slot"):
                values = [f"{value:+.3f}" for value in costs[hidden]]
                values += ["-"] * (len(bands) - len(values))
                cells = [model, LABELS.get(branch, branch), hidden, f"{costs['nll']:.3f}", *values]
                lines.append("| " + " | ".join(cells) + " |")
    named = "; ".join(
        f"{model}: {', '.join(f'{a}-{b - 1}' for a, b in result['bands'])}"
        for model, result in results.items()
    )
    return "\n".join([*lines, "", f"Layers of the bands: {named}. Nats per response token."])


def save(results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write numbers, tables and pictures of models side by side.

    Parameters
    ----------
    results : mapping of str to dict
    folder : Path
        ``anchor_bias.json``, ``anchor_bias.md`` and the pictures of `draw` go there.
    """
    pictures = draw(results, folder)
    (folder / "anchor_bias.json").write_text(json.dumps(results, indent=1) + "\n")
    shown = [f"![{path.stem}]({path.name})" for path in pictures]
    text = [anchor_table(results), "", blocking_table(results), "", *shown]
    (folder / "anchor_bias.md").write_text("\n".join(text) + "\n")


def draw(results: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """Heat maps of each model, and curves of all of them together.

    Parameters
    ----------
    results : mapping of str to dict
    folder : Path

    Returns
    -------
    list of Path
        PNG files: ``heat_<model>.png`` (mass by layer and class, speech beside text),
        ``ratio.png`` (anchor ratio by layer, of masses and of densities, first token and all).
    """
    folder.mkdir(parents=True, exist_ok=True)
    heat = [
        _heat_map(model, result, folder / f"heat_{_file_name(model)}.png")
        for model, result in results.items()
    ]
    return [*heat, _ratio_curves(results, folder / "ratio.png")]


def _heat_map(model: str, result: Mapping[str, Any], path: Path) -> Path:
    names = list(result["attention"])
    figure = new_figure(3.2 * len(names) + 1.0, 4.5)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        mass = result["attention"][name]["all"]["mass"]
        table = [[mass[kind][layer] for kind in mass] for layer in range(len(mass["sink"]))]
        image = axes.imshow(table, aspect="auto", origin="lower", vmin=0.0, vmax=1.0)
        axes.set_xticks(range(len(mass)), list(mass), rotation=45, fontsize=8)
        axes.set_title(f"{model}: {name}", fontsize=9)
    panels[0].set_ylabel("layer")
    figure.colorbar(image, ax=list(panels), label="attention mass of the response positions")
    return save_figure(figure, path)


def _ratio_curves(results: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    figure = new_figure(11.0, 7.5)
    panels = figure.subplots(2, 2, sharex=True)
    for row, measure in zip(panels, ("ratio", "density_ratio"), strict=True):
        for axes, which in zip(row, ("first", "all"), strict=True):
            for i, (model, result) in enumerate(results.items()):
                for branch, looks in result["attention"].items():
                    axes.plot(
                        looks[which][measure],
                        _STYLES.get(branch, "-."),
                        color=f"C{i}",
                        label=f"{model}: {branch}",
                    )
            kind = "mass" if measure == "ratio" else "density"
            tokens = "first response token" if which == "first" else "all response tokens"
            axes.set_title(f"slot / (slot + instruction), {kind}, {tokens}", fontsize=9)
            axes.set_ylim(0.0, 1.0)
            axes.grid(alpha=0.3)
    for axes in panels[1]:
        axes.set_xlabel("layer")
    panels[0][0].legend(fontsize=7)
    return save_figure(figure, path)


def _file_name(model: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in model)
