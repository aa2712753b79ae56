"""Sigsoftmax: exponentials times sigmoids, against softmax's rank limit (arXiv:1805.10829)."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from espalier.nn.slots import Dims, Part, ScoreConfig
from espalier.nn.state import Pass


class SigsoftmaxConfig(ScoreConfig):
    """e^s sigmoid(s) / sum e^s sigmoid(s)"""

    def build(self, dims: Dims, layer: int) -> Part:
        return Sigsoftmax()


class Sigsoftmax(Part):
    special = {"max": 1, "exp": 2, "divide": 2}
    passes = 3

    def forward(
        self, scores: Float[Tensor, "*batch key"], mask: Bool[Tensor, "*#batch key"], now: Pass
    ) -> Float[Tensor, "*batch key"]:
        return (scores + F.logsigmoid(scores)).masked_fill(~mask, float("-inf")).softmax(-1)
