"""Cubic Hermite spline with learned values and slopes at its knots, gelu at the start.

The original's pieces do not meet, and it ignores how many knots it is told to have (ReaLLMASIC's
"learned_spline"); these share a value and a slope at every knot.
"""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.errors import ConfigError
from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class SplineConfig(ActivationConfig):
    """a cubic between each two knots; the end slopes carry on outside"""

    points: int = Field(16, ge=2)
    low: float = -4.0
    high: float = 4.0
    """the first and last of evenly spaced knots"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        if self.low >= self.high:
            raise ConfigError(
                f"activation.low={self.low} must be below activation.high={self.high}"
            )
        return Spline(self.points, self.low, self.high)


class Spline(Part):
    special = {"floor": 1}

    def __init__(self, points: int, low: float, high: float):
        super().__init__()
        self.low, self.high, self.gap = low, high, (high - low) / (points - 1)
        self.y, self.slope = (nn.Parameter(torch.empty(points)) for _ in range(2))

    def reset(self) -> None:
        with torch.enable_grad():
            knots = torch.linspace(self.low, self.high, len(self.y)).requires_grad_()
            y = F.gelu(knots)
            (slope,) = torch.autograd.grad(y.sum(), knots)
        self.y.copy_(y.detach())
        self.slope.copy_(slope)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        at = x.to(self.y.dtype)
        inner = at.clamp(self.low, self.high)
        place = (inner - self.low) / self.gap
        left = place.detach().floor().long().clamp(0, len(self.y) - 2)
        t, right = place - left, left + 1
        value = (1 + 2 * t) * (1 - t).square() * self.y[left] + t * t * (3 - 2 * t) * self.y[right]
        bend = t * (1 - t).square() * self.slope[left] + t * t * (t - 1) * self.slope[right]
        outside = (at - self.high).clamp(min=0) * self.slope[-1]
        outside = outside + (at - self.low).clamp(max=0) * self.slope[0]
        return (value + self.gap * bend + outside).to(x.dtype)
