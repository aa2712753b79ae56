"""One update: micro-batches in, new weights out, without waiting for the device."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from espalier.errors import UserError
from espalier.nn.sight import Sight
from espalier.nn.state import Image
from espalier.train.noise import Apart, NoiseScale
from espalier.train.objective import Drawn, MicroBatch, Objective
from espalier.train.parallel.spread import Spread
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
    images: tuple[Sequence[Image], ...] = ()
    """of each row, in order"""
    slots: Tensor | None = None
    """int64 (rows, time): which feature of its row's images stands there; -1: the token"""
    positions: Tensor | None = None
    """int64 (rows, time), from 0 in each document; -1 = padding. Told wherever `slots` is."""

    @property
    def sight(self) -> Sight | None:
        """What rows that may hold images see; None for text."""
        if self.slots is None or self.positions is None:
            return None
        return Sight(self.images, self.slots, self.positions)


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

    def __init__(self, parameters: Mapping[str, nn.Parameter], device: str):
        self.parameters = parameters
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
        named = self.parameters.items()
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
        spread: Spread,
    ):
        self.objective, self.optimizer, self.precision = objective, optimizer, precision
        self.micro_rows, self.grad_clip = micro_rows, grad_clip
        self.spread, self.device = spread, spread.device
        self.parameters = [p for p in spread.parameters.values() if p.requires_grad]
        self.scale = LossScale(precision, self.device)
        self.guard = Guard(spread.parameters, self.device)

    def __call__(
        self,
        inputs: Tensor,
        targets: Tensor,
        learning_rate: float,
        source: Tensor | None = None,
        sight: Sight | None = None,
    ) -> Update:
        """One update from the effective batch, int64 (rows, time) on the host, target -1 = none.

        Where there are ranks, each gives as many rows of it.
        """
        if self.optimizer.curious():
            self._show(inputs, targets, source, sight)
        measured = self.noise is not None and self.noise.due()
        backward = self._measured if measured else self.backward
        loss = backward(inputs, targets, source=source, sight=sight)
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
        tokens = targets.numel() if sight is None else int((sight.positions >= 0).sum())
        return Update(loss, norm, learning_rate, self.spread.ranks.total(tokens))

    def backward(
        self,
        inputs: Tensor,
        targets: Tensor,
        rows: int | None = None,
        after: Callable[[Tensor], None] | None = None,
        source: Tensor | None = None,
        sight: Sight | None = None,
    ) -> Tensor:
        """Add the gradients of the effective batch, times the loss scale; the loss, per target.

        `after(targets)` follows each micro-batch, of `rows` windows (the usual number); without it
        ranks meet once, in the last.
        """
        mine = int((targets >= 0).sum())
        count = max(1, self.spread.ranks.total(mine))
        places = self.spread.ranks.total(targets.numel())
        loss = torch.zeros((), device=self.device)
        size, sparse = rows or self.micro_rows, 2 * mine < targets.numel()
        for first in range(0, len(inputs), size):
            here = slice(first, first + size)
            ids, wanted = self._there(inputs[here]), self._there(targets[here])
            home = None if source is None else self._there(source[here])
            seen = None if sight is None else sight.rows(here).moved(self._there)
            few = self._few(targets[here]) if sparse else None
            last = after is not None or first + size >= len(inputs)
            with self.spread.part(last=last):
                loss += self._share(MicroBatch(ids, wanted, home, seen, few), count, places)
            if last:
                self.spread.settle()
            if after is not None:
                after(wanted)
        return self.spread.ranks.sum(loss)

    def rehearse(self, blank: Tensor) -> Tensor:
        """The loss of one micro-batch, forward and backward, in which ranks do not meet."""
        with self.spread.part(last=False):
            batch = MicroBatch(self._there(blank), self._there(blank))
            return self._share(batch, blank.numel(), blank.numel())

    def _share(self, batch: MicroBatch, count: int, places: int) -> Tensor:
        """The objective of a micro-batch, whose gradients are added to those that are there."""
        with self.precision.autocast():
            share = self.spread.run(self.objective, batch, count, places)
        self.scale.apply(share).backward()  # type: ignore[no-untyped-call]
        return share.detach()

    def _few(self, targets: Tensor) -> Tensor:
        """Where there are targets, counted through: the head need see nothing else."""
        return self._there((targets >= 0).flatten().nonzero()[:, 0])

    def _show(
        self, inputs: Tensor, targets: Tensor, source: Tensor | None, sight: Sight | None
    ) -> None:
        """Let the optimizer see the gradient of the same batch with targets the model draws."""
        trained = self.objective
        count = max(1, self.spread.ranks.total(int((targets >= 0).sum())))
        self.objective = Drawn(trained.model, trained.vocab_size, checkpoint=trained.checkpoint)
        self.objective.ends = trained.ends
        try:
            self.backward(inputs, targets, source=source, sight=sight)
        finally:
            self.objective = trained
        self.optimizer.observe(self.scale.value, count)
        self.forget()

    def _measured(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        source: Tensor | None = None,
        sight: Sight | None = None,
    ) -> Tensor:
        """`backward`, and the noise scale by the way; a single micro-batch is cut into halves."""
        assert self.noise is not None
        rows = min(self.micro_rows, -(-len(inputs) // 2))
        apart = Apart(self.parameters, self.spread)
        loss = self.backward(inputs, targets, rows, apart.add, source, sight)
        small, b, count = apart.join()
        self.noise.take(small / self.scale.value**2, self._norm() ** 2, b, count)
        return loss

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, optimizer apart."""
        self.scale.load(state["scale"])
        self.guard.skipped.fill_(state["skipped"])
        if self.noise is not None and "noise" in state:
            self.noise.load(state["noise"])

    def noted(self) -> dict[str, float | None]:
        """What joins the records of training; reading waits for the device."""
        return {} if self.noise is None else {"noise_scale": self.noise.read()}

    def forget(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _there(self, tensor: Tensor) -> Tensor:
        if self.device.startswith("cuda"):
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _norm(self) -> Tensor:
        """The 2-norm of all gradients together, the loss scale taken out."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        return self.spread.norm(grads) / self.scale.value


def updates(
    stepper: Stepper,
    batches: Iterable[Batch],
    rate: Callable[[int], float],
    first: int,
) -> Iterator[Update]:
    """One update for each effective batch; `rate` gives the learning rate of update `first`, …"""
    for step, batch in enumerate(batches, first):
        stepper.micro_rows = batch.micro_rows
        yield stepper(batch.inputs, batch.targets, rate(step), batch.source, batch.sight)
