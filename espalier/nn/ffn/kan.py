"""One KAN layer in place of a multi-layer perceptron (arXiv:2404.19756); see linear/kan.py."""

from jaxtyping import Float
from torch import Tensor

from espalier.nn.linear.kan import Functions, Kan
from espalier.nn.slots import Dims, FfnConfig, Part, drop, onto_residual
from espalier.nn.state import Pass


class KanConfig(Functions, FfnConfig):
    """silu(x) W^T + sum_k f_k(x) C_k^T + b, n_embd to n_embd; f_k = P_k(tanh x), or B-splines"""

    variants = ({"basis": "spline", "grid": 3},)

    def build(self, dims: Dims, layer: int) -> Part:
        edges = self.edges(dims.n_embd, dims.n_embd, dims)
        return KanFfn(onto_residual(edges, dims), dims.dropout)


class KanFfn(Part):
    special = Kan.special

    def __init__(self, edges: Part, dropout: float):
        super().__init__()
        self.edges, self.dropout = edges, dropout

    def forward(self, x: Float[Tensor, "*batch d"], now: Pass) -> Float[Tensor, "*batch d"]:
        return drop(self.edges(x, now), self.dropout, self.training)
