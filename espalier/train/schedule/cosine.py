"""Half a cosine from the peak to the floor (arXiv:1608.03983), as nanoGPT computes it."""

import math

from espalier.train.slots import ScheduleConfig, Span


class CosineConfig(ScheduleConfig):
    """floor + (1 + cos(pi p)) / 2 * (peak - floor); p goes from 0 to 1 after the warm-up"""

    def rate(self, step: int, span: Span) -> float:
        warming = span.warming(step)
        if warming is not None:
            return warming
        if step >= span.horizon:
            return span.floor
        progress = (step - span.warmup) / (span.horizon - span.warmup)
        return span.floor + 0.5 * (1.0 + math.cos(math.pi * progress)) * (span.peak - span.floor)
