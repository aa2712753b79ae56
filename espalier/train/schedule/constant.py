"""The peak, after the warm-up."""

from espalier.train.slots import ScheduleConfig, Span


class ConstantConfig(ScheduleConfig):
    """peak"""

    def rate(self, step: int, span: Span) -> float:
        warming = span.warming(step)
        return span.peak if warming is None else warming
