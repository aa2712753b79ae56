"""A pruned model trained on, in the house's own step; what was taken away stays away."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from pydantic import Field

from espalier.compress.masks import held, lay
from espalier.compress.slots import Pruned
from espalier.config import Config
from espalier.data.loader import batch, ordered
from espalier.data.tokens import Tokens
from espalier.train import setup
from espalier.train.settings import TrainConfig


class Finetune(Config):
    """The same for every model and level: AdamW from scratch at a constant rate."""

    steps: int = Field(500, ge=0)
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    tokens_per_step: int = Field(4096, ge=1)
    """rounded down to whole windows, one at least"""
    dtype: str = "float32"

    def settings(self) -> TrainConfig:
        return TrainConfig.model_validate(
            {
                "max_iters": self.steps,
                "gradient_accumulation_steps": 1,
                "learning_rate": self.learning_rate,
                "min_lr": self.learning_rate,
                "warmup_iters": 0,
                "weight_decay": self.weight_decay,
                "schedule": "constant",
                "dtype": self.dtype,
            }
        )


def finetune(
    pruned: Pruned,
    tokens: Tokens,
    plan: Finetune,
    seed: int,
    told: Callable[[float], None] = lambda loss: None,
    window: int | None = None,
) -> None:
    """Train `pruned.model` in place; `told` hears the loss now and then, may raise.

    Rows are `window` tokens long, the model's block when left out. The order of the data depends on
    the seed and this length alone.
    """
    for loss in _losses(pruned, tokens, plan, seed, window or pruned.config.block_size):
        told(loss)


def _losses(
    pruned: Pruned, tokens: Tokens, plan: Finetune, seed: int, size: int
) -> Iterator[float]:
    model, settings = pruned.model, plan.settings()
    rows = max(1, plan.tokens_per_step // size)
    device = str(next(model.parameters()).device)
    stepper = setup.stepper(model, pruned.config, settings, rows, device)
    stepper.objective.ends = tokens.ends
    order = ordered(tokens, size, seed)
    rate = setup.rate(settings, max(1, plan.steps))
    cards = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cards), held(model, pruned.masks):
        torch.manual_seed(seed)
        model.train()
        for step in range(plan.steps):
            inputs, targets = batch(tokens, order, step * rows, rows, size)
            update = stepper(inputs, targets, rate(step))
            lay(model, pruned.masks)
            stepper.guard.check(step)
            yield float(update.loss)
        model.eval()
