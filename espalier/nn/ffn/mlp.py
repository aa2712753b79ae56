"""Two matrices with an activation between (GPT-2); offsets shift the activation (ReaLLMASIC)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.config import Config, default
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


class Offsets(Config):
    """Where an activation stands: act(h - x0) - y0."""

    x_offset: float = 0.0
    """x0"""
    y_offset: float = 0.0
    """y0"""
    learn_offsets: bool = False
    """learn both, from there"""

    def offset(self) -> Offset | None:
        if not (self.x_offset or self.y_offset or self.learn_offsets):
            return None
        return Offset(self.x_offset, self.y_offset, learn=self.learn_offsets)


class MlpConfig(Offsets, FfnConfig):
    """down(activation(up(x) - x0) - y0)"""

    variants = ({"x_offset": 0.5, "y_offset": -0.25}, {"learn_offsets": True})

    width: int | None = Field(None, ge=1)
    """hidden features; 4 n_embd when left out"""
    activation: ActivationConfig = default("gelu")
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims, layer: int) -> Part:
        width, offset = self.width or 4 * dims.n_embd, self.offset()
        activation = self.activation.build(width, dims, layer)
        return Mlp(
            self.linear.build(dims.n_embd, width, dims, layer),
            Shifted(activation, offset) if offset else activation,
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


class Offset(Part):
    """Two numbers, fixed or learned."""

    x: Tensor
    y: Tensor

    def __init__(self, x: float, y: float, *, learn: bool):
        super().__init__()
        self.start = x, y
        for name in "xy":
            if learn:
                self.register_parameter(name, nn.Parameter(torch.empty(())))
            else:
                self.register_buffer(name, torch.empty(()))

    def reset(self) -> None:
        for tensor, value in zip((self.x, self.y), self.start, strict=True):
            nn.init.constant_(tensor, value)


class Shifted(Part):
    """activation(x - x0) - y0"""

    def __init__(self, activation: Part, offset: Offset):
        super().__init__()
        self.activation, self.offset = activation, offset

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return (self.activation(x - self.offset.x, now) - self.offset.y).to(x.dtype)
