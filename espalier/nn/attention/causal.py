"""Attention on the past: multi-head, grouped (GQA) or multi-query (MQA), whole or in a window."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.config import Config, default
from espalier.errors import ConfigError
from espalier.nn.attend import Attend, Rules, Sink, Weighing
from espalier.nn.slots import (
    AttentionConfig,
    Dims,
    LinearConfig,
    NormConfig,
    Part,
    drop,
    fused,
    onto_residual,
)
from espalier.nn.state import Pass
from espalier.nn.units import Place, Units, columns, rows, simple, spaced

Pair = tuple[Part | None, Part | None]


class Normed(Config):
    """Fields of an attention that may norm queries and keys before their product."""

    qk_norm: NormConfig | None = None
    """norm of each query and key before their product (arXiv:2302.05442)"""
    qk_scale: Literal["fixed", "learned"] = "fixed"
    """scores times 1 / sqrt(width), or a learned number from log2(L^2 - L) (arXiv:2010.04245)"""

    def norms(self, width: int, dims: Dims, layer: int) -> Pair:
        """What queries and keys pass through; ConfigError for a learned scale alone."""
        if self.qk_norm is None:
            if self.qk_scale == "learned":
                raise ConfigError(
                    "attention.qk_scale=learned needs attention.qk_norm, which bounds what it "
                    "scales: {name: hypersphere, radius: 1} is the published one"
                )
            return None, None
        q, k = (self.qk_norm.build(width, dims, layer) for _ in "qk")
        return (q if self.qk_scale == "fixed" else Scaled(q, width, dims.block_size)), k


class CausalConfig(Weighing, Normed, AttentionConfig):
    """softmax(q k^T / sqrt(width)) v over the keys at or before the query (arXiv:1706.03762)"""

    variants = (
        {"n_kv_head": 2},
        {"n_kv_head": 1},
        {"n_head": 3, "n_kv_head": 3},
        {"window": 5},
        {"window": 3, "n_kv_head": 2, "qk_norm": "rms"},
        {"softcap": 2.0},
        {"qk_norm": "layer", "bias": False},
        {"qk_norm": {"name": "hypersphere", "radius": 1}, "qk_scale": "learned"},
        {"gate": "head"},
        {"gate": "element"},
        {"off_by_one": "fixed", "constant": 2.0},
        {"off_by_one": "layer", "softcap": 2.0},
        {"off_by_one": "head", "n_kv_head": 2, "window": 5},
    )

    n_head: int | None = Field(None, ge=1)
    """heads of this layer, where some were taken out; their width stays n_embd / model.n_head"""
    n_kv_head: int | None = Field(None, ge=1)
    """key/value heads shared by groups of queries (arXiv:2305.13245); n_head when left out"""
    gate: Literal["none", "head", "element"] = "none"
    """sigmoid(G x) times what a head says (arXiv:2306.12929), or each feature (arXiv:2505.06708)"""
    bias: bool | None = None
    """of the projections; `model.bias` when left out"""
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims, layer: int) -> Part:
        heads, width = self.n_head or dims.n_head, dims.head_width
        kv_heads = self.n_kv_head or heads
        if heads % kv_heads:
            near = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
            whose = "attention" if self.n_head else "model"
            raise ConfigError(
                f"attention.n_kv_head={kv_heads} must divide {whose}.n_head={heads}. "
                f"Possible: {near}."
            )
        wide = dims if self.bias is None else replace(dims, bias=self.bias)
        outputs = [heads * width, kv_heads * width, kv_heads * width]
        gates = {"none": 0, "head": heads, "element": heads * width}[self.gate]
        maps = Maps(
            fused(self.linear.build(dims.n_embd, sum(outputs), wide, layer), outputs),
            onto_residual(self.linear.build(heads * width, dims.n_embd, wide, layer), dims),
            self.linear.build(dims.n_embd, gates, wide, layer) if gates else None,
        )
        score, rules, sink = self.weighing(heads, dims, layer)
        norms = self.norms(width, dims, layer)
        return Causal(maps, score, (heads, kv_heads), rules, norms, sink)


class Maps(NamedTuple):
    """Into the heads, out of them, and their gate."""

    qkv: Part
    out: Part
    gate: Part | None = None


class Scaled(Part):
    """g sqrt(width) norm(q): what divides a score by sqrt(width) leaves it times the learned g.

    g starts at log2(L^2 - L) for a block of L tokens (Henry et al., arXiv:2010.04245). The
    modular nanoGPT multiplies by g width^(1/4) on one of its two ways, so that they differ.
    """

    role = {"g": "vector"}

    def __init__(self, norm: Part, width: int, block_size: int):
        super().__init__()
        self.norm, self.root = norm, math.sqrt(width)
        self.start = math.log2(max(block_size, 2) * (max(block_size, 2) - 1))
        self.g = nn.Parameter(torch.empty(()))

    def reset(self) -> None:
        nn.init.constant_(self.g, self.start)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        y = self.norm(x, now)
        return y * (self.g * self.root).to(y.dtype)


class Heads(Attend):
    """Causal attention in each head, up to the heads' outputs side by side."""

    takes_values = True  # adds `now.values` to its own

    def __init__(
        self,
        qkv: Part,
        score: Part,
        heads: tuple[int, int],
        rules: Rules,
        norms: Pair = (None, None),
        sink: Sink | None = None,
    ):
        super().__init__(score, heads, rules, sink)
        self.qkv = qkv
        self.q_norm, self.k_norm = norms

    def project(self, x: Tensor, now: Pass) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: (batch, time, heads, width) each."""
        q, k, v = self.split(self.qkv(x, now))
        if now.values is not None:
            v = v + now.values.reshape(v.shape).to(v.dtype)
        if self.q_norm is not None:
            q = self.q_norm(q, now)
        if self.k_norm is not None:
            k = self.k_norm(k, now)
        if now.position is not None:
            q, k = now.position.turn(q, now), now.position.turn(k, now)
        return q, k, v

    def split(self, qkv: Tensor) -> Sequence[Tensor]:
        qkv = qkv.reshape(*qkv.shape[:2], self.heads + 2 * self.kv_heads, -1)
        return torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], 2)


class Causal(Heads):
    """Heads, their gate and their way out.

    The modular nanoGPT's gate is a new random matrix at every call; here it is learned. Its
    off-by-one key shifts the mask, so that a query never sees itself; here it stands last.
    """

    def __init__(
        self,
        maps: Maps,
        score: Part,
        heads: tuple[int, int],
        rules: Rules,
        norms: Pair = (None, None),
        sink: Sink | None = None,
    ):
        super().__init__(maps.qkv, score, heads, rules, norms, sink)
        self.out, self.gate = maps.out, maps.gate
        if self.gate is not None:
            self.special = {**self.special, "exp": 1, "divide": 1}

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        y = self.attend(*self.project(x, now), now)
        if self.gate is not None:
            shape = (*x.shape[:2], self.heads, -1)
            gates = torch.sigmoid(self.gate(x, now)).reshape(shape)
            y = (y.reshape(shape) * gates.to(y.dtype)).flatten(2)
        return drop(self.out(y, now), self.dropout, self.training)

    def removable(self) -> Sequence[Units]:
        """Heads; with shared keys and values, each group of them together."""
        maps = [self.qkv, self.out, *([] if self.gate is None else [self.gate])]
        if not all(map(simple, maps)) or list(self.score.parameters()):
            return ()
        each = self.out.get_parameter("weight").shape[1] // self.heads
        ratio, keys = self.heads // self.kv_heads, self.heads * each
        own = [
            *rows("qkv", self.qkv, 0, ratio * each),
            *rows("qkv", self.qkv, keys, each),
            *rows("qkv", self.qkv, keys + self.kv_heads * each, each),
        ]
        if self.gate is not None:
            gates = self.gate.get_parameter("weight").shape[0] // self.kv_heads
            own += rows("gate", self.gate, 0, gates)
        if self.sink is not None and isinstance(self.sink.level, Tensor) and self.sink.level.ndim:
            own += [Place("sink.level", 0, 0, ratio)]
        writes = columns("out", 0, ratio * each)
        patch = lambda kept: {"n_head": ratio * len(kept), "n_kv_head": len(kept)}  # noqa: E731
        return (Units("head", self.kv_heads, spaced(*own, *writes), spaced(*writes), patch),)
