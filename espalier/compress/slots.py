"""The contract of a pruning method: a model in, masks or a smaller model out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from jaxtyping import Bool, Int
from torch import Tensor

from espalier.config import PartConfig
from espalier.nn.gpt import GPT, GPTConfig

Scope = Literal["global", "layer", "row"]
"""what is ranked together: all weights, each matrix, each output of a matrix"""


class Pattern(NamedTuple):
    """`keep` weights of every `group` neighbours in a row stay (2:4 and the like)."""

    keep: int
    group: int


@dataclass(frozen=True)
class Job:
    """What is asked of a method."""

    share: float
    """of the prunable weights to take away; at least 0, below 1"""
    scope: Scope
    text: Int[Tensor, "windows time"]
    """calibration tokens, for methods that look at activations"""
    pattern: Pattern | None = None
    include: frozenset[str] = frozenset()
    """`head`, `embedding`: tables that take part beside the matrices of the stack"""
    seed: int = 1337


Masks = dict[str, Bool[Tensor, "*shape"]]
"""parameter -> which of its weights stay"""


@dataclass(frozen=True)
class Pruned:
    """A pruned model: the same object with zeros, or another, smaller one with its own `config`."""

    model: GPT
    config: GPTConfig
    masks: Masks = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)
    """units taken out, by kind"""
    difference: float | None = None
    """largest difference between the logits with those units silenced and with them removed"""
    unseen: tuple[str, ...] = ()
    """weights whose inputs could not be watched: their own size alone decided"""


class PruneConfig(PartConfig, slot="espalier.compress.prune"):
    """Chooses weights and takes them away."""

    scopes: ClassVar[tuple[Scope, ...]] = ("global", "layer", "row")  # the first is the default
    patterns: ClassVar[bool] = True  # knows `keep` of `group`

    def prune(self, model: GPT, config: GPTConfig, job: Job) -> Pruned:
        """Prune `model` in place, or make a smaller one. Raises UserError where it cannot."""
        raise NotImplementedError
