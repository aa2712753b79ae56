"""How fast it goes, and how much of the device that uses."""

import contextlib
from collections.abc import Sequence
from functools import cache, cached_property
from types import MappingProxyType

import torch

from espalier import device as machine
from espalier.cost import count, vision
from espalier.cost.vision import Squares
from espalier.nn.gpt import GPT, GPTConfig, sketch
from espalier.train import tuning

SOON = 10.0
NONE: Squares = MappingProxyType({})


class Stopwatch:
    """Time in updates since it was last read; evaluations and saves are not in it."""

    def __init__(self) -> None:
        self.seconds, self.waited, self.updates = 0.0, 0.0, 0

    def add(self, seconds: float) -> None:
        self.seconds += seconds
        self.updates += 1

    def wait(self, seconds: float) -> None:
        """The part of an update in which it waited for its batch."""
        self.waited += seconds

    def read(self) -> tuple[float, float]:
        """Mean seconds of an update, and those of them spent on its batch; starts anew."""
        count = max(1, self.updates)
        means = self.seconds / count, self.waited / count
        self.seconds, self.waited, self.updates = 0.0, 0.0, 0
        return means


class Utilisation:
    """Model FLOPs utilisation: arithmetic done over what the device could have done.

    Of images as of tokens: those that were read, padding left out. What is frozen needs no
    gradients.
    """

    def __init__(self, shape: GPTConfig, dtype: str, device: str, freeze: Sequence[str] = ()):
        self.shape, self.dtype, self.device, self.freeze = shape, dtype, device, freeze
        self._seeing: float | None = None  # FLOPs a second, where there are images

    def at(self, tokens_per_s: float, seconds: float, squares: Squares = NONE) -> float | None:
        """None where the peak is not known, or where a result above 1 shows that it is wrong.

        Both are of one device and one second, tokens and `squares` of pixels. Measuring takes about
        a second, so that training must have taken SOON seconds.
        """
        self._seeing = self.work(tokens_per_s, squares) if squares else None
        if seconds < SOON or self._peak is None:
            return None
        work = self.work(tokens_per_s, squares)
        return None if work is None or work > self._peak else work / self._peak

    def work(self, tokens: float, squares: Squares = NONE) -> float | None:
        """FLOPs of training on so much; None for a model with a part that cannot be counted."""
        if self._token is None:
            return None
        return tokens * self._token + sum(n * self._square(side) for side, n in squares.items())

    def noted(self, seconds: float) -> dict[str, float]:
        """What joins the records of training on images: FLOPs in so many seconds of devices."""
        return {} if self._seeing is None else {"total_flops": self._seeing * seconds}

    @cached_property
    def _peak(self) -> float | None:
        with torch.random.fork_rng(devices=[]):  # measuring draws numbers
            peak = machine.peak_flops(self.device, self.dtype)
        return None if peak is None else peak.flops

    @cached_property
    def _model(self) -> GPT:
        model = sketch(self.shape)
        tuning.freeze(model, self.freeze)
        return model

    @cached_property
    def _token(self) -> int | None:
        with contextlib.suppress(NotImplementedError):  # a part that cannot run on meta
            return count.flops(self._model, self.shape.block_size).train
        return None

    @cache  # noqa: B019 - as long-lived as the run
    def _square(self, side: int) -> int:
        front = self._model.trunk.front
        assert front is not None
        return vision.square(front, side).train
