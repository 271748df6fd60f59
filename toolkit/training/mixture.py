"""The training data of a phase: its sets under one numbering, in the order they are visited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from toolkit.data.batching import WindowSampler
from toolkit.data.collate import Collator
from toolkit.data.example import Example
from toolkit.training.distributed import Ranks
from toolkit.training.loader import example_costs
from toolkit.training.phase import Phase


@dataclass
class Mixture:
    """What `mix` makes of a phase's sets.

    Attributes
    ----------
    examples : list of Example
        Of all sets, one behind the other, each with the name of its set.
    costs : ndarray (n, 2), float64
        See `toolkit.training.loader.example_costs`.
    sampler : WindowSampler
        Numbers the examples as ``examples`` does.
    """

    examples: list[Example]
    costs: np.ndarray
    sampler: WindowSampler


def mix(
    sets: Mapping[str, list[Example]],
    phase: Phase,
    model: Any,
    collator: Collator,
    seed: int,
    ranks: Ranks,
) -> Mixture:
    """Put the sets that a phase trains on together.

    Parameters
    ----------
    sets : mapping of str to list of Example
        By name; those that the phase does not name are left out.
    phase : Phase
    model : object
        For the costs of examples.
    collator : Collator
    seed : int
    ranks : Ranks
        Windows are shared among them.

    Returns
    -------
    Mixture

    Raises
    ------
    ValueError
        When a set that the phase names is not given.
    """
    missing = [name for name in phase.data if name not in sets]
    if missing:
        raise ValueError(f"phase: data names {missing}, given are {sorted(sets)}")
    examples = [replace(example, set_name=name) for name in phase.data for example in sets[name]]
    costs = example_costs(model, collator, examples)
    by_set, first = {}, 0
    for name in phase.data:
        by_set[name] = costs[first : first + len(sets[name])]
        first += len(sets[name])
    keys = [example.fields.get("instruction", "") for example in examples]
    sampler = WindowSampler(
        by_set,
        phase.data,
        phase.budget(),
        phase.accumulation,
        seed,
        ranks.rank,
        ranks.world,
        keys if phase.group_by_instruction else None,
    )
    return Mixture(examples, costs, sampler)
