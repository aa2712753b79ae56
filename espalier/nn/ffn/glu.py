"""Gated linear units (arXiv:2002.05202): SwiGLU with silu, GEGLU with gelu, ReGLU with relu."""

from collections.abc import Sequence

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from espalier.config import default
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
from espalier.nn.units import Units, hidden


class GluConfig(FfnConfig):
    """down(activation(gate(x)) * up(x))"""

    width: int | None = Field(None, ge=1)
    """hidden features; 8/3 n_embd rounded up to a multiple of 8 when left out (mlp's parameters)"""
    activation: ActivationConfig = default("silu")
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims, layer: int) -> Part:
        width = self.width or -(-dims.n_embd // 3) * 8
        return Glu(
            self.linear.build(dims.n_embd, width, dims, layer),
            self.linear.build(dims.n_embd, width, dims, layer),
            self.activation.build(width, dims, layer),
            onto_residual(self.linear.build(width, dims.n_embd, dims, layer), dims),
            dims.dropout,
        )


class Glu(Part):
    def __init__(self, gate: Part, up: Part, activation: Part, down: Part, dropout: float):
        super().__init__()
        self.gate, self.up, self.activation, self.down = gate, up, activation, down
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        x = self.activation(self.gate(x, now), now) * self.up(x, now)
        return drop(self.down(x, now), self.dropout, self.training)

    def removable(self) -> Sequence[Units]:
        return hidden(self)
