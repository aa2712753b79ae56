"""Down when the validation loss stops falling, as torch's ReduceLROnPlateau."""

import math

from pydantic import Field

from espalier.train.slots import ScheduleConfig, Span


class PlateauConfig(ScheduleConfig):
    """max(floor, peak * factor^(plateaus so far)); a plateau is `patience` evaluations without gain

    Worked out anew from all evaluations of the run, so that it resumes exactly; the warm-up's do
    not count. The original stepped it at every update, with a loss long out of date; here each
    evaluation counts once.
    """

    factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(10, ge=0)
    """evaluations in a row that may bring no gain"""
    threshold: float = Field(1e-4, ge=0, lt=1)
    """least gain that counts, as a share of the best loss"""
    cooldown: int = Field(0, ge=0)
    """evaluations after a plateau that do not count"""

    def rate(self, step: int, span: Span) -> float:
        warming = span.warming(step)
        if warming is not None:
            return warming
        losses = [loss for at, loss in span.history if span.warmup <= at <= step]
        return max(span.floor, span.peak * self.factor ** self.plateaus(losses))

    def plateaus(self, losses: list[float]) -> int:
        """How many times in a row of losses there was no gain for longer than `patience`."""
        best, waited, resting, found = math.inf, 0, 0, 0
        for loss in losses:
            if loss < best * (1 - self.threshold):
                best, waited = loss, 0
            else:
                waited += 1
            if resting:
                resting, waited = resting - 1, 0
            if waited > self.patience:
                found, waited, resting = found + 1, 0, self.cooldown
        return found
