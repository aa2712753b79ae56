"""The contract of the trainer's slots: optimizer, schedule and loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from espalier.config import PartConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from espalier.nn.slots import Role


Decayed = tuple[Literal["matrix", "embedding", "vector"], ...]  # roles that weight decay shrinks


class Named(NamedTuple):
    """A parameter, its path in the model and its role."""

    name: str
    tensor: nn.Parameter
    role: Role
    split: tuple[int, ...] = ()  # rows of the matrices that a fused projection holds


class Optimizer:
    """Changes parameters in place from their `.grad`. Parameters without a gradient stay."""

    by_matrix = False
    """whether an entry's update depends on the others of its matrix, which must then be whole"""

    def step(self, learning_rate: float, scale: Tensor, skip: Tensor) -> None:
        """One update with gradients divided by `scale`; nothing changes where `skip` is 1.

        Both are fp32 tensors of no dimension on the parameters' device, so that clipping, loss
        scaling and skipping never wait for it.
        """
        raise NotImplementedError

    def curious(self) -> bool:
        """Asked once before each update: whether `observe` is to see a second gradient."""
        return False

    def observe(self, scale: Tensor, count: int) -> None:
        """`.grad` holds `scale` times the gradient of the mean loss over `count` tokens.

        Their targets were drawn from the model itself, which makes its square an estimate of the
        curvature. What is not finite changes nothing.
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
    """Gradients to new weights.

    Weight decay means one thing in all of them: before a step, `train.weight_decay` times the
    learning rate of each parameter whose role is in `decay` is taken off it (arXiv:1711.05101).
    """

    def within(self, horizon: int) -> Self:
        """With what depends on the number of updates in all filled in."""
        return self

    def build(self, parameters: list[Named], weight_decay: float) -> Optimizer:
        raise NotImplementedError


class Span(NamedTuple):
    """What every schedule is given; `horizon` is the step at which it ends."""

    peak: float
    floor: float
    warmup: int
    horizon: int
    history: Sequence[tuple[int, float]] = ()  # (step, validation loss) of the run, so far

    def progress(self, step: int) -> float:
        """From 0 at the end of the warm-up to 1 at the horizon, and 1 beyond."""
        if step >= self.horizon:
            return 1.0
        return (step - self.warmup) / (self.horizon - self.warmup)

    def warming(self, step: int) -> float | None:
        """nanoGPT's linear warm-up, or None when it is over."""
        return self.peak * (step + 1) / (self.warmup + 1) if step < self.warmup else None


class ScheduleConfig(PartConfig, slot="espalier.train.schedule"):
    """The learning rate as a pure function of the updates made so far and what they led to."""

    def rate(self, step: int, span: Span) -> float:
        raise NotImplementedError


TokenLoss = Callable[["Tensor", "Tensor"], "Tensor"]
GuidedLoss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]


class LossConfig(PartConfig, slot="espalier.train.loss"):
    """A loss that is a sum over tokens, so that it divides by the tokens of any batch."""

    def build(self) -> TokenLoss:
        """(logits (n, vocab), targets (n), -1 = none) -> sum over the targets that count, fp32."""
        raise NotImplementedError

    def guide(self) -> tuple[str, GuidedLoss] | None:
        """Another model to learn from, and the loss that takes its logits as a third argument.

        The model is anything that opens as one. None: there is no teacher, `build` is the loss.
        """
        return None
