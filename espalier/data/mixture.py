"""Several corpora read as one: whose window comes next is a pure function of (seed, index).

A window's place in its own corpus is the number of earlier windows of that corpus, so that each is
read in the order it would have alone, every window once an epoch. Where a run goes on, the earlier
choices are counted again, some ten million a second: nothing has to be stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from espalier.data.loader import ordered, pairs, seen
from espalier.data.order import mixed
from espalier.data.tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor

    from espalier.data.sights import Seen

Ints = NDArray[np.int64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
AT_ONCE = 1 << 20


class Shares(NamedTuple):
    """Weights of the corpora, and the windows between which they go in a straight line."""

    first: Sequence[float]
    last: Sequence[float]
    begin: int = 0
    end: int = 0

    def edges(self, indices: Ints) -> NDArray[np.float64]:
        """[corpora, len(indices)]: where each corpus' part of the unit interval ends."""
        span = max(1, self.end - self.begin)
        late = np.clip((indices - self.begin) / span, 0.0, 1.0) if self.end else 0.0 * indices
        first, last = (np.array(w, np.float64)[:, None] for w in (self.first, self.last))
        weights = first / first.sum() * (1 - late) + last / last.sum() * late
        return np.cumsum(weights, 0)


class Mixture:
    """Windows of several corpora; `mixing` is "drawn" (at random) or "even" (dealt out)."""

    def __init__(
        self, corpora: Sequence[Tokens], block_size: int, seed: int, shares: Shares, mixing: str
    ):
        self.corpora, self.block_size = tuple(corpora), block_size
        self.shares, self.mixing = shares, mixing
        # the first is read as it would be alone; the same corpus twice is read in two orders
        self.orders = [ordered(t, block_size, seed + k) for k, t in enumerate(self.corpora)]
        digest = hashlib.sha256(f"{seed}/mixture".encode()).digest()
        self._key = int.from_bytes(digest[:8], "little")
        self._at, self._counts = 0, np.zeros(len(self.corpora), np.int64)

    def sources(self, indices: Ints) -> Ints:
        """The corpus of each global window index."""
        words = indices.astype(np.uint64)
        if self.mixing == "even":
            # multiples of the golden ratio: of any run of them, each part gets its share closely
            words = words * GOLDEN + np.uint64(self._key)
        else:
            words = mixed(words, self._key)
        places = (words >> np.uint64(11)).astype(np.float64) / 2.0**53
        edges = self.shares.edges(indices)
        found: Ints = (places >= edges[:-1]).sum(0).astype(np.int64)
        return found

    def run(self, first: int, rows: int) -> tuple[Ints, Ints]:
        """Corpora and starts in them of the windows first .. first+rows-1."""
        self._count_to(first)
        sources = self.sources(np.arange(first, first + rows))
        starts = np.empty(rows, np.int64)
        for k, order in enumerate(self.orders):
            mine = np.flatnonzero(sources == k)
            if len(mine):
                starts[mine] = order.run(int(self._counts[k]), len(mine))
        return sources, starts

    def batch(self, first: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs and targets, int64 [rows, block_size], and the corpus of each row [rows]."""
        import torch

        sources, starts = self.run(first, rows)
        inputs, targets = (torch.empty(rows, self.block_size, dtype=torch.int64) for _ in range(2))
        for k, tokens in enumerate(self.corpora):
            mine = np.flatnonzero(sources == k)
            if len(mine):
                there = torch.from_numpy(mine)
                inputs[there], targets[there] = pairs(tokens, starts[mine], self.block_size)
        return inputs, targets, torch.from_numpy(sources)

    def seen(self, first: int, rows: int) -> tuple[Seen, Tensor]:
        """As `batch`, with images."""
        import torch

        from espalier.data.sights import joined

        sources, starts = self.run(first, rows)
        places = [np.flatnonzero(sources == k) for k in range(len(self.corpora))]
        parts = [
            (mine, seen(tokens, starts[mine], self.block_size))
            for tokens, mine in zip(self.corpora, places, strict=True)
            if len(mine)
        ]
        return joined(parts), torch.from_numpy(sources)

    def _count_to(self, first: int) -> None:
        """Windows of each corpus before `first`."""
        if first < self._at:
            self._at, self._counts = 0, np.zeros_like(self._counts)
        while self._at < first:
            until = min(first, self._at + AT_ONCE)
            sources = self.sources(np.arange(self._at, until))
            self._counts = self._counts + np.bincount(sources, minlength=len(self._counts))
            self._at = until
