"""Rectified scores as weights (arXiv:2309.08586)."""

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.rows import Alone
from espalier.nn.slots import Dims, Part, ScoreConfig


class RelumaxConfig(ScoreConfig):
    """max(0, s) / divisor"""

    variants = ({"by_length": True},)

    divisor: float = Field(256.0, gt=0)
    by_length: bool = False
    """divide by the number of visible keys too"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Relumax(self.divisor, self.by_length)


class Relumax(Alone):
    special = {"compare": 1}

    def weigh(self, scores: Tensor) -> Tensor:
        return F.relu(scores)
