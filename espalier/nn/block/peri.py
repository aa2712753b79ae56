"""Norms before, behind and after each half, in any mix (peri-LN: arXiv:2502.02732)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from espalier.config import default
from espalier.errors import ConfigError
from espalier.nn.slots import AttentionConfig, BlockConfig, Dims, FfnConfig, NormConfig, Part
from espalier.nn.state import Pass

Pair = tuple[Part, Part]
Where = Literal["pre", "peri", "post"]


class PeriConfig(BlockConfig):
    """x = post(x + peri(attention(pre(x)))); x = post(x + peri(ffn(pre(x))))

    parallel: x = post(x + peri(attention(pre(x))) + peri(ffn(pre(x)))), each half with its own pre
    and peri.
    """

    variants = (
        {"at": ["peri", "post"], "post": "rms"},
        {"at": []},
        {"at": ["pre", "peri", "post"], "halves": "parallel"},
    )

    norm: NormConfig = default("layer")
    at: tuple[Where, ...] = ("pre", "peri")
    """pre: of what a half reads; peri: of what it writes; post: of the sum"""
    pre: NormConfig | None = None
    """another norm there"""
    peri: NormConfig | None = None
    post: NormConfig | None = None
    halves: Literal["serial", "parallel"] = "serial"
    attention: AttentionConfig = default("causal")
    ffn: FfnConfig = default("mlp")

    def build(self, dims: Dims, layer: int) -> Part:
        kind, after = (Serial, 2) if self.halves == "serial" else (Side, 1)
        return kind(
            self.attention.build(dims, layer),
            self.ffn.build(dims, layer),
            self._norms("pre", 2, dims, layer),
            self._norms("peri", 2, dims, layer),
            self._norms("post", after, dims, layer),
        )

    def last_norm(self) -> NormConfig | None:
        return None if "post" in self.at else self._norm("pre") or self._norm("peri")

    def _norm(self, where: Where) -> NormConfig | None:
        own: NormConfig | None = getattr(self, where)
        if own and where not in self.at:
            raise ConfigError(f"block.{where} needs {where} in block.at: {list(self.at)}")
        return (own or self.norm) if where in self.at else None

    def _norms(self, where: Where, count: int, dims: Dims, layer: int) -> Pair:
        config = self._norm(where)
        built = [config.build(dims.n_embd, dims, layer) for _ in range(count)] if config else []
        first, second, *_ = [*built, Nothing(), Nothing()]
        return first, second


class Nothing(Part):
    """x"""

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        return x


class Serial(Part):
    def __init__(self, attention: Part, ffn: Part, pre: Pair, peri: Pair, post: Pair):
        super().__init__()
        self.pre_1, self.attention, self.peri_1, self.post_1 = pre[0], attention, peri[0], post[0]
        self.pre_2, self.ffn, self.peri_2, self.post_2 = pre[1], ffn, peri[1], post[1]

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        x = self.post_1(x + self.peri_1(self.attention(self.pre_1(x, now), now), now), now)
        return self.post_2(x + self.peri_2(self.ffn(self.pre_2(x, now), now), now), now)


class Side(Serial):
    """Both halves read the same x; one norm of the sum."""

    def forward(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        one = self.peri_1(self.attention(self.pre_1(x, now), now), now)
        two = self.peri_2(self.ffn(self.pre_2(x, now), now), now)
        return self.post_1(x + one + two, now)
