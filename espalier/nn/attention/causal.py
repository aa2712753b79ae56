"""Attention on the past: multi-head, grouped (GQA) or multi-query (MQA), whole or in a window."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from espalier.config import default
from espalier.errors import ConfigError
from espalier.native import attention as native
from espalier.native import cached, composed
from espalier.nn.score.softmax import Softmax
from espalier.nn.slots import (
    AttentionConfig,
    Dims,
    LinearConfig,
    NormConfig,
    Part,
    Position,
    ScoreConfig,
    drop,
    fused,
    onto_residual,
)
from espalier.nn.state import KV, Pass, visible
from espalier.nn.units import Units, columns, rows, simple, spaced


class CausalConfig(AttentionConfig):
    """softmax(q k^T / sqrt(width)) v over the keys at or before the query (arXiv:1706.03762)"""

    variants = (
        {"n_kv_head": 2},
        {"n_kv_head": 1},
        {"n_head": 3, "n_kv_head": 3},
        {"window": 5},
        {"window": 3, "n_kv_head": 2, "qk_norm": "rms"},
        {"softcap": 2.0},
        {"qk_norm": "layer", "bias": False},
    )

    n_head: int | None = Field(None, ge=1)
    """heads of this layer, where some were taken out; their width stays n_embd / model.n_head"""
    n_kv_head: int | None = Field(None, ge=1)
    """key/value heads shared by groups of queries (arXiv:2305.13245); n_head when left out"""
    window: int | None = Field(None, ge=1)
    """a query sees the last `window` tokens, itself included; all when left out"""
    qk_norm: NormConfig | None = None
    """norm of each query and key before their product (arXiv:2302.05442)"""
    softcap: float | None = Field(None, gt=0)
    """c tanh(s / c) of the scores (Gemma 2, arXiv:2408.00118)"""
    bias: bool | None = None
    """of the projections; `model.bias` when left out"""
    score: ScoreConfig = default("softmax")
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
        norms = [self.qk_norm.build(width, dims, layer) for _ in "qk"] if self.qk_norm else None
        outputs = [heads * width, kv_heads * width, kv_heads * width]
        return Causal(
            fused(self.linear.build(dims.n_embd, sum(outputs), wide, layer), outputs),
            onto_residual(self.linear.build(heads * width, dims.n_embd, wide, layer), dims),
            self.score.build(dims, layer),
            (heads, kv_heads),
            norms=norms,
            window=self.window,
            softcap=self.softcap,
            dropout=dims.dropout,
        )


class Heads(Part):
    """Causal attention in each head, up to the heads' outputs side by side."""

    def __init__(
        self,
        qkv: Part,
        score: Part,
        heads: tuple[int, int],
        *,
        norms: Sequence[Part] | None = None,
        window: int | None = None,
        softcap: float | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.qkv, self.score = qkv, score
        self.q_norm: Part | None
        self.k_norm: Part | None
        self.q_norm, self.k_norm = norms or (None, None)
        self.heads, self.kv_heads = heads
        self.grouped = self.heads != self.kv_heads
        self.window, self.softcap, self.dropout = window, softcap, dropout
        self.fused = softcap is None and isinstance(score, Softmax)

    def project(self, x: Tensor, now: Pass) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: (batch, time, heads, width) each."""
        qkv = self.qkv(x, now).reshape(*x.shape[:2], self.heads + 2 * self.kv_heads, -1)
        q, k, v = torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q, now), self.k_norm(k, now)
        if now.position is not None:
            q, k = now.position.turn(q, now), now.position.turn(k, now)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, now: Pass) -> Tensor:
        """(batch, time, heads * width), over what is remembered too, and remember."""
        state, where = now.state(KV.empty, k, v, now.length, self.window), None
        if state is not None and now.fresh:
            state.write(k, v, now.positions)
        elif state is not None and self._steps(q, state, now):
            kept = (state.keys, state.values, state.seen)
            scale = q.shape[-1] ** -0.5
            return cached.attend((q, k, v), kept, now.positions, scale, self.window).flatten(2)
        elif state is not None:
            k, v, where = state.extend(k, v, now.positions)
        return self.mix(q, k, v, where, now).flatten(2)

    def _steps(self, q: Tensor, state: KV, now: Pass) -> bool:
        """Can the kernel for cached attention take this chunk?"""
        plain = now.position is None or type(now.position).bias is Position.bias
        whole = q.shape[1] == 1 or not state.ring
        return self.fused and plain and whole and cached.serves(q, state.keys)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, where: Tensor | None, now: Pass) -> Tensor:
        """(batch, time, heads, width) queries over keys at positions `where` (None: this chunk)."""
        bias = None
        if now.position is not None:
            bias = now.position.bias(now, now.positions if where is None else where)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.fused:
            return self._fused(q, k, v, where, bias, now).transpose(1, 2)
        return self._plain(q, k, v, where, bias, now).transpose(1, 2)

    def _fused(
        self, q: Tensor, k: Tensor, v: Tensor, where: Tensor | None, bias: Tensor | None, now: Pass
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        plain = where is None and bias is None and not now.packed
        if plain and native.serves(q):
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            scale = q.shape[-1] ** -0.5
            return native.attend(q, k, v, scale, self.window, dropout).transpose(1, 2)
        by_parts = composed.serves(q, dropout)
        if plain and self.window is None and not by_parts:
            return F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=self.grouped
            )
        mask = visible(now, where, self.window)
        if bias is not None or by_parts:
            bias = q.new_zeros(()) if bias is None else bias.to(q.dtype)
            mask = bias.masked_fill(~mask, float("-inf"))
        if by_parts:
            return composed.attend(q, k, v, mask, dropout)
        return F.scaled_dot_product_attention(
            q, k, v, mask, dropout_p=dropout, enable_gqa=self.grouped
        )

    def _plain(
        self, q: Tensor, k: Tensor, v: Tensor, where: Tensor | None, bias: Tensor | None, now: Pass
    ) -> Tensor:
        """The reference: scores as a tensor, for any normaliser."""
        if self.grouped:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        weights = self.score(scores, visible(now, where, self.window), now)
        return drop(weights, self.dropout, self.training) @ v


class Causal(Heads):
    """Heads, and their way out."""

    def __init__(
        self,
        qkv: Part,
        out: Part,
        score: Part,
        heads: tuple[int, int],
        *,
        norms: Sequence[Part] | None = None,
        window: int | None = None,
        softcap: float | None = None,
        dropout: float = 0.0,
    ):
        super().__init__(
            qkv, score, heads, norms=norms, window=window, softcap=softcap, dropout=dropout
        )
        self.out = out

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        y = self.attend(*self.project(x, now), now)
        return drop(self.out(y, now), self.dropout, self.training)

    def removable(self) -> Sequence[Units]:
        """Heads; with shared keys and values, each group of them together."""
        if not simple(self.qkv) or not simple(self.out) or list(self.score.parameters()):
            return ()
        each = self.out.get_parameter("weight").shape[1] // self.heads
        group, keys = self.heads // self.kv_heads * each, self.heads * each
        own = (
            *rows("qkv", self.qkv, 0, group),
            *rows("qkv", self.qkv, keys, each),
            *rows("qkv", self.qkv, keys + self.kv_heads * each, each),
        )
        writes = columns("out", 0, group)
        ratio = self.heads // self.kv_heads
        patch = lambda kept: {"n_head": ratio * len(kept), "n_kv_head": len(kept)}  # noqa: E731
        return (Units("head", self.kv_heads, spaced(*own, *writes), spaced(*writes), patch),)
