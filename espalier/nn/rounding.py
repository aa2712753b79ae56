"""Numbers rounded to few bits in the forward pass, with a gradient that passes straight through.

What is computed is what integers times a scale would give; the weights themselves stay in full
precision and learn (straight-through estimator, arXiv:1308.3432).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Scheme = Literal["symmetric", "affine"]
TINY = 1e-5  # the smallest scale: rows of zeros stay zeros


class Codes(NamedTuple):
    """Numbers as a circuit holds them: whole * step."""

    whole: Tensor
    step: Tensor

    @property
    def value(self) -> Tensor:
        return self.whole * self.step


class Rounded(Protocol):
    """A part with a weight of whole numbers."""

    weight: nn.Parameter

    def integers(self) -> Codes:
        """Its weight; the step is one number or one for each row."""

    def inputs(self, x: Tensor) -> Codes | None:
        """What comes in; None where that is not rounded."""


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

    def rounded(self, x: Tensor) -> Tensor:
        return self.codes(x).value

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        dims = tuple(range(x.ndim)) if self.whole else (-1,)
        if self.scheme == "symmetric":
            most = 2 ** (self.bits - 1) - 1
            step: Tensor = (x.abs().amax(dims, keepdim=True) / most).clamp(min=TINY / most)
            return Codes((x / step).round().clamp(-most, most), step)
        low, high = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
        steps = 2**self.bits - 1
        step = ((high - low) / steps).clamp(min=TINY / steps)
        zero = (low / step).round()
        return Codes(((x / step).round() - zero).clamp(0, steps) + zero, step)


def ternary(weight: Tensor) -> Tensor:
    """-s, 0 or s with s = mean|weight| (BitNet b1.58, arXiv:2402.17764)."""
    return straight(weight, ternary_codes(weight).value)


@torch.no_grad()
def ternary_codes(weight: Tensor) -> Codes:
    """-1, 0 or 1, and s."""
    scale = weight.abs().mean().clamp(min=TINY)
    return Codes((weight / scale).round().clamp(-1, 1), scale)
