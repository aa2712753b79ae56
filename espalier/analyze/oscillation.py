"""Do neurons with a learned sine still oscillate, where their inputs really are?

A neuron f(x) = sin(omega x + phi) tanh(x) + baseline *oscillates* when f has at least two extrema
strictly inside the range of inputs that were observed for it: it rises, falls and rises again (or
the reverse). With one extremum it is a bump, with none it is monotone, like any other activation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from espalier.analyze.moments import summary
from espalier.nn.activation.oscillating import Oscillating

FINE = 32  # points in half a period
MOST = 2**14  # points in all, and fewest:
LEAST = 256
TOGETHER = 256  # neurons looked at together
LEARNED = ("omega", "phi", "baseline")


class Range:
    """The smallest and the largest number seen by each feature."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def add(self, x: Float[Tensor, "*batch width"]) -> None:
        low, high = x.detach().flatten(0, -2).aminmax(dim=0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def ends(self) -> tuple[Tensor, Tensor]:
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high


def extrema(
    omega: Float[Tensor, " n"],
    phi: Float[Tensor, " n"],
    low: Float[Tensor, " n"],
    high: Float[Tensor, " n"],
) -> Int[Tensor, " n"]:
    """How many extrema sin(omega x + phi) tanh(x) has strictly between low and high.

    Counted as changes of the slope's sign over a grid of FINE points for each half period, so that
    two closer together than that are missed.
    """
    omega, phi, low, high = (t.double() for t in (omega, phi, low, high))
    half_periods = float((omega.abs() * (high - low)).max()) / math.pi
    points = min(MOST, max(LEAST, math.ceil(FINE * half_periods)))
    inside = (torch.arange(points, device=low.device) + 0.5) / points
    rows = torch.stack([omega, phi, low, high], 1)[..., None]
    return torch.cat([_turns(part, inside) for part in torch.split(rows, TOGETHER)])


def _turns(rows: Float[Tensor, "n 4 1"], inside: Float[Tensor, " points"]) -> Int[Tensor, " n"]:
    omega, phi, low, high = rows.unbind(1)
    x = low + (high - low) * inside
    angle, bump = omega * x + phi, torch.tanh(x)
    slope = omega * torch.cos(angle) * bump + torch.sin(angle) * (1 - bump * bump)
    rising = slope > 0
    return (rising[:, 1:] != rising[:, :-1]).sum(1)


def figures(part: Oscillating, inputs: Range) -> dict[str, Any]:
    """The learned numbers of one layer, and what they mean over the inputs it saw."""
    low, high = inputs.ends()
    count = extrema(part.omega.detach(), part.phi.detach(), low, high)
    values = {name: getattr(part, name) for name in LEARNED}
    return {
        "neurons": len(count),
        "oscillating": float((count >= 2).double().mean()),
        "bumps": float((count == 1).double().mean()),
        "monotone": float((count == 0).double().mean()),
        "extrema": float(count.double().mean()),
        "input": [float(low.min()), float(high.max())],
        **{name: summary([value]).figures() for name, value in values.items()},
    }
