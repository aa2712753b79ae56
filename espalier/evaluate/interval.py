"""The loss of each window of a text, from which an interval can be made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from espalier.data.tokens import Tokens
from espalier.evaluate.loss import BUDGET, Autocast, begin, evaluating, read_rows, token_losses
from espalier.nn.gpt import GPT


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
            ids, targets, sight = read_rows(tokens, starts[first : first + rows], block_size)
            ids = ids.to(device)
            with autocast():
                now = begin(model, ids, tokens.ends, sight)
                each = token_losses(model, ids, targets.to(device), now)
            sums = torch.cat(each).cpu().double().view(len(ids), -1).sum(1)
            found += (sums / (targets >= 0).sum(1).clamp(min=1)).tolist()
            between(len(found))
    return np.asarray(found)
