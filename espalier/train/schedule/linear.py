"""A straight line from the peak to the floor."""

from espalier.train.slots import ScheduleConfig, Span


class LinearConfig(ScheduleConfig):
    """peak + (floor - peak) * p; p goes from 0 to 1 after the warm-up"""

    def rate(self, step: int, span: Span) -> float:
        warming = span.warming(step)
        if warming is not None:
            return warming
        return span.floor + (1 - span.progress(step)) * (span.peak - span.floor)
