"""How sure a mean is: the bootstrap over documents or items, and Wilson's interval for shares.

Tokens of a document are not independent, so documents are drawn whole, with replacement (a cluster
bootstrap; Efron and Tibshirani 1993, chapter 13); the interval holds the central 95 % of what comes
out. One document alone is cut into blocks, which are drawn instead.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
TOGETHER = 1 << 22  # counts drawn at once
Z = 1.959964  # of the normal distribution's central 95 %

Numbers = NDArray[np.float64]


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval; no ends where one cluster says nothing of them."""

    mean: float
    low: float | None
    high: float | None


def ratio(totals: Numbers, weights: Numbers, seed: int) -> Interval:
    """The interval of sum(totals) / sum(weights), a cluster in each place."""
    mean = float(totals.sum() / weights.sum())
    if len(totals) < 2:
        return Interval(mean, None, None)
    return Interval(mean, *_ends(resampled(totals, weights, seed)))


def difference(one: Numbers, other: Numbers, weights: Numbers, seed: int) -> Interval:
    """Of two models' ratios on the same clusters, drawn together: `one` less `other`."""
    return ratio(one - other, weights, seed)


def resampled(totals: Numbers, weights: Numbers, seed: int) -> Numbers:
    """The ratio of RESAMPLES draws of as many clusters as there are."""
    chance, count = np.random.default_rng(seed), len(totals)
    even = np.full(count, 1 / count)
    found: list[Numbers] = []
    left = RESAMPLES
    while left:
        some = min(left, max(1, TOGETHER // count))
        drawn = chance.multinomial(count, even, size=some).astype(np.float64)
        # a draw of nothing but empty clusters says nothing
        found.append((drawn @ totals) / np.maximum(drawn @ weights, np.finfo(np.float64).tiny))
        left -= some
    return np.concatenate(found)


def _ends(values: Numbers) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def mean_interval(windows: Numbers) -> dict[str, Any]:
    """Mean and 95 % interval by the central limit theorem; no interval for one window.

    Windows of one text are not independent, so the true interval is somewhat wider.
    """
    mean, count = float(windows.mean()), len(windows)
    if count < 2:
        return {"mean": mean, "low": None, "high": None, "windows": count}
    half = Z * float(windows.std(ddof=1)) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half, "windows": count}


def wilson(successes: int, count: int) -> Interval:
    """Of a share (Wilson 1927): right for few items, and where all or none succeed."""
    share, square = successes / count, Z * Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z / (1 + square / count)
    half *= math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))
