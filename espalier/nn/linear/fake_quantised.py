"""A matrix product as integers would do it, for training with quantisation (arXiv:1712.05877).

Weights and activations are rounded in the forward pass and keep a straight-through gradient (the
original has none for activations and embeddings: nearly all of their gradients are zero). A range
over a whole tensor of activations would show a token the others, so there it is learned and stands
(LSQ, arXiv:1902.08153).
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.config import Config
from espalier.errors import ConfigError
from espalier.nn.rounding import Codes, Grid, Scheme, straight
from espalier.nn.slots import Dims, LinearConfig, Part
from espalier.nn.state import Pass


class WeightGrid(Config):
    """How weights are rounded."""

    bits: int = Field(8, ge=2, le=16)
    scheme: Scheme = "symmetric"
    per: Literal["tensor", "channel"] = "channel"
    """one scale, or one for each output"""


class ActivationGrid(Config):
    """How activations are rounded."""

    bits: int = Field(8, ge=2, le=16)
    scheme: Scheme = "symmetric"
    per: Literal["tensor", "token"] = "token"
    """one learned range, or each token's own"""
    range: float = Field(4.0, gt=0)
    """of per: tensor, where it starts"""


class FakeQuantisedConfig(LinearConfig):
    """q(x) q(W)^T + b; symmetric q: s round(x / s), s = max|x| / (2^(bits-1) - 1)"""

    variants = (
        {"weights": {"bits": 4, "scheme": "affine", "per": "tensor"}, "level": 0.5},
        {"activations": {"scheme": "affine"}},
        {"activations": {"per": "tensor"}},
        {"activations": None},
    )

    weights: WeightGrid = WeightGrid()
    activations: ActivationGrid | None = ActivationGrid()
    """null: not rounded"""
    level: float = Field(1.0, ge=0, le=1)
    """how far each number moves to its rounded self"""

    def build(self, n_in: int, n_out: int, dims: Dims, layer: int) -> Part:
        w, a = self.weights, self.activations
        weights = Grid(w.bits, w.scheme, w.per == "tensor", self.level)
        if a is None:
            return FakeQuantised(n_in, n_out, dims, weights, None)
        if a.per == "token":
            each = Grid(a.bits, a.scheme, level=self.level)
            return FakeQuantised(n_in, n_out, dims, weights, each)
        if a.scheme == "affine":
            raise ConfigError(
                "linear.activations.per=tensor learns one range round zero, so that "
                "scheme=affine has no meaning: take scheme=symmetric, or per=token"
            )
        return FakeQuantised(n_in, n_out, dims, weights, Range(a.bits, a.range, self.level))


class Range(Part):
    """s round(clip(x / s, -most, most)), s = range / most, most = 2^(bits-1) - 1; range learned."""

    def __init__(self, bits: int, start: float, level: float):
        super().__init__()
        self.most, self.start, self.level = 2 ** (bits - 1) - 1, start, level
        self.range = nn.Parameter(torch.empty(()))

    def reset(self) -> None:
        nn.init.constant_(self.range, self.start)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        step = self._step(x)
        inside = (x / step).clamp(-self.most, self.most)
        return torch.lerp(x, straight(inside, inside.round()) * step, self.level)

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "*batch n"]) -> Codes:
        step = self._step(x)
        return Codes((x / step).clamp(-self.most, self.most).round(), step)

    def _step(self, x: Tensor) -> Tensor:
        step: Tensor = self.range.abs().to(x.dtype) / self.most
        return step


class FakeQuantised(Part):
    rounds = True
    entangled = True

    def __init__(
        self, n_in: int, n_out: int, dims: Dims, weights: Grid, activations: Grid | Range | None
    ):
        super().__init__()
        self.std, self.weights, self.activations = dims.std, weights, activations
        if weights.level == 1:
            self.stored = {"weight": weights.bits}
        if isinstance(activations, Range):  # a range that stands: no row is looked at before
            self.special = {"round": 1, "divide": 1, "compare": 2}
        elif activations is not None:
            self.special, self.passes = {"abs": 1, "max": 1, "round": 1, "divide": 1}, 2
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out)) if dims.bias else None

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*batch n_in"], now: Pass) -> Float[Tensor, "*batch n_out"]:
        if self.activations is not None:
            x = self.activations(x)
        return F.linear(x, self.weights(self.weight), self.bias)

    def integers(self) -> Codes:
        return self.weights.codes(self.weight)

    def inputs(self, x: Float[Tensor, "*batch n_in"]) -> Codes | None:
        return None if self.activations is None else self.activations.codes(x)
