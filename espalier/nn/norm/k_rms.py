"""RMS norm with the root mean square of k features, as a circuit would estimate it (ReaLLMASIC).

With `bits` the estimate is made of integers, as the circuit would hold them: the k features over
their largest, rounded; the gradient passes straight through. `recompute` takes the exact value
where the estimate is further off than that share of it. The original's versions of both fail.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.nn.rounding import straight
from espalier.nn.slots import Dims, NormConfig, Part
from espalier.nn.state import Pass


class KRmsConfig(NormConfig):
    """gain * x / sqrt(mean(x_i^2 of k features) + eps)"""

    variants = ({"features": "last"}, {"features": "random", "bits": 8}, {"recompute": 0.05})

    k: int = Field(10, ge=1)
    features: Literal["first", "last", "random"] = "first"
    """which k; "random" ones are drawn once, at the start, and stay"""
    bits: Literal[8, 16] | None = None
    """of the integers that the estimate is made of"""
    recompute: float | None = Field(None, gt=0)
    """the largest relative error of the estimate that is let pass"""
    eps: float = Field(1e-5, gt=0)

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        k = min(self.k, width)
        return KRms(width, k, self.features, self.bits, self.recompute, self.eps)


class KRms(Part):
    special = {"sqrt": 0, "divide": 0}
    passes = 2
    chosen: Tensor

    def __init__(
        self,
        width: int,
        k: int,
        features: str,
        bits: int | None,
        recompute: float | None,
        eps: float,
    ):
        super().__init__()
        self.features, self.bits, self.recompute, self.eps = features, bits, recompute, eps
        self.weight = nn.Parameter(torch.empty(width))
        self.register_buffer("chosen", torch.empty(k, dtype=torch.long))

    def reset(self) -> None:
        nn.init.ones_(self.weight)
        width, k = len(self.weight), len(self.chosen)
        order = torch.randperm(width) if self.features == "random" else torch.arange(width)
        self.chosen.copy_(order[width - k :] if self.features == "last" else order[:k])

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        y = x.float() if x.dtype.itemsize < 4 else x
        square = self._estimate(y[..., self.chosen])
        if self.recompute is not None:
            exact = y.square().mean(-1, keepdim=True)
            off = (square.sqrt() - exact.sqrt()).abs() > self.recompute * exact.sqrt()
            square = torch.where(off, exact, square)
        return (self.weight * y * (square + self.eps).rsqrt()).to(x.dtype)

    def _estimate(self, some: Tensor) -> Tensor:
        if self.bits is not None:
            most = 2 ** (self.bits - 1) - 1
            step = some.detach().abs().amax(-1, keepdim=True).clamp(min=1e-20) / most
            some = straight(some, (some / step).round() * step)
        return some.square().mean(-1, keepdim=True)
