"""Done-marks: which stage finished with which settings."""

from __future__ import annotations

import json
import os
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from toolkit.config import NEUTRAL, decode_tree, diff_trees, encode_tree, map_tree


class StageChanged(Exception):
    """A finished stage's settings changed; the message lists the difference and the ways out."""


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically.

    Parameters
    ----------
    path : Path
    data : JSON-able
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n")
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Parameters
    ----------
    path : Path

    Returns
    -------
    nested data
    """
    return json.loads(path.read_text(encoding="utf-8"))


def settings(tree: Any) -> Any:
    """A config subtree without the keys that change nothing about the outcome.

    Parameters
    ----------
    tree : nested dict, list, Tagged or scalar

    Returns
    -------
    nested data

    Example
    -------
    >>> settings({"lr": 0.1, "num_workers": 4})
    {'lr': 0.1}
    """

    def without_neutral(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        return {key: value for key, value in part.items() if key not in NEUTRAL}

    return map_tree(tree, without_neutral)


class Marks:
    """Done-marks of one run, ``<exp>/marks/<stage>.json``.

    Parameters
    ----------
    folder : Path
        The run's folder.

    Example
    -------
    >>> import tempfile
    >>> marks = Marks(Path(tempfile.mkdtemp()))
    >>> marks.finish("teach", {"prompt": "a"}, {}, {"rows": 3}, seconds=1.0)
    >>> marks.status("teach", {"prompt": "a"}, {})
    'done'
    >>> marks.changes("teach", {"prompt": "b"}, {})
    ['prompt: a -> b']

    A mark of before a key or a stage was in the stage table says nothing about it:

    >>> marks.changes("teach", {"prompt": "a", "llm": "b"}, {"prepare": "1f"})
    []
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "marks"

    def path(self, name: str) -> Path:
        """File of a stage's mark."""
        return self.folder / f"{name}.json"

    def read(self, name: str) -> dict | None:
        """A stage's mark, or None."""
        path = self.path(name)
        return read_json(path) if path.exists() else None

    def digest(self, name: str) -> str:
        """Short hash of what a finished stage was made from; empty if it has not run."""
        mark = self.read(name)
        if mark is None:
            return ""
        # The number of steps may grow without another run, yet the weights are others then.
        steps = mark["facts"].get("optimizer_steps")
        text = json.dumps([mark["settings"], mark["inputs"], steps], sort_keys=True, default=str)
        return sha256(text.encode()).hexdigest()[:12]

    def status(self, name: str, settings: dict, inputs: dict) -> str:
        """``new``, ``done`` or ``changed``."""
        if self.read(name) is None:
            return "new"
        return "changed" if self.changes(name, settings, inputs) else "done"

    def changes(self, name: str, settings: dict, inputs: dict) -> list[str]:
        """What differs from the finished stage, as readable lines."""
        mark = self.read(name)
        if mark is None:
            return []
        known = decode_tree(mark["settings"])
        lines = diff_trees(known, {key: settings[key] for key in settings if key in known})
        for stage in inputs:
            if mark["inputs"].get(stage, inputs[stage]) != inputs[stage]:
                lines.append(f"stage {stage} was run again with other settings")
        return lines

    def finish(self, name: str, settings: dict, inputs: dict, facts: dict, seconds: float) -> None:
        """Mark a stage as done."""
        write_json(
            self.path(name),
            {
                "stage": name,
                "settings": encode_tree(settings),
                "inputs": inputs,
                "facts": facts,
                "seconds": round(seconds, 1),
                "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
            },
        )

    def remove(self, name: str) -> None:
        """Forget that a stage has run."""
        self.path(name).unlink(missing_ok=True)
