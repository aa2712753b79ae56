"""One update: micro-batches in, new weights out, without waiting for the device."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from espalier.errors import UserError
from espalier.train.noise import Apart, NoiseScale
from espalier.train.objective import Drawn, Objective
from espalier.train.precision import LossScale, Precision
from espalier.train.slots import Optimizer

PATIENCE = 3  # updates in a row that may come out non-finite


@dataclass(frozen=True)
class Update:
    """What one update did. Tensors stay on the device until somebody reads them."""

    loss: Tensor
    grad_norm: Tensor
    learning_rate: float
    tokens: int


class Batch(NamedTuple):
    """The effective batch of an update, on the host."""

    inputs: Tensor
    """int64 (rows, time)"""
    targets: Tensor
    """likewise; -1 = none"""
    micro_rows: int
    """rows in a micro-batch"""
    source: Tensor | None = None
    """int64 (rows): the corpus of a mixture that each row comes from"""


def shortened(batch: Batch, pieces: int) -> Batch:
    """Each row cut into `pieces` rows; a micro-batch keeps its tokens."""
    if pieces == 1:
        return batch
    rows = len(batch.inputs) * pieces
    inputs, targets = batch.inputs.reshape(rows, -1), batch.targets.reshape(rows, -1)
    source = None if batch.source is None else batch.source.repeat_interleave(pieces)
    return Batch(inputs, targets, batch.micro_rows * pieces, source)


class DivergedError(UserError):
    """Losses or gradients stay non-finite."""


class Guard:
    """Counts, on the device, updates skipped because they were not finite."""

    def __init__(self, model: nn.Module, device: str):
        self.model = model
        self.skipped = torch.zeros((), device=device)
        self.streak = torch.zeros((), device=device)
        self.longest = torch.zeros((), device=device)
        self.culprit = ""

    def count(self, bad: Tensor) -> None:
        self.skipped += bad
        self.streak = (self.streak + 1) * bad
        self.longest = torch.maximum(self.longest, self.streak)
        if bad.device.type == "cpu" and bad.item():
            self.culprit = self._first()

    def check(self, step: int) -> None:
        """Raise DivergedError after too many bad updates in a row. Waits for the device."""
        if self.longest.item() < PATIENCE:
            return
        where = f" (first in the gradient of {self.culprit})" if self.culprit else ""
        raise DivergedError(
            f"step {step}: the loss or a gradient was not finite {PATIENCE} times in a row{where}. "
            "Those updates were skipped and the last good checkpoint stands. "
            "Try a lower train.learning_rate, more warmup_iters, or train.dtype=float32"
        )

    def _first(self) -> str:
        """The parameter nearest the input whose gradient is not finite."""
        named = self.model.named_parameters()
        bad = (n for n, p in named if p.grad is not None and not p.grad.isfinite().all())
        return next(bad, "")


class Stepper:
    """Makes updates; `scale`, `guard` and `noise` are its state beside the optimizer's."""

    noise: NoiseScale | None = None
    """measures updates where it is set"""

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        precision: Precision,
        micro_rows: int,
        grad_clip: float,
        device: str,
    ):
        self.objective, self.optimizer, self.precision = objective, optimizer, precision
        self.micro_rows, self.grad_clip, self.device = micro_rows, grad_clip, device
        self.parameters = [p for p in objective.model.parameters() if p.requires_grad]
        self.scale = LossScale(precision, device)
        self.guard = Guard(objective.model, device)

    def __call__(
        self,
        inputs: Tensor,
        targets: Tensor,
        learning_rate: float,
        source: Tensor | None = None,
    ) -> Update:
        """One update from the effective batch, int64 (rows, time) on the host, target -1 = none."""
        if self.optimizer.curious():
            self._show(inputs, targets, source)
        measured = self.noise is not None and self.noise.due()
        backward = self._measured if measured else self.backward
        loss = backward(inputs, targets, source=source)
        norm = self._norm()
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        bad = (~finite).float()
        scale = self.scale.value
        if self.grad_clip:
            scale = scale * torch.clamp((norm + 1e-6) / self.grad_clip, min=1.0)
        self.optimizer.step(learning_rate, scale, bad)
        # an overflow in fp16 is the loss scale's business until it cannot get smaller
        fault = bad * (self.scale.value <= 1.0) if self.scale.active else bad
        self.guard.count(torch.maximum(fault, (~torch.isfinite(loss)).float()))
        self.scale.update(bad)
        self.forget()
        return Update(loss, norm, learning_rate, targets.numel())

    def backward(
        self,
        inputs: Tensor,
        targets: Tensor,
        rows: int | None = None,
        after: Callable[[Tensor], None] = lambda targets: None,
        source: Tensor | None = None,
    ) -> Tensor:
        """Add the gradients of the effective batch, times the loss scale; the loss, per target.

        `after(targets)` follows each micro-batch, of `rows` windows (the usual number).
        """
        count = max(1, int((targets >= 0).sum()))
        loss = torch.zeros((), device=self.device)
        size = rows or self.micro_rows
        for ids, wanted, home in self._micro(inputs, targets, source, size):
            with self.precision.autocast():
                share = self.objective(ids, wanted, count, home)
            self.scale.apply(share).backward()  # type: ignore[no-untyped-call]
            loss += share.detach()
            after(wanted)
        return loss

    def _show(self, inputs: Tensor, targets: Tensor, source: Tensor | None) -> None:
        """Let the optimizer see the gradient of the same batch with targets the model draws."""
        trained, count = self.objective, max(1, int((targets >= 0).sum()))
        self.objective = Drawn(trained.model, trained.vocab_size, checkpoint=trained.checkpoint)
        self.objective.ends = trained.ends
        try:
            self.backward(inputs, targets, source=source)
        finally:
            self.objective = trained
        self.optimizer.observe(self.scale.value, count)
        self.forget()

    def _measured(self, inputs: Tensor, targets: Tensor, *, source: Tensor | None = None) -> Tensor:
        """`backward`, and the noise scale by the way; a single micro-batch is cut into halves."""
        assert self.noise is not None
        rows = min(self.micro_rows, -(-len(inputs) // 2))
        apart = Apart(self.parameters)
        loss = self.backward(inputs, targets, rows, apart.add, source)
        small, b, count = apart.join()
        self.noise.take(small / self.scale.value**2, self._norm() ** 2, b, count)
        return loss

    def noted(self) -> dict[str, float | None]:
        """What joins the records of training; reading waits for the device."""
        return {} if self.noise is None else {"noise_scale": self.noise.read()}

    def forget(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _micro(
        self, inputs: Tensor, targets: Tensor, source: Tensor | None, rows: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        for first in range(0, len(inputs), rows):
            here = slice(first, first + rows)
            home = None if source is None else self._there(source[here])
            yield self._there(inputs[here]), self._there(targets[here]), home

    def _there(self, tensor: Tensor) -> Tensor:
        if self.device.startswith("cuda"):
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _norm(self) -> Tensor:
        """The 2-norm of all gradients together, the loss scale taken out."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(grads))
        norm: Tensor = torch.linalg.vector_norm(norms)
        return norm / self.scale.value


def updates(
    stepper: Stepper,
    batches: Iterable[Batch],
    rate: Callable[[int], float],
    first: int,
) -> Iterator[Update]:
    """One update for each effective batch; `rate` gives the learning rate of update `first`, …"""
    for step, batch in enumerate(batches, first):
        stepper.micro_rows = batch.micro_rows
        yield stepper(batch.inputs, batch.targets, rate(step), batch.source)
