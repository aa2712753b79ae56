"""A learned function of one variable on every edge (KAN, arXiv:2404.19756).

Each input goes through fixed functions, a matrix weighs them: Legendre polynomials of tanh(x)
(ReaLLMASIC's KAL) or the paper's cubic B-splines on a grid. The original maps x to [-1, 1] by the
smallest and largest value of the whole sequence, so that every token sees the future; tanh, or a
grid that stands, sees nothing. Nor is a norm hidden in this map: those are the block's.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.config import Config
from espalier.nn.slots import Dims, LinearConfig, Part
from espalier.nn.state import Pass


class Functions(Config):
    """What a KAN offers on every edge."""

    basis: Literal["legendre", "spline"] = "legendre"
    order: int = Field(3, ge=1, le=16)
    """highest Legendre polynomial, or degree of the splines"""
    grid: int = Field(5, ge=1)
    """intervals of the splines' grid"""
    reach: float = Field(2.0, gt=0)
    """of that grid, from -reach to reach; beyond it the base alone is left"""

    def edges(self, n_in: int, n_out: int, dims: Dims) -> Kan:
        legendre, spline = Legendre(self.order), Spline(self.order, self.grid, self.reach)
        return Kan(n_in, n_out, legendre if self.basis == "legendre" else spline, dims)


class KanConfig(Functions, LinearConfig):
    """silu(x) W^T + sum_k f_k(x) C_k^T + b; f_k = P_k(tanh x), k = 1..order, or B-splines"""

    variants = ({"basis": "spline"},)

    def build(self, n_in: int, n_out: int, dims: Dims, layer: int) -> Part:
        return self.edges(n_in, n_out, dims)


class Legendre:
    """P_1..P_order of tanh(x); P_0 = 1 is the bias."""

    def __init__(self, order: int):
        self.count = order

    def __call__(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n k"]:
        x = torch.tanh(x)
        found = [torch.ones_like(x), x]
        for k in range(1, self.count):
            found.append(((2 * k + 1) * x * found[k] - k * found[k - 1]) / (k + 1))
        return torch.stack(found[1:], -1)


class Spline:
    """B-splines of a degree on `grid` equal intervals of [-reach, reach] (Cox, de Boor)."""

    def __init__(self, degree: int, grid: int, reach: float):
        self.degree, self.reach, self.gap = degree, reach, 2 * reach / grid
        self.count, self.knots = grid + degree, grid + 2 * degree + 1

    def __call__(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n k"]:
        # in units of the grid, from its first knot: the knots are whole numbers
        at = ((x + self.reach) / self.gap + self.degree)[..., None]
        knots = torch.arange(self.knots - 1, device=x.device)
        found = ((at >= knots) & (at < knots + 1)).to(x.dtype)
        for d in range(1, self.degree + 1):
            left, right = knots[:-d], knots[:-d] + d + 1
            found = ((at - left) * found[..., :-1] + (right - at) * found[..., 1:]) / d
        return found


class Kan(Part):
    special = {"exp": 1, "divide": 1, "tanh": 1}

    def __init__(self, n_in: int, n_out: int, basis: Legendre | Spline, dims: Dims):
        super().__init__()
        self.std, self.basis = dims.std, basis
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.edges = nn.Parameter(torch.empty(n_out, n_in * basis.count))
        self.bias = nn.Parameter(torch.empty(n_out)) if dims.bias else None

    def reset(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        nn.init.normal_(self.edges, std=self.std * self.basis.count**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*batch n_in"], now: Pass) -> Float[Tensor, "*batch n_out"]:
        curves = F.linear(self.basis(x).flatten(-2), self.edges)
        return F.linear(F.silu(x), self.weight, self.bias) + curves
