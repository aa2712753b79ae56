"""Warm-up, stable, decay (MiniCPM, arXiv:2404.06395): the horizon may be chosen late."""

import math
from typing import Literal

from pydantic import Field

from espalier.train.slots import ScheduleConfig, Span


class WsdConfig(ScheduleConfig):
    """peak until the last `decay` of the horizon, then down to the floor"""

    decay: float = Field(0.2, gt=0, le=1)
    """share of the horizon"""
    shape: Literal["linear", "cosine", "sqrt"] = "linear"
    """of the way down: 1 - p, (1 + cos(pi p)) / 2, or 1 - sqrt(p) (arXiv:2405.18392)"""

    def rate(self, step: int, span: Span) -> float:
        warming = span.warming(step)
        if warming is not None:
            return warming
        if step >= span.horizon:
            return span.floor
        start = max(span.warmup, span.horizon * (1 - self.decay))
        if step <= start:
            return span.peak
        left = self._left((step - start) / (span.horizon - start))
        return span.floor + left * (span.peak - span.floor)

    def _left(self, progress: float) -> float:
        if self.shape == "linear":
            return 1 - progress
        if self.shape == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 1 - math.sqrt(progress)
