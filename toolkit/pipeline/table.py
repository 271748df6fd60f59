"""The stage table: one for all recipes, numbers never shift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolkit.config import Tagged

if TYPE_CHECKING:
    from toolkit.config import Config
    from toolkit.pipeline.context import RunContext


@dataclass(frozen=True)
class Stage:
    """A numbered step of every recipe.

    Attributes
    ----------
    number : int
    name : str
    summary : str
        One line for ``--help`` and ``--dry-run``.
    keys : tuple of str
        Dotted YAML keys the stage reads; its done-mark hashes these and nothing else. A ``?`` in
        front marks the key that switches the stage on: without it in the YAML the stage is skipped.
    after : tuple of str
        Stages whose marks are inputs of this one; see `inputs`.
    always : bool
        Runs each time it is asked for (checks and reports are cheap and must be current).
    follows : bool
        Runs again by itself when a stage of ``after`` was: what it makes can be made any time.
    makes : tuple of str, optional
        What it leaves in the run's folder, where another run with the same settings may take that
        over (``--reuse``); None for what is each run's own.
    """

    number: int
    name: str
    summary: str
    keys: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    always: bool = False
    follows: bool = False
    makes: tuple[str, ...] | None = None

    @property
    def switches(self) -> tuple[str, ...]:
        """Keys that must be declared for the stage to run."""
        return tuple(key[1:] for key in self.keys if key.startswith("?"))

    @property
    def hashed_keys(self) -> tuple[str, ...]:
        """Keys that the done-mark hashes."""
        return tuple(key.lstrip("?") for key in self.keys)

    def inputs(self, config: Config) -> tuple[str, ...]:
        """Stages whose marks are inputs of this one in a recipe.

        Those of ``after``; and ``annotate``, where a phase aims at what annotators may have found
        out about a row (`reads_annotations`).

        Parameters
        ----------
        config : Config

        Returns
        -------
        tuple of str
        """
        phase = config.select(f"phases.{self.name}")
        if "annotate" in self.after or phase is None:
            return self.after
        sets = (config.select(f"sets.{name}") for name in named_sets(phase))
        found_out = any(map(reads_annotations, sets))
        return (*self.after, "annotate") if found_out else self.after

    def is_off(self, config: Config) -> bool:
        """Whether a recipe does not declare the stage, or switches it off."""
        return any(config.select(key) in (None, False, "off") for key in self.switches)

    def function(self) -> Callable[[RunContext], dict]:
        """The stage's code, imported only when it runs; returns facts for its done-mark."""
        return import_module(f"toolkit.pipeline.stages.{self.name}").run


def named_sets(phase: Any) -> list[str]:
    """Names of the sets that a phase trains and validates on.

    Parameters
    ----------
    phase : Tagged or dict
        Its block.

    Returns
    -------
    list of str
        Each once.

    Example
    -------
    >>> named_sets({"data": {"a": 1.0}, "validation": ["b", "a"]})
    ['a', 'b']
    """
    block = phase.value if isinstance(phase, Tagged) else phase
    return list(dict.fromkeys([*(block.get("data") or ()), *(block.get("validation") or ())]))


def reads_annotations(block: Any) -> bool:
    """Whether a set aims at something that annotators may have found out, by its settings.

    Parameters
    ----------
    block : Tagged, dict or None
        One of ``sets``: it ``describe``s rows, or takes a transcript by a recogniser or an
        attribute as its ``target``.

    Returns
    -------
    bool

    Example
    -------
    >>> reads_annotations({"target": "attributes.gender"}), reads_annotations({"target": "text"})
    (True, False)
    """
    given = block.value if isinstance(block, Tagged) else block
    if not isinstance(given, dict):
        return False
    target = str(given.get("target", "")).partition(".")[0]
    return given.get("describe") is not None or target in ("asr_text", "attributes")


STAGES = (
    Stage(
        0,
        "check",
        "versions, disk, memory, devices, missing models, what the run will cost",
        always=True,
    ),
    Stage(1, "download", "weights, pinned and checksummed; later stages work offline", always=True),
    Stage(2, "prepare", "raw corpus -> manifests and a data report", ("?corpora",), makes=()),
    Stage(3, "annotate", "word times and transcripts", ("?annotate",), ("prepare",), makes=()),
    Stage(
        4,
        "teach",
        "the text LLM writes the targets; text topline per task",
        ("?teacher", "prompt", "llm"),
        ("prepare", "annotate"),
        makes=("targets.jsonl", "topline.json"),
    ),
    Stage(
        5,
        "cache",
        "frozen-encoder features",
        ("?cache", "encoder", "sets", "decode.sets"),
        ("prepare",),
        makes=(),
    ),
    Stage(
        6,
        "pretrain",
        "first phase, where a method has one",
        ("?phases.pretrain", "encoder", "projector", "llm", "sets", "seed"),
        ("prepare",),
        makes=("pretrain",),
    ),
    Stage(
        7,
        "train",
        "main phase",
        ("?phases.train", "encoder", "projector", "interleaver", "prompt", "llm", "sets", "seed"),
        ("prepare", "annotate", "teach", "pretrain"),
        makes=("train",),
    ),
    Stage(
        8,
        "decode",
        "generation for every test set, task and control input",
        ("?decode", "prompt", "interleaver"),
        ("annotate", "pretrain", "train"),
        follows=True,
    ),
    Stage(
        9, "score", "metrics with controls and intervals", ("?score",), ("decode",), follows=True
    ),
    Stage(10, "report", "tables, curves, RESULTS.md", always=True),
    Stage(
        11,
        "export",
        "one folder that SpeechLLM.from_pretrained loads",
        ("?export",),
        ("train", "pretrain"),
        follows=True,
    ),
)

BY_NAME = {stage.name: stage for stage in STAGES}


def find_stage(text: str) -> Stage:
    """A stage by number or name.

    Parameters
    ----------
    text : str
        ``"7"`` or ``"train"``.

    Returns
    -------
    Stage

    Raises
    ------
    ValueError
        Naming all stages.

    Example
    -------
    >>> find_stage("7").name, find_stage("train").number
    ('train', 7)
    """
    if text in BY_NAME:
        return BY_NAME[text]
    if text.isdigit() and int(text) < len(STAGES):
        return STAGES[int(text)]
    known = ", ".join(f"{s.number} {s.name}" for s in STAGES)
    raise ValueError(f"no stage {text!r}; stages are: {known}")
