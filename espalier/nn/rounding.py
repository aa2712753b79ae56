"""Numbers rounded to few bits in the forward pass, with a gradient that passes straight through.

What is computed is what integers times a scale would give; the weights themselves stay in full
precision and learn (straight-through estimator, arXiv:1308.3432).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scheme = Literal["symmetric", "affine"]
TINY = 1e-5  # the smallest scale: rows of zeros stay zeros


def straight(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of x."""
    return x + (rounded - x).detach()


@dataclass(frozen=True)
class Grid:
    """Equal steps over the range of a row (the last dimension), or of a whole tensor.

    symmetric: s = max|x| / (2^(bits-1) - 1), s round(x / s); affine: 2^bits steps from min to max.
    `level` in [0, 1] is how far x moves to its rounded self: 1 is all the way.
    """

    bits: int
    scheme: Scheme = "symmetric"
    whole: bool = False
    level: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        rounded = torch.lerp(x, self.rounded(x), self.level) if self.level < 1 else self.rounded(x)
        return straight(x, rounded)

    @torch.no_grad()
    def rounded(self, x: Tensor) -> Tensor:
        dims = tuple(range(x.ndim)) if self.whole else (-1,)
        if self.scheme == "symmetric":
            most = 2 ** (self.bits - 1) - 1
            step: Tensor = (x.abs().amax(dims, keepdim=True) / most).clamp(min=TINY / most)
            whole = (x / step).round().clamp(-most, most)
            return whole * step
        low, high = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
        steps = 2**self.bits - 1
        step = ((high - low) / steps).clamp(min=TINY / steps)
        zero = (low / step).round()
        whole = ((x / step).round() - zero).clamp(0, steps) + zero
        return whole * step


def ternary(weight: Tensor) -> Tensor:
    """-s, 0 or s with s = mean|weight| (BitNet b1.58, arXiv:2402.17764)."""
    scale = weight.detach().abs().mean().clamp(min=TINY)
    return straight(weight, (weight.detach() / scale).round().clamp(-1, 1) * scale)
