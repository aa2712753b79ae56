"""Two paths from one hidden layer, for what is above zero and for what is below (ReaLLMASIC).

Both ways down follow `model.bias`; the original's never have one.
"""

from __future__ import annotations

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from espalier.config import default
from espalier.nn.ffn.mlp import Offset, Offsets
from espalier.nn.slots import (
    ActivationConfig,
    Dims,
    FfnConfig,
    LinearConfig,
    Part,
    drop,
    onto_residual,
)
from espalier.nn.state import Pass


class DualPathConfig(Offsets, FfnConfig):
    """h = up(x); above(act(h - x0) - y0) + below(-act(-(h + x0)) - y0)"""

    variants = ({"x_offset": 0.5, "learn_offsets": True}, {"activation": "relu"})

    width: int | None = Field(None, ge=1)
    """hidden features; 8/3 n_embd rounded up to a multiple of 8 when left out (mlp's parameters)"""
    activation: ActivationConfig = default("gelu")
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims, layer: int) -> Part:
        width, d = self.width or -(-dims.n_embd // 3) * 8, dims.n_embd
        ways = [self.linear.build(width, d, dims, layer) for _ in range(2)]
        return DualPath(
            self.linear.build(d, width, dims, layer),
            self.activation.build(width, dims, layer),
            (onto_residual(ways[0], dims), onto_residual(ways[1], dims)),
            self.offset() or Offset(0.0, 0.0, learn=False),
            dims.dropout,
        )


class DualPath(Part):
    """`ways` lead down from what is above zero, and from what is below."""

    def __init__(
        self, up: Part, activation: Part, ways: tuple[Part, Part], offset: Offset, dropout: float
    ):
        super().__init__()
        self.up, self.activation, self.offset = up, activation, offset
        self.above, self.below = ways
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        h, x0, y0 = self.up(x, now), self.offset.x, self.offset.y
        y = self.above(self.activation(h - x0, now) - y0, now)
        y = y + self.below(-self.activation(-(h + x0), now) - y0, now)
        return drop(y, self.dropout, self.training)
