"""Scored runs on disk, and the settings they were made with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config import NEUTRAL, Tagged, decode_tree

#: Settings that tell runs apart without being what is compared.
OWN = ("seed", "work", "exp", "quick", "num_workers", "log_every", "expected")


class MergeError(ValueError):
    """Runs that cannot stand in one table."""


@dataclass
class Run:
    """One seed of one setting.

    Attributes
    ----------
    folder : Path
        ``<work>/exp/<corpus>/<method>[_tag]/seed<k>``.
    scores : dict
        Its ``scores.json``.
    settings : dict of str to str
        Dotted key to value, without `OWN`.
    """

    folder: Path
    scores: dict[str, Any]
    settings: dict[str, str]

    @property
    def name(self) -> str:
        """``corpus/method[_tag]``."""
        return "/".join(self.folder.parts[-3:-1])


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """All scored runs in some folders, however deep.

    Parameters
    ----------
    folders : iterable of path
        Runs, experiments, or whole trees of them.

    Returns
    -------
    list of Run
        In the order of the folders, each once.

    Raises
    ------
    MergeError
        For a folder without scores.
    """
    runs: dict[Path, Run] = {}
    for folder in folders:
        own = Path(folder) / "scores.json"
        files = [own] if own.exists() else sorted(Path(folder).rglob("seed*/scores.json"))
        if not files:
            raise MergeError(f"{folder}: no scores.json in it; run stages 8 and 9 first")
        for file in files:
            place = file.parent.resolve()
            scores = json.loads(file.read_text(encoding="utf-8"))
            runs.setdefault(place, Run(file.parent, scores, _settings(file.parent)))
    return list(runs.values())


def _settings(folder: Path) -> dict[str, str]:
    """Settings of a run, with its own folders named as such; overrides where that is all there is.

    Runs of one setting have equal settings wherever their folders lie.
    """
    path = folder / "provenance" / "settings.json"
    if path.exists():
        tree = decode_tree(json.loads(path.read_text(encoding="utf-8")))
        places = [(str(tree[key]), f"<{key}>") for key in ("exp", "work") if key in tree]
        flat = dict(_flat("", {k: v for k, v in tree.items() if k not in OWN}))
        _overlay_marks(flat, folder)
        for place, name in places:
            flat = {key: value.replace(place, name) for key, value in flat.items()}
        return flat
    path = folder / "provenance" / "environment.json"
    overrides = json.loads(path.read_text())["overrides"] if path.exists() else []
    pairs = [text.lstrip("-+").partition("=") for text in overrides]
    return {key: value for key, _, value in pairs if key not in OWN}


def _overlay_marks(flat: dict[str, str], folder: Path) -> None:
    """Put what the finished stages were made with over the settings of the last command.

    ``provenance/settings.json`` is written by every command on the folder, also by one that asks
    for the report alone, or is refused.
    """
    marks = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder / "marks").glob("*.json"))
    ]
    # Where two stages read one key, the later one tells what the results were made with.
    for mark in sorted(marks, key=lambda mark: mark["finished"]):
        for key, value in decode_tree(mark["settings"]).items():
            if key in OWN:
                continue
            for name in [n for n in flat if n == key or n.startswith(f"{key}.")]:
                # Marks leave these out, so that of them only the last command is known.
                if not NEUTRAL.intersection(name.split(".")):
                    del flat[name]
            if value is not None:
                flat.update(_flat(key, value))
        steps = mark["facts"].get("optimizer_steps")
        name = f"phases.{mark['stage']}.optimizer_steps"
        if steps is not None and name in flat:
            flat[name] = str(steps)


def _flat(path: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, Tagged):
        # An attribute of another block follows from that block, which has settings of its own.
        if value.tag == "!apply:getattr":
            return
        if value.tag.startswith("!new:"):
            yield path, value.tag.rpartition(".")[2]
        if isinstance(value.value, dict | list):
            yield from _flat(path, value.value)
        elif not value.tag.startswith("!new:"):
            yield path, f"{value.tag} {value.value}"
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), part)
    elif isinstance(value, list) and any(isinstance(part, Tagged | dict) for part in value):
        for i, part in enumerate(value):
            yield from _flat(f"{path}.{i}", part)
    else:
        yield path, json.dumps(value, ensure_ascii=False, default=str).strip('"')
