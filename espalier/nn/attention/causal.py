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
from espalier.native import cached
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


class CausalConfig(AttentionConfig):
    """softmax(q k^T / sqrt(width)) v over the keys at or before the query (arXiv:1706.03762)"""

    variants = (
        {"n_kv_head": 2},
        {"n_kv_head": 1},
        {"window": 5},
        {"window": 3, "n_kv_head": 2, "qk_norm": "rms"},
        {"softcap": 2.0},
        {"qk_norm": "layer", "bias": False},
    )

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
        kv_heads, width = self.n_kv_head or dims.n_head, dims.head_width
        if dims.n_head % kv_heads:
            near = ", ".join(str(n) for n in range(1, dims.n_head + 1) if dims.n_head % n == 0)
            raise ConfigError(
                f"attention.n_kv_head={kv_heads} must divide model.n_head={dims.n_head}. "
                f"Possible: {near}."
            )
        wide = dims if self.bias is None else replace(dims, bias=self.bias)
        norms = [self.qk_norm.build(width, dims, layer) for _ in "qk"] if self.qk_norm else None
        rows = [dims.n_head * width, kv_heads * width, kv_heads * width]
        return Causal(
            fused(self.linear.build(dims.n_embd, sum(rows), wide, layer), rows),
            onto_residual(self.linear.build(dims.n_embd, dims.n_embd, wide, layer), dims),
            self.score.build(dims, layer),
            (dims.n_head, kv_heads),
            norms=norms,
            window=self.window,
            softcap=self.softcap,
            dropout=dims.dropout,
        )


class Causal(Part):
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
        super().__init__()
        self.qkv, self.out, self.score = qkv, out, score
        self.q_norm: Part | None
        self.k_norm: Part | None
        self.q_norm, self.k_norm = norms or (None, None)
        self.heads, self.kv_heads = heads
        self.grouped = self.heads != self.kv_heads
        self.window, self.softcap, self.dropout = window, softcap, dropout
        self.fused = softcap is None and isinstance(score, Softmax)

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        b, t, _ = x.shape
        qkv = self.qkv(x, now).reshape(b, t, self.heads + 2 * self.kv_heads, -1)
        q, k, v = torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q, now), self.k_norm(k, now)
        if now.position is not None:
            q, k = now.position.turn(q, now), now.position.turn(k, now)
        state, where = now.state(KV.empty, k, v, now.length, self.window), None
        if state is not None and now.fresh:
            state.write(k, v, now.positions)
        elif state is not None and self._steps(q, state, now):
            kept = (state.keys, state.values, state.seen)
            scale = q.shape[-1] ** -0.5
            y = cached.attend((q, k, v), kept, now.positions, scale, self.window)
            return self.out(y.reshape(b, t, -1), now)
        elif state is not None:
            k, v, where = state.extend(k, v, now.positions)
        y = self.mix(q, k, v, where, now)
        return drop(self.out(y.reshape(b, t, -1), now), self.dropout, self.training)

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
        if plain and not dropout and native.serves(q):
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            return native.attend(q, k, v, q.shape[-1] ** -0.5, self.window).transpose(1, 2)
        if plain and self.window is None:
            return F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=self.grouped
            )
        mask = visible(now, where, self.window)
        if bias is not None:
            mask = bias.to(q.dtype).masked_fill(~mask, float("-inf"))
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
