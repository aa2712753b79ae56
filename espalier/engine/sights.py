"""Images in what a model goes on from: a prompt's, wherever its window begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from espalier.nn.sight import Sight


def joined(windows: Sequence[tuple[Sight | None, int]], positions: Tensor) -> Sight:
    """What windows see that stand at `positions` (rows, time), on their device.

    Each is a prompt's sight, a row of its own, and the token of it that the window begins with.
    """
    width = positions.shape[1]
    slots = [
        [-1] * width
        if seen is None
        else torch.nn.functional.pad(seen.slots[0, start:], (0, width), value=-1)[:width].tolist()
        for seen, start in windows
    ]
    images = [() if seen is None else seen.images[0] for seen, _ in windows]
    sight = Sight(images, torch.tensor(slots), positions)
    return sight.moved(lambda tensor: tensor.to(positions.device))
