"""Softplus as weights: a smooth relumax."""

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.rows import Alone
from espalier.nn.slots import Dims, Part, ScoreConfig


class SoftplusConfig(ScoreConfig):
    """ln(1 + e^s) / divisor"""

    variants = ({"by_length": True},)

    divisor: float = Field(100.0, gt=0)
    by_length: bool = False
    """divide by the number of visible keys too"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Softplus(self.divisor, self.by_length)


class Softplus(Alone):
    special = {"exp": 1, "log": 1}

    def weigh(self, scores: Tensor) -> Tensor:
        return F.softplus(scores)
