"""WiggleGPT's ffn, whole: dendrites, oscillating soma, events (P. C. O'Brien 2025, version 1)."""

from pydantic import Field

from espalier.config import default
from espalier.nn.ffn.dendritic import Dendrites
from espalier.nn.ffn.sparse_event import Events, SparseEvent
from espalier.nn.slots import ActivationConfig, Dims, FfnConfig, LinearConfig, Part, onto_residual


class WiggleConfig(Events, Dendrites, FfnConfig):
    """down(event(activation(soma([u, v])))): dendritic's first map, sparse_event's second"""

    variants = ({"compartments": 3, "lateral": "ring", "gate": "hard"},)

    width: int | None = Field(None, ge=1)
    """hidden features; 4 n_embd when left out"""
    activation: ActivationConfig = default("oscillating")
    """of the soma, and again after the transform"""
    linear: LinearConfig = default("dense")
    """of gate, transform and the map down"""

    def build(self, dims: Dims, layer: int) -> Part:
        width = self.width or 4 * dims.n_embd
        up = self.dendritic(width, dims)
        first, second = (self.activation.build(width, dims, layer) for _ in range(2))
        event = self.event(width, self.linear, second, dims, layer)
        down = onto_residual(self.linear.build(width, dims.n_embd, dims, layer), dims)
        return SparseEvent(up, first, event, down, dims.dropout)
