"""Cross entropy with the weight on tokens that the model's first choice misses.

The original has a `focus_on_top1_loss` that nothing calls; this is what its name says.
"""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from espalier.train.loss.cross_entropy import each
from espalier.train.slots import LossConfig, TokenLoss


class Top1Config(LossConfig):
    """w * -log p of the target; w is `known` where the target is the most likely token, else 1"""

    known: float = Field(0.5, ge=0, le=1)

    def build(self) -> TokenLoss:
        return partial(top1, known=self.known)


def top1(logits: Tensor, targets: Tensor, *, known: float) -> Tensor:
    """No gradient goes through the weights."""
    weights = torch.where(logits.argmax(-1) == targets, known, 1.0)
    return (weights * each(logits, targets)).sum()
