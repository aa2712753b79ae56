"""Focal loss: tokens that are already likely count less (arXiv:1708.02002)."""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.loss.cross_entropy import each
from espalier.train.slots import LossConfig, TokenLoss


class FocalConfig(LossConfig):
    """-(1 - p)^gamma log p of the target"""

    gamma: float = Field(2.0, ge=0)

    def build(self) -> TokenLoss:
        return partial(focal, gamma=self.gamma)


def focal(logits: Tensor, targets: Tensor, *, gamma: float) -> Tensor:
    losses = each(logits, targets)
    # 1 - p may round to 0, where a power below 1 has no slope
    missing = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).tiny)
    return (missing**gamma * losses).sum()
