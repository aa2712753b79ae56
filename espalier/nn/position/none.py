"""No position at all: causal attention alone tells order (NoPE, arXiv:2305.19466)."""

from espalier.nn.slots import Dims, Position, PositionConfig


class NoneConfig(PositionConfig):
    """x"""

    def build(self, dims: Dims) -> Position:
        return Position()
