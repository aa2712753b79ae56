"""Linear attention: a sum of outer products in place of all keys and values (arXiv:2006.16236).

The modular nanoGPT calls an elementwise product by this name; that is `elementwise_linear` here.
"""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.config import default
from espalier.nn.scan import scan
from espalier.nn.slots import (
    AttentionConfig,
    Dims,
    LinearConfig,
    Part,
    drop,
    fused,
    onto_residual,
)
from espalier.nn.state import Pass

LEAST = 1e-6  # of the denominator


class LinearAttentionConfig(AttentionConfig):
    """S_t = sum_(j<=t) phi(k_j) v_j^T; S_t^T phi(q_t) / sum_(j<=t) phi(k_j) phi(q_t)"""

    variants = ({"n_head": 2}, {"alpha": 0.5, "learn": True})

    n_head: int | None = Field(None, ge=1)
    """model.n_head when left out; heads are n_embd / model.n_head wide"""
    alpha: float = Field(1.0, gt=0)
    """phi(x) = elu(alpha x) + 1"""
    learn: bool = False
    """learn alpha"""
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims, layer: int) -> Part:
        heads = self.n_head or dims.n_head
        width = heads * dims.head_width
        return LinearAttention(
            fused(self.linear.build(dims.n_embd, 3 * width, dims, layer), [width] * 3),
            onto_residual(self.linear.build(width, dims.n_embd, dims, layer), dims),
            Feature(self.alpha, self.learn),
            heads,
            dims.dropout,
        )


class Feature(Part):
    """phi(x) = elu(alpha x) + 1, above zero everywhere."""

    role = {"alpha": "vector"}
    special = {"exp": 1}

    def __init__(self, alpha: float, learn: bool):
        super().__init__()
        self.start = alpha
        self.alpha: Tensor | float
        self.alpha = nn.Parameter(torch.empty(())) if learn else alpha

    def reset(self) -> None:
        if isinstance(self.alpha, nn.Parameter):
            nn.init.constant_(self.alpha, self.start)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        return F.elu(x * self.alpha) + 1


class LinearAttention(Part):
    places_tokens = False
    special = {"divide": 1}

    def __init__(self, qkv: Part, out: Part, phi: Feature, heads: int, dropout: float):
        super().__init__()
        self.qkv, self.phi, self.out = qkv, phi, out
        self.heads, self.dropout = heads, dropout

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        q, k, v = self.qkv(x, now).reshape(*x.shape[:2], 3, self.heads, -1).unbind(2)
        y = self.read(self.phi(q, now), self.phi(k, now), v, now).flatten(2).to(x.dtype)
        return drop(self.out(y, now), self.dropout, self.training)

    def read(self, q: Tensor, k: Tensor, v: Tensor, now: Pass) -> Tensor:
        """(batch, time, heads, width): the values' last column of ones makes the denominator."""
        y = scan(q, k, F.pad(v, (0, 1), value=1.0), None, now)
        return y[..., :-1] / y[..., -1:].clamp(min=LEAST)
