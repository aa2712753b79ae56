"""Rotary positions in which every pair of a head turns by the same angle (ReaLLMASIC's "soap").

Experimental. The modular nanoGPT counts calls of the module and turns by that, so that one text
gives other numbers each time; here the angle is the position's alone.
"""

import math

from pydantic import Field
from torch import Tensor

from espalier.errors import ConfigError
from espalier.nn.position.rotary import Rotary
from espalier.nn.slots import Dims, Position, PositionConfig


class SymmetricRotaryConfig(PositionConfig):
    """(a cos - b sin, b cos + a sin) for pairs of q and k, all by 2 pi * position / angles"""

    variants = ({"angles": 5},)

    angles: int = Field(512, ge=2)
    """positions to a full turn; from there on, positions look like earlier ones"""

    def build(self, dims: Dims) -> Position:
        if dims.head_width % 2:
            raise ConfigError(
                f"position=symmetric_rotary turns pairs; a head has {dims.head_width} features "
                "(n_embd / n_head), which is odd"
            )
        return SymmetricRotary(dims.head_width, self.angles)


class SymmetricRotary(Rotary):
    def __init__(self, width: int, angles: int):
        super().__init__(width, fraction=1.0, theta=1.0, stride=1)
        self.turn_length = angles

    def angles(self, positions: Tensor, turned: int) -> Tensor:
        each = (positions % self.turn_length).float() * (2 * math.pi / self.turn_length)
        return each.expand(*each.shape[:-1], turned // 2)
