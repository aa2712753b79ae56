"""Multi-head latent attention: keys and values from one narrow vector (arXiv:2405.04434).

What is remembered of a token is its latent and one rotary key for all heads, latent + rotary
numbers in all. The modular nanoGPT ignores both widths when they are given, and its off-by-one adds
C after each row's maximum is taken away, so that C means something else in every row.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from espalier.config import default
from espalier.errors import ConfigError
from espalier.nn.attend import Attend, Weighing
from espalier.nn.linear.dense import Dense
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
from espalier.nn.state import KV, Pass


class MlaConfig(Weighing, AttentionConfig):
    """c = norm(D x); k = [U c, turn(R x)], v = V c; softmax(q k^T / sqrt(width + rotary)) v"""

    variants = (
        {"latent": 6, "rotary": 2},
        {"latent": 12, "q_latent": 10, "window": 5},
        {"norm": None, "off_by_one": "head"},
        {"score": "relumax", "softcap": 2.0},
    )

    latent: int | None = Field(None, ge=1)
    """numbers that a token's keys and values come from; 4 times a head's width when left out"""
    rotary: int | None = Field(None, ge=2)
    """width of the key that position turns, one for all heads; half a head's when left out"""
    q_latent: int | None = Field(None, ge=1)
    """numbers that queries come from; straight from x when left out (DeepSeek-V2-Lite)"""
    norm: NormConfig | None = default("rms")
    """of the latents"""
    linear: LinearConfig = default("dense")

    def build(self, dims: Dims, layer: int) -> Part:
        n, heads, each = dims.n_embd, dims.n_head, dims.head_width
        rotary = self.rotary or max(2, each // 4 * 2)
        if rotary % 2:
            raise ConfigError(f"attention.rotary={rotary}: positions turn pairs, so it is even")
        latent, make = self.latent or 4 * each, self.linear.build
        norms = [
            self.norm.build(width, dims, layer) if self.norm and width else None
            for width in (latent, self.q_latent)
        ]
        bare = replace(dims, bias=False)  # the latent is remembered in place of what it becomes
        maps = Maps(
            down=fused(make(n, latent + rotary, dims, layer), [latent, rotary]),
            up=fused(make(latent, 2 * heads * each, bare, layer), [heads * each] * 2),
            q_down=make(n, self.q_latent, dims, layer) if self.q_latent else None,
            q_up=make(self.q_latent or n, heads * (each + rotary), dims, layer),
            out=onto_residual(make(heads * each, n, dims, layer), dims),
        )
        score, rules, sink = self.weighing(heads, dims, layer)
        attend = Attend(score, (heads, heads), rules, sink)
        return Mla(maps, (norms[0], norms[1]), attend, (latent, rotary))


class Maps(NamedTuple):
    """x to the latent and the rotary key, the latent to keys and values, x to queries, and out."""

    down: Part
    up: Part
    q_down: Part | None
    q_up: Part
    out: Part


class Mla(Part):
    """`norms` are the latent's and the queries' latent's; `widths`, of latent and rotary key."""

    def __init__(
        self,
        maps: Maps,
        norms: tuple[Part | None, Part | None],
        attend: Attend,
        widths: tuple[int, int],
    ):
        super().__init__()
        self.down, self.up, self.q_down, self.q_up, self.out = maps
        self.norm, self.q_norm = norms
        self.attend = attend
        self.latent, self.rotary = widths

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        y = self.look(self.queries(x, now), *self.remembered(x, now), now)
        return drop(self.out(y.flatten(2), now), self.attend.dropout, self.training)

    def queries(self, x: Tensor, now: Pass) -> Tensor:
        """(batch, time, heads, width + rotary); position turns the last part."""
        if self.q_down is not None:
            x = self.q_down(x, now)
            x = x if self.q_norm is None else self.q_norm(x, now)
        q = self.q_up(x, now).reshape(*x.shape[:2], self.attend.heads, -1)
        still, turned = torch.split(q, [q.shape[-1] - self.rotary, self.rotary], -1)
        return torch.cat([still, _turn(turned, now)], -1)

    def remembered(self, x: Tensor, now: Pass) -> tuple[Tensor, Tensor]:
        """The latent (batch, time, 1, latent) and the key that position turns, for all heads."""
        both = self.down(x, now)[:, :, None]
        latent, key = torch.split(both, [self.latent, self.rotary], -1)
        if self.norm is not None:
            latent = self.norm(latent, now).to(key.dtype)
        return latent, _turn(key, now)

    def look(self, q: Tensor, latent: Tensor, key: Tensor, now: Pass) -> Tensor:
        state = now.state(KV.empty, latent, key, now.length, self.attend.window)
        if state is None or now.fresh:
            if state is not None:
                state.write(latent, key, now.positions)
            return self._spread(q, latent, key, None, now)
        latent, key, where = state.extend(latent, key, now.positions)
        if isinstance(self.up, Dense):
            return self._absorbed(q, latent, key, where, now)
        return self._spread(q, latent, key, where, now)

    def _spread(
        self, q: Tensor, latent: Tensor, key: Tensor, where: Tensor | None, now: Pass
    ) -> Tensor:
        """With the keys and values of each head."""
        kv = self.up(latent[:, :, 0], now)
        k, v = kv.reshape(*kv.shape[:2], 2, self.attend.heads, -1).unbind(2)
        k = torch.cat([k, key.expand(-1, -1, self.attend.heads, -1)], -1)
        return self.attend.mix(q, k, v, where, now)

    def _absorbed(self, q: Tensor, latent: Tensor, key: Tensor, where: Tensor, now: Pass) -> Tensor:
        """The same from latents alone: `up` goes to the queries and to what was seen."""
        heads = self.attend.heads
        up = self.up.get_parameter("weight").view(2, heads, -1, self.latent)
        still, turned = torch.split(q, [q.shape[-1] - self.rotary, self.rotary], -1)
        still = torch.einsum("bthe,hel->bthl", still, up[0])
        narrow, width = q.shape[-1], self.latent + self.rotary
        q = torch.cat([still, turned], -1) * math.sqrt(width / narrow)  # scores over sqrt(narrow)
        k = torch.cat([latent, key], -1).expand(-1, -1, heads, -1)
        seen = self.attend.mix(q, k, latent.expand(-1, -1, heads, -1), where, now)
        return torch.einsum("bthl,hel->bthe", seen, up[1])


def _turn(x: Tensor, now: Pass) -> Tensor:
    return x if now.position is None else now.position.turn(x, now)
