"""What the rows of a batch see: images of each row, and where their features stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from espalier.errors import ConfigError
from espalier.nn.slots import Front
from espalier.nn.state import Image, Pass, seeing


class Sight(NamedTuple):
    """Each row counts the features of its own images, so that rows can be taken apart."""

    images: Sequence[Sequence[Image]]
    """of each row, in order"""
    slots: Tensor
    """int64 (rows, time): which feature of the row's images stands there; -1: the token"""
    positions: Tensor
    """int64 (rows, time), beginning at 0 with each sample; -1: padding, always on the right"""

    def rows(self, here: slice) -> Sight:
        """Some of the rows."""
        return Sight(self.images[here], self.slots[here], self.positions[here])

    def moved(self, there: Callable[[Tensor], Tensor]) -> Sight:
        """With every tensor brought to another device."""
        images = [
            [(there(whole), None if tiles is None else there(tiles)) for whole, tiles in row]
            for row in self.images
        ]
        return Sight(images, there(self.slots), there(self.positions))


def look(now: Pass, front: Front | None, sight: Sight) -> Pass:
    """The pass, its rows seeing what `sight` holds. ConfigError for a model without a front."""
    images = [image for row in sight.images for image in row]
    if not images:
        return now
    if front is None:
        raise ConfigError("there are images, but the model reads none: set model.front")
    counts = [sum(map(front.count, row)) for row in sight.images]
    before = torch.tensor([0, *counts[:-1]], device=sight.slots.device).cumsum(0)[:, None]
    return seeing(now, images, torch.where(sight.slots >= 0, sight.slots + before, -1))
