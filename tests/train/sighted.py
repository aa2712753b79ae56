"""A rank without an image beside one with three: `python -m tests.train.sighted FOLDER`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from espalier.nn.sight import Sight
from espalier.train.parallel.ranks import ALONE, here, joined
from espalier.train.steps import Batch, Stepper
from tests.train.test_sight import mixed, model, stepper
from tests.train.together import worst


def half(batch: Batch, rank: int) -> Batch:
    """Rank 0 has rows of text alone, rank 1 those with images."""
    rows = [[0, 0], [1, 2]][rank]
    assert batch.slots is not None
    assert batch.positions is not None
    return Batch(
        batch.inputs[rows],
        batch.targets[rows],
        1,
        None,
        tuple(batch.images[i] for i in rows),
        batch.slots[rows],
        batch.positions[rows],
    )


def backward(found: Stepper, halves: Sequence[Batch]) -> dict[str, Tensor]:
    """Gradients of the rows of these halves together."""
    inputs = torch.cat([half.inputs for half in halves])
    targets = torch.cat([half.targets for half in halves])
    seen = [half.sight for half in halves if half.sight is not None]
    images = [row for one in seen for row in one.images]
    slots, positions = (
        torch.cat([getattr(one, name) for one in seen]) for name in ("slots", "positions")
    )
    found.backward(inputs, targets, sight=Sight(images, slots, positions))
    named = found.spread.parameters.items()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    with joined("cpu"):
        ranks, batch = here(), mixed()
        halves = [half(batch, rank) for rank in range(2)]
        with mock.patch("espalier.train.parallel.spread.here", return_value=ALONE):
            alone = backward(stepper(model().double(), 1), halves)
        mine = halves[ranks.rank]
        found = backward(stepper(model().double(), 1, parallel="ddp"), [mine])
        if ranks.leads:
            told = {"worst": worst(found, alone), "tensors": len(found)}
            (Path(sys.argv[1]) / "sighted.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
