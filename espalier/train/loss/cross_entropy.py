"""Negative log-likelihood of the next token, in nats."""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from espalier.train.slots import LossConfig, TokenLoss


class CrossEntropyConfig(LossConfig):
    """-log softmax(logits)[target] + z_loss * log(sum(exp(logits)))^2

    With label smoothing e the target is 1 - e + e / V and every other of the V tokens e / V.
    """

    z_loss: float = Field(0.0, ge=0)
    """keeps logits near a normaliser of 1; PaLM (arXiv:2204.02311) takes 1e-4"""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """e (arXiv:1512.00567)"""

    def build(self) -> TokenLoss:
        if self.z_loss == self.label_smoothing == 0:
            return cross_entropy
        return partial(regularised, z_loss=self.z_loss, label_smoothing=self.label_smoothing)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over the targets that are not -1; the softmax is taken in fp32 (fp64 for fp64)."""
    return F.cross_entropy(wide(logits), targets, ignore_index=-1, reduction="sum")


def regularised(
    logits: Tensor, targets: Tensor, *, z_loss: float, label_smoothing: float
) -> Tensor:
    """`cross_entropy` with both terms."""
    high = wide(logits)
    total = F.cross_entropy(
        high, targets, ignore_index=-1, reduction="sum", label_smoothing=label_smoothing
    )
    if z_loss == 0:
        return total
    normaliser = torch.logsumexp(high, -1).square()
    return total + z_loss * (normaliser * (targets >= 0)).sum()


def wide(logits: Tensor) -> Tensor:
    """16-bit logits in fp32, others as they are."""
    return logits if logits.dtype.itemsize > 2 else logits.float()


def each(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of every token, 0 where the target is -1; for losses that weigh tokens."""
    return F.cross_entropy(wide(logits), targets, ignore_index=-1, reduction="none")
