"""How fast it goes, and how much of the device that uses."""

import contextlib

import torch

from espalier import device as machine
from espalier.cost import count
from espalier.nn.gpt import GPTConfig, sketch

SOON = 10.0


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
    """Model FLOPs utilisation: arithmetic done over what the device could have done."""

    def __init__(self, shape: GPTConfig, dtype: str, device: str):
        self.shape, self.dtype, self.device = shape, dtype, device
        self._share: float | None = None  # of the device's second that one token takes
        self._asked = False

    def at(self, tokens_per_s: float, seconds: float) -> float | None:
        """None where the peak is not known, or where a result above 1 shows that it is wrong.

        Counting and measuring take about a second, so that training must have taken SOON seconds.
        """
        if seconds < SOON:
            return None
        if not self._asked:
            self._asked = True
            with torch.random.fork_rng(devices=[]):  # measuring draws numbers
                self._share = self._per_token()
        if self._share is None or tokens_per_s * self._share > 1:
            return None
        return tokens_per_s * self._share

    def _per_token(self) -> float | None:
        peak = machine.peak_flops(self.device, self.dtype)
        if peak is None:
            return None
        with contextlib.suppress(NotImplementedError):  # a part that cannot run on meta
            return count.flops(sketch(self.shape), self.shape.block_size).train / peak.flops
        return None
