"""A timing test: real updates of an experiment, for what they take, and nothing kept."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from espalier import device as machine
from espalier.cost import prices
from espalier.cost.prices import Price
from espalier.data.corpus import Corpus
from espalier.data.loader import batch, ordered
from espalier.errors import UserError
from espalier.experiment import Experiment, build, with_vocabulary
from espalier.train import setup
from espalier.train.steps import Stepper

WARM = 3  # updates before the clock starts


@dataclass(frozen=True)
class Timing:
    """Medians over the timed updates."""

    device: str
    precision: str
    steps: int
    tokens_per_step: int
    seconds_per_step: float
    peak_bytes: int
    """of the device on a GPU, of the process on a CPU"""
    target_tokens: int
    price: Price | None
    """of an hour of the device"""

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_per_step / self.seconds_per_step

    @property
    def seconds(self) -> float:
        """For the target, evaluations and saving not counted."""
        return self.target_tokens / self.tokens_per_s

    @property
    def dollars(self) -> float | None:
        return None if self.price is None else self.price.dollars * self.seconds / 3600


def measure(plan: Experiment, steps: int, device: str = "auto") -> Timing:
    """Time `steps` updates at the peak learning rate; without a corpus, on random tokens."""
    if steps < 1:
        raise UserError(f"--timing-steps must be at least 1, got {steps}")
    plan, where = with_vocabulary(plan), setup.check_device(device)
    micro, accumulation = plan.data.batch_size, plan.train.gradient_accumulation_steps
    rows, block = micro * accumulation, plan.model.block_size
    model = build(plan, where).train()
    stepper = setup.stepper(model, plan.model, plan.train, micro, where)
    horizon = setup.horizon(plan.train, rows * block)
    setup.compile_step(stepper, plan.train.compile, (micro, block), horizon * accumulation)
    if where.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(where)
    taken = [_update(stepper, plan, i) for i in range(WARM + steps)][WARM:]
    return Timing(
        device=f"{where}: {machine.name(where)}",
        precision=stepper.precision.short,
        steps=steps,
        tokens_per_step=rows * block,
        seconds_per_step=statistics.median(taken),
        peak_bytes=_peak(where),
        target_tokens=plan.train.target_tokens or horizon * rows * block,
        price=prices.of(torch.device(where).type, machine.name(where)),
    )


def _update(stepper: Stepper, plan: Experiment, number: int) -> float:
    """Seconds of one update, from its batch to its end on the device."""
    start = time.perf_counter()
    inputs, targets = _batch(plan, number)
    update = stepper(inputs, targets, plan.train.learning_rate)
    update.loss.item()  # waits for the device
    return time.perf_counter() - start


def _batch(plan: Experiment, number: int) -> tuple[Tensor, Tensor]:
    rows = plan.data.batch_size * plan.train.gradient_accumulation_steps
    block = plan.model.block_size
    if plan.data.corpus is not None:
        tokens = Corpus.open(plan.data.corpus).train
        order = ordered(tokens, block, plan.seed)
        return batch(tokens, order, number * rows, rows, block)
    assert plan.model.vocab_size is not None
    ids = torch.randint(plan.model.vocab_size, (rows, block + 1))
    return ids[:, :-1], ids[:, 1:]


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def facts(timing: Timing) -> dict[str, object]:
    """In JSON."""
    price = timing.price
    return {
        "device": timing.device,
        "precision": timing.precision,
        "steps": timing.steps,
        "ms_per_step": 1000 * timing.seconds_per_step,
        "tokens_per_s": timing.tokens_per_s,
        "peak_bytes": timing.peak_bytes,
        "target_tokens": timing.target_tokens,
        "seconds": timing.seconds,
        "dollars": timing.dollars,
        "dollars_per_hour": None if price is None else price.dollars,
        "price_as_of": None if price is None else str(price.as_of),
        "price_source": None if price is None else price.source,
    }


def lines(timing: Timing) -> list[str]:
    """For people."""
    from espalier.units import count, duration, size

    price, dollars = timing.price, timing.dollars
    cost = "no price for this device in espalier/cost/prices.yaml"
    if price is not None and dollars is not None:
        cost = f"${dollars:,.2f} at ${price.dollars:.2f}/h (as of {price.as_of}: {price.source})"
    step = f"{1000 * timing.seconds_per_step:.0f} ms a step (median of {timing.steps})"
    return [
        f"device       {timing.device}, {timing.precision}",
        f"throughput   {count(timing.tokens_per_s)} tokens/s, {step}",
        f"peak memory  {size(timing.peak_bytes)}",
        f"time         {duration(timing.seconds)} for {count(timing.target_tokens)} tokens",
        f"cost         {cost}",
    ]
