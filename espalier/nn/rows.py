"""What normalisers of attention share: rows of scores, some hidden, to rows of weights."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from espalier.nn.slots import Part
from espalier.nn.state import Pass


def wide(scores: Tensor) -> Tensor:
    """At least fp32: powers and sums of a row do not fit into half precision."""
    return scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores


class Alone(Part):
    """Weights made of each score alone, with no maximum and no sum over the row.

    f(s) / divisor where a query may look, else 0; with `by_length` also over the number of keys it
    may look at.
    """

    def __init__(self, divisor: float, by_length: bool):
        super().__init__()
        self.divisor, self.by_length = divisor, by_length

    def forward(
        self, scores: Float[Tensor, "*batch key"], mask: Bool[Tensor, "*#batch key"], now: Pass
    ) -> Float[Tensor, "*batch key"]:
        # a hidden score is made harmless before f, so that no infinity meets a zero gradient
        weights = self.weigh(wide(scores).masked_fill(~mask, 0.0)) / self.divisor
        if self.by_length:
            weights = weights / mask.sum(-1, keepdim=True)
        return weights.masked_fill(~mask, 0.0).to(scores.dtype)

    def weigh(self, scores: Tensor) -> Tensor:
        raise NotImplementedError


def power(base: float, exponent: Tensor) -> Tensor:
    """base ** exponent."""
    return torch.exp(exponent if base == math.e else exponent * math.log(base))
