"""A staircase down (He et al., arXiv:1512.03385: a tenth at a half and at three quarters)."""

from pydantic import Field, field_validator

from espalier.train.slots import ScheduleConfig, Span


class StepConfig(ScheduleConfig):
    """max(floor, peak * factor^(stairs passed))"""

    every: int | None = Field(None, ge=1)
    """updates between stairs, counted from the end of the warm-up; takes the place of `at`"""

    at: tuple[float, ...] = (0.5, 0.75)
    """of the horizon, where the stairs are"""
    factor: float = Field(0.1, gt=0, lt=1)

    @field_validator("at")
    @classmethod
    def _shares(cls, at: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < share <= 1 for share in at):
            raise ValueError("shares of the horizon lie between 0 and 1")
        return at

    def rate(self, step: int, span: Span) -> float:
        warming = span.warming(step)
        if warming is not None:
            return warming
        if self.every is not None:
            passed = (step - span.warmup) // self.every
        else:
            passed = sum(step >= share * span.horizon for share in self.at)
        return max(span.floor, span.peak * self.factor**passed)
