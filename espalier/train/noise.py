"""The gradient noise scale: the batch size from which larger batches stop paying.

McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1: of gradients G_small and G_big, means over
b and B tokens, both |G|^2 = (B |G_big|^2 - b |G_small|^2) / (B - b) and
S = (|G_small|^2 - |G_big|^2) / (1/b - 1/B) are unbiased estimates, of the true gradient's squared
length and of the trace of a token's covariance. Both are noisy: each is averaged over updates by
itself, and S / |G|^2 is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from espalier.train.parallel.spread import Spread

DECAY = 0.95  # of both averages, at each measured update


def estimates(small: Tensor, big: Tensor, b: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """(|G|^2, S) from the squared lengths of mean gradients over b and over B tokens."""
    return (B * big - b * small) / (B - b), (small - big) / (1 / b - 1 / B)


class Apart:
    """The micro-batches of one update, each with its gradient by itself until they are joined."""

    def __init__(self, parameters: Sequence[Tensor], spread: Spread):
        self.parameters, self.spread = parameters, spread
        self.held: list[Tensor | None] = [None] * len(parameters)
        self.lengths: list[Tensor] = []  # |g|^2 of each share
        self.tokens: list[Tensor] = []

    def add(self, targets: Tensor) -> None:
        """After the backward pass of a micro-batch with these targets (-1 = none), on all ranks."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        self.lengths.append(self.spread.square(grads))
        self.tokens.append(self.spread.ranks.sum((targets >= 0).sum()))
        for i, parameter in enumerate(self.parameters):
            grad, before = parameter.grad, self.held[i]
            if grad is not None:  # the same sums in the same order as without measuring
                self.held[i] = grad if before is None else before.add_(grad)
            parameter.grad = None

    def join(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give the parameters their summed gradients; mean |g|^2 of the parts, their tokens, all.

        A share of the effective batch's mean times (all tokens / own) is a part's mean gradient.
        Parts of unequal size count with the harmonic mean of their tokens: noise goes with 1/b.
        """
        for parameter, grad in zip(self.parameters, self.held, strict=True):
            parameter.grad = grad
        tokens = torch.stack(self.tokens).float()
        count = tokens.sum()
        own = torch.stack(self.lengths) * (count / tokens).square()
        return own.mean(), 1 / (1 / tokens).mean(), count


class NoiseScale:
    """Averages over the updates that are measured, on the device; reading waits for it.

    Its state is three numbers, saved with the run.
    """

    def __init__(self, interval: int, device: str):
        self.interval, self.calls = interval, 0
        self.averages = torch.zeros(2, device=device)  # |G|^2 and S

    def due(self) -> bool:
        """Called once an update: is this one to be measured?"""
        self.calls += 1
        return self.calls % self.interval == 0

    def take(self, small: Tensor, big: Tensor, b: Tensor, B: Tensor) -> None:
        """One measurement; not finite ones are left out, without waiting for the device."""
        found = torch.stack(estimates(small, big, b, B))
        mixed = DECAY * self.averages + (1 - DECAY) * found
        self.averages = torch.where(found.isfinite().all(), mixed, self.averages)

    def read(self) -> float | None:
        """S / |G|^2 in tokens; None before the first measurement, or while noise hides either."""
        length, trace = self.averages.tolist()
        return trace / length if length > 0 and trace > 0 else None

    def state(self) -> dict[str, Any]:
        return {"calls": self.calls, "averages": self.averages.tolist()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.calls = state["calls"]
        self.averages.copy_(torch.tensor(state["averages"]))
