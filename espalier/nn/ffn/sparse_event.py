"""Features that pass only when their gate rises above a threshold (WiggleGPT, P. C. O'Brien 2025).

a = sigmoid(gate(x)); y = activation(transform(x * g)). Published: g = sigmoid(5 (a - threshold)),
with which nothing is ever silent: at a threshold of 0.25, g is 0.22 for a = 0 and 0.98 for a = 1.
A hard gate is 1 above the threshold and 0 below, with the soft one's gradient (a straight-through
estimator, arXiv:1308.3432); what it silences, decoding does not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.config import Config, default
from espalier.errors import ConfigError
from espalier.native import gathered
from espalier.nn.linear.dense import Dense
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
from espalier.nn.units import Features, Units, columns, elementwise, hidden, rows


class Events(Config):
    """Fields of every ffn with events."""

    gate: Literal["soft", "hard"] = "soft"
    threshold: float = Field(0.25, ge=0, le=1)
    """of sigmoid(gate(x)), where it starts"""
    slope: float = Field(5.0, gt=0)
    """of the soft gate, and of the hard one's gradient"""
    learned: bool = False
    """a threshold for each feature, learned from the loss"""
    silent: float | None = Field(None, gt=0, lt=1)
    """steer one threshold for each layer to this share of silent features"""

    def event(
        self, width: int, linear: LinearConfig, activation: Part, dims: Dims, layer: int
    ) -> Event:
        if self.learned and self.silent is not None:
            raise ConfigError("ffn.learned and ffn.silent both move the threshold: choose one")
        level: Level = Level(self.threshold)
        if self.learned:
            level = Learned(self.threshold, width)
        elif self.silent is not None:
            level = Steered(self.threshold, self.slope, self.silent)
        gate, transform = (linear.build(width, width, dims, layer) for _ in range(2))
        pulse = {"soft": Soft, "hard": Hard}[self.gate](self.slope)
        return Event(gate, level, pulse, transform, activation)


class SparseEventConfig(Events, FfnConfig):
    """down(event(activation(up(x)))), event(x) = activation(transform(x * g(sigmoid(gate(x)))))"""

    variants = (
        {"gate": "hard"},
        {"learned": True},
        {"gate": "hard", "silent": 0.4},
    )

    width: int | None = Field(None, ge=1)
    """hidden features; 4 n_embd when left out"""
    activation: ActivationConfig = default("oscillating")
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims, layer: int) -> Part:
        width = self.width or 4 * dims.n_embd
        up = self.linear.build(dims.n_embd, width, dims, layer)
        first, second = (self.activation.build(width, dims, layer) for _ in range(2))
        event = self.event(width, self.linear, second, dims, layer)
        down = onto_residual(self.linear.build(width, dims.n_embd, dims, layer), dims)
        return SparseEvent(up, first, event, down, dims.dropout)


class SparseEvent(Part):
    def __init__(self, up: Part, activation: Part, event: Part, down: Part, dropout: float):
        super().__init__()
        self.up, self.activation, self.event, self.down = up, activation, event, down
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        x = self.event(self.activation(self.up(x, now), now), now)
        return drop(self.down(x, now), self.dropout, self.training)

    def removable(self) -> Sequence[Units]:
        return hidden(self)


class Event(Part):
    """activation(transform(x * g)); tells the share of features that stay below the threshold."""

    special = {"exp": 1, "divide": 1}

    def __init__(self, gate: Part, level: Level, pulse: Soft, transform: Part, activation: Part):
        super().__init__()
        self.gate, self.level, self.pulse = gate, level, pulse
        self.transform, self.activation = transform, activation

    def forward(self, x: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        rise = self.level(torch.sigmoid(self.gate(x, now)), now)
        now.tell("silent", lambda: (rise <= 0).float().mean())
        return self.activation(self.transform(x * self.pulse(rise, now).to(x.dtype), now), now)

    def features(self) -> Features:
        """Feature j is row j of both maps and number j of what is elementwise; columns hear it."""
        heard = (*columns("gate"), *columns("transform"))
        own = [*rows("gate", self.gate), *rows("transform", self.transform)]
        own += [*elementwise("level", self.level), *elementwise("activation", self.activation)]
        return Features((*own, *heard), heard)

    def settled(self) -> Part:
        if not (isinstance(self.pulse, Hard) and type(self.transform) is Dense):
            return self
        transform = Gathered.of(self.transform)
        return Event(self.gate, self.level, self.pulse, transform, self.activation)


class Soft(Part):
    """sigmoid(slope * rise)"""

    special = {"exp": 1, "divide": 1}

    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def forward(self, rise: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        return torch.sigmoid(self.slope * rise)


class Hard(Soft):
    """Exactly 1 above the threshold and 0 at or below it, with the gradient of the soft one."""

    special = {"compare": 1}
    exempt = {"bfloat16": "rounding lifts a few features over the threshold, or below it"}

    def forward(self, rise: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        passes = (rise > 0).to(rise.dtype)
        if not torch.is_grad_enabled():
            return passes
        soft = super().forward(rise, now)
        return passes + (soft - soft.detach())


class Level(Part):
    """a - threshold, the same for all features."""

    def __init__(self, start: float):
        super().__init__()
        self.start = start

    def forward(self, a: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        return a - self.start


class Learned(Level):
    """A threshold for each feature, which the loss moves as far as the gate's slope lets it."""

    per_feature = ("threshold",)

    def __init__(self, start: float, width: int):
        super().__init__(start)
        self.threshold = nn.Parameter(torch.empty(width))

    def reset(self) -> None:
        nn.init.constant_(self.threshold, self.start)

    def forward(self, a: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        return a - self.threshold


class Steered(Level):
    """One threshold, moved by an auxiliary loss (silent share - wanted)^2 and by nothing else."""

    def __init__(self, start: float, slope: float, wanted: float):
        super().__init__(start)
        self.slope, self.wanted = slope, wanted
        self.threshold = nn.Parameter(torch.empty(()))

    def reset(self) -> None:
        nn.init.constant_(self.threshold, self.start)

    def forward(self, a: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        rise = a - self.threshold.detach()
        if torch.is_grad_enabled():
            soft = torch.sigmoid(self.slope * (self.threshold - a.detach())).mean()
            share = (rise <= 0).to(soft.dtype).mean() + (soft - soft.detach())
            now.lose("silent", (share - self.wanted).square())
        return rise


class Gathered(Part):
    """A dense map whose inputs are mostly zero: reads the weights of the others alone."""

    def __init__(self, weight: Float[Tensor, "n_in n_out"], bias: Tensor | None):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = bias
        self.product = gathered.Product(self.weight.detach(), bias)

    @classmethod
    def of(cls, dense: Dense) -> Gathered:
        bias = None if dense.bias is None else dense.bias.detach()
        return cls(dense.weight.detach().t().contiguous(), bias)

    def to_dtype(self, dtype: torch.dtype) -> Gathered:
        return Gathered(self.weight.to(dtype), self.bias)

    def forward(self, x: Float[Tensor, "*batch n_in"], now: Pass) -> Float[Tensor, "*batch n_out"]:
        return self.product(x)
