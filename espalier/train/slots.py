"""The contract of the trainer's slots: optimizer, schedule and loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from espalier.config import PartConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from espalier.nn.slots import Role


class Named(NamedTuple):
    """A parameter, its path in the model and its role."""

    name: str
    tensor: nn.Parameter
    role: Role
    split: tuple[int, ...] = ()  # rows of the matrices that a fused projection holds


class Optimizer:
    """Changes parameters in place from their `.grad`. Parameters without a gradient stay."""

    def step(self, learning_rate: float, scale: Tensor, skip: Tensor) -> None:
        """One update with gradients divided by `scale`; nothing changes where `skip` is 1.

        Both are fp32 tensors of no dimension on the parameters' device, so that clipping, loss
        scaling and skipping never wait for it.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """Everything it remembers, as `parameter name.field`; the tensors themselves, no copies."""
        raise NotImplementedError

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave. Raises UserError for a name or shape that does not fit."""
        from espalier.train.checkpoint import fill

        fill(self.state(), state, "the optimizer's state")


class OptimizerConfig(PartConfig, slot="espalier.train.optimizer"):
    """Gradients to new weights."""

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        raise NotImplementedError


class Span(NamedTuple):
    """What every schedule is given; `horizon` is the step at which it ends."""

    peak: float
    floor: float
    warmup: int
    horizon: int

    def warming(self, step: int) -> float | None:
        """nanoGPT's linear warm-up, or None when it is over."""
        return self.peak * (step + 1) / (self.warmup + 1) if step < self.warmup else None


class ScheduleConfig(PartConfig, slot="espalier.train.schedule"):
    """The learning rate as a pure function of the number of updates made so far."""

    def rate(self, step: int, span: Span) -> float:
        raise NotImplementedError


TokenLoss = Callable[["Tensor", "Tensor"], "Tensor"]


class LossConfig(PartConfig, slot="espalier.train.loss"):
    """A loss that is a sum over tokens, so that it divides by the tokens of any batch."""

    def build(self) -> TokenLoss:
        """(logits (n, vocab), targets (n), -1 = none) -> sum over the targets that count, fp32."""
        raise NotImplementedError
