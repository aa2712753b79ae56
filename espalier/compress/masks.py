"""Masks on a model: laid on, kept through training, counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from espalier.compress.slots import Masks


@torch.no_grad()
def lay(model: nn.Module, masks: Masks) -> None:
    """Set the weights that a mask takes away to zero."""
    for name, keep in masks.items():
        model.get_parameter(name).mul_(keep)


@contextlib.contextmanager
def held(model: nn.Module, masks: Masks) -> Iterator[None]:
    """Within, no gradient reaches a weight that was taken away.

    So it adds nothing to the norm that gradients are clipped by, and the optimizer remembers
    nothing of it. Lay the masks again after each step all the same: an optimizer may move weights
    that have no gradient.
    """
    handles = [
        model.get_parameter(name).register_hook(_times(keep))  # type: ignore[no-untyped-call]
        for name, keep in masks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _times(keep: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * keep
