"""Piecewise-linear function with learned knots, gelu at the start (ReaLLMASIC's "pfla").

The original jumps at its first knot and walks knot by knot; this one is continuous, and finds the
segment of every number at once. Knots may be fixed, as a circuit's table of slopes would have them.
"""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.errors import ConfigError
from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class PiecewiseConfig(ActivationConfig):
    """lines between (x_i, y_i); y_1 to their left, slope 1 to their right"""

    variants = ({"learn_x": False, "points": 5},)

    points: int = Field(50, ge=2)
    low: float = -10.0
    high: float = 10.0
    """the first and last knot at the start"""
    learn_x: bool = True
    """learn where the knots stand, not only their values"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        if self.low >= self.high:
            raise ConfigError(
                f"activation.low={self.low} must be below activation.high={self.high}"
            )
        return Piecewise(self.points, self.low, self.high, self.learn_x)


class Piecewise(Part):
    special = {"compare": 6}

    def __init__(self, points: int, low: float, high: float, learn_x: bool):
        super().__init__()
        self.points, self.low, self.high = points, low, high
        # the first knot and the logarithms of the gaps between knots, so that knots stay in order
        self.first: Tensor
        self.gaps: Tensor
        if learn_x:
            self.first = nn.Parameter(torch.empty(()))
            self.gaps = nn.Parameter(torch.empty(points - 1))
        else:
            self.register_buffer("first", torch.empty(()))
            self.register_buffer("gaps", torch.empty(points - 1))
        self.y = nn.Parameter(torch.empty(points))

    def reset(self) -> None:
        nn.init.constant_(self.first, self.low)
        gap = torch.tensor((self.high - self.low) / (self.points - 1))
        nn.init.constant_(self.gaps, gap.log().item())
        with torch.no_grad():
            self.y.copy_(F.gelu(torch.linspace(self.low, self.high, self.points)))

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        gaps = self.gaps.exp()
        knots = torch.cat([self.first[None], self.first + gaps.cumsum(0)])
        at = x.to(knots.dtype)
        segment = torch.searchsorted(knots.detach(), at.detach().contiguous(), right=True) - 1
        inside = segment.clamp(0, len(gaps) - 1)
        slopes = (self.y[1:] - self.y[:-1]) / gaps
        y = self.y[inside] + (at - knots[inside]) * slopes[inside]
        y = torch.where(at < knots[0], self.y[0], y)
        return torch.where(at > knots[-1], self.y[-1] + at - knots[-1], y).to(x.dtype)
