"""The same share taken off at every step, down to the floor."""

from pydantic import Field

from espalier.errors import ConfigError
from espalier.train.slots import ScheduleConfig, Span


class ExponentialConfig(ScheduleConfig):
    """max(floor, peak * gamma^steps after the warm-up)"""

    gamma: float | None = Field(None, gt=0, le=1)
    """when left out, the one that reaches the floor at the horizon, which must not be 0"""

    def rate(self, step: int, span: Span) -> float:
        if self.gamma is None and span.floor == 0:
            raise ConfigError(
                "train.min_lr=0 is never reached by an exponential: set train.schedule.gamma "
                "or a min_lr above 0"
            )
        warming = span.warming(step)
        if warming is not None:
            return warming
        if self.gamma is not None:
            return max(span.floor, span.peak * self.gamma ** (step - span.warmup))
        left: float = (span.floor / span.peak) ** span.progress(step)
        return max(span.floor, span.peak * left)
