"""From queries, keys and values to what each head sees: scores, weights, and what is remembered."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from espalier.config import Config, default
from espalier.errors import ConfigError
from espalier.native import attention as native
from espalier.native import cached, composed
from espalier.nn.score.softmax import Softmax
from espalier.nn.slots import Dims, Part, Position, ScoreConfig, drop
from espalier.nn.state import KV, Pass, visible

OffByOne = Literal["none", "fixed", "layer", "head"]


@dataclass(frozen=True)
class Rules:
    """What a query may see, and what happens to scores and weights on the way."""

    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0
    layer: int = 0  # for a position whose bias differs by layer


class Sink(Part):
    """A key that every query sees and that says nothing: the denominator is C + sum exp(s).

    `level` is log C, so that C stays above zero: one number, or one for each head.
    """

    role = {"level": "vector"}

    def __init__(self, constant: float, shape: tuple[int, ...] | None):
        super().__init__()
        self.start = math.log(constant)
        self.level: Tensor | float
        self.level = self.start if shape is None else nn.Parameter(torch.empty(shape))

    def reset(self) -> None:
        if isinstance(self.level, nn.Parameter):
            nn.init.constant_(self.level, self.start)

    def join(
        self, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys and values (batch, heads, key, width) with the sink last; bias and mask for it."""
        level = torch.as_tensor(self.level, dtype=torch.float32, device=k.device)
        last = F.pad(level.reshape(1, -1, 1, 1), (k.shape[2], 0))
        bias = last if bias is None else F.pad(bias, (0, 1)) + last
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        return k, v, bias, F.pad(mask, (0, 1), value=True)


def sink(kind: OffByOne, constant: float, heads: int, score: Part) -> Sink | None:
    """None for "none". Raises ConfigError where weights are not a softmax."""
    if kind == "none":
        return None
    if not isinstance(score, Softmax):
        raise ConfigError(
            f"attention.off_by_one={kind} adds to softmax's denominator; attention.score is "
            f"{type(score).__name__.lower()} (strongermax has an off_by_one of its own)"
        )
    return Sink(constant, {"fixed": None, "layer": (), "head": (heads,)}[kind])


class Weighing(Config):
    """Fields of every attention that weighs keys."""

    window: int | None = Field(None, ge=1)
    """a query sees the last `window` tokens, itself included; all when left out"""
    softcap: float | None = Field(None, gt=0)
    """c tanh(s / c) of the scores (Gemma 2, arXiv:2408.00118)"""
    off_by_one: OffByOne = "none"
    """sum exp(s) + C below: C given, or learned for the layer or each head (E. Miller, 2023)"""
    constant: float = Field(1.0, gt=0)
    """C, or where it starts"""
    score: ScoreConfig = default("softmax")

    def weighing(self, heads: int, dims: Dims, layer: int) -> tuple[Part, Rules, Sink | None]:
        """For so many heads, which may be more or fewer than the model's."""
        score = self.score.build(replace(dims, n_head=heads), layer)
        rules = Rules(self.window, self.softcap, dims.dropout, layer)
        return score, rules, sink(self.off_by_one, self.constant, heads, score)


class Attend(Part):
    """Causal attention in each head; key/value heads may be fewer and divide the heads."""

    def __init__(self, score: Part, heads: tuple[int, int], rules: Rules, sink: Sink | None = None):
        super().__init__()
        self.score, self.sink = score, sink
        self.heads, self.kv_heads = heads
        self.grouped = self.heads != self.kv_heads
        self.window, self.softcap, self.dropout = rules.window, rules.softcap, rules.dropout
        self.layer = rules.layer
        self.special = {} if rules.softcap is None else {"tanh": 1}
        self.fused = rules.softcap is None and isinstance(score, Softmax)

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
        alike = self.sink is None and q.shape[-1] == state.values.shape[-1]
        return self.fused and plain and whole and alike and cached.serves(q, state.keys)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, where: Tensor | None, now: Pass) -> Tensor:
        """(batch, time, heads, width) queries over keys at positions `where` (None: this chunk)."""
        bias = None
        if now.position is not None:
            seen = now.positions if where is None else where
            bias = now.position.bias(now, seen, self.layer)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.fused and where is None and bias is None and self.sink is None and not now.packed:
            return self._causal(q, k, v, now).transpose(1, 2)
        mask = visible(now, where, self.window)
        if self.sink is not None:
            k, v, bias, mask = self.sink.join(k, v, bias, mask)
        if self.fused:
            return self._fused(q, k, v, bias, mask).transpose(1, 2)
        return self._plain(q, k, v, bias, mask, now).transpose(1, 2)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, now: Pass) -> Tensor:
        """This chunk on itself, with nothing added to its scores."""
        dropout = self.dropout if self.training else 0.0
        if native.serves(q) and q.shape[-1] == v.shape[-1]:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            scale = q.shape[-1] ** -0.5
            return native.attend(q, k, v, scale, self.window, dropout).transpose(1, 2)
        if self.window is None and not composed.serves(q, dropout):
            return F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=self.grouped
            )
        return self._fused(q, k, v, None, visible(now, None, self.window))

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        by_parts = composed.serves(q, dropout)
        if bias is not None or by_parts:
            bias = q.new_zeros(()) if bias is None else bias.to(q.dtype)
            mask = bias.masked_fill(~mask, float("-inf"))
        if by_parts:
            return composed.attend(q, k, v, mask, dropout)
        return F.scaled_dot_product_attention(
            q, k, v, mask, dropout_p=dropout, enable_gqa=self.grouped
        )

    def _plain(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor, now: Pass
    ) -> Tensor:
        """The reference: scores as a tensor, for any normaliser."""
        if self.grouped:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        return drop(self.score(scores, mask, now), self.dropout, self.training) @ v


def agree(name: str, position: Position, blocks: Sequence[Part]) -> None:
    """Does attention ask for what a position says there, with the heads that it has?

    Raises ConfigError that names the two where it does not.
    """
    turns = type(position).turn is not Position.turn
    biases = type(position).bias is not Position.bias
    found = [(i, part) for i, block in enumerate(blocks) for part in block.modules()]
    asking = [(i, part) for i, part in found if isinstance(part, Attend)]
    deaf = [part for _, part in found if isinstance(part, Part) and not part.places_tokens]
    if (turns or biases) and deaf and not asking:
        raise ConfigError(
            f"model.position={name} works in attention, and none here asks for it "
            f"({type(deaf[0]).__name__.lower()}): use learned or none, or cycle with causal"
        )
    for layer, part in asking:
        if position.heads not in (None, part.heads):
            raise ConfigError(
                f"model.position={name} has a bias for {position.heads} heads (model.n_head), and "
                f"the attention of layer {layer} has {part.heads}"
            )
