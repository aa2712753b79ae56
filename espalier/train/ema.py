"""The mean of the weights over training, beside them: it is what a run evaluates and saves.

mean <- d mean + (1 - d) weights after each update, with d = min(decay, (1 + n) / (10 + n)) for the
n-th, so that the start is soon forgotten. Training itself goes on from the weights (Polyak and
Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging").
"""

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from espalier.errors import UserError
from espalier.train import checkpoint

LIVE = "live.safetensors"  # in a checkpoint of a mean: the weights that training goes on from


class Weights:
    """What a run evaluates and saves: the weights themselves."""

    size = 0
    """bytes that `save` writes"""

    def add(self, step: int) -> None:
        """Take in the weights after update number `step`, counted from 1."""

    def shown(self) -> contextlib.AbstractContextManager[None]:
        """The model has what is to be shown for its weights meanwhile."""
        return contextlib.nullcontext()

    def save(self, folder: Path) -> None:
        """Write beside what is shown what training goes on from, where that is something else.

        OSError where the disk refuses.
        """

    def load(self, folder: Path) -> None:
        """Part the two again; the model has what was shown."""


class Average(Weights):
    """The mean of the parameters that are trained; the others are as they are."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.size = sum(p.numel() * p.element_size() for p in self.named.values())

    @cached_property
    def mean(self) -> list[Tensor]:
        """From its first use on, when weights of others are in their place."""
        return [p.detach().clone() for p in self.named.values()]

    @torch.no_grad()
    def add(self, step: int) -> None:
        decay, mean = min(self.decay, (1 + step) / (10 + step)), self.mean
        live = [p.detach() for p in self.named.values()]
        torch._foreach_lerp_(mean, live, 1 - decay)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for i, parameter in enumerate(self.named.values()):
            parameter.data, self.mean[i] = self.mean[i], parameter.data

    def save(self, folder: Path) -> None:
        """While it is shown."""
        checkpoint.save(dict(zip(self.named, self.mean, strict=True)), folder / LIVE)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        live = checkpoint.read(folder / LIVE) if (folder / LIVE).is_file() else {}
        if live.keys() != self.named.keys():
            raise UserError(f"{folder} was written with another train.ema or train.freeze")
        for i, (name, parameter) in enumerate(self.named.items()):
            self.mean[i].copy_(parameter)
            parameter.copy_(live[name])


def weights(model: nn.Module, decay: float | None) -> Weights:
    """With `train.ema`, their mean."""
    return Weights() if decay is None else Average(model, decay)
