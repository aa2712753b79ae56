"""From scores to masks: exactly so many weights, ties settled by place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from espalier.compress.slots import Job, Masks, Pattern
from espalier.errors import UserError


def cut(scores: Mapping[str, Tensor], job: Job) -> Masks:
    """Keep all but the lowest scores; int(share * number) go, wherever they are ranked together.

    Of equal scores the first in the model's order goes first.
    """
    if job.pattern is not None:
        return {name: ~patterned(score, job.pattern, name) for name, score in scores.items()}
    if job.scope == "global":
        return _together(scores, job.share)
    if job.scope == "layer":
        return {
            name: ~lowest(score, int(job.share * score.numel())) for name, score in scores.items()
        }
    return {name: ~lowest_of_rows(score, job.share) for name, score in scores.items()}


def lowest(scores: Float[Tensor, "*shape"], count: int) -> Bool[Tensor, "*shape"]:
    """The `count` lowest of a tensor."""
    flat = scores.flatten()
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    edge = flat.kthvalue(count).values
    found = flat < edge
    tied = (flat == edge).nonzero()[: count - int(found.sum()), 0]
    found[tied] = True
    return found.view_as(scores)


def lowest_of_rows(scores: Float[Tensor, "row ..."], share: float) -> Bool[Tensor, "row ..."]:
    """The same share of each row."""
    flat = scores.flatten(1)
    return firsts(flat, int(share * flat.shape[1])).view_as(scores)


def patterned(
    scores: Float[Tensor, "row ..."], pattern: Pattern, name: str
) -> Bool[Tensor, "row ..."]:
    """Of every `group` neighbours in a row, all but the `keep` highest."""
    flat = scores.flatten(1)
    if flat.shape[1] % pattern.group:
        raise UserError(
            f"{name} has rows of {flat.shape[1]} weights, no multiple of {pattern.group}: "
            f"the pattern {pattern.keep}:{pattern.group} does not fit this model"
        )
    groups = flat.reshape(-1, pattern.group)
    return firsts(groups, pattern.group - pattern.keep).view_as(scores)


def _together(scores: Mapping[str, Tensor], share: float) -> Masks:
    whole = torch.cat([score.flatten().float() for score in scores.values()])
    gone = lowest(whole, int(share * whole.numel()))
    parts = torch.split(~gone, [score.numel() for score in scores.values()])
    return {
        name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def firsts(scores: Float[Tensor, "row n"], count: int) -> Bool[Tensor, "row n"]:
    """The `count` lowest of each row."""
    order = scores.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
