"""How sure a validation loss is: means over windows, their spread, and paired differences."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from espalier.data.loader import pairs
from espalier.data.tokens import Tokens
from espalier.evaluate.loss import BUDGET, Autocast, evaluating, token_losses
from espalier.nn.gpt import GPT

Z = 1.959964  # of the normal distribution's central 95 %


@torch.no_grad()
def window_losses(
    model: GPT,
    tokens: Tokens,
    starts: NDArray[np.int64],
    block_size: int,
    *,
    autocast: Autocast = contextlib.nullcontext,
    between: Callable[[int], None] = lambda done: None,
) -> NDArray[np.float64]:
    """Mean loss of each window at `starts`, nats per token; `between(done)` may raise."""
    device = next(model.parameters()).device
    rows = max(1, BUDGET // block_size)
    found: list[float] = []
    with evaluating(model):
        for first in range(0, len(starts), rows):
            ids, targets = pairs(tokens, starts[first : first + rows], block_size)
            with autocast():
                there = ids.to(device), targets.to(device)
                each = token_losses(model, *there, ends=tokens.ends)
            sums = torch.cat(each).cpu().double().view(-1, block_size).sum(1)
            found += (sums / (targets >= 0).sum(1).clamp(min=1)).tolist()
            between(len(found))
    return np.asarray(found)


def mean_interval(values: NDArray[np.float64]) -> dict[str, Any]:
    """Mean and 95 % interval by the central limit theorem; no interval for one value.

    Windows of one text are not independent, so the true interval is somewhat wider.
    """
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return {"mean": mean, "low": None, "high": None, "windows": count}
    half = Z * float(values.std(ddof=1)) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half, "windows": count}
