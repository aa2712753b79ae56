"""The loss of whole documents, of any length, through windows that overlap.

A window reads at most `block_size` tokens and begins `stride` tokens after the one before it. Each
token is scored once, in the first window that reaches it: with all that stands before it up to
`block_size` tokens, and past that with at least `block_size - stride + 1`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from espalier.engine.generate import pad
from espalier.evaluate.loss import BUDGET, Autocast, evaluating
from espalier.nn.gpt import GPT
from espalier.nn.state import Pass
from espalier.train.objective import chunk_length


class Window(NamedTuple):
    """Inputs start .. stop - 1 of a row; it scores the tokens after inputs first .. stop - 1."""

    row: int
    start: int
    stop: int
    first: int


def windows(row: int, length: int, block_size: int, stride: int) -> Iterator[Window]:
    """Of a row of `length` tokens, the first of which is given and not scored."""
    done = start = 0
    while done < length - 1:
        stop = min(start + block_size, length - 1)
        yield Window(row, start, stop, done)
        done, start = stop, start + stride


@torch.no_grad()
def token_nlls(
    model: GPT,
    rows: Sequence[NDArray[np.int64]],
    block_size: int,
    stride: int,
    *,
    autocast: Autocast = contextlib.nullcontext,
    between: Callable[[int], None] = lambda done: None,
) -> list[NDArray[np.float64]]:
    """Nats of every token but each row's first, made in fp32; `between(tokens scored)` may raise.

    Rows of different lengths share a pass; a row's numbers do not depend on its company but for
    the order of sums.
    """
    assert 1 <= stride <= block_size
    device = next(model.parameters()).device
    found = [np.empty(max(0, len(row) - 1)) for row in rows]
    plan = [w for i, row in enumerate(rows) for w in windows(i, len(row), block_size, stride)]
    plan.sort(key=lambda window: window.start - window.stop)
    with evaluating(model):
        while plan:
            count = max(1, BUDGET // (plan[0].stop - plan[0].start))
            group, plan = plan[:count], plan[count:]
            ids, positions = pad([rows[w.row][w.start : w.stop].tolist() for w in group], device)
            with autocast():
                hidden = model.trunk(ids, Pass(positions))
                wanted = [
                    hidden[i, w.first - w.start : w.stop - w.start] for i, w in enumerate(group)
                ]
                targets = [rows[w.row][w.first + 1 : w.stop + 1] for w in group]
                losses = _losses(model, torch.cat(wanted), np.concatenate(targets))
            for window, part in zip(group, _split(losses, group), strict=True):
                found[window.row][window.first : window.stop] = part
            between(len(losses))
    return found


def _losses(model: GPT, hidden: Tensor, targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logits of one piece at a time."""
    wanted = torch.from_numpy(targets).to(hidden.device)
    width = model.head(hidden[:1]).shape[-1]
    chunk = chunk_length(len(wanted), width, hidden.device)
    parts = [
        F.cross_entropy(model.head(h).float(), t, reduction="none")
        for h, t in zip(torch.split(hidden, chunk), torch.split(wanted, chunk), strict=True)
    ]
    return torch.cat(parts).cpu().double().numpy()


def _split(losses: NDArray[np.float64], group: Sequence[Window]) -> list[NDArray[np.float64]]:
    edges = np.cumsum([window.stop - window.first for window in group])[:-1]
    return np.split(losses, edges)
