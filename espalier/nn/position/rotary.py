"""Rotary position embedding (RoFormer, arXiv:2104.09864), whole or on a fraction of each head."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from espalier.errors import ConfigError
from espalier.native import rotary as native
from espalier.nn.slots import Dims, Position, PositionConfig
from espalier.nn.state import Pass


class RotaryConfig(PositionConfig):
    """(a cos - b sin, b cos + a sin) for pairs of q and k, by position * theta^(-2i/d)"""

    variants = ({"fraction": 0.5}, {"interleaved": True}, {"tables": "bfloat16"})

    theta: float = Field(10000.0, gt=0)
    fraction: float = Field(1.0, gt=0, le=1)
    """share of each head that turns (Pythia: 0.25); the rest stays"""
    interleaved: bool = False
    """pairs are neighbours (GPT-J) instead of the two halves (GPT-NeoX, Llama)"""
    tables: Literal["float32", "bfloat16"] = "float32"
    """to what cosines and sines are rounded (nanochat's own program: bfloat16)"""

    def build(self, dims: Dims) -> Position:
        turned = int(dims.head_width * self.fraction)
        if turned < 2 or turned % 2:
            raise ConfigError(
                f"position.fraction={self.fraction} turns {turned} of {dims.head_width} features "
                "a head (n_embd / n_head); rotary needs an even number, at least 2"
            )
        stride = 2 if self.interleaved else 1
        precision = getattr(torch, self.tables)
        return Rotary(dims.head_width, self.fraction, self.theta, stride, precision)


class Rotary(Position):
    """Tables are made once a pass for heads of `width`; other widths (MLA's) have their own."""

    def __init__(
        self,
        width: int,
        fraction: float,
        theta: float,
        stride: int,
        precision: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.width, self.fraction, self.theta, self.stride = width, fraction, theta, stride
        self.precision = precision

    def add(self, x: Float[Tensor, "batch time d"], now: Pass) -> Float[Tensor, "batch time d"]:
        now.tables = self.table(now.positions, self.turned(self.width))
        return x

    def turned(self, width: int) -> int:
        """How many features of a head turn."""
        return 2 * int(width * self.fraction / 2)

    def table(self, positions: Tensor, turned: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines in fp32: (batch or 1, time, 1, turned / 2)."""
        if positions.stride(0) == 0:
            positions = positions[:1]  # every row stands at the same places
        angles = self.angles(positions.clamp(min=0)[..., None], turned)
        cos, sin = (t.to(self.precision).float() for t in (angles.cos(), angles.sin()))
        return cos[:, :, None], sin[:, :, None]

    def angles(self, positions: Tensor, turned: int) -> Tensor:
        """(batch, time, 1) positions to (batch, time, turned / 2) angles."""
        steps = torch.arange(0, turned, 2, device=positions.device, dtype=torch.float32)
        return positions * self.theta ** (-steps / turned)

    def turn(
        self, x: Float[Tensor, "batch time heads width"], now: Pass
    ) -> Float[Tensor, "batch time heads width"]:
        width, turned = x.shape[-1], self.turned(x.shape[-1])
        made = now.tables if width == self.width else ()
        cos, sin = made or self.table(now.positions, turned)
        if native.serves(x):
            return native.turn(x, cos, sin, self.stride)
        x, rest = x[..., :turned], x[..., turned:]
        if self.stride == 2:
            a, b = x[..., 0::2], x[..., 1::2]
            out = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
        else:
            a, b = x.chunk(2, -1)
            out = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        out = out.to(x.dtype)  # fp32 tables would promote half-precision queries
        return torch.cat([out, rest], -1) if rest.shape[-1] else out
