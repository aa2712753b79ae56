"""Mean, deviation, excess kurtosis, extremes and histogram of numbers that come in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BINS = 64  # on each side of zero
PIECE = 2**22  # numbers looked at together: fp64 copies of a large vocabulary's logits are large


@dataclass(frozen=True)
class Moments:
    """Of `count` finite numbers: mean, and sums of powers of what they differ from it, in fp64.

    Two add up to those of all numbers together (Pebay, SAND2008-6212), so that no pivot is needed
    and nothing cancels.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    zeros: int = 0
    """exactly zero"""
    strange: int = 0
    """NaN or infinite; not among `count`"""

    @classmethod
    def of(cls, tensor: Tensor) -> Moments:
        x = tensor.detach().flatten()
        x = x.float() if x.device.type == "mps" else x.double()
        strange = int((~x.isfinite()).sum())
        x = x[x.isfinite()] if strange else x
        if not len(x):
            return cls(strange=strange)
        mean = x.mean()
        off = x - mean
        square = off * off
        low, high = x.aminmax()
        return cls(
            count=len(x),
            mean=float(mean),
            m2=float(square.sum()),
            m3=float((square * off).sum()),
            m4=float((square * square).sum()),
            low=float(low),
            high=float(high),
            zeros=int((x == 0).sum()),
            strange=strange,
        )

    def __add__(self, other: Moments) -> Moments:
        a, b, n = self.count, other.count, self.count + other.count
        zeros, strange = self.zeros + other.zeros, self.strange + other.strange
        if not (a and b):
            full = self if a else other
            return Moments(
                n, full.mean, full.m2, full.m3, full.m4, full.low, full.high, zeros, strange
            )
        d = other.mean - self.mean
        m2 = self.m2 + other.m2 + d**2 * a * b / n
        m3 = self.m3 + other.m3 + d**3 * a * b * (a - b) / n**2
        m3 += 3 * d * (a * other.m2 - b * self.m2) / n
        m4 = self.m4 + other.m4 + d**4 * a * b * (a * a - a * b + b * b) / n**3
        m4 += 6 * d**2 * (a * a * other.m2 + b * b * self.m2) / n**2
        m4 += 4 * d * (a * other.m3 - b * self.m3) / n
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Moments(n, self.mean + d * b / n, m2, m3, m4, low, high, zeros, strange)

    @property
    def deviation(self) -> float:
        """The standard deviation of these very numbers (divided by n)."""
        return math.sqrt(self.m2 / self.count) if self.count else math.nan

    @property
    def excess_kurtosis(self) -> float:
        """m4 / m2^2 - 3: 0 for a normal distribution, -2 for a fair coin; NaN without spread."""
        return self.count * self.m4 / self.m2**2 - 3 if self.m2 > 0 else math.nan

    def figures(self) -> dict[str, Any]:
        """As tables and results/*.json hold them."""
        return {
            "count": self.count,
            "mean": self.mean if self.count else math.nan,
            "deviation": self.deviation,
            "excess_kurtosis": self.excess_kurtosis,
            "min": self.low if self.count else math.nan,
            "max": self.high if self.count else math.nan,
            "zeros": self.zeros / self.count if self.count else math.nan,
            "not_finite": self.strange,
        }


class Histogram:
    """Counts in equal bins round zero; the range doubles when a number lies outside.

    Doubling joins bins in pairs, so every count stays exact. Bin i holds the numbers from
    (i - BINS) * width on, below the next bin's.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(2 * BINS, dtype=torch.long)
        self.reach: float | None = None  # half the range, a power of two

    @property
    def width(self) -> float:
        return (self.reach or 1.0) / BINS

    def add(self, tensor: Tensor) -> None:
        x = tensor.detach().flatten().float()
        x = x[x.isfinite()]
        if not len(x):
            return
        largest = float(x.abs().max())
        wanted = math.ldexp(1.0, math.frexp(largest)[1]) if largest else 2.0**-20
        if self.reach is None:
            self.reach = wanted
        while self.reach < wanted:
            self._double()
        bins = torch.floor(x / self.width).long().add_(BINS)
        self.counts += torch.bincount(bins, minlength=2 * BINS).cpu()

    def _double(self) -> None:
        assert self.reach is not None
        self.reach *= 2
        pairs = self.counts.view(BINS, 2).sum(1)
        self.counts = torch.zeros_like(self.counts)
        self.counts[BINS // 2 : BINS // 2 + BINS] = pairs

    def figures(self) -> dict[str, Any]:
        """Edges of the bins that are used, and their counts."""
        used = self.counts.nonzero().flatten().tolist()
        if not used:
            return {"edges": [], "counts": []}
        first, last = used[0], used[-1] + 1
        edges = [(i - BINS) * self.width for i in range(first, last + 1)]
        return {"edges": edges, "counts": self.counts[first:last].tolist()}


class Summary:
    """Moments and histogram of one place."""

    def __init__(self) -> None:
        self.moments, self.histogram = Moments(), Histogram()

    def add(self, tensor: Tensor) -> None:
        for piece in torch.split(tensor.detach().flatten(), PIECE):
            self.moments = self.moments + Moments.of(piece)
            self.histogram.add(piece)

    def figures(self) -> dict[str, Any]:
        return {**self.moments.figures(), "histogram": self.histogram.figures()}


def summary(tensors: Iterable[Tensor]) -> Summary:
    found = Summary()
    for tensor in tensors:
        found.add(tensor)
    return found
