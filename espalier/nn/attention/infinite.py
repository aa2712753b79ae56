"""Attention whose heads have any number and any width ("infinite heads", ReaLLMASIC).

The modular nanoGPT's ignores score, window, softcap and biases of position; here they hold. Its
several summed output projections are one matrix, so there is one.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from espalier.config import default
from espalier.nn.attend import Rules, Sink, Weighing
from espalier.nn.attention.causal import Heads, Normed, Pair
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
from espalier.nn.units import Place, Units, columns, rows, simple, spaced


class InfiniteConfig(Weighing, Normed, AttentionConfig):
    """softmax(q k^T / sqrt(qk_width)) v in each head, side by side or added up, and projected"""

    variants = (
        {"qk_width": 6, "v_width": 10},
        {"qk_width": 4, "v_width": 12, "join": "sum", "qk_norm": "rms", "window": 5},
        {"softcap": 2.0, "v_width": 4, "qk_norm": "hypersphere", "qk_scale": "learned"},
        {"join": "sum", "off_by_one": "head"},
    )

    n_head: int | None = Field(None, ge=1)
    """any number; model.n_head when left out"""
    qk_width: int | None = Field(None, ge=1)
    """of a head's queries and keys; n_embd / model.n_head when left out"""
    v_width: int | None = Field(None, ge=1)
    """of a head's values; n_embd / model.n_head when left out"""
    join: Literal["concat", "sum"] = "concat"
    """heads side by side (n_head * v_width to n_embd), or their sum (v_width to n_embd)"""
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims, layer: int) -> Part:
        heads = self.n_head or dims.n_head
        qk, v = self.qk_width or dims.head_width, self.v_width or dims.head_width
        outputs = [heads * qk, heads * qk, heads * v]
        joined = v if self.join == "sum" else heads * v
        score, rules, sink = self.weighing(heads, dims, layer)
        return Infinite(
            fused(self.linear.build(dims.n_embd, sum(outputs), dims, layer), outputs),
            onto_residual(self.linear.build(joined, dims.n_embd, dims, layer), dims),
            score,
            (heads, qk, v, self.join == "sum"),
            rules,
            self.norms(qk, dims, layer),
            sink,
        )


class Infinite(Heads):
    """`shape` is (heads, width of queries and keys, width of values, are they added up?)."""

    def __init__(
        self,
        qkv: Part,
        out: Part,
        score: Part,
        shape: tuple[int, int, int, bool],
        rules: Rules,
        norms: Pair = (None, None),
        sink: Sink | None = None,
    ):
        heads, self.qk_width, self.v_width, self.summed = shape
        super().__init__(qkv, score, (heads, heads), rules, norms, sink)
        self.out = out

    def split(self, qkv: Tensor) -> Sequence[Tensor]:
        widths = [self.qk_width, self.qk_width, self.v_width]
        parts = torch.split(qkv, [self.heads * width for width in widths], -1)
        return [part.reshape(*part.shape[:2], self.heads, -1) for part in parts]

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        y = self.attend(*self.project(x, now), now)
        if self.summed:
            y = y.reshape(*y.shape[:2], self.heads, -1).sum(2)
        return drop(self.out(y, now), self.dropout, self.training)

    def removable(self) -> Sequence[Units]:
        """Heads, where each writes through columns of its own."""
        if self.summed or not simple(self.qkv) or not simple(self.out):
            return ()
        if list(self.score.parameters()):
            return ()
        first = 0
        own: list[Place] = []
        for width in (self.qk_width, self.qk_width, self.v_width):
            own += rows("qkv", self.qkv, first, width)
            first += self.heads * width
        if self.sink is not None and isinstance(self.sink.level, Tensor) and self.sink.level.ndim:
            own += [Place("sink.level", 0, 0, 1)]
        writes = columns("out", 0, self.v_width)
        patch = lambda kept: {"n_head": len(kept)}  # noqa: E731
        return (Units("head", self.heads, spaced(*own, *writes), spaced(*writes), patch),)
