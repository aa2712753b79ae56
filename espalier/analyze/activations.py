"""Statistics of what each part gives, and of attention's scores before and after normalising."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espalier.analyze import record
from espalier.analyze.moments import Moments, Summary
from espalier.data.tokens import Tokens
from espalier.nn.gpt import GPT

Figures = dict[str, dict[str, Any]]
COMPARED = ("mean", "deviation", "excess_kurtosis", "min", "max", "zeros")


def outputs(
    model: GPT, tokens: Tokens, starts: NDArray[np.int64], block_size: int, only: str = "*"
) -> Figures:
    """Figures of every part's output over the windows, in the model's order; `only`: a pattern."""
    found: defaultdict[str, Summary] = defaultdict(Summary)

    def hear(path: str, inputs: tuple[Any, ...], output: Any) -> None:
        for name, tensor in record.tensors(path, output):
            found[name].add(tensor)

    chosen = record.places(model, only)
    with record.listening(model, dict.fromkeys(chosen, hear)):
        record.run(model, tokens, starts, block_size)
    order = {path: number for number, path in enumerate(chosen)}
    named = sorted(found, key=lambda name: order.get(_module(name, order), len(order)))
    return {name: found[name].figures() for name in named}


def _module(name: str, known: Mapping[str, int]) -> str:
    """The path of the module that a name came from: without #2, and the number of an output."""
    path = name.partition("#")[0]
    return path if path in known else path.rpartition(".")[0]


class Scores:
    """One normaliser of attention: what it was given where a query may look, what it made of it."""

    def __init__(self) -> None:
        self.before, self.after = Summary(), Summary()
        self.heads: Tensor | float = 0.0  # entropy added up over rows, head by head
        self.rows = 0
        self.largest, self.sums = Moments(), Moments()

    def add(self, scores: Tensor, mask: Tensor, weights: Tensor) -> None:
        """Scores and weights (batch, heads, query, key); mask True where a query may look."""
        seen = mask.expand_as(scores)
        self.before.add(scores[seen])
        self.after.add(weights[seen])
        weights = weights.masked_fill(~seen, 0.0)
        rows = entropy(weights)
        self.heads = self.heads + rows.sum((0, 2)).double().cpu()
        self.rows += rows.shape[0] * rows.shape[2]
        self.largest = self.largest + Moments.of(weights.amax(-1))
        self.sums = self.sums + Moments.of(weights.sum(-1))

    def figures(self) -> dict[str, Any]:
        heads = torch.as_tensor(self.heads) / self.rows
        return {
            "before": self.before.figures(),
            "after": self.after.figures(),
            "entropy": float(heads.mean()),
            "entropy_by_head": heads.tolist(),
            "largest": self.largest.mean,
            "row_sum": self.sums.mean,
        }


def entropy(weights: Tensor) -> Tensor:
    """Of each row in nats, after division by its sum; negative weights count as none."""
    weights = weights.float().clamp(min=0)
    share = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return -torch.xlogy(share, share).sum(-1)


def scores(model: GPT, tokens: Tokens, starts: NDArray[np.int64], block_size: int) -> Figures:
    """Figures of each part that stands in a `score` slot, by path.

    The pass is the parts' reference path: a fused kernel keeps its scores to itself.
    """
    found: defaultdict[str, Scores] = defaultdict(Scores)

    def hear(path: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        found[path].add(inputs[0], inputs[1], output)

    chosen = [path for path in record.places(model) if path.rpartition(".")[2] == "score"]
    with record.plainly(model), record.listening(model, dict.fromkeys(chosen, hear)):
        record.run(model, tokens, starts, block_size)
    return {path: one.figures() for path, one in found.items()}


def differences(mine: Figures, theirs: Figures) -> dict[str, dict[str, float]]:
    """By name, of what both have: these figures minus those."""
    return {
        name: {key: mine[name][key] - theirs[name][key] for key in COMPARED}
        for name in mine
        if name in theirs
    }
