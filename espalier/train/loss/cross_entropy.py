"""Negative log-likelihood of the next token, in nats."""

from torch import Tensor
from torch.nn import functional as F

from espalier.train.slots import LossConfig, TokenLoss


class CrossEntropyConfig(LossConfig):
    """-log softmax(logits)[target]"""

    def build(self) -> TokenLoss:
        return cross_entropy


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over the targets that are not -1; the softmax is taken in fp32 (fp64 for fp64)."""
    wide = logits if logits.dtype.itemsize > 2 else logits.float()
    return F.cross_entropy(wide, targets, ignore_index=-1, reduction="sum")
