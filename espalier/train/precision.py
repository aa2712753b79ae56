"""Which numbers the matrix products are made in, why, and fp16's loss scale."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from espalier import device as machine

# Below this many parameters autocast's conversions cost a CPU more than bf16 products save: 0.77 of
# fp32's speed at 0.1 M parameters, 1.3 times it at 0.8 M, 2.7 times at 10.6 M (Zen 5, 2 cores).
SMALL = 500_000

_SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Precision:
    """The type of matrix products; weights, moments and losses stay fp32."""

    dtype: torch.dtype
    reason: str
    device: str

    @property
    def short(self) -> str:
        return _SHORT[self.dtype]

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Around every forward pass."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device, self.dtype)


def choose(wish: str, device: str, parameters: int) -> Precision:
    """The wished type, or for "auto" the fastest that the device really computes in."""
    kind = torch.device(device).type
    if wish != "auto":
        slow = wish == "float16" and kind == "cpu"  # its products have no fast path there
        reason = "as asked; slow on a CPU: train.dtype=auto" if slow else "as asked"
        return Precision(getattr(torch, wish), reason, kind)
    fast = machine.fast_bf16(kind)
    if kind == "cpu" and fast.yes and parameters < SMALL:
        return Precision(torch.float32, "too small a model for bf16 to pay on a CPU", kind)
    if fast.yes:
        return Precision(torch.bfloat16, fast.why, kind)
    if kind == "cuda":
        return Precision(torch.float16, fast.why, kind)
    return Precision(torch.float32, fast.why, kind)


class LossScale:
    """The factor that keeps fp16 gradients in range: halved on overflow, doubled now and then.

    Every other type has the constant 1. All of it happens on the device.
    """

    def __init__(self, precision: Precision, device: str):
        self.active = precision.dtype is torch.float16
        self.value = torch.full((), 65536.0 if self.active else 1.0, device=device)
        self.calm = torch.zeros((), dtype=torch.int32, device=device)

    def apply(self, loss: Tensor) -> Tensor:
        return loss * self.value if self.active else loss

    def update(self, overflow: Tensor) -> None:
        """After each step; `overflow` is 1 where it had to be skipped."""
        if self.active:
            torch._amp_update_scale_(self.value, self.calm, overflow, 2.0, 0.5, 2000)
            self.value.clamp_(min=1.0)

    def state(self) -> dict[str, float]:
        return {"value": float(self.value), "calm": int(self.calm)}

    def load(self, state: Mapping[str, float]) -> None:
        self.value.fill_(state["value"])
        self.calm.fill_(int(state["calm"]))
