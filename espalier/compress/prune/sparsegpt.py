"""Weights go one column after another, and those to the right make up for it (arXiv:2301.00774)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from espalier.compress.cut import firsts, lowest, patterned
from espalier.compress.inputs import products, watch
from espalier.compress.masks import lay
from espalier.compress.prunable import by_layer, prunable
from espalier.compress.slots import Job, Masks, PruneConfig, Pruned
from espalier.nn.gpt import GPT, GPTConfig


class SparsegptConfig(PruneConfig):
    """score = w^2 / [H^-1]_jj^2, H = x x^T over the calibration text (optimal brain surgeon)"""

    scopes = ("layer", "row")

    block: int = Field(128, ge=1)
    """columns whose masks are chosen at once"""
    damp: float = Field(0.01, gt=0)
    """added to the diagonal of H, as a share of its mean"""

    def prune(self, model: GPT, config: GPTConfig, job: Job) -> Pruned:
        masks: Masks = {}
        unseen: tuple[str, ...] = ()
        for part in by_layer(model, prunable(model, job.include)):
            seen = watch(model, part, job, products)
            for name, weight in part.items():
                h = seen.get(name)
                if h is None:
                    unseen += (name,)
                    h = torch.eye(weight[0].numel(), device=weight.device)[None]
                masks[name] = self._weight(weight.data, h, job)
            lay(model, {name: masks[name] for name in part})
        return Pruned(model, config, masks, unseen=unseen)

    def _weight(self, weight: Tensor, h: Float[Tensor, "g n n"], job: Job) -> Tensor:
        """Prune one parameter in place, its groups one by one; which weights stay."""
        groups = h.shape[0]
        views = weight.view(groups, weight.shape[0] // groups, -1)
        kept = [self.matrix(view, h[i], job) for i, view in enumerate(views)]
        return torch.stack(kept).view_as(weight)

    def matrix(
        self, weight: Float[Tensor, "row n"], h: Float[Tensor, "n n"], job: Job
    ) -> Bool[Tensor, "row n"]:
        """Prune one matrix in place; which weights stay."""
        w, root = weight.double(), inverse_root(h.double(), self.damp)
        gone = torch.zeros_like(weight, dtype=torch.bool)
        step = job.pattern.group if job.pattern else self.block
        for first in range(0, w.shape[1], step):
            last = min(first + step, w.shape[1])
            gone[:, first:last] = choose(w, root, range(first, last), job)
            sweep(w, root, gone, first, last)
        weight.copy_(w.masked_fill(gone, 0))
        return ~gone


def choose(
    w: Float[Tensor, "row all"], root: Float[Tensor, "all all"], columns: range, job: Job
) -> Bool[Tensor, "row n"]:
    """Which weights of some columns go, so that int(share * number) of the whole have gone."""
    part = slice(columns.start, columns.stop)
    score = (w[:, part] / root.diagonal()[part]).square()
    if job.pattern is not None:
        return patterned(score, job.pattern, "a matrix")
    if job.scope == "row":
        return firsts(score, _due(job.share, 1, columns))
    return lowest(score, _due(job.share, len(w), columns))


def _due(share: float, rows: int, columns: range) -> int:
    return int(share * rows * columns.stop) - int(share * rows * columns.start)


def sweep(
    w: Float[Tensor, "row n"],
    root: Float[Tensor, "n n"],
    gone: Bool[Tensor, "row n"],
    first: int,
    last: int,
) -> None:
    """Take the chosen weights of columns first .. last-1 away; the columns right of each adapt."""
    errors = torch.zeros_like(w[:, first:last])
    for j in range(first, last):
        error = torch.where(gone[:, j], w[:, j], 0) / root[j, j]
        w[:, j:last] -= error[:, None] * root[j, j:last]
        errors[:, j - first] = error
    w[:, last:] -= errors @ root[first:last, last:]


def inverse_root(h: Float[Tensor, "n n"], damp: float) -> Float[Tensor, "n n"]:
    """The upper Cholesky factor of the damped H^-1; row j serves the problem left at column j."""
    silent = h.diagonal() == 0
    mean = h.diagonal().mean()
    spread = damp * mean if mean > 0 else torch.ones_like(mean)
    damped = h + torch.diag(spread + silent.to(h) * (mean if mean > 0 else 1))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    found: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return found
