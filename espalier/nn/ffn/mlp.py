"""Two matrices with an activation between (GPT-2)."""

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


class MlpConfig(FfnConfig):
    """down(activation(up(x)))"""

    width: int | None = Field(None, ge=1)
    """hidden features; 4 n_embd when left out"""
    activation: ActivationConfig = default("gelu")
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims, layer: int) -> Part:
        width = self.width or 4 * dims.n_embd
        return Mlp(
            self.linear.build(dims.n_embd, width, dims, layer),
            self.activation.build(width, dims, layer),
            onto_residual(self.linear.build(width, dims.n_embd, dims, layer), dims),
            dims.dropout,
        )


class Mlp(Part):
    def __init__(self, up: Part, activation: Part, down: Part, dropout: float):
        super().__init__()
        self.up, self.activation, self.down, self.dropout = up, activation, down, dropout

    def forward(self, x: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        x = self.down(self.activation(self.up(x, now), now), now)
        return drop(x, self.dropout, self.training)

    def removable(self) -> Sequence[Units]:
        return hidden(self)
