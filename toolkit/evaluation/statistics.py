"""Bootstrap intervals and paired tests over what was drawn: recordings, not questions on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

Statistic = Callable[[np.ndarray], np.ndarray]


def ratio(values: np.ndarray) -> np.ndarray:
    """Total numerator over total denominator: word error rates and perplexities are such ratios.

    Parameters
    ----------
    values : ndarray (..., n, 2)
        Numerator and denominator per item.

    Returns
    -------
    ndarray (...)
    """
    totals = values.sum(axis=-2)
    return totals[..., 0] / np.maximum(totals[..., 1], 1e-12)


def by_unit(units: Iterable[str], pairs: Iterable[ArrayLike]) -> list[np.ndarray]:
    """Numerators and denominators summed over the items of each unit.

    Several questions on one recording rise and fall together: resampled one by one they give
    intervals that are too narrow. Ratios of the sums are those of the items.

    Parameters
    ----------
    units : iterable of str
        What each item is of, such as its recording.
    pairs : iterable of array_like (..., 2)
        One per item.

    Returns
    -------
    list of ndarray (..., 2)
        One per unit, sorted by unit: the same for two systems whatever the order of their items.

    Example
    -------
    >>> [pair.tolist() for pair in by_unit(["u2", "u1", "u2"], [(1, 4), (0, 4), (1, 2)])]
    [[0.0, 4.0], [2.0, 6.0]]
    """
    totals: dict[str, np.ndarray] = {}
    for unit, pair in zip(units, pairs, strict=True):
        totals[unit] = totals.get(unit, 0.0) + np.asarray(pair, dtype=float)
    return [totals[unit] for unit in sorted(totals)]


def bootstrap(
    values: Sequence[Sequence[float]],
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    statistic: Statistic = ratio,
) -> tuple[float, float, float]:
    """A statistic with its percentile bootstrap interval over units.

    Parameters
    ----------
    values : sequence of sequence of float
        Per unit, what the statistic reads: (numerator, denominator) for a ratio.
    resamples : int
    confidence : float
    seed : int
    statistic : callable
        ndarray (..., n, k) -> ndarray (...).

    Returns
    -------
    float, float, float
        Value, low, high.

    Example
    -------
    >>> value, low, high = bootstrap([(1, 4), (0, 4), (1, 4)])
    >>> round(value, 3), low <= value <= high
    (0.167, True)
    """
    array = np.asarray(values, dtype=float)
    chosen = np.random.default_rng(seed).integers(0, len(array), (resamples, len(array)))
    drawn = statistic(array[chosen])
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(statistic(array)), float(low), float(high)


def paired_bootstrap(
    left: Sequence[Sequence[float]],
    right: Sequence[Sequence[float]],
    resamples: int = 1000,
    seed: int = 0,
    statistic: Statistic = ratio,
) -> tuple[float, float]:
    """Difference of two systems on the same items, and how often resampling reverses it.

    Parameters
    ----------
    left, right : sequence of sequence of float
        Same items in the same order, as for `bootstrap`.
    resamples : int
    seed : int
    statistic : callable
        ndarray (..., n, k) -> ndarray (...).

    Returns
    -------
    float
        Statistic of ``left`` minus statistic of ``right``.
    float
        Two-sided p: twice the share of resamples on the other side of zero, at least 1 / resamples.

    Raises
    ------
    ValueError
        When the numbers of items differ.
    """
    a, b = np.asarray(left, dtype=float), np.asarray(right, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired test on {len(a)} and {len(b)} items: they must be the same items")
    chosen = np.random.default_rng(seed).integers(0, len(a), (resamples, len(a)))
    differences = statistic(a[chosen]) - statistic(b[chosen])
    observed = float(statistic(a) - statistic(b))
    other_side = np.mean(differences <= 0 if observed > 0 else differences >= 0)
    return observed, float(min(1.0, max(2 * other_side, 1 / resamples)))
