"""Neurons with dendrites (WiggleGPT, P. C. O'Brien 2025): compartments, coupled, then a soma.

Each compartment k sees its own slice of the input, u_k = tanh(W_k x_k); lateral coupling adds
v_l = sum_k L[k, l] u_k, from source k to target l; the soma reads both. Unless coupling is
non-linear, W [u, v] is one linear map of u, sum_k (W_k + sum_l L[k, l] W'_l) u_k: half of the
soma and all of L parametrise anew what the other half can say already.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.config import Config, default
from espalier.errors import ConfigError
from espalier.nn.ffn.mlp import Mlp
from espalier.nn.linear.dense import Dense
from espalier.nn.slots import (
    ActivationConfig,
    Dims,
    FfnConfig,
    LinearConfig,
    Part,
    fused,
    onto_residual,
)
from espalier.nn.state import Pass
from espalier.nn.units import Features, Place, rows

Lateral = Literal["dense", "ring", "off", "nonlinear"]
FOLD = 128  # rows from which folding L into the soma surely pays (benchmarks/dendrites.py)


class Dendrites(Config):
    """Fields of every ffn whose first map has dendrites."""

    compartments: int = Field(2, ge=1)
    """slices of the input, each with its own map; zeros fill up the last"""
    lateral: Lateral = "dense"
    """ring: neighbours alone; nonlinear: v = tanh(...), which a soma cannot take over"""

    def dendritic(self, width: int, dims: Dims) -> Dendritic:
        if self.compartments > dims.n_embd:
            raise ConfigError(
                f"ffn.compartments={self.compartments} is more than model.n_embd={dims.n_embd}"
            )
        branches = Branches(dims.n_embd, width, self.compartments, dims)
        kind = _COUPLINGS[self.lateral]
        coupling = kind.among(self.compartments) if kind else None
        seen = self.compartments * width * (2 if coupling else 1)
        return Dendritic(branches, coupling, Dense(seen, width, dims.std, bias=dims.bias))


class DendriticConfig(Dendrites, FfnConfig):
    """down(activation(soma([u, v]))), u = tanh of each compartment's map, v = u coupled"""

    variants = (
        {"compartments": 3, "lateral": "ring"},
        {"lateral": "off"},
        {"lateral": "nonlinear", "activation": "gelu"},
    )

    width: int | None = Field(None, ge=1)
    """hidden features; 4 n_embd when left out"""
    activation: ActivationConfig = default("oscillating")
    linear: LinearConfig = default("dense")
    """of the map down"""

    def build(self, dims: Dims, layer: int) -> Part:
        width = self.width or 4 * dims.n_embd
        return Mlp(
            self.dendritic(width, dims),
            self.activation.build(width, dims, layer),
            onto_residual(self.linear.build(width, dims.n_embd, dims, layer), dims),
            dims.dropout,
        )


class Dendritic(Part):
    """Compartments, coupling and the soma's sum, without the soma's activation."""

    def __init__(self, branches: Branches, coupling: Coupling | None, soma: Dense):
        super().__init__()
        self.branches, self.coupling, self.soma = branches, coupling, soma
        self.fused = True

    def forward(self, x: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch width"]:
        u = self.branches(x, now)
        if self.coupling is None:
            return self.soma(u.flatten(-2), now)
        many = self.training or u.shape[:-2].numel() >= FOLD
        if self.fused and many and self.folds:
            return F.linear(u.flatten(-2), self.folded(), self.soma.bias)
        return self.soma(torch.cat([u, self.coupling(u, now)], -2).flatten(-2), now)

    @property
    def folds(self) -> bool:
        """Is u all that the soma hears, and the soma plain? What stands in its place (an adapter)
        computes more than its weight says."""
        linear = self.coupling is not None and self.coupling.linear
        return linear and type(self.soma) is Dense

    def folded(self) -> Float[Tensor, "width hidden"]:
        """The soma's map of u alone: W_k + sum_l L[k, l] W'_l."""
        assert self.coupling is not None
        lateral, width = self.coupling.matrix(), self.soma.weight.shape[0]
        own, heard = self.soma.weight.view(width, 2, len(lateral), -1).unbind(1)
        return torch.baddbmm(own, lateral.expand(width, -1, -1), heard).flatten(1)

    def features(self) -> Features:
        """Feature j is row j of each compartment and of the soma; the soma's columns hear it."""
        width, seen = self.soma.weight.shape
        heard = [Place("soma.weight", 1, first, 1) for first in range(0, seen, width)]
        own = [*rows("soma", self.soma)]
        for first in range(0, len(self.branches.weight), width):
            own += rows("branches", self.branches, first)
        return Features((*own, *heard), tuple(heard))

    def settled(self) -> Part:
        if not self.folds:
            return self
        weight = self.folded().detach()
        soma = Dense(weight.shape[1], weight.shape[0], 0.0, bias=False)
        soma.weight, soma.bias = nn.Parameter(weight, requires_grad=False), self.soma.bias
        return Dendritic(self.branches, None, soma)


class Branches(Part):
    """tanh(W_k x_k + b_k) for slice k of x: (..., d) -> (..., compartments, width)."""

    special = {"tanh": 1}

    def __init__(self, d: int, width: int, compartments: int, dims: Dims):
        super().__init__()
        self.std, self.d, self.compartments = dims.std, d, compartments
        self.slice = -(-d // compartments)
        self.weight = nn.Parameter(torch.empty(compartments * width, self.slice))
        self.bias = nn.Parameter(torch.empty(compartments * width)) if dims.bias else None
        fused(self, [width] * compartments)

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "*batch d"], now: Pass
    ) -> Float[Tensor, "*batch compartments width"]:
        count = self.compartments
        x = F.pad(x, (0, count * self.slice - self.d))
        slices = x.reshape(-1, count, self.slice).transpose(0, 1)
        u = torch.bmm(slices, self.weight.view(count, -1, self.slice).mT).transpose(0, 1)
        if self.bias is not None:
            u = u + self.bias.view(count, -1)
        return torch.tanh(u).reshape(*x.shape[:-1], count, -1)


class Coupling(Part):
    """v_l = sum_k L[k, l] u_k.

    L maps compartments to compartments, so it is a matrix: it decays, as published, and Muon's
    measure of an update is the right one for it.
    """

    linear = True

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))

    @classmethod
    def among(cls, compartments: int) -> Self:
        return cls(compartments, compartments)

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=0.1)
        self.weight.diagonal().add_(0.5)

    def matrix(self) -> Float[Tensor, "source target"]:
        return self.weight

    def forward(self, u: Float[Tensor, "*batch k width"], now: Pass) -> Float[Tensor, "*batch k w"]:
        return torch.einsum("...kd,kl->...ld", u, self.matrix())


class Nonlinear(Coupling):
    """v_l = tanh(sum_k L[k, l] u_k), which adds to what the soma can compute."""

    special = {"tanh": 1}
    linear = False

    def forward(self, u: Float[Tensor, "*batch k width"], now: Pass) -> Float[Tensor, "*batch k w"]:
        return torch.tanh(super().forward(u, now))


class Ring(Coupling):
    """Each compartment hears the one before, itself and the one after: taps, no matrix."""

    role = {"weight": "vector"}

    @classmethod
    def among(cls, compartments: int) -> Self:
        if compartments < 3:
            raise ConfigError(
                f"ffn.lateral=ring takes 3 compartments or more, not {compartments}: "
                "write ffn.lateral=dense"
            )
        return cls(3, compartments)

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=0.1)
        self.weight[1].add_(0.5)

    def matrix(self) -> Float[Tensor, "source target"]:
        before, own, after = (torch.diag(tap) for tap in self.weight)
        return before.roll(-1, 0) + own + after.roll(1, 0)


_COUPLINGS: dict[Lateral, type[Coupling] | None] = {
    "dense": Coupling,
    "ring": Ring,
    "off": None,
    "nonlinear": Nonlinear,
}
