"""A sine with its own frequency and phase in each feature (WiggleGPT, P. C. O'Brien 2025).

Not monotone, so that a single neuron separates XOR (examples/xor.py); so does any bump.
"""

from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from espalier.nn.slots import ActivationConfig, Dims, Part
from espalier.nn.state import Pass


class OscillatingConfig(ActivationConfig):
    """sin(omega * x + phi) * tanh(x) + baseline, each of the three per feature"""

    variants = ({"learned": False},)

    learned: bool = True
    """false: omega, phi and baseline stay as they start"""
    omega: float = 1.0
    """mean of the frequencies at the start; phases start round 0, baselines at 0"""
    spread: float | None = Field(None, ge=0)
    """standard deviation of frequencies and phases at the start; 0.1, or 0 where not learned"""

    def build(self, width: int, dims: Dims, layer: int) -> Part:
        usual = 0.1 if self.learned else 0.0
        spread = usual if self.spread is None else self.spread
        return Oscillating(width, self.omega, spread, learned=self.learned)


class Oscillating(Part):
    special = {"sin": 1, "tanh": 1}
    per_feature = ("omega", "phi", "baseline")
    omega: Tensor
    phi: Tensor
    baseline: Tensor

    def __init__(self, width: int, start: float, spread: float, *, learned: bool = True):
        super().__init__()
        self.start, self.spread, self.fused = start, spread, True
        for name in self.per_feature:
            if learned:
                self.register_parameter(name, nn.Parameter(torch.empty(width)))
            else:
                self.register_buffer(name, torch.empty(width))

    def reset(self) -> None:
        nn.init.normal_(self.omega, self.start, self.spread)
        nn.init.normal_(self.phi, 0.0, self.spread)
        nn.init.zeros_(self.baseline)

    def forward(self, x: Float[Tensor, "*batch width"], now: Pass) -> Float[Tensor, "*batch width"]:
        if self.fused and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found: Tensor = _Wave.apply(x, self.omega, self.phi, self.baseline)  # type: ignore[no-untyped-call]
            return found
        wave = torch.sin(self.omega * x + self.phi) * torch.tanh(x) + self.baseline
        return wave.to(x.dtype)


class _Wave(torch.autograd.Function):
    """The same, keeping x alone for the backward pass, in x's precision; a compiler does so too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, omega: Tensor, phi: Tensor, baseline: Tensor) -> Tensor:
        ctx.save_for_backward(x, omega, phi)
        wave = torch.addcmul(phi, omega, x).sin_()
        return torch.addcmul(baseline, wave, torch.tanh(x)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        x, omega, phi = ctx.saved_tensors
        grad = grads[0]
        angle, bump = torch.addcmul(phi, omega, x), torch.tanh(x)
        sine, turn = angle.sin(), angle.cos_().mul_(bump)  # d wave / d phi = cos * tanh
        turn_phi = grad * turn
        dx = torch.addcmul(sine, sine * bump, bump, value=-1).addcmul_(omega, turn).mul_(grad)
        rest = tuple(range(x.ndim - 1))
        d_omega, d_phi = (turn_phi * x).sum(rest), turn_phi.sum(rest)
        return dx.to(x.dtype), d_omega, d_phi, grad.sum(rest, dtype=omega.dtype)
