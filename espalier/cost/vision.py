"""Floating-point operations of reading images, counted on the meta device."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from espalier.nn.slots import Front
from espalier.nn.state import at

Squares = Mapping[int, float]
"""How many squares of pixels, by their sides."""


class Square(NamedTuple):
    """Operations for one square of pixels."""

    forward: int
    train: int
    """forward and backward; what is frozen needs no gradient of its weights"""


def square(front: Front, side: int) -> Square:
    """Of one image of `side` pixels; `front` lies on the meta device."""
    image = torch.zeros(3, side, side, device="meta"), None
    now = at(torch.zeros(1, 1, dtype=torch.long, device="meta"))
    with FlopCounterMode(display=False) as counter:
        features = front([image], now)
        forward = counter.get_total_flops()
        if features.requires_grad:
            features.sum().backward()  # type: ignore[no-untyped-call]
    front.zero_grad(set_to_none=True)
    return Square(forward, counter.get_total_flops())
