"""Attention with linear biases (ALiBi, arXiv:2108.12409): far keys score lower, by head."""

import torch
from jaxtyping import Int
from torch import Tensor

from espalier.nn.slots import Dims, Position, PositionConfig
from espalier.nn.state import Pass


class AlibiConfig(PositionConfig):
    """scores - slope_h * distance, with slopes 2^(-8h/n) for n heads"""

    def build(self, dims: Dims) -> Position:
        return Alibi(slopes(dims.n_head))


def slopes(heads: int) -> list[float]:
    """A geometric series; heads past a power of two take every other slope of the next series."""
    power = 1 << (heads.bit_length() - 1)
    first = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    between = [2 ** (-4 * (h + 1) / power) for h in range(0, 2 * (heads - power), 2)]
    return first + between


class Alibi(Position):
    def __init__(self, slopes: list[float]):
        super().__init__()
        self.slopes, self.heads = slopes, len(slopes)

    def bias(self, now: Pass, key_positions: Int[Tensor, "batch key"], layer: int) -> Tensor:
        gap = now.positions[:, None, :, None] - key_positions[:, None, None]
        slope = torch.tensor(self.slopes, device=gap.device, dtype=torch.float32)
        return -slope[:, None, None] * gap.clamp(min=0)
